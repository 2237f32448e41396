"""What the repository says of itself in several places must agree."""

import ast
import dataclasses
import json
import re
import tomllib
import typing
from collections import defaultdict
from collections.abc import Container
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from counts import doubled_names
from documented import commands
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bat
import bat.config
from bat.cli import main
from bat.config import editor_schema
from bat.report.catalogue import FIGURES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_and_pyproject_have_the_same_dependencies():
    names = {"torch": "pytorch"}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    required = [re.fullmatch(r"([a-z-]+)(.*)", requirement).groups() for requirement in PROJECT["dependencies"]]
    expected = {names.get(name, name) + bounds for name, bounds in required}
    assert set(listed) == expected | {"python" + PROJECT["requires-python"]}


def test_version_stands_once():
    assert bat.__version__ == PROJECT["version"]


def test_the_reference_of_keys_is_what_the_command_writes(tmp_path, capsys):
    main(["keys", "--out", str(tmp_path / "config.md")])
    assert (tmp_path / "config.md").read_text() == (ROOT / "docs/config.md").read_text()
    main(["keys"])
    assert capsys.readouterr().out == (ROOT / "docs/config.md").read_text()


def test_the_schema_for_editors_is_written_as_it_is_built(tmp_path):
    main(["schema", "--out", str(tmp_path / "schema.yaml")])
    text = (tmp_path / "schema.yaml").read_text()
    written, built = yaml.safe_load(text), editor_schema()
    assert written == built
    assert list(written) == list(built)
    # most descriptions stand in one line
    assert max(map(len, text.splitlines())) > 110


def rows():
    """Return the cells of the rows of docs/config.md."""
    lines = (ROOT / "docs/config.md").read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]


def fields(record, path, seen):
    """Yield the place of each key of a record, with the record and the field."""
    for field in dataclasses.fields(record):
        yield f"{path}{field.name}", record, field
    for field in dataclasses.fields(record):
        for other in inner(typing.get_type_hints(record)[field.name]):
            if other not in seen:
                yield from fields(other, f"{path}{field.name}.", {*seen, other})


def inner(kind):
    """Return the records in a type."""
    if dataclasses.is_dataclass(kind):
        return [kind]
    return [record for part in typing.get_args(kind) for record in inner(part)]


def test_the_reference_has_each_key_with_its_meaning_and_default():
    found = defaultdict(set)
    for cells in rows():
        found[cells[0].split("`")[1].rpartition(".")[2], cells[3]].add(cells[2])
    named = {name for name, _ in found} | {"attack", "robust", "pgd"}
    keys = list(fields(bat.config.Config, "", set()))
    assert len(keys) > 90
    for place, _, field in keys:
        name, about = place.rpartition(".")[2], field.default
        if place == "training.variants":
            assert name not in named
        elif about.description and (name, about.description) in found:
            if isinstance(about.default, float | bool | int):
                assert f"`{json.dumps(about.default)}`" in found[name, about.description], place
        else:  # maps of keys of their own
            assert any(cells[0].startswith((f"`{place}.", f"`{place}[]", f"`{place}`")) for cells in rows()) or any(
                f"as `{place.rpartition('.')[0]}" in cells[1] for cells in rows()
            ), place


def test_the_reference_writes_ranges_in_full():
    values = {cells[0].split("`")[1]: cells[1] for cells in rows()}
    assert values["threat.eps"] == "number ≥ 0.000001, ≤ 1,000"
    assert values["memorization.threshold"] == "number ≥ 0, < 1"
    assert values["data.split_seed"] == "whole number ≥ 0, < 2^63"
    assert values["removal.fractions"] == "list of numbers ≥ 0.000001, ≤ 0.999999"
    assert values["training.recipe"] == "as `memorization.recipe`"
    assert values["memorization.model"] == "as `model`"
    assert values["evaluation.pairs"] == "list of pairs of names"


def test_ci_runs_what_the_readme_and_the_page_on_running_tell():
    steps = (ROOT / ".ci/run").read_text().splitlines()
    for page, command in (("README.md", "make run"), ("docs/running.md", "make test")):
        assert command in commands(page)
        assert f"run {command}" in steps


