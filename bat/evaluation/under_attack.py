"""Per-sample results under attack, and accuracies of groups with their intervals."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bat.attacks.ball import random_start
from bat.attacks.ensemble import STANDARD, Outcome, margins, run
from bat.attacks.gradient import cross_entropy, finite, predictions
from bat.attacks.pgd import pgd
from bat.config import Attack, EvaluationPgd, Pgd, Threat
from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.models import for_attacks, mode
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


MEMBERS = tuple(attack.name for attack in STANDARD)
"""The attacks that have a column of their own."""


@contextmanager
def attackable(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode with its parameters out of the graph, and restore both."""
    found = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with mode(model, training=False):
        for parameter, _ in found:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, required in found:
                parameter.requires_grad_(required)


def correct(model: nn.Module, part: Part) -> NDArray[np.bool_]:
    """Return which samples of ``part`` the model classifies correctly, unperturbed: (n,) bool.

    Raises:
        BatError: an output is not finite.
    """
    right: NDArray[np.bool_] = (predictions(clean_logits(model, part, _BATCH)) == part.labels).cpu().numpy()
    return right


def clean_logits(model: nn.Module, part: Part, batch_size: int) -> Tensor:
    """Return the logits of the unperturbed images of ``part``: (n, classes).

    Raises:
        BatError: some are NaN or infinite; says of how many images.
    """
    with attackable(model), torch.no_grad():
        logits = torch.cat([model(part.images(rows)) for rows in _batches(part, batch_size)])
    _check_finite(logits)
    return logits


def _check_finite(logits: Tensor) -> None:
    """Raise BatError where outputs for unperturbed images are NaN or infinite."""
    wrong = int((~finite(logits)).sum())
    if wrong:
        raise BatError(
            f"the model's outputs for {wrong} of {len(logits)} unperturbed images are NaN or infinite: "
            "look for overflow in the model or damaged weights, or train with a lower learning rate"
        )


