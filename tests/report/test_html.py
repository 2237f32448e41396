"""The report as one HTML page: what results.md says comes out of it again, in order, with its figures, and alone."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from browser import Opened, chromium
from hypothesis import example, given
from hypothesis import strategies as st
from stubs import Lines, ascii_by_default, written

from bat.report.catalogue import FIGURES
from bat.report.html import html_page, parsed_results, raised_flags
from bat.report.page import _QUESTIONS, markdown_page
from bat.report.stage import page

ANSWERS = [
    ("(a) it helps", "shown (clean)", "`one`: +1.0", "`one`: +0.5"),
    ("(b) it hurts", "not shown: clean lower", "-1.0", "-2.0"),
    ("`bat` is better", "last: too small to tell (only 2 seeds); best: shown (clean)", "0.0", "+0.1"),
    ("it is dear", "a trade: clean higher, robust lower", "+2.0", "+3.0"),
    ("it rains", "nothing to test: no cloud", "", ""),
]
HEADINGS = ["Answers", "Accuracy in percent, 95% intervals"]
HEADINGS += [f"{heading}, last epoch: differences in points" for heading in _QUESTIONS.values()]
HEADINGS += ["Training, accuracies in percent, robust under the attack of training"]
TABLES = {heading: f"| a | b |\n|---|---|\n| x{place} | 1 < 2 |" for place, heading in enumerate(HEADINGS)}
MARKDOWN = markdown_page("trial", ["n is 3", "m is 4"], ["one failed", "so did two"], ANSWERS, ["tradeoff"], TABLES)
FLAGS = pd.DataFrame(
    {
        "method": ["bat", "bat", "pgd_at", "natural"],
        "flag": ["pgd_gap", "pgd_gap", "pgd_gap", "masked"],
        "value": [6.0, 7.25, 5.5, 1.0],
        "limit": [5.0, 5.0, 5.0, 2.0],
        "raised": [True, True, True, False],
        "meaning": ["PGD < all"] * 3 + ["x"],
    }
)
CAPTIONS = {name: f"What {name} shows." for name in FIGURES}
SVG = {name: f"<svg>{name}</svg>".encode() for name in FIGURES}


class Seen(HTMLParser):
    """All tags with their attributes, and the text outside of style sheets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._skip = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._skip = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._skip else data


@pytest.fixture
def seen() -> Seen:
    return Seen(html_page(MARKDOWN, FLAGS, CAPTIONS, SVG))


def test_what_the_page_of_results_says_is_read_back() -> None:
    found = parsed_results(MARKDOWN)
    assert found.title == "trial"
    assert found.facts == ["n is 3", "m is 4"]
    assert found.warnings == ["one failed", "so did two"]
    assert [answer.kind for answer in found.answers] == ["shown", "not", "small", "trade", "nothing"]
    assert found.answers[0][:4] == (
        "(a) it helps",
        "shown (clean)",
        "<code>one</code>: +1.0",
        "<code>one</code>: +0.5",
    )
    assert (found.answers[4].last, found.answers[4].best) == ("", "")
    assert list(found.tables) == HEADINGS
    for place, table in enumerate(found.tables.values()):
        assert re.findall(r"<td>(.*?)</td>", table) == [f"x{place}", "1 &lt; 2"]


def test_a_paragraph_may_have_several_lines() -> None:
    assert parsed_results("## trial\n\n> one\n> `two`\n").warnings == ["one\n<code>two</code>"]


WORDS = st.text("abc <>&\"'{}%", min_size=1, max_size=12).map(lambda text: f"x{text}x")


@example(["x<b>x"], ["x<script>x"])
@given(st.lists(WORDS, min_size=1, max_size=3), st.lists(WORDS, max_size=3))
def test_no_text_becomes_code(facts: list[str], warnings: list[str]) -> None:
    text = html_page(markdown_page("trial", facts, warnings, [], [], {}), FLAGS[:0], {}, {})
    shown = " ".join(Seen(text).text.split())
    # Markdown has its own entities (&lt;), which these texts lack a semicolon for
    for words in [*facts, *warnings]:
        assert " ".join(words.split()) in shown