def test_one_version_of_snakemake_is_the_least_everywhere():
    """Before 9.14.1 a job that fails on SLURM is tried again inside its own allocation, with the memory it had."""
    (required,) = [text for text in PROJECT["dependencies"] if text.startswith("snakemake")]
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert required in listed
    least = re.fullmatch(r"snakemake>=([0-9.]+),<10", required).group(1)
    assert f'min_version("{least}")' in (ROOT / "workflow/Snakefile").read_text()
    assert tuple(map(int, least.split("."))) >= (9, 14, 1)


def test_each_figure_has_a_caption_in_the_report():
    """One job draws them all, so that a caption cannot look up which figure it is of."""
    captions = {path.stem for path in (ROOT / "workflow/report").glob("*.rst")}
    assert captions == {*FIGURES, "flags", "workflow"}


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
def test_the_lock_file_has_each_dependency_within_its_bounds(text):
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in locked.items()}
    required = Requirement(text)
    assert versions[canonicalize_name(required.name)] in required.specifier


def test_the_lock_file_names_no_place():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+!]+", line)] == []


def test_hooks_run_the_checks_of_make_test():
    (target,) = re.findall(r"^test: install\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    checks = [line.strip() for line in target.splitlines() if "slipcover" not in line]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == checks


def test_the_citation_is_of_this_version_and_of_the_papers_that_users_cite():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    page = (ROOT / "docs/README.md").read_text()
    for paper in citation["references"]:
        authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
        assert f"title={{{paper['title']}}}" in page
        assert f"author={{{authors}}}" in page
        assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in page


def test_the_newest_entry_of_the_changelog_is_this_version():
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries[:2] == [PROJECT["version"], "0.1.0"]


def test_the_paths_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 60
    named = set(re.findall(r"`((?:bat|config|tests|workflow|docs)/[\w./-]*)`", text))
    assert len(named) > 15
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    folders = {path.name for path in (ROOT / "bat").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(re.findall(r"^\| `bat/(\w+)/`", text, re.MULTILINE))


def layer(module: str) -> int:
    """Return how high a module stands: it imports from its own layer and those below."""
    rooms = [{"errors", "seeds", "statistics"}, {"io", "config"}, {"attacks", "models", "data"}]
    rooms += [{"training", "scores", "evaluation", "report"}]
    _, room, *rest = [*module.split("."), ""]
    if room in {name for names in rooms for name in names} and rest[0] in (
        "stage",
        "attack",
        "verify",
        "importing",
        "robust",
    ):
        return len(rooms)
    return next((number for number, names in enumerate(rooms) if room in names), len(rooms) + 1)


def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in sorted((ROOT / "bat").rglob("*.py"))
    }


def imported(tree: ast.Module, known: Container[str]) -> set[str]:
    """Return the modules of the package that a module imports, in functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}": node.module for alias in node.names}
            found |= {name if name in known else module for name, module in whole.items() if module}
    return {name for name in found if name in known} - {"bat"}


def test_imports_point_down_and_in_no_circle():
    trees = modules()
    imports = {name: imported(tree, trees) for name, tree in trees.items()}
    assert {
        (name, other) for name, others in imports.items() for other in others if layer(other) > layer(name)
    } == set()
    # names that a package gathers from its own modules close no circle
    order = TopologicalSorter(
        {name: {o for o in others if not name.startswith(f"{o}.")} for name, others in imports.items()}
    )
    assert len(list(order.static_order())) >= len(trees) - 1  # raises CycleError


def test_a_public_name_stands_in_one_module():
    assert doubled_names(ROOT) == {}


def test_the_package_has_a_room_per_stage_and_nothing_imports_snakemake():
    assert len([path for path in (ROOT / "bat").iterdir() if path.name != "__pycache__"]) <= 17
    rooms = {path.name for path in (ROOT / "bat").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert {path.stem for path in (ROOT / "workflow/rules").glob("*.smk")} - {"common", "terminal"} <= rooms
    for tree in modules().values():
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name.split(".")[0] == "snakemake" for name in names)
