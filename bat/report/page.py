"""The page of results: what the tables say, in words."""

import os
import platform
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from tabulate import tabulate

from bat.config.specs import ResultsSpec
from bat.evaluation.comparison import EQUAL, HIGHER, LOWER
from bat.report.given import threat_text
from bat.report.tables import MARKDOWN, accuracy_table, agreement_table, difference_table, training_table
from bat.report.verdicts import Verdict, better, verdict_a, verdict_b
from bat.scores.estimators import fit_text
from bat.scores.precision import none_atypical
from bat.scores.proxies import HALF

MORE = "<!-- all tables -->"
"""Divides the page: what comes before is enough for RESULTS.md (make results)."""

_CHECKPOINTS = ("last", "best")
_QUESTIONS = {
    "methods": "Methods minus the baseline",
    "pairs": "Further pairs",
    "removal": "Training without some samples",
}


class Tables(NamedTuple):
    """What the page is made from: tables of an experiment, as files of these names hold them. None: not there.

    about, scored: the facts of summary and memorization.
    """

    summary: pd.DataFrame
    about: dict[str, Any]
    comparisons: pd.DataFrame
    runs: pd.DataFrame
    flags: pd.DataFrame
    memorization: pd.DataFrame
    scored: dict[str, Any]
    test_groups: pd.DataFrame
    histories: pd.DataFrame
    null_pairs: pd.DataFrame | None
    harmful: pd.DataFrame | None
    robust_effects: pd.DataFrame | None
    proxy_agreement: pd.DataFrame | None
    duplicates: pd.DataFrame | None


def methods_of(runs: pd.DataFrame) -> list[str]:
    """Return the names of the runs with all samples."""
    return list(runs.loc[runs["removed"].isna(), "method"])


def warnings_of(tables: Tables) -> list[str]:
    """Return what no answer can stand on: trainings that failed, groups without a sample."""
    failed = [
        f"The training of `{run}` failed, so that no comparison with it counts: {reason}."
        for run, reason in tables.about["failed"].items()
    ]
    return failed + _empty(tables.memorization, tables.test_groups, tables.scored)


def findings_of(tables: Tables, margin: float, checkpoint: str = "last") -> list[Verdict]:
    """Return the answers to findings (a) and (b), where the experiment asks for them."""
    runs, compared, means = tables.runs, tables.comparisons, tables.summary
    verdicts: list[Verdict] = []
    for base in runs.loc[runs["removed"].notna(), "base"].unique():
        row = (means["method"] == base) & (means["group"] == "atypical") & (means["metric"] == "robust")
        accuracy = float(means.loc[row & (means["checkpoint"] == checkpoint), "accuracy"].mean())
        verdicts += verdict_a(compared, runs, base=base, robust_accuracy=accuracy, margin=margin, checkpoint=checkpoint)
        verdicts.append(verdict_b(compared, runs, base=base, margin=margin, checkpoint=checkpoint))
    return verdicts


def methods_better(tables: Tables, question: str, margin: float, checkpoint: str) -> list[Verdict]:
    """Return whether methods that weigh samples are better than those that do not; question: methods or pairs."""
    compared = once(tables.comparisons)
    weighted = set(tables.runs.loc[tables.runs["weighted"], "method"])
    pairs = compared.loc[compared["question"] == question, ["method", "baseline"]].drop_duplicates()
    return [
        better(compared, question, method, baseline, checkpoint=checkpoint, margin=margin)
        for method, baseline in pairs.itertuples(index=False)
        if method in weighted and baseline not in weighted
    ]


def verdicts_of(tables: Tables, margin: float) -> list[Verdict]:
    """Return the answers to the paper's questions, findings first."""
    return findings_of(tables, margin) + [
        verdict
        for question, checkpoint in product(("methods", "pairs"), _CHECKPOINTS)
        for verdict in methods_better(tables, question, margin, checkpoint)
    ]


def answers_of(tables: Tables, margin: float) -> list[tuple[str, str, str, str]]:
    """Return the answers with the numbers of the last and the best epoch beside one another.

    Of findings the answer is that of the last epoch; of methods both are told where they differ.
    """
    last, best = (findings_of(tables, margin, checkpoint) for checkpoint in _CHECKPOINTS)
    rows = [(*one[:2], one.evidence, other.evidence) for one, other in zip(last, best, strict=True)]
    for question in ("methods", "pairs"):
        last, best = (methods_better(tables, question, margin, checkpoint) for checkpoint in _CHECKPOINTS)
        rows += [
            (
                one.question.removeprefix("last epoch: "),
                one.answer if one.answer == other.answer else f"last: {one.answer}; best: {other.answer}",
                one.evidence,
                other.evidence,
            )
            for one, other in zip(last, best, strict=True)
        ]
    return rows


