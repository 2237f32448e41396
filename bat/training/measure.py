"""What a network says of each sample: its loss, and whether it is right, clean and under PGD."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bat.attacks.ball import random_start
from bat.attacks.gradient import cross_entropy, finite, predictions
from bat.attacks.pgd import pgd
from bat.config import Pgd, Threat
from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.models import attackable, for_attacks
from bat.seeds import derive_seed, uniform

_BATCH = 512
"""Images in a forward pass where nothing depends on it but memory."""

_MEASURED = ("clean_loss", "clean_correct", "clean_error", "pgd_loss", "pgd_correct")


class Said(NamedTuple):
    """What a network says of samples, each (n,): is it right, the probability of the label, the predicted class.

    Where an output under attack is NaN or infinite the probability is 0 and the class -1.
    """

    correct: Tensor
    probability: Tensor
    predicted: Tensor


def judged(model: nn.Module, part: Part) -> Said:
    """Return what the model says of the unperturbed images of ``part``.

    Raises:
        BatError: an output is not finite.
    """
    return _judged(clean_logits(model, part, _BATCH), part.labels)


def judged_under_attack(model: nn.Module, part: Part, *, threat: Threat, attack: Pgd, seed: int) -> tuple[Said, Said]:
    """Return what the model says of the images of ``part``, unperturbed and under PGD.

    Correct under PGD are samples that are right on the clean image and after the attack. The random starts depend on
    ``seed`` and each sample's index. Raises as ``judged``.
    """
    with attackable(model):
        fast = for_attacks(model)
        outputs = [_outputs(model, fast, part, rows, threat, attack, seed) for rows in _batches(part, _BATCH)]
    clean, attacked = (_judged(torch.cat(logits), part.labels) for logits in zip(*outputs, strict=True))
    return clean, attacked._replace(correct=clean.correct & attacked.correct)


def clean_logits(model: nn.Module, part: Part, batch_size: int) -> Tensor:
    """Return the logits of the unperturbed images of ``part``: (n, classes).

    Raises:
        BatError: some are NaN or infinite; says of how many images.
    """
    with attackable(model), torch.no_grad():
        logits = torch.cat([model(part.images(rows)) for rows in _batches(part, batch_size)])
    _check_finite(logits)
    return logits


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
    right on the clean image and after the attack. train_clean_error, of training samples alone, is the Euclidean norm
    of the predicted probabilities minus the label, one-hot (EL2N, Paul et al. 2021, arXiv 2107.07075).
    """
    found: dict[str, Tensor] = {}
    with attackable(model):
        fast = for_attacks(model)
        for name, part in data.parts().items():
            columns = [
                _losses(*_outputs(model, fast, part, rows, threat, attack, seed), part.labels[rows])
                for rows in _batches(part, _BATCH)
            ]
            for metric, values in zip(_MEASURED, torch.cat(columns, dim=1), strict=True):
                if metric != "clean_error" or part is data.train:
                    found[f"{name}_{metric}"] = values > 0 if metric.endswith("_correct") else values
    return found


def _check_finite(logits: Tensor) -> None:
    """Raise BatError where outputs for unperturbed images are NaN or infinite."""
    wrong = int((~finite(logits)).sum())
    if wrong:
        raise BatError(
            f"the model's outputs for {wrong} of {len(logits)} unperturbed images are NaN or infinite: "
            "look for overflow in the model or damaged weights, or train with a lower learning rate"
        )


def _outputs(
    model: nn.Module, fast: nn.Module, part: Part, rows: Tensor, threat: Threat, attack: Pgd, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the logits of clean and of attacked images, each (n, classes). fast: the model for the attack's passes."""
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
    return clean, attacked


def _losses(clean: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
    """Return the values of ``_MEASURED`` for each sample: (5, n). clean, attacked: logits (n, classes)."""
    clean_right = predictions(clean) == labels
    right = clean_right & (predictions(attacked) == labels)
    clean_loss, loss = (F.cross_entropy(logits, labels, reduction="none") for logits in (clean, attacked))
    error = (clean.softmax(1) - F.one_hot(labels, clean.shape[1])).norm(dim=1)
    return torch.stack([clean_loss, clean_right.float(), error, loss, right.float()])


def _judged(logits: Tensor, labels: Tensor) -> Said:
    predicted = predictions(logits)
    probability = logits.float().softmax(1).gather(1, labels[:, None])[:, 0]
    return Said(predicted == labels, torch.where(predicted < 0, 0.0, probability), predicted)


def _batches(part: Part, size: int) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(part), device=part.labels.device), size)