def robustly_correct(
    model: nn.Module, part: Part, *, threat: Threat, attack: Pgd, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which samples of ``part`` the model classifies correctly, and which also under PGD: twice (n,) bool.

    The random starts depend on ``seed`` and each sample's index. Raises as ``correct``.
    """
    with attackable(model):
        fast = for_attacks(model)
        columns = [_losses(model, fast, part, rows, threat, attack, seed) for rows in _batches(part, _BATCH)]
    values = torch.cat(columns, dim=1)
    clean, under_attack = (values[_MEASURED.index(f"{name}_correct")] > 0 for name in ("clean", "pgd"))
    return clean.cpu().numpy(), under_attack.cpu().numpy()


def evaluate(
    model: nn.Module,
    part: Part,
    rows: Tensor,
    *,
    threat: Threat,
    pgd_attack: EvaluationPgd,
    ensemble: Sequence[Attack],
    seed: int,
) -> dict[str, Tensor]:
    """Attack the samples ``rows`` of ``part``: first with ``pgd_attack``, then, apart from it, with ``ensemble``.

    Each attack of the ensemble runs on the samples that stand after those before it. rows: (n,) int64.

    An output that is NaN or infinite is not right, of the clean image or under attack.

    Returns tensors of n rows: predicted (class of the clean image, -1 for such an output);
    pgd_correct (right on the clean image and after
    ``pgd_attack``); broken_by (place in ``ensemble`` of the attack that broke the sample, -1 if none did or the clean
    image was wrong already); margin (logit of the label less the highest other, at the strongest point that the
    ensemble found); x_adv (that point, float32); nonfinite (whether an attack ended where outputs are NaN or infinite).
    """
    with attackable(model):
        x, labels, index = part.images(rows), part.labels[rows], part.index[rows]
        with torch.no_grad():
            logits = model(x)
        predicted, margin, x_adv = predictions(logits), margins(logits, labels), x.clone()
        pgd_correct, standing = predicted == labels, predicted == labels
        nonfinite = torch.zeros_like(standing)
        broken_by = torch.full_like(labels, -1)

        def attacked(attack: Attack, left: Tensor) -> Outcome:
            return run(attack, model, x[left], logits[left], labels[left], index[left], threat=threat, seed=seed)

        left = pgd_correct.nonzero().flatten()
        outcome = attacked(pgd_attack, left)
        pgd_correct[left], nonfinite[left] = outcome.stands, outcome.nonfinite
        for place, attack in enumerate(ensemble):
            left = standing.nonzero().flatten()
            outcome = attacked(attack, left)
            stronger = outcome.margin < margin[left]
            margin[left[stronger]], x_adv[left[stronger]] = outcome.margin[stronger], outcome.x_adv[stronger]
            standing[left] = outcome.stands
            nonfinite[left] |= outcome.nonfinite
            broken_by[left[~outcome.stands]] = place
    return {
        "predicted": predicted,
        "pgd_correct": pgd_correct,
        "broken_by": broken_by,
        "margin": margin,
        "x_adv": x_adv,
        "nonfinite": nonfinite,
    }


def sample_table(part: Part, found: Mapping[str, Tensor], ensemble: Sequence[Attack]) -> pd.DataFrame:
    """Return what ``evaluate`` found of all samples of ``part`` as a table with a row a sample.

    For each member of AutoAttack {attack}_correct says whether the sample is right after it and all before it, missing
    where it was not run; robust_correct, whether it is right after the whole ensemble; broken_by names the attack.
    """
    found = {name: tensor.cpu() for name, tensor in found.items()}
    labels, broken_by = part.labels.cpu(), found["broken_by"]
    clean = found["predicted"] == labels
    names = [attack.name for attack in ensemble]
    table: dict[str, Any] = {
        "test_index": part.index.cpu().numpy(),
        "label": labels.numpy(),
        "predicted": found["predicted"].numpy(),
        "clean_correct": clean.numpy(),
        "pgd_correct": found["pgd_correct"].numpy(),
    }
    for name in MEMBERS:
        stands = clean & ((broken_by < 0) | (broken_by > names.index(name))) if name in names else None
        values = [None] * len(part) if stands is None else stands.numpy()
        table[f"{name}_correct"] = pd.array(values, dtype="boolean")
    return pd.DataFrame(
        table
        | {
            "robust_correct": (clean & (broken_by < 0)).numpy(),
            "broken_by": pd.array(np.array([*names, None], dtype=object)[broken_by.numpy()], dtype="string"),
            "margin": found["margin"].double().numpy(),
        }
    )


def measure(
    model: nn.Module,
    data: DataSet,
    *,
    threat: Threat,
    attack: Pgd,
    seed: int,
) -> dict[str, Tensor]:
    """Return the loss of each sample of all splits, and whether it is right, on the clean image and under PGD.

    Keys are {split}_{clean|pgd}_{loss|correct}, values (n,) float32 and bool. Right under PGD are samples that are
    right on the clean image and after the attack.
    """
    found: dict[str, Tensor] = {}
    with attackable(model):
        fast = for_attacks(model)
        for name, part in data.parts().items():
            columns = [_losses(model, fast, part, rows, threat, attack, seed) for rows in _batches(part, _BATCH)]
            for metric, values in zip(_MEASURED, torch.cat(columns, dim=1), strict=True):
                found[f"{name}_{metric}"] = values > 0 if metric.endswith("_correct") else values
    return found


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
                by_seed = correct.sum(1)  # whole numbers: seeds that are alike deviate by 0
                deviation = float(by_seed.std(ddof=1)) / correct.shape[1] if len(by_seed) > 1 else float("nan")
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


_MEASURED = ("clean_loss", "clean_correct", "pgd_loss", "pgd_correct")


def _losses(
    model: nn.Module, fast: nn.Module, part: Part, rows: Tensor, threat: Threat, attack: Pgd, seed: int
) -> Tensor:
    """Return the values of ``_MEASURED`` for each sample: (4, n). fast: the model for the attack's passes."""
    x, labels = part.images(rows), part.labels[rows]
    random = uniform(derive_seed(seed, "history"), part.index[rows], tuple(x.shape[1:]))
    x_adv = pgd(
        fast,
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
    _check_finite(clean)
    clean_right = predictions(clean) == labels
    right = clean_right & (predictions(attacked) == labels)
    clean_loss, loss = (F.cross_entropy(logits, labels, reduction="none") for logits in (clean, attacked))
    return torch.stack([clean_loss, clean_right.float(), loss, right.float()])


def _batches(part: Part, size: int) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(part), device=part.labels.device), size)