def equal_runs(comparisons: pd.DataFrame) -> dict[str, str]:
    """Return the runs that are right and wrong on the same test samples as another, at each checkpoint."""
    pairs = comparisons[comparisons["question"] != "removal"].groupby(["method", "baseline"], sort=False)["verdict"]
    equal = pairs.agg(lambda verdicts: bool((verdicts == EQUAL).all()))
    return {str(method): str(baseline) for method, baseline in equal.index[equal.astype(bool)]}


def once(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Return comparisons without those of runs that equal another, but for the one that says so."""
    equal = equal_runs(comparisons)
    said = [equal.get(method, other) == other for method, other in comparisons[["method", "baseline"]].to_numpy()]
    return comparisons[pd.Series(said, comparisons.index, dtype=bool)]


def results_page(tables: Tables, spec: ResultsSpec, warnings: Sequence[str], benchmarks: Path) -> str:
    """Return the page as Markdown. benchmarks: the folder of Snakemake's records of jobs."""
    means, about, scored, groups = tables.summary, tables.about, tables.scored, tables.test_groups
    models, percent = scored["models"], f"{about['spec']['confidence']:.0%}"
    compared, equal = once(tables.comparisons), equal_runs(tables.comparisons)
    facts = [
        f"{len(tables.memorization)} training and {len(groups)} test samples of {spec.data}; {spec.model.name}"
        + (f", width {spec.model.width}" if hasattr(spec.model, "width") else "")
        + f"; {spec.recipe.epochs} epochs; {means['seeds'].max()} seeds per method, paired",
        f"threat: {threat_text(about['evaluation']['threat'])}; robust accuracy (tier): {about['tier']}",
        f"{tables.memorization['atypical'].sum()} training and {groups['atypical'].sum()} test samples are atypical ("
        + (f"{models} subset models" if models else "scores from a file")
        + ")",
        *filter(None, [fit_text(tables.memorization)]),
        *_chance(tables.null_pairs),
        *_harm(tables.harmful, tables.robust_effects),
        *_repeated(tables.duplicates),
        *_equal(equal),
        _raised(tables.flags),
        _cost(benchmarks),
        f"intervals: {percent}, bootstrap over seeds and test samples, paired; a star marks differences whose "
        "interval excludes 0 and whose paired permutation test passes Holm's correction over the rows of its "
        "table that are compared; where no epoch is named, figures are of the last one; the best is chosen on "
        "validation samples",
    ]
    shown = [run for run in methods_of(tables.runs) if run not in equal]
    accuracies = accuracy_table(means, shown, form=MARKDOWN)
    verdicts = verdicts_of(tables, spec.margin)
    parts = {
        "Answers": tabulate(verdicts, ["question", "answer", "evidence: differences in points"], tablefmt=MARKDOWN)
    }
    parts |= {f"Accuracy in percent, {percent} intervals": accuracies}
    for question, checkpoint in product(_QUESTIONS, _CHECKPOINTS):
        if (tables.comparisons["question"] == question).any():
            heading = f"{_QUESTIONS[question]}, {checkpoint} epoch: differences in points"
            parts[heading] = difference_table(compared, question, checkpoint)
    trained = tables.histories[~tables.histories["method"].isin(equal)]
    parts["Training, accuracies in percent, robust under the attack of training"] = training_table(trained)
    if tables.proxy_agreement is not None:
        parts["Proxies of memorization"] = _proxies(tables.proxy_agreement, percent)
    removal = bool(tables.runs["removed"].notna().any())
    figures = ["differences", "finding_a" if removal else "tradeoff"]
    figures += ["typical_atypical", "overfitting"] + ["tradeoff", "finding_b"] * removal
    return markdown_page(spec.experiment, facts, warnings, answers_of(tables, spec.margin), figures, parts)


def markdown_page(
    title: str,
    facts: Sequence[str],
    warnings: Sequence[str],
    answers: Sequence[tuple[str, str, str, str]],
    figures: Sequence[str],
    parts: Mapping[str, str],
) -> str:
    """Return the page of one experiment as Markdown: in short, then, from the line ``MORE`` on, in full.

    warnings: what no answer can stand on, quoted (>) above the answers; figures: names of SVG files in figures/ beside
    the page, of which two are enough in short; parts: further headings with their text.
    """
    headers = ["question", "answer", "last epoch: differences in points", "best epoch: differences in points"]
    pictures = [f"![{name.replace('_', ' ')}](figures/{name}.svg)" for name in figures]
    sections = [f"## {title}", "\n".join(f"- {fact}" for fact in facts)]
    sections += [f"> {warning}" for warning in warnings]
    sections += [
        tabulate(answers, headers, tablefmt=MARKDOWN, disable_numparse=True),
        *pictures[:2],
        MORE,
        *pictures[2:],
    ]
    sections += [f"### {heading}\n\n{text}" for heading, text in parts.items()]
    return "\n\n".join(sections) + "\n"


def _equal(runs: Mapping[str, str]) -> list[str]:
    """Say which runs are told of under the name of another."""
    return [
        f"`{run}` is right and wrong on the same test samples as `{other}`, at the last and the best epoch: "
        "it is left out below"
        for run, other in runs.items()
    ]


def _empty(scores: pd.DataFrame, groups: pd.DataFrame, about: dict[str, Any]) -> list[str]:
    """Say which group has no test sample, and what would help. about: the facts of the scores."""
    if not groups["atypical"].any():
        spec = about["spec"]
        reason = none_atypical(
            scores,
            groups,
            models=about["models"],
            fraction=spec.get("shards", {}).get("spec.subset_fraction"),
            threshold=spec["threshold"],
            false_discovery_rate=spec.get("false_discovery_rate"),
        )
        return [f"No test sample is atypical, so nothing is said of such samples: {reason}."]
    if groups["atypical"].all():
        return ["No test sample is typical, so nothing is said of such samples: raise memorization.threshold."]
    return []


def _chance(table: pd.DataFrame | None) -> list[str]:
    """Say how many influence pairs were found, and how many by chance."""
    if table is None:
        return []
    shuffled = table.iloc[1:]
    if shuffled.empty:
        return []
    return [
        f"influence pairs on test samples that are significant and over the threshold: {table['found'].iloc[0]} of "
        f"{table['pairs'].iloc[0]}; with the models' results shuffled {shuffled['found'].mean():.2f} (mean of "
        f"{len(shuffled)} shuffles), where the threshold alone would take {shuffled['over_threshold'].mean():.0f}"
    ]


def _repeated(table: pd.DataFrame | None) -> list[str]:
    """Say how many training samples have near-duplicates, and what these may hide; nothing where there is none."""
    if table is None:
        return []
    near, disputed = table["near_duplicates"] > 0, int(table["other_near_duplicate"].sum())
    if not near.any() and not disputed:
        return []
    unknown = int((near & ~table["atypical"] & table["duplicates_influence"].isna()).sum())
    return [
        f"{near.sum()} training samples have a near-duplicate of their class, which may hide the memorization of "
        f"{table['hidden'].sum()}" + (f" (not known for {unknown})" if unknown else "") + f"; {disputed} have one with "
        "another label"
    ]


def _harm(divided: pd.DataFrame | None, effects: pd.DataFrame | None) -> list[str]:
    """Say how many atypical samples are harmful, and how many lower the robust accuracy of typical samples."""
    lines = []
    if divided is not None:
        lines.append(f"{divided['harmful'].sum()} of {len(divided)} atypical training samples are harmful")
    if effects is not None:
        counts = {
            name: int((effects["robust_significant"] & (sign * effects["robust_effect"] > 0)).sum())
            for name, sign in ((LOWER, -1), (HIGHER, 1))
        }
        models = effects["models"].max() if len(effects) else 0
        lines.append(
            f"robust subset models ({models}): of {len(effects)} atypical training samples {counts[LOWER]} lower and "
            f"{counts[HIGHER]} raise the robust accuracy of typical test samples significantly"
        )
    return lines


def _proxies(agreement: pd.DataFrame, percent: str) -> str:
    """Say how the proxies agree with memorization, and what they are no measure of."""
    atypical = agreement.drop_duplicates("score").set_index("score")["atypical"]
    numbers = " and ".join(f"{count} ({kind} score)" for kind, count in atypical.items())
    # with scores from a file there are none
    halves = "Half of the subset models against the other half says how far the scores agree with themselves. "
    known = halves if (agreement["proxy"] == HALF).any() else ""
    table = agreement_table(agreement)
    return (
        f"From natural training alone, means over {agreement['runs'].max()} runs; {percent} bootstrap intervals over "
        f"training samples. AUC and precision are for atypical training samples, n: {numbers}. {known}Proxies do not "
        "follow how memorization changes with the size of a network (Lukasik et al., arXiv 2310.05337)."
        f"\n\n{table}"
    )


def _raised(table: pd.DataFrame) -> str:
    """Say which signs of overestimated robustness were found."""
    raised = table[table["raised"]].groupby("flag")["method"]
    found = "; ".join(f"{flag} on {len(names)} models ({', '.join(sorted(set(names)))})" for flag, names in raised)
    return f"signs of overestimated robustness: {found or 'none'}"


def _cost(folder: Path) -> str:
    """Say what the jobs took, by Snakemake's own records, and on what."""
    records = [pd.read_csv(path, sep="\t") for path in sorted(folder.rglob("*.tsv"))]
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = named[0].partition(":")[2].strip() if named else processor
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    # Snakemake looks at a job's CPU time every 30 seconds, and writes NA for what ended before the first look
    clock, cpu = (
        sum(pd.to_numeric(record[name], errors="coerce").sum() for record in records) / 60 for name in ("s", "cpu_time")
    )
    return (
        f"{len(records)} jobs of one thread, {clock:.0f} minutes one after the other with waiting and pauses, "
        f"at least {cpu:.0f} of them CPU time; "
        f"{os.cpu_count()} cores of {processor}, {device}; Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
