"""The words: length, links, columns, and that each code block is of a kind that a test runs."""

import re
from itertools import product

import pytest
from documented import GENERATED, PAGES, RESULTS, ROOT, all_commands, anchors, blocks, links, prose, text_of

from bat.io.schemas import SCHEMAS
from bat.report.catalogue import FIGURES

FILES = {"subsets": "shard-NNN", "training_samples": "samples"}
TABLES = re.findall(r"^## `([^`]+)`\n(.*?)(?=^## |\Z)", text_of("docs/tables.md"), re.MULTILINE | re.DOTALL)
SECTIONS = {place.rpartition("/")[2].removesuffix(".parquet"): text for place, text in TABLES}
AVOIDED = [
    r"\bstands?\b|\bstood\b",
    r"\bmend(s|ed|ing)?\b",
    r"\bfor ever\b|\bforever\b",
    r"\bon top of\b",
    r"[`\d)] less (than )?(?=[`\d])",  # minus
    # one row per model
    r"\b(row|line|folder|text|file|job|image|pixels|seeds|pass|weight) an? "
    r"(row|line|class|file|sample|model|method|seed|job|image|module|pair|split|step|epoch|case|problem)\b",
    r"\ba (row|line|file|folder|job|text) each\b",
]


def test_the_readme_is_short():
    assert len(text_of("README.md").splitlines()) <= 150


def test_the_results_are_short():
    assert len(text_of("RESULTS.md").splitlines()) <= 130


@pytest.mark.parametrize("page", [*PAGES, *RESULTS])
def test_links_lead_somewhere(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(str(target.resolve().relative_to(ROOT)))):
            broken.append(link)
    assert broken == []


def test_each_page_is_in_the_index_and_the_readme_leads_to_it():
    index, first = links("docs/README.md"), {link.partition("#")[0] for link in links("README.md")}
    for path in (ROOT / "docs").glob("*.*"):
        if path.suffix in (".md", ".py") and path.name not in ("README.md", "results.md", "conf.py"):
            assert path.name in index
            assert f"docs/{path.name}" in first


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED])
def test_words_that_are_read_twice_are_avoided(page):
    found = [match[0] for pattern in AVOIDED for match in re.finditer(pattern, prose(page))]
    assert found == []


def expanded(name):
    """Return the names that braces stand for."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return ["".join(choice) for choice in product(*parts)]


def columns(text):
    """Return the columns that the table of a section describes, or of the section that it refers to."""
    (other,) = re.findall(r"Columns as in \[`(\w+)\.parquet`\]", text) or [None]
    if other:
        return columns(SECTIONS[other])
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for span in re.findall(r"`([^`]+)`", cell) for name in expanded(span)]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_each_column_of_each_table_is_described_once(kind):
    assert sorted(columns(SECTIONS[FILES.get(kind, kind)])) == sorted(SCHEMAS[kind].names)


def test_no_table_is_described_that_there_is_not():
    assert {*SECTIONS} == {FILES.get(kind, kind) for kind in SCHEMAS}
    assert len(TABLES) == len(SECTIONS)


def test_each_figure_is_described():
    assert set(re.findall(r"^\| `(\w+)` \|", text_of("docs/report.md"), re.MULTILINE)) == set(FIGURES)


@pytest.mark.parametrize("page", PAGES)
def test_each_block_of_code_is_of_a_kind_that_is_run(page):
    """By tests/workflow: sh, python and yaml. text is output, bibtex a citation (test_repository)."""
    assert {language for language, _ in blocks(page)} <= {"sh", "python", "yaml", "text", "bibtex"}
    assert not re.search(r"\n\n    \S", prose(page)), "an indented block: fence it, and name its language"


def test_targets_come_before_configfile():
    """Snakemake takes all that follows it for files."""
    for command in all_commands():
        after = re.search(r"--configfile ((?:(?! --).)*)", command)
        if command.startswith("snakemake") and after:
            assert all(re.fullmatch(r"[\w/]+\.yaml|FILE", word) for word in after[1].split()), command


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    named = [command.split()[1] for command in all_commands() if command.startswith("make ")]
    assert {"run", "report", "test", "results"} <= set(named)
    assert [target for target in named if f"\n{target}:" not in makefile] == []


def test_the_config_of_the_readme_is_the_file():
    assert [text for language, text in blocks("README.md") if language == "yaml"] == [
        (ROOT / "config/my_images.yaml").read_text()
    ]
