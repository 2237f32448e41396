"""The stages of the report: figures, tables for papers, and the page that says what was found."""

from pathlib import Path

import pandas as pd

from bat.config.specs import ResultsSpec
from bat.data.saved import read_data
from bat.errors import BatError
from bat.io.files import remove, replacing
from bat.io.journal import Journal
from bat.io.outputs import Html, Latex, Markdown, Picture
from bat.io.tables import check_one_data_set, check_one_run, read_table, read_table_with_facts
from bat.report.catalogue import FIGURES, drawing
from bat.report.page import Tables, methods_of, results_page, warnings_of
from bat.report.tables import LATEX, MARKDOWN, accuracy_table


def figures(
    journal: Journal,
    *,
    data: Path | None = None,
    memorization: Path | None = None,
    train_influence: Path | None = None,
    test_groups: Path | None = None,
    harmful: Path | None = None,
    robust_effects: Path | None = None,
    histories: list[Path] | None = None,
    samples: list[Path] | None = None,
    per_sample: Path | None = None,
    summary: Path | None = None,
    comparisons: Path | None = None,
    runs: Path | None = None,
    images: list[Path] | None = None,
    out: list[Picture],
) -> None:
    """Draw figures: each output's name says which, as in figures/tradeoff.svg, and its ending the format.

    A figure needs its own inputs only. One that cannot be drawn does not keep the others from being written.

    images: adversarial images of some methods, of one seed each
    out: files to write, FIGURE.pdf, .svg or .png

    Example:
        bat figures --summary results/digits/evaluation/summary.parquet --runs results/digits/evaluation/runs.parquet \\
            --out tradeoff.svg
    """
    # only here: the page of results needs no figure
    from bat.report.figures.style import save
    from bat.report.given import Given

    paths = {
        "data": data,
        "memorization": memorization,
        "train_influence": train_influence,
        "test_groups": test_groups,
        "harmful": harmful,
        "robust_effects": robust_effects,
        "history": histories,
        "training_samples": samples,
        "per_sample": per_sample,
        "summary": summary,
        "comparisons": comparisons,
        "runs": runs,
        "images": images,
    }
    given = Given({name: path for name, path in paths.items() if path})
    wanted: dict[str, list[Path]] = {}
    for path in out:
        if path.stem not in FIGURES:
            raise BatError(f"--out {path}: no such figure: take of {', '.join(FIGURES)}")
        wanted.setdefault(path.stem, []).append(path)
    drawn, failed = {}, []
    with journal.work():
        for name in journal.bar(wanted, len(wanted), "figures"):
            try:
                drawn[name] = drawing(name)(given)
            except BatError:
                raise
            except Exception:  # whatever it is, the other figures are drawn
                failed.append(name)
                journal.failure(f"figure {name} cannot be drawn", traceback=True)
        for name, figure in drawn.items():
            save(figure, wanted[name])
    if failed:
        raise BatError(f"{', '.join(failed)} cannot be drawn, see the log; the other {len(wanted) - len(failed)} can")


