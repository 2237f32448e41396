"""Per-sample results under attack, and accuracies of groups with their intervals."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bat.attacks import apgd, cross_entropy, pgd, random_start, size
from bat.config import ApgdCe, Attack, EvaluationPgd, Pgd, Threat
from bat.data import DataSet, Part
from bat.models import mode
from bat.seeds import derive_seed, uniform
from bat.statistics import bootstrap_interval, wilson

_BATCH = 512
"""Images in a forward pass where nothing depends on it but memory."""

METRICS = {
    "clean": "clean_correct",
    "pgd": "pgd_correct",
    "robust": "robust_correct",
}
"""Accuracies of the summary and the per-sample columns that they are means of."""


@contextmanager
def attackable(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode with its parameters out of the graph, and restore both."""
    found = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with mode(model, training=False):
        model.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, required in found:
                parameter.requires_grad_(required)


def correct(model: nn.Module, part: Part) -> NDArray[np.bool_]:
    """Return which samples of ``part`` the model classifies correctly, unperturbed: (n,) bool."""
    with attackable(model):
        rows = _batches(part, _BATCH)
        right = [_predict(model, part.images(some)) == part.labels[some] for some in rows]
    return torch.cat(right).cpu().numpy()


def stands(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    index: Tensor,
    attack: Attack,
    *,
    threat: Threat,
    seed: int,
) -> Tensor:
    """Return which samples the model still classifies correctly after ``attack``: (n,) bool.

    x: (n, c, h, w) in [0, 1]; labels, index: (n,). A sample's random starts depend on (seed, its index, attack,
    restart) alone. Each restart runs on the samples that stood under those before.

    Raises:
        ValueError: the attack left the eps ball or [0, 1].
    """
    standing = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for restart in range(attack.restarts):
        rows = standing.nonzero().flatten()
        if not len(rows):
            break
        here = x[rows]
        random = uniform(derive_seed(seed, attack.name, restart), index[rows], tuple(x.shape[1:]))
        start = random_start(here, random, norm=threat.norm, eps=threat.eps)
        x_adv = _run(attack, model, here, labels[rows], threat, start)
        check_allowed(x_adv, here, threat)
        standing[rows] = _predict(model, x_adv) == labels[rows]
    return standing


def check_allowed(x_adv: Tensor, x: Tensor, threat: Threat) -> None:
    """Raise ValueError unless x_adv lies in [0, 1] and in the eps ball around x (to float32 rounding)."""
    excess = float(size(x_adv - x, threat.norm).max()) - threat.eps
    if not excess <= 1e-6 * max(threat.eps, 1):  # also NaN
        raise ValueError(f"an attack left the {threat.norm} ball of {threat.eps} by {excess}")
    if not bool(((x_adv >= 0) & (x_adv <= 1)).all()):
        raise ValueError("an attack left [0, 1]")


def evaluate(
    model: nn.Module,
    part: Part,
    *,
    threat: Threat,
    pgd_attack: EvaluationPgd,
    ensemble: tuple[Attack, ...],
    seed: int,
    batch_size: int,
) -> Iterator[pd.DataFrame]:
    """Attack each sample of ``part`` and yield a table a batch, in the order of ``part``, with a row a sample.

    Columns: test_index, label, predicted, clean_correct; pgd_correct (right on the clean image and after
    ``pgd_attack``); robust_correct (right on the clean image and after all of ``ensemble``, each attack run on the
    samples that still stand); broken_by (the ensemble's attack that broke the sample, missing if none did or the
    clean image was wrong already).
    """
    with attackable(model):
        for rows in _batches(part, batch_size):
            x, labels, index = part.images(rows), part.labels[rows], part.index[rows]
            predicted = _predict(model, x)
            clean = predicted == labels
            broken_by = np.full(len(rows), None, dtype=object)
            pgd_correct, robust = clean.clone(), clean.clone()
            pgd_correct[clean] = stands(
                model, x[clean], labels[clean], index[clean], pgd_attack, threat=threat, seed=seed
            )
            for attack in ensemble:
                left = robust.nonzero().flatten()
                standing = stands(model, x[left], labels[left], index[left], attack, threat=threat, seed=seed)
                robust[left] = standing
                broken_by[left[~standing].cpu().numpy()] = attack.name
            yield pd.DataFrame(
                {
                    "test_index": index.cpu().numpy(),
                    "label": labels.cpu().numpy(),
                    "predicted": predicted.cpu().numpy(),
                    "clean_correct": clean.cpu().numpy(),
                    "pgd_correct": pgd_correct.cpu().numpy(),
                    "robust_correct": robust.cpu().numpy(),
                    "broken_by": pd.array(broken_by, dtype="string"),
                }
            )


def measure(
    model: nn.Module,
    data: DataSet,
    atypical: Mapping[str, Tensor],
    *,
    threat: Threat,
    attack: Pgd,
    seed: int,
) -> dict[str, float]:
    """Return loss and accuracy, clean and under PGD, of each split and group of samples.

    atypical: for each split (n,) bool. Keys are {split}_{all|typical|atypical}_{clean|pgd}_{loss|accuracy}; a group
    without samples has NaN. PGD accuracy counts samples that are right on the clean image and after the attack.
    """
    row = {}
    with attackable(model):
        for name, part in data.parts().items():
            columns = [_losses(model, part, rows, threat, attack, seed) for rows in _batches(part, _BATCH)]
            values = torch.cat(columns, dim=1).double()
            everything = torch.ones(len(part), dtype=torch.bool, device=values.device)
            groups = {"all": everything, "typical": ~atypical[name], "atypical": atypical[name]}
            for group, chosen in groups.items():
                means = values[:, chosen].mean(1).tolist()
                for metric, mean in zip(_MEASURED, means, strict=True):
                    row[f"{name}_{group}_{metric}"] = mean
    return row