def test_warnings_come_first_then_answers_then_figures(seen: Seen) -> None:
    parts = ["one failed", "pgd_gap on 3 models", "(a) it helps", "What tradeoff shows.", HEADINGS[1]]
    parts += ["What memorization shows.", "What curves shows.", "What influence shows.", "m is 4"]
    places = [seen.text.index(part) for part in parts]
    assert places == sorted(places)


def test_flags_that_were_raised_are_said_once_per_sign() -> None:
    assert raised_flags(FLAGS) == ["pgd_gap on 3 models (bat, pgd_at), up to 7.25, limit 5: PGD < all"]
    assert raised_flags(FLAGS[:1]) == ["pgd_gap on 1 models (bat), up to 6, limit 5: PGD < all"]
    assert raised_flags(FLAGS[~FLAGS["raised"]]) == []


def test_each_figure_is_in_the_page_with_its_caption_and_each_table_folds(seen: Seen) -> None:
    images = [attributes for tag, attributes in seen.tags if tag == "img"]
    found = [base64.b64decode(str(image["src"]).removeprefix("data:image/svg+xml;base64,")) for image in images]
    assert sorted(found) == sorted(SVG.values())
    for image, svg in zip(images, found, strict=True):
        name = svg.decode()[5:-6]
        assert image["alt"] == f"Figure {name.replace('_', ' ')}: {CAPTIONS[name]}"
        assert seen.text.count(CAPTIONS[name]) == 1
    assert [tag for tag, _ in seen.tags].count("details") == [tag for tag, _ in seen.tags].count("table") == len(TABLES)
    assert [tag for tag, attributes in seen.tags if "open" in attributes] == ["details"]


def test_the_page_needs_no_other_file_and_names_its_language(seen: Seen) -> None:
    sources = [value for _, attributes in seen.tags for key, value in attributes.items() if key == "src"]
    assert all(str(source).startswith("data:") for source in sources)
    links = [str(attributes["href"]) for tag, attributes in seen.tags if tag == "a"]
    assert not any("://" in link for link in links)
    identifiers = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link[1:] for link in links if link.startswith("#")} <= set(identifiers)
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "link", "iframe"})
    assert ("html", {"lang": "en"}) in seen.tags


def test_a_figure_that_is_missing_is_named() -> None:
    text = Seen(html_page(MARKDOWN, FLAGS, {"curves": "Curves."}, {})).text
    assert "The figure curves is missing" in text
    assert "The figure weights" not in text


def test_the_stage_reads_what_it_is_given(tmp_path: Path) -> None:
    markdown = MARKDOWN.replace("n is 3", "n is é")
    (tmp_path / "results.md").write_text(markdown, encoding="utf-8")
    (tmp_path / "curves.rst").write_text("Accuracy é.\n", encoding="utf-8")
    (tmp_path / "curves.svg").write_bytes(SVG["curves"])
    flags = written(tmp_path / "flags", "flags", {}, **{name: FLAGS[name].tolist() for name in FLAGS})
    journal, html = Lines(), tmp_path / "report.html"
    with ascii_by_default():
        page(
            journal,  # type: ignore[arg-type]
            results=tmp_path / "results.md",
            flags=flags,
            captions=[tmp_path / "curves.rst"],
            figures=[tmp_path / "curves.svg"],
            html=html,
        )
    expected = html_page(markdown, FLAGS, {"curves": "Accuracy é."}, {"curves": SVG["curves"]})
    assert (html.read_text(encoding="utf-8"), journal.worked) == (expected, 1)


def test_a_browser_shows_the_page_and_asks_no_host(tmp_path: Path) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><rect width="9" height="9"/></svg>'
    (tmp_path / "report.html").write_text(html_page(MARKDOWN, FLAGS, CAPTIONS, dict.fromkeys(FIGURES, svg)))
    with chromium() as browser:
        opened = Opened(browser, tmp_path / "report.html", width=800, height=600)
        assert opened.page.is_visible("text=one failed")
        widths = opened.page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
        assert widths == [40] * len(FIGURES)
        # wide tables scroll in place
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 800
        opened.page.click("summary >> nth=1")
        assert opened.page.is_visible("text=x1")
        assert opened.problems == []
        assert {address.partition(":")[0] for address in opened.asked} <= {"file", "data"}
