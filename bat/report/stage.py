"""Stage 4: tables for papers, and the page that says what was found."""

import os
import platform
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bat.config import parse
from bat.config.specs import ResultsSpec
from bat.evaluation.comparison import HIGHER, LOWER
from bat.evaluation.grounds import none_atypical
from bat.io.files import replacing
from bat.io.journal import Journal
from bat.io.tables import check_one_data_set, check_one_run, read_table, read_table_with_facts
from bat.report.page import LATEX, MARKDOWN, accuracy_table, difference_table, page, training_table
from bat.report.verdicts import Verdict, better, finding_a, finding_b

_CHECKPOINTS = ("last", "best")
_QUESTIONS = {
    "methods": "Methods less the baseline",
    "pairs": "Further pairs",
    "removal": "Training without some samples",
}


def results(
    journal: Journal,
    *,
    spec: str,
    summary: str,
    comparisons: str,
    flags: str,
    memorization: str,
    test_groups: str,
    histories: list[str],
    null_pairs: str | None,
    harmful: str | None,
    robust_effects: str | None,
    benchmarks: str,
    markdown: str,
    latex: str,
    out: str,
) -> None:
    """Write the table of accuracies as Markdown and LaTeX, and the page of results as Markdown."""
    plan = parse(ResultsSpec, spec, "--spec")
    means, about = read_table_with_facts(summary, "summary")
    table, facts = read_table(comparisons, "comparisons"), about["evaluation"]
    scores, scores_about = read_table_with_facts(memorization, "memorization")
    groups = read_table(test_groups, "test_groups")
    others = (flags, memorization, test_groups, *histories, null_pairs, harmful, robust_effects)
    check_one_data_set(summary, comparisons, *others)
    check_one_run(summary, comparisons, flags)
    check_one_run(memorization, test_groups)
    with journal.work():
        verdicts: list[Verdict] = []
        if plan.retrained:
            row = (means["method"] == plan.retrained) & (means["group"] == "atypical") & (means["metric"] == "robust")
            accuracy = float(means.loc[row & (means["checkpoint"] == "last"), "accuracy"].mean())
            verdicts += finding_a(table, base=plan.retrained, robust_accuracy=accuracy, margin=plan.margin)
            verdicts.append(finding_b(table, base=plan.retrained, margin=plan.margin))
        for question in ("methods", "pairs"):
            pairs = table.loc[table["question"] == question, ["method", "baseline"]].drop_duplicates()
            verdicts += [
                better(table, question, method, baseline, checkpoint=checkpoint, margin=plan.margin)
                for checkpoint in _CHECKPOINTS
                for method, baseline in pairs.itertuples(index=False)
                if method in plan.weighted and baseline not in plan.weighted
            ]
        warnings = [
            f"The training of `{run}` failed, so that no comparison with it counts: {reason}."
            for run, reason in about["failed"].items()
        ]
        warnings += _empty(scores, groups, scores_about)
        figures = ["tradeoff", "overfitting"] + ["finding_a", "finding_b"] * bool(plan.retrained)
        percent = f"{about['spec']['confidence']:.0%}"
        threat, models = facts["threat"], scores_about["models"]
        lines = [
            f"{len(scores)} training and {len(groups)} test samples of {plan.data}; {plan.model.name}"
            + (f", width {plan.model.width}" if hasattr(plan.model, "width") else "")
            + f"; {plan.recipe.epochs} epochs; {means['seeds'].max()} seeds a method, paired",
            f"threat: {threat['norm']} {threat['eps']:g}; robust accuracy (tier): {about['tier']}",
            f"{scores['atypical'].sum()} training and {groups['atypical'].sum()} test samples are atypical ("
            + (f"{models} subset models" if models else "scores from a file")
            + ")",
        ]
        lines += _chance(null_pairs) + _harm(harmful, robust_effects) + _raised(flags)
        lines.append(_cost(Path(benchmarks)))
        lines.append(
            f"intervals: {percent}, bootstrap over seeds and test samples, paired; a star marks differences whose "
            "interval excludes 0 and whose paired permutation test passes Holm's correction over the rows of its "
            "table that are compared; where no epoch is named, figures are of the last one; the best is chosen on "
            "validation samples"
        )
        parts = {f"Accuracy in percent, {percent} intervals": accuracy_table(means, plan.methods, form=MARKDOWN)}
        for question, checkpoint in product(_QUESTIONS, _CHECKPOINTS):
            if (table["question"] == question).any():
                heading = f"{_QUESTIONS[question]}, {checkpoint} epoch: differences in points"
                parts[heading] = difference_table(table, question, checkpoint)
        trained = pd.concat([read_table(path, "history") for path in histories], ignore_index=True)
        parts["Training, accuracies in percent, robust under the attack of training"] = training_table(trained)
        texts = {
            markdown: accuracy_table(means, plan.methods, form=MARKDOWN) + "\n",
            latex: accuracy_table(means, plan.methods, form=LATEX) + "\n",
            out: page(plan.experiment, lines, warnings, verdicts, figures, parts),
        }
    for warning in warnings:
        journal.line(warning)
    for path, text in texts.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


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


def _chance(null_pairs: str | None) -> list[str]:
    """Say how many influence pairs were found, and how many by chance."""
    if not null_pairs:
        return []
    table = read_table(null_pairs, "null_pairs")
    shuffled = table.iloc[1:]
    if shuffled.empty:
        return []
    return [
        f"influence pairs on test samples that are significant and over the threshold: {table['found'].iloc[0]} of "
        f"{table['pairs'].iloc[0]}; with the models' results shuffled {shuffled['found'].mean():.2f} (mean of "
        f"{len(shuffled)} shuffles), where the threshold alone would take {shuffled['over_threshold'].mean():.0f}"
    ]


def _harm(harmful: str | None, robust_effects: str | None) -> list[str]:
    """Say how many atypical samples are harmful, and how many lower the robust accuracy of typical samples."""
    lines = []
    if harmful:
        divided = read_table(harmful, "harmful")
        lines.append(f"{divided['harmful'].sum()} of {len(divided)} atypical training samples are harmful")
    if robust_effects:
        effects = read_table(robust_effects, "robust_effects")
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


def _raised(flags: str) -> list[str]:
    """Say which signs of overestimated robustness were found."""
    table = read_table(flags, "flags")
    raised = table[table["raised"]].groupby("flag")["method"]
    found = "; ".join(f"{flag} on {len(names)} models ({', '.join(sorted(set(names)))})" for flag, names in raised)
    return [f"signs of overestimated robustness: {found or 'none'}"]


def _cost(folder: Path) -> str:
    """Say what the jobs took, by Snakemake's own records, and on what."""
    records = [pd.read_csv(path, sep="\t") for path in sorted(folder.rglob("*.tsv"))]
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = named[0].partition(":")[2].strip() if named else processor
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    taken = sum(record["s"].sum() for record in records) / 60
    return (
        f"{sum(map(len, records))} jobs of one thread, {taken:.0f} minutes one after the other; "
        f"{os.cpu_count()} cores of {processor}, {device}; Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
