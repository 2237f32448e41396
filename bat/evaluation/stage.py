"""Stage 3: one model under attack, and the summary over all models."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from bat.attacks.ensemble import members, tier
from bat.config import parse
from bat.config.specs import AttackSpec, EvaluateSpec, SummarySpec
from bat.data.dataset import Part
from bat.errors import BatError
from bat.evaluation import under_attack as evaluation
from bat.evaluation.comparison import comparison_table
from bat.evaluation.flags import Probe, find_flags, probe
from bat.evaluation.grounds import failures
from bat.io.files import provenance, replacing
from bat.io.journal import Journal
from bat.io.tables import check_labels, check_one_data_set, read_table, read_table_with_facts, write_table
from bat.io.tensors import kept, write_tensors
from bat.models.inputs import check_one_training, read_data, read_model
from bat.statistics import majority_share


def evaluate(
    journal: Journal,
    *,
    spec: str,
    data: str,
    best: str,
    last: str,
    out: str,
    flags: str,
    images: str | None,
    device: str,
) -> None:
    """Attack the best and last weights of one model; write per-sample results and flags."""
    plan = parse(EvaluateSpec, spec, "--spec")
    samples, digest = read_data(data, device)
    parts = Path(f"{out}.parts")
    tables, found_flags, strongest = [], [], {}
    before: dict[str, Tensor] = {}
    models = {path: read_model(path, plan.model, samples, (data, digest)) for path in (best, last)}
    check_one_training((best, models[best][1]), (last, models[last][1]))
    for checkpoint, path in (("best", best), ("last", last)):
        model, facts = models[path]
        about = {"spec": json.loads(spec), "training": facts["spec"], "data": digest}
        weights = model.state_dict()
        # often the last epoch is the best: the same weights are not attacked again
        if not before or not all(torch.equal(weights[name], tensor) for name, tensor in before.items()):
            try:
                said = probe(model, samples.test, plan.batch_size)
            except BatError as error:
                raise BatError(f"{path}: {error}") from error
            table, flagged, x_adv = attacked(
                journal, model, samples.test, plan, parts / checkpoint, about | {"weights": facts["digest"]}, said
            )
        before, strongest[checkpoint] = weights, x_adv.clone()
        this = {"method": facts["spec"]["method"]["name"], "seed": facts["spec"]["seed"], "checkpoint": checkpoint}
        tables.append(table.assign(**this))
        found_flags.append(flagged.assign(**this))
    result = pd.concat(tables, ignore_index=True)
    if images:
        write_tensors(images, strongest, provenance("images", **about))
    write_table(flags, "flags", pd.concat(found_flags, ignore_index=True), provenance("flags", **about))
    write_table(out, "attacked", result, provenance("attacked", **about))
    shutil.rmtree(parts)


def attacked(
    journal: Journal,
    model: nn.Module,
    part: Part,
    plan: EvaluateSpec | AttackSpec,
    folder: Path,
    about: dict[str, Any],
    before: Probe,
) -> tuple[pd.DataFrame, pd.DataFrame, Tensor]:
    """Attack all of ``part`` batch by batch; return the table of samples, the flags and the strongest images.

    Finished batches are kept in ``folder``, so that a killed run goes on where it was; the caller removes it when its
    outputs are written. A batch is taken up again only if all of ``about`` is the same. before: what
    ``probe`` found of the model.
    """
    ensemble = members(plan.ensemble)
    batches = torch.split(torch.arange(len(part), device=part.labels.device), plan.batch_size)
    with journal.work():
        found = [
            kept(
                folder / f"{number:04d}.safetensors",
                provenance("part", **about),
                partial(
                    evaluation.evaluate,
                    model,
                    part,
                    rows,
                    threat=plan.threat,
                    pgd_attack=plan.pgd,
                    ensemble=ensemble,
                    seed=plan.seed,
                ),
                journal.line,
            )
            for number, rows in enumerate(journal.bar(batches, len(batches), "batches"))
        ]
        joined = {name: torch.cat([tensors[name].cpu() for tensors in found]) for name in found[0]}
        table = evaluation.sample_table(part, joined, ensemble)
        nonfinite = int(joined["nonfinite"].sum())
        flagged = find_flags(model, part, table, batch_size=plan.batch_size, before=before, nonfinite=nonfinite)
    for row in flagged[flagged["raised"]].itertuples():
        journal.line(f"flag {row.flag}: {row.value:g} is over {row.limit:g}: {row.meaning}")
    return table.assign(tier=tier(plan.ensemble)), flagged, joined["x_adv"]


def summary(
    journal: Journal,
    *,
    spec: str,
    test_groups: str,
    evaluations: list[str],
    flags: list[str],
    files: str,
    histories: list[str],
    per_sample: str,
    by_seed: str,
    summary: str,
    comparisons: str,
    all_flags: str,
    raised: str,
) -> None:
    """Join the evaluations of all models and the groups of test samples.

    Writes all per-sample results, accuracies of groups, runs against one another, and the flags. What no comparison can
    stand on is found in the histories of training, and kept with the tables.
    """
    plan = parse(SummarySpec, spec, "--spec")
    groups = read_table(test_groups, "test_groups")
    tables, specs = [], []
    for path in evaluations:
        table, facts = read_table_with_facts(path, "attacked")
        for _, rows in table.groupby("checkpoint"):
            check_labels(test_groups, groups, "test_index", rows["test_index"].to_numpy(), rows["label"].to_numpy())
        tables.append(table)
        specs.append(facts["spec"])
        if facts["spec"] != specs[0]:
            raise BatError(f"{evaluations[0]} and {path} were evaluated by different specs: evaluate both again")
    flagged = [read_table_with_facts(path, "flags") for path in flags]
    for path, (_, about) in zip(flags, flagged, strict=True):
        if about["spec"] != specs[0]:
            raise BatError(f"{evaluations[0]} and {path} were evaluated by different specs: evaluate both again")
    check_one_data_set(test_groups, files, *evaluations, *flags, *histories)
    columns = ["test_index", "atypical", "max_influence", "memorization"]
    samples = pd.concat(tables, ignore_index=True).merge(groups[columns], on="test_index", how="left")
    found = pd.concat([table for table, _ in flagged], ignore_index=True)
    name = tier(parse(EvaluateSpec, json.dumps(specs[0]), evaluations[0]).ensemble)
    trained, natural = _histories(histories)
    labels = read_table(files, "files").query("split == 'train'")["label"]
    chance = majority_share(labels.to_numpy())
    models, known = (set(table[["method", "seed"]].itertuples(index=False)) for table in (samples, trained))
    for run, number in sorted(models - known):
        raise BatError(f"--histories: none of {run}, seed {number}, whose training is unknown then: give that too")
    failed = failures(trained, chance=chance, natural=natural)
    for run, reason in failed.items():
        journal.line(f"{run}: {reason}; no comparison with it counts")
    counts = trained.groupby("method")["trained_samples"].min()
    left_out = {str(run): int(len(labels) - count) for run, count in counts.items()}
    with journal.work():
        seeds = evaluation.accuracies_by_seed(samples, confidence=plan.confidence)
        drawn: Any = {"confidence": plan.confidence, "bootstrap": plan.bootstrap, "seed": plan.seed}
        means = evaluation.summary(samples, **drawn)
        compared = comparison_table(samples, plan.questions, failed=failed, left_out=left_out, **drawn)
    if not (means["group"] == "atypical").any():
        journal.line("no test sample is atypical: the summary has no rate of that group")
    write_table(per_sample, "per_sample", samples, provenance("per_sample", spec=specs[0], data=facts["data"]))
    about = {"spec": json.loads(spec), "evaluation": specs[0], "tier": name, "failed": failed, "data": facts["data"]}
    write_table(by_seed, "by_seed", seeds.assign(tier=name), provenance("by_seed", **about))
    write_table(summary, "summary", means.assign(tier=name), provenance("summary", **about))
    write_table(comparisons, "comparisons", compared.assign(tier=name), provenance("comparisons", **about))
    write_table(all_flags, "flags", found, provenance("flags", **about))
    with replacing(raised) as temporary:
        found[found["raised"]].drop(columns="raised").to_csv(temporary, index=False)


def _histories(paths: list[str]) -> tuple[pd.DataFrame, set[str]]:
    """Read the histories of all runs and seeds; return them with the names of those trained on clean images alone."""
    tables, natural = [], set()
    for path in paths:
        table, facts = read_table_with_facts(path, "history")
        tables.append(table)
        if facts["spec"]["method"]["objective"] == "natural":
            natural |= set(table["method"])
    return pd.concat(tables, ignore_index=True), natural
