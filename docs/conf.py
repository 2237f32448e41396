"""The documentation as a site, `make docs`: README.md and the pages that it leads to, as they are in the repository.

A link that leads nowhere is a warning, and `make docs` fails on warnings.
"""

from sphinx.application import Sphinx

project = "bat"
copyright = "the authors of bat"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# the source folder is that of the repository
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "config/README.md", "results/README.md", "tests/*/README.md"]
exclude_patterns = ["docs/results.md"]  # the head of RESULTS.md
autodoc_member_order = "bysource"
autodoc_typehints = "description"
html_theme = "furo"
html_title = "bat"
myst_heading_anchors = 4  # links to headings as on GitHub
suppress_warnings = ["myst.header"]  # docs/results/*.md begin as parts of RESULTS.md do

CONTENTS = {
    "Guide": ["docs/running", "docs/data", "docs/scores", "docs/training", "docs/evaluation", "docs/report"],
    "Reference": [
        "docs/api",
        "docs/tables",
        "config/README",
        "docs/config",
        "docs/own_parts",
        "docs/clusters",
        "docs/benchmarks",
    ],
    "Results": ["RESULTS", "docs/results/*"],
    "Project": ["docs/README", "results/README", "CONTRIBUTING", "CHANGELOG", "tests/*/README"],
}


def with_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the contents of the sidebar to the first page, which plain readers of README.md need not see."""
    if page == root_doc:
        for caption, pages in CONTENTS.items():
            lines = [":hidden:", ":glob:", f":caption: {caption}", "", *pages]
            source[0] += "\n```{toctree}\n" + "\n".join(lines) + "\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", with_contents)
