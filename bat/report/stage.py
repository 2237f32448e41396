"""The stages of the report: figures, tables for papers, and the page that says what was found."""

from pathlib import Path

import pandas as pd

from bat.config.specs import ResultsSpec
from bat.errors import BatError
from bat.io.files import replacing
from bat.io.journal import Journal
from bat.io.outputs import Latex, Markdown, Picture
from bat.io.tables import check_one_data_set, check_one_run, read_table, read_table_with_facts
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
    out: list[Picture],
) -> None:
    """Draw figures: each output's name says which, as in figures/tradeoff.svg, and its ending the format.

    A figure needs its own inputs only. One that cannot be drawn does not keep the others from being written.

    out: files to write, FIGURE.pdf, .svg or .png
    """
    # only here: the page of results needs no figure
    from bat.report.drawing import FIGURES, Given
    from bat.report.figures import save

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
                drawn[name] = FIGURES[name](given)
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
    others = (runs, flags, memorization, test_groups, *histories, null_pairs, harmful, robust_effects, proxy_agreement)
    check_one_data_set(summary, comparisons, *others)
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
