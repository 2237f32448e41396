"""What the repository says of itself in several places must agree."""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Container
from decimal import Decimal
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import bat
from bat.cli import main
from bat.config import json_schema
from bat.io.schemas import SCHEMAS

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


def test_the_published_schema_is_what_the_command_writes(tmp_path):
    main(["schema", "--out", str(tmp_path / "schema.yaml")])
    assert (tmp_path / "schema.yaml").read_text() == (ROOT / "workflow/schemas/config.schema.yaml").read_text()


def keys(node, definitions):
    for properties in (node, *definitions.values()):
        for key, value in properties.get("properties", {}).items():
            yield key, value.get("description", "none")


@pytest.mark.parametrize(("key", "description"), sorted(set(keys(json_schema(), json_schema()["$defs"]))))
def test_config_readme_explains_each_key(key, description):
    text = (ROOT / "config/README.md").read_text()
    rows = [line for line in text.splitlines() if description in line]
    sections = ("data", "model", "threat", "compute", "scores", "memorization", "training", "removal", "evaluation")
    inner = ("recipe", "robust", "schedule", "attack", "methods", "sweeps", "pgd", "ensemble")
    if key in (*sections, *inner):
        assert f"{key}." in text or f"{key}[]." in text or f"`{key}`" in text
    else:
        assert any(key in row.split("|")[1] for row in rows)


SIGNS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("exclusiveMaximum", "<"), ("maximum", "≤"))


def bounds(node):
    """Yield each key with a number's bounds: name, description, and how the README writes them."""
    for properties in (node, *node.get("$defs", {}).values()):
        for name, about in properties.get("properties", {}).items():
            for form in (about, *about.get("anyOf", []), *about.get("oneOf", []), about.get("items", {})):
                if form.get("type") in ("integer", "number"):
                    # decimals in full: 1e-06 in a config is refused
                    written = [
                        f"{sign} {Decimal(repr(form[key])).normalize():,f}" for key, sign in SIGNS if key in form
                    ]
                    largest = f"≤ {2**63 - 1:,}"
                    text = ", ".join("< 2^63" if each == largest else each for each in written)
                    yield name, about.get("description", ""), text


@pytest.mark.parametrize(("name", "description", "text"), sorted(set(bounds(json_schema()))))
def test_config_readme_has_the_ranges(name, description, text):
    rows = [row.split("|") for row in (ROOT / "config/README.md").read_text().splitlines() if row.count("|") == 4]
    found = [cells[2] for cells in rows if re.search(rf"\b{name}\b", cells[1]) and cells[3].strip() == description]
    assert found
    for cell in found:
        assert re.search(rf"{re.escape(text)}(?![\d,]* ?[<≤]|\d)", cell), cell


def test_makefile_has_the_commands_of_the_readme():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^ *make ([a-z]+)$", (ROOT / "README.md").read_text(), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_ci_runs_both_commands_of_the_readme():
    steps = (ROOT / ".ci/run").read_text().splitlines()
    for command in ("make run", "make test"):
        assert f"    {command}" in (ROOT / "README.md").read_text().splitlines()
        assert f"run {command}" in steps


def test_one_version_of_snakemake_is_the_least_everywhere():
    """Before 9.14.1 a job that fails on SLURM is tried again inside its own allocation, with the memory it had."""
    (required,) = [text for text in PROJECT["dependencies"] if text.startswith("snakemake")]
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert required in listed
    least = re.fullmatch(r"snakemake>=([0-9.]+),<10", required).group(1)
    assert f'min_version("{least}")' in (ROOT / "workflow/Snakefile").read_text()
    assert tuple(map(int, least.split("."))) >= (9, 14, 1)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_the_readme_describes_each_table(kind):
    file = {"subsets": "shard-NNN", "training_samples": "samples"}.get(kind, kind)
    assert re.search(rf"^(\| .*\W| +.*){file}\.parquet", (ROOT / "README.md").read_text(), re.MULTILINE)


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
    places = defaultdict(list)
    for module, tree in modules().items():
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for target in targets:
                name = getattr(target, "name", None) or getattr(target, "id", "_")
                if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign) and not name.startswith("_"):
                    places[name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_package_has_a_room_per_stage_and_nothing_imports_snakemake():
    assert len([path for path in (ROOT / "bat").iterdir() if path.name != "__pycache__"]) <= 17
    rooms = {path.name for path in (ROOT / "bat").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert {path.stem for path in (ROOT / "workflow/rules").glob("*.smk")} - {"common"} <= rooms
    for tree in modules().values():
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name.split(".")[0] == "snakemake" for name in names)
