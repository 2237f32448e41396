"""Stage 3: one model under attack, and the summary over all models."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from bat.attacks.ensemble import members, tier
from bat.config import parse
from bat.config.specs import AttackSpec, EvaluateSpec, SummarySpec
from bat.data.dataset import Part
from bat.data.saved import load_data
from bat.errors import BatError
from bat.evaluation.comparison import comparison_table
from bat.evaluation.direct import told_of
from bat.evaluation.flags import Probe, probe
from bat.evaluation.grounds import failures
from bat.evaluation.summary import accuracies_by_seed, run_table, summary_table
from bat.evaluation.under_attack import BATCH_FORMAT, attack_samples
from bat.io.files import provenance, replacing
from bat.io.journal import Journal
from bat.io.outputs import Csv, Parquet, Safetensors
from bat.io.tables import check_labels, check_one_data_set, read_table, read_table_with_facts, write_table
from bat.io.tensors import kept, write_tensors
from bat.models.saved import check_one_training, read_model
from bat.statistics import majority_share


def evaluate(
    journal: Journal,
    *,
    spec: EvaluateSpec,
    data: Path,
    best: Path,
    last: Path,
    attacked: Parquet,
    flags: Parquet,
    images: Safetensors | None = None,
    device: str = "auto",
) -> None:
    """Attack the best and last weights of one model; write per-sample results and flags.

    attacked: one row per checkpoint and test sample
    flags: signs that the robust accuracy may be too high
    images: also keep the strongest adversarial images found, which bat verify can check
    """
    samples, digest = load_data(data, device)
    parts = Path(f"{attacked}.parts")
    tables, found_flags, strongest = [], [], {}
    before: dict[str, Tensor] = {}
    models = {path: read_model(path, spec.model, samples, (data, digest)) for path in (best, last)}
    check_one_training((best, models[best][1]), (last, models[last][1]))
    for checkpoint, path in (("best", best), ("last", last)):
        model, facts = models[path]
        about = {"spec": asdict(spec), "training": facts["spec"], "data": digest}
        weights = model.state_dict()
        # often the last epoch is the best: the same weights are not attacked again
        if not before or not all(torch.equal(weights[name], tensor) for name, tensor in before.items()):
            try:
                said = probe(model, samples.test, spec.batch_size)
            except BatError as error:
                raise BatError(f"{path}: {error}") from error
            table, flagged, x_adv = attack_all(
                journal, model, samples.test, spec, parts / checkpoint, about | {"weights": facts["digest"]}, said
            )
        before, strongest[checkpoint] = weights, x_adv.clone()
        this = {"method": facts["spec"]["method"]["name"], "seed": facts["spec"]["seed"], "checkpoint": checkpoint}
        tables.append(table.assign(**this))
        found_flags.append(flagged.assign(**this))
    result = pd.concat(tables)
    if images:
        write_tensors(images, strongest, provenance("images", **about))
    write_table(flags, "flags", pd.concat(found_flags), provenance("flags", **about))
    write_table(attacked, "attacked", result, provenance("attacked", **about))
    shutil.rmtree(parts)


def attack_all(
    journal: Journal,
    model: nn.Module,
    part: Part,
    spec: EvaluateSpec | AttackSpec,
    folder: Path,
    about: dict[str, Any],
    before: Probe,
) -> tuple[pd.DataFrame, pd.DataFrame, Tensor]:
    """Attack all of ``part`` batch by batch; return the table of samples, the flags and the strongest images.

    Finished batches are kept in ``folder``, so that a killed run goes on where it was; the caller removes it when its
    outputs are written. A batch is taken up again only if all of ``about`` is the same. before: what
    ``probe`` found of the model.
    """
    ensemble = members(spec.ensemble)
    batches = torch.split(torch.arange(len(part), device=part.labels.device), spec.batch_size)
    with journal.work():
        found = [
            kept(
                folder / f"{number:04d}.safetensors",
                provenance("part", **about, format=BATCH_FORMAT),
                partial(
                    attack_samples,
                    model,
                    part,
                    rows,
                    threat=spec.threat,
                    pgd_attack=spec.pgd,
                    ensemble=ensemble,
                    seed=spec.seed,
                ),
                journal.line,
            )
            for number, rows in enumerate(journal.bar(batches, len(batches), "batches"))
        ]
        table, flagged, strongest = told_of(model, part, spec, found, before)
    for row in flagged[flagged["raised"]].itertuples():
        journal.line(f"flag {row.flag}: {row.value:g} is over {row.limit:g}: {row.meaning}")
    return table, flagged, strongest


def summary(
    journal: Journal,
    *,
    spec: SummarySpec,
    test_groups: Path,
    attacked: list[Path],
    flags: list[Path],
    files: Path,
    histories: list[Path],
    per_sample: Parquet,
    by_seed: Parquet,
    summary: Parquet,
    comparisons: Parquet,
    runs: Parquet,
    all_flags: Parquet,
    raised: Csv,
) -> None:
    """Join the evaluations of all models and the groups of test samples.

    Writes all per-sample results, accuracies of groups, runs against one another, and the flags. What no comparison can
    stand on is found in the histories of training, and kept with the tables.

    flags: flags.parquet of each run, from stage evaluate
    per_sample: one row per run, checkpoint and test sample
    by_seed: one row per run and group
    summary: one row per method and group, over seeds
    comparisons: one row per pair of runs and group, paired by seed and sample
    runs: one row per run: what it is for, and what it is compared with
    all_flags: the flags of all runs
    raised: those that are raised
    """
    groups = read_table(test_groups, "test_groups")
    tables, specs = [], []
    for path in attacked:
        table, facts = read_table_with_facts(path, "attacked")
        for _, rows in table.groupby("checkpoint"):
            check_labels(test_groups, groups, "test_index", rows["test_index"].to_numpy(), rows["label"].to_numpy())
        tables.append(table)
        specs.append(facts["spec"])
        if facts["spec"] != specs[0]:
            raise BatError(f"{attacked[0]} and {path} were evaluated by different specs: evaluate both again")
    flagged = [read_table_with_facts(path, "flags") for path in flags]
    for path, (_, about) in zip(flags, flagged, strict=True):
        if about["spec"] != specs[0]:
            raise BatError(f"{attacked[0]} and {path} were evaluated by different specs: evaluate both again")
    check_one_data_set(test_groups, files, *attacked, *flags, *histories)
    columns = ["test_index", "atypical", "max_influence", "memorization"]
    samples = pd.concat(tables).merge(groups[columns], on="test_index")
    name = tier(parse(EvaluateSpec, json.dumps(specs[0]), str(attacked[0])).ensemble)
    trained, natural = _histories(histories)
    said = [table for table, _ in flagged]
    given = {"--attacked": (attacked, tables), "--flags": (flags, said), "--histories": (histories, trained)}
    _check_runs(spec, given)
    labels = read_table(files, "files").query("split == 'train'")["label"]
    chance = majority_share(labels.to_numpy())
    history = pd.concat(trained)
    failed = failures(history, chance=chance, natural=natural)
    for run, reason in failed.items():
        journal.line(f"{run}: {reason}; no comparison with it counts")
    counts = history.groupby("method")["trained_samples"].min()
    left_out = {str(run): int(len(labels) - count) for run, count in counts.items()}
    with journal.work():
        seeds = accuracies_by_seed(samples, confidence=spec.confidence)
        drawn: Any = {"confidence": spec.confidence, "bootstrap": spec.bootstrap, "seed": spec.seed}
        means = summary_table(samples, **drawn)
        compared = comparison_table(samples, spec.questions, failed=failed, left_out=left_out, **drawn)
    if not (means["group"] == "atypical").any():
        journal.line("no test sample is atypical: the summary has no rate of that group")
    write_table(per_sample, "per_sample", samples, provenance("per_sample", spec=specs[0], data=facts["data"]))
    about = {"spec": asdict(spec), "evaluation": specs[0], "tier": name, "failed": failed, "data": facts["data"]}
    write_table(by_seed, "by_seed", seeds.assign(tier=name), provenance("by_seed", **about))
    write_table(summary, "summary", means.assign(tier=name), provenance("summary", **about))
    write_table(comparisons, "comparisons", compared.assign(tier=name), provenance("comparisons", **about))
    write_table(runs, "runs", run_table(spec.runs, spec.questions), provenance("runs", **about))
    found = pd.concat(said)
    write_table(all_flags, "flags", found, provenance("flags", **about))
    with replacing(raised) as temporary:
        found[found["raised"]].drop(columns="raised").to_csv(temporary, index=False)


def _check_runs(spec: SummarySpec, given: Mapping[str, tuple[Sequence[Path], Sequence[pd.DataFrame]]]) -> None:
    """Raise BatError unless each flag was given one file of each run and seed, and those of all runs of the spec.

    given: by flag, the first --attacked, its files and their tables.
    """
    models: dict[str, dict[tuple[str, int], Path]] = {flag: {} for flag in given}
    for flag, (paths, tables) in given.items():
        for path, table in zip(paths, tables, strict=True):
            for model in set(table[["method", "seed"]].itertuples(index=False, name=None)):
                if (other := models[flag].setdefault(model, path)) != path:
                    raise BatError(f"{other} and {path} are both of {model[0]}, seed {model[1]}: give each run once")
    first, *others = models
    for flag in others:
        for run, number in sorted(models[first].keys() ^ models[flag].keys()):
            lacks, has = (flag, first) if (run, number) in models[first] else (first, flag)
            raise BatError(f"{lacks}: none of {run}, seed {number}, which is in {has}: give that too")
    wanted = {run.name for run in spec.runs}.union(*chain.from_iterable(spec.questions.values()))
    for missing in sorted(wanted - {run for run, _ in models[first]}):
        raise BatError(f"{first}: none of {missing}, a run of the spec: give that too")


def _histories(paths: list[Path]) -> tuple[list[pd.DataFrame], set[str]]:
    """Read the histories of all runs and seeds; return them with the names of those trained on clean images alone."""
    tables, natural = [], set()
    for path in paths:
        table, facts = read_table_with_facts(path, "history")
        tables.append(table)
        method = facts["spec"]["method"]
        if method["objective"] == "natural" or method.get("inner", "") is None:
            natural |= set(table["method"])
    return tables, natural
