"""The pages that users read: their code blocks, commands, headings and links."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md", "results/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
RESULTS = [
    "RESULTS.md",
    "docs/results/cifar100_animals_128.md",
    "docs/results/cifar100_animals_fitted.md",
    "docs/results/cifar100_animals_long.md",
    "docs/results/cifar100_animals_long_seeds.md",
    "docs/results/cifar100_animals_published.md",
    "docs/results/cifar100_animals_seeds.md",
    "docs/results/digits_full.md",
    "docs/results/mnist5k.md",
    "docs/results/tiny_imagenet_10.md",
]
GENERATED = {"docs/config.md", "docs/results.md"}  # by bat keys; the head of RESULTS.md, which make results writes
HISTORY = {"CHANGELOG.md"}  # names commands of earlier versions

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:\.venv/bin/)?(?:snakemake|bat|make|python|pip) \S")


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of each code block."""
    return _BLOCK.findall(text_of(page))


def prose(page: str) -> str:
    """Return a page without its code blocks."""
    return _BLOCK.sub("", text_of(page))


def commands(page: str) -> list[str]:
    """Return the commands of a page, in its blocks of shell lines and in its sentences and tables."""
    lines = [line for language, text in blocks(page) if language == "sh" for line in _joined(text).splitlines()]
    return lines + [span for span in re.findall(r"`([^`\n]+)`", prose(page)) if _COMMAND.match(span)]


def all_commands() -> list[str]:
    """Return each command once, of all pages but those of history."""
    found = [command for page in PAGES if page not in HISTORY | GENERATED for command in commands(page)]
    return list(dict.fromkeys(found))


def anchors(page: str) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """Return the targets of a page's links that are not addresses."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"https?:", link)]


def _joined(text: str) -> str:
    return re.sub(r"\s*\\\n\s*", " ", text)
