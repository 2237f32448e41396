"""What the repository says of itself in several places must agree."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

import bat
from bat.cli import main
from bat.config import schema
from bat.io.schemas import SCHEMAS
from bat.report.drawing import FIGURES

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


@pytest.mark.parametrize(("key", "description"), sorted(set(keys(schema(), schema()["$defs"]))))
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


@pytest.mark.parametrize(("name", "description", "text"), sorted(set(bounds(schema()))))
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


def test_each_figure_has_a_caption_in_the_report():
    """One job draws them all, so that a caption cannot look up which figure it is of."""
    captions = {path.stem for path in (ROOT / "workflow/report").glob("*.rst")}
    assert captions == {*FIGURES, "flags", "workflow"}