def groups_of(atypical: pd.Series) -> dict[str, "pd.Series[bool]"]:
    """Return the rows of each group of samples that has any: all, typical, atypical."""
    atypical = atypical.astype(bool)
    groups = {"all": atypical | True, "typical": ~atypical, "atypical": atypical}
    return {name: rows for name, rows in groups.items() if rows.any()}


def accuracies_by_seed(samples: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """Return the accuracies of each model on each group of test samples, with Wilson intervals over the samples.

    samples: per-sample results with columns method, seed, checkpoint, atypical and those of ``METRICS``. A group
    without samples has no row: it has no rate.
    """
    rows = []
    for (method, seed, checkpoint), model in samples.groupby(["method", "seed", "checkpoint"], sort=False):
        for group, chosen in groups_of(model["atypical"]).items():
            for metric, column in METRICS.items():
                rows.append(
                    (
                        method,
                        seed,
                        checkpoint,
                        group,
                        metric,
                        int(chosen.sum()),
                        int(model.loc[chosen, column].sum()),
                    )
                )
    names = ["method", "seed", "checkpoint", "group", "metric", "samples", "correct"]
    table = pd.DataFrame(rows, columns=names)
    correct, n = table["correct"].to_numpy(), table["samples"].to_numpy()
    low, high = wilson(correct, n, confidence=confidence)
    return table.assign(accuracy=correct / n, ci_low=low, ci_high=high)


def summary(samples: pd.DataFrame, *, confidence: float, bootstrap: int, seed: int) -> pd.DataFrame:
    """Return the mean accuracy over seeds of each method, checkpoint and group, with a bootstrap interval.

    samples: as in ``accuracies_by_seed``. The interval resamples seeds and test samples; ``seed`` is the
    bootstrap's, the same for all rows, so that methods meet the same resamples. seed_deviation: standard deviation
    between seeds, NaN for one.
    """
    rows = []
    for (method, checkpoint), models in samples.groupby(["method", "checkpoint"], sort=False):
        first = models[models["seed"] == models["seed"].iloc[0]]
        for group, chosen in groups_of(first["atypical"]).items():
            kept = models[models["test_index"].isin(first.loc[chosen, "test_index"])]
            for metric, column in METRICS.items():
                correct = kept.pivot(index="seed", columns="test_index", values=column).to_numpy(dtype=bool)
                low, high = bootstrap_interval(
                    correct, confidence=confidence, resamples=bootstrap, seed=derive_seed(seed, "bootstrap")
                )
                by_seed = correct.mean(1)
                deviation = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")
                rows.append(
                    {
                        "method": method,
                        "checkpoint": checkpoint,
                        "group": group,
                        "metric": metric,
                        "seeds": correct.shape[0],
                        "samples": correct.shape[1],
                        "accuracy": correct.mean(),
                        "ci_low": low,
                        "ci_high": high,
                        "seed_deviation": deviation,
                    }
                )
    return pd.DataFrame(rows)


_MEASURED = ("clean_loss", "clean_accuracy", "pgd_loss", "pgd_accuracy")


def _losses(model: nn.Module, part: Part, rows: Tensor, threat: Threat, attack: Pgd, seed: int) -> Tensor:
    """Return the values of ``_MEASURED`` for each sample: (4, n)."""
    x, labels = part.images(rows), part.labels[rows]
    random = uniform(derive_seed(seed, "history"), part.index[rows], tuple(x.shape[1:]))
    x_adv = pgd(
        model,
        x,
        labels,
        loss=cross_entropy,
        norm=threat.norm,
        eps=threat.eps,
        step_size=attack.step_size,
        steps=attack.steps,
        start=random_start(x, random, norm=threat.norm, eps=threat.eps),
    )
    with torch.no_grad():
        clean, attacked = model(x), model(x_adv)
    clean_right = clean.argmax(1) == labels
    right = clean_right & (attacked.argmax(1) == labels)
    clean_loss, loss = (F.cross_entropy(logits, labels, reduction="none") for logits in (clean, attacked))
    return torch.stack([clean_loss, clean_right.float(), loss, right.float()])


def _batches(part: Part, size: int) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(part), device=part.labels.device), size)


def _run(attack: Attack, model: nn.Module, x: Tensor, labels: Tensor, threat: Threat, start: Tensor) -> Tensor:
    match attack:
        case EvaluationPgd():
            return pgd(
                model,
                x,
                labels,
                loss=cross_entropy,
                norm=threat.norm,
                eps=threat.eps,
                step_size=attack.step_size,
                steps=attack.steps,
                start=start,
            )
        case ApgdCe():
            return apgd(
                model,
                x,
                labels,
                loss=cross_entropy,
                norm=threat.norm,
                eps=threat.eps,
                steps=attack.steps,
                rho=attack.rho,
                start=start,
            )


def _predict(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        predicted: Tensor = model(x).argmax(1)
    return predicted