def results(
    journal: Journal,
    *,
    spec: ResultsSpec,
    summary: Path,
    comparisons: Path,
    runs: Path,
    flags: Path,
    memorization: Path,
    test_groups: Path,
    histories: list[Path],
    null_pairs: Path | None = None,
    harmful: Path | None = None,
    robust_effects: Path | None = None,
    proxy_agreement: Path | None = None,
    duplicates: Path | None = None,
    benchmarks: Path,
    markdown: Markdown,
    latex: Latex,
    page: Markdown,
) -> None:
    """Write the table of accuracies as Markdown and LaTeX, and the page of results as Markdown.

    flags: the flags of all runs, from stage summary
    benchmarks: the folder of Snakemake's records of jobs
    markdown: accuracies
    latex: accuracies
    page: what was found
    """
    means, about = read_table_with_facts(summary, "summary")
    scores, scored = read_table_with_facts(memorization, "memorization")
    found = (null_pairs, harmful, robust_effects, proxy_agreement, duplicates)
    check_one_data_set(summary, comparisons, runs, flags, memorization, test_groups, *histories, *found)
    check_one_run(summary, comparisons, runs, flags)
    check_one_run(memorization, test_groups)
    with journal.work():
        tables = Tables(
            means,
            about,
            read_table(comparisons, "comparisons"),
            read_table(runs, "runs"),
            read_table(flags, "flags"),
            scores,
            scored,
            read_table(test_groups, "test_groups"),
            pd.concat([read_table(path, "history") for path in histories], ignore_index=True),
            read_table(null_pairs, "null_pairs") if null_pairs else None,
            read_table(harmful, "harmful") if harmful else None,
            read_table(robust_effects, "robust_effects") if robust_effects else None,
            read_table(proxy_agreement, "proxy_agreement") if proxy_agreement else None,
            read_table(duplicates, "duplicates") if duplicates else None,
        )
        warnings, methods = warnings_of(tables), methods_of(tables.runs)
        texts = {
            markdown: accuracy_table(means, methods, form=MARKDOWN) + "\n",
            latex: accuracy_table(means, methods, form=LATEX) + "\n",
            page: results_page(tables, spec, warnings, benchmarks),
        }
    for warning in warnings:
        journal.line(warning)
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def page(
    journal: Journal, *, results: Path, flags: Path, captions: list[Path], figures: list[Path] | None = None, html: Html
) -> None:
    """Write the report: one HTML page with answers, figures and tables.

    results: the page of results, from stage results
    flags: the flags of all runs, from stage summary
    captions: a text per figure of the experiment, FIGURE.rst
    figures: what is drawn of them, FIGURE.svg
    html: the report
    """
    from bat.report.html import html_page

    with journal.work():
        text = html_page(
            results.read_text(encoding="utf-8"),
            read_table(flags, "flags"),
            {path.stem: path.read_text(encoding="utf-8").strip() for path in captions},
            {path.stem: path.read_bytes() for path in figures or []},
        )
    with replacing(html) as temporary:
        temporary.write_text(text, encoding="utf-8")


def explorer(
    journal: Journal,
    *,
    data: Path,
    memorization: Path,
    robust_memorization: Path | None = None,
    influence: Path | None = None,
    train_influence: Path | None = None,
    test_groups: Path | None = None,
    harmful: Path | None = None,
    proxies: Path | None = None,
    label_errors: Path | None = None,
    per_sample: Path | None = None,
    index: Html,
) -> None:
    """Write the score explorer: a page, the data and the library that it reads, and sheets of thumbnails beside it.

    label_errors: label_errors.parquet, from stage scores
    index: the page; it is written last, so that where it is, all is
    """
    from bokeh import __version__ as bokeh
    from bokeh.util.paths import bokehjs_path

    from bat.report.explorer import LARGE, PER_ROW, THUMBNAIL, as_script, explored, sheets, shown_size, shown_splits
    from bat.report.html import render

    paths = {
        "memorization": memorization,
        "robust_memorization": robust_memorization,
        "influence": influence,
        "train_influence": train_influence,
        "test_groups": test_groups,
        "harmful": harmful,
        "proxies": proxies,
        "label_errors": label_errors,
        "per_sample": per_sample,
    }
    given = {kind: path for kind, path in paths.items() if path}
    samples = read_data(data)
    check_one_data_set(*given.values(), data=(data, samples.digest()))
    tables = {kind: read_table(path, kind) for kind, path in given.items()}
    if index.exists():
        remove(index)
    splits = shown_splits(samples, tables)
    with journal.work():
        texts = {"data.js": as_script(explored(samples, tables, splits))}
    for name in ("bokeh.min.js", "bokeh-api.min.js"):
        texts[name] = (bokehjs_path() / "js" / name).read_text(encoding="utf-8")
    thumbnail, large = shown_size(samples, THUMBNAIL), shown_size(samples, LARGE)
    # photographs as PNG would take several times as much
    kinds = [(thumbnail, ".png")] + ([(large, "-large.jpeg")] if large != thumbnail else [])
    drawn = (
        (f"sheets/{name}-{number}{ending}", sheet)
        for size, ending in kinds
        for name, split in splits.items()
        for number, sheet in enumerate(sheets(getattr(samples, name), split.rows, size))
    )
    total = len(kinds) * sum(-(-len(split.rows) // PER_ROW**2) for split in splits.values())
    for place, sheet in journal.bar(drawn, total, "sheets"):
        with replacing(index.parent / place) as temporary:
            sheet.save(temporary, quality=90)
    for name, text in [*texts.items(), (index.name, render("explorer.html", bokeh=bokeh))]:
        with replacing(index.parent / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
