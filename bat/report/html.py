"""The report of an experiment as one HTML page: what results.md says, its figures in place, as a story."""

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from bat.report.catalogue import FIGURES
from bat.report.verdicts import NOT_SHOWN, SHOWN, TOO_SMALL

_STORY = {
    # heading: how the headings of its tables begin
    "The trade-off": ("Accuracy", "Answers", "Methods", "Further"),
    "What is memorized": ("Proxies",),
    "How training went": ("Training,",),
    "What robustness depends on": ("Training without",),
}
_KINDS = {SHOWN: "shown", NOT_SHOWN: "not", TOO_SMALL: "small", "a trade": "trade"}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_TEMPLATES = Environment(
    loader=PackageLoader("bat.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


class Answer(NamedTuple):
    """A row of the table of answers, its cells as HTML; kind: its class in the style sheet.

    last, best: differences in points at the last and the best epoch.
    """

    question: str
    answer: str
    last: str
    best: str
    kind: str


class Results(NamedTuple):
    """What results.md says. All but the title is HTML; tables: by their headings."""

    title: str
    facts: list[str]
    warnings: list[str]
    answers: list[Answer]
    tables: dict[str, str]


def parsed_results(markdown: str) -> Results:
    """Return the parts of a page that ``bat.report.page`` has written."""
    found, heading = Results("", [], [], [], {}), ""
    for node in SyntaxTreeNode(_MARKDOWN.parse(markdown)).children:
        if node.type == "heading" and node.tag == "h2":
            found = found._replace(title=node.children[0].content)
        elif node.type == "heading":
            heading = node.children[0].content
        elif node.type == "bullet_list":
            found.facts.extend(_html(item.children[0].children[0]) for item in node.children)
        elif node.type == "blockquote":
            found.warnings.extend(_html(paragraph.children[0]) for paragraph in node.children)
        elif node.type == "table" and not heading:
            rows = node.children[1].children if len(node.children) > 1 else []
            found.answers.extend(_answer(row) for row in rows)
        elif node.type == "table":
            found.tables[heading] = _html(node)
    return found


def raised_flags(flags: pd.DataFrame) -> list[str]:
    """Return a sentence per sign of overestimated robustness that was found. flags: as in evaluation/flags.parquet."""
    return [
        f"{flag} on {len(rows)} models ({', '.join(sorted(set(rows['method'])))}), up to {rows['value'].max():.3g}, "
        f"limit {rows['limit'].iloc[0]:g}: {rows['meaning'].iloc[0]}"
        for flag, rows in flags[flags["raised"]].groupby("flag")
    ]


def html_page(markdown: str, flags: pd.DataFrame, captions: Mapping[str, str], figures: Mapping[str, bytes]) -> str:
    """Return the report as one HTML page that needs no other file.

    markdown: results.md; flags: as in evaluation/flags.parquet; captions: of all figures of the experiment, by name;
    figures: SVG files by name. Figures without a file are named as missing.
    """
    found = parsed_results(markdown)
    sections = []
    for heading, starts in _STORY.items():
        drawn = [
            {"name": name.replace("_", " "), "caption": captions[name], "source": _embedded(figures.get(name))}
            for name, entry in FIGURES.items()
            if entry.heading == heading and name in captions
        ]
        tables = {title: table for title, table in found.tables.items() if title.startswith(starts)}
        sections.append({"heading": heading, "figures": drawn, "tables": tables})
    return render("report.html", results=found, raised=raised_flags(flags), sections=sections)


def render(template: str, **values: Any) -> str:
    """Return a page of ``templates/``. Values are escaped, except those that the template calls safe."""
    return _TEMPLATES.get_template(template).render(values)


def _html(node: SyntaxTreeNode) -> str:
    return str(_MARKDOWN.renderer.render(node.to_tokens(), _MARKDOWN.options, {}))


def _answer(row: SyntaxTreeNode) -> Answer:
    question, answer, last, best = (cell.children[0] for cell in row.children)
    said = answer.content.removeprefix("last: ")
    kind = next((kind for word, kind in _KINDS.items() if said.startswith(word)), "nothing")
    return Answer(_html(question), _html(answer), _html(last), _html(best), kind)


def _embedded(svg: bytes | None) -> str:
    """Return an image as a data URL: the identifiers of two SVG files in one page would clash. Empty for none."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" if svg else ""
