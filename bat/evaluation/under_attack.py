"""Each sample under attack: which attack breaks it, and the strongest image found."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bat.attacks.ensemble import STANDARD, Outcome, margins, run_attack
from bat.attacks.gradient import predictions
from bat.config import Attack, EvaluationPgd, Threat
from bat.data.dataset import Part
from bat.models import attackable

MEMBERS = tuple(attack.name for attack in STANDARD)
"""The attacks that have a column of their own."""

BATCH_FORMAT = 1
"""Of what ``attack_samples`` returns, as an unfinished evaluation keeps it. Raise it when names, shapes or meaning
change, or what an attack finds by the same spec: batches of another format are attacked anew."""


def attack_samples(
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
            return run_attack(attack, model, x[left], logits[left], labels[left], index[left], threat=threat, seed=seed)

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
    """Return what ``attack_samples`` found of the samples of ``part``, as a table with one row per sample.

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
