"""Attacks as the configuration names them, each on the samples that are still classified correctly."""

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bat.attacks.apgd import apgd
from bat.attacks.ball import excess, random_start
from bat.attacks.fab import fab
from bat.attacks.gradient import cross_entropy, label_margin, predictions, targeted_dlr, targeted_margin
from bat.attacks.own import own_attack
from bat.attacks.pgd import pgd
from bat.attacks.square import square
from bat.config.attacks import ApgdCe, ApgdT, Attack, Ensemble, EvaluationPgd, FabT, OwnAttack, Square, Threat
from bat.models import for_attacks
from bat.seeds import derive_seed, uniform

STANDARD: tuple[Attack, ...] = (
    ApgdCe(name="apgd_ce", steps=100, restarts=1, rho=0.75),
    ApgdT(name="apgd_t", steps=100, restarts=1, rho=0.75, targets=9),
    FabT(name="fab_t", steps=100, restarts=1, targets=9, alpha_max=0.1, eta=1.05, beta=0.9),
    Square(name="square", queries=5000, restarts=1, p_init=0.8),
)
"""AutoAttack's standard (Croce and Hein 2020)."""

TIERS: dict[str, tuple[Attack, ...]] = {"fast": STANDARD[:2], "standard": STANDARD}


def members(ensemble: Ensemble) -> tuple[Attack, ...]:
    """Return the attacks of a tier, or the list itself."""
    return TIERS[ensemble] if isinstance(ensemble, str) else ensemble


def tier(ensemble: Ensemble) -> str:
    """Return the name that tables and figures give the ensemble: the tier's, or its attacks' names.

    Numbers that are not those of AutoAttack, or of the attack's record, stand behind the name: apgd_ce (steps 20).
    """
    return ensemble if isinstance(ensemble, str) else " + ".join(map(_with_numbers, ensemble))


def _with_numbers(attack: Attack | EvaluationPgd) -> str:
    changed = [
        f"{field.name} {value:g}"
        for field in fields(attack)
        # pydantic's record of a field stands where its default does, and has it
        if isinstance(value := getattr(attack, field.name), int | float)
        and value != getattr(field.default, "default", None)
    ]
    return attack.name + (f" ({', '.join(changed)})" if changed else "")


class Outcome(NamedTuple):
    """What an attack did to n samples.

    margin: (n,), logit of the label less the highest other, at the strongest point found: below 0 where it was broken.
    x_adv: (n, c, h, w), that point.
    """

    margin: Tensor
    x_adv: Tensor

    @property
    def stands(self) -> Tensor:
        """Which samples are still classified correctly: (n,) bool."""
        return self.margin > 0

    @property
    def nonfinite(self) -> Tensor:
        """Which samples were broken by outputs that are NaN or infinite: (n,) bool."""
        return self.margin == -torch.inf


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each sample's logit of the label less the highest other, (n,); below or at 0 where it is misclassified.

    Minus infinity where the model says NaN or infinity.
    A tie goes the way of argmax: 0 where the label comes first is a very small margin, not a broken sample.
    """
    margin = label_margin(logits, labels)
    tie = (margin == 0) & (predictions(logits) == labels)
    return torch.where(tie, torch.finfo(logits.dtype).tiny, margin)


def run_attack(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    logits: Tensor,
    labels: Tensor,
    index: Tensor,
    *,
    threat: Threat,
    seed: int,
) -> Outcome:
    """Attack samples that are classified correctly, each until it is broken.

    x: (n, c, h, w) in [0, 1]; logits: (n, classes) of x; labels, index: (n,). A sample's randomness depends on (seed,
    its index, attack, restart, rank of the target) alone. Each restart and target runs on the samples that stood under
    those before. What an attack found counts only if ``model`` itself, not its faster form, gets it wrong.

    Raises:
        ValueError: the attack left the eps ball or [0, 1].
    """
    # the classes of each sample from the most to the least likely, without its label
    classes = logits.scatter(1, labels[:, None], -torch.inf).argsort(descending=True, stable=True)[:, :-1]
    margin, x_adv = margins(logits, labels), x.clone()
    fast = for_attacks(model)
    for restart, rank in _attempts(attack, classes.shape[1]):
        rows = (margin > 0).nonzero().flatten()
        if not len(rows):
            break
        target = torch.stack([labels[rows], classes[rows, rank]], dim=1)
        own_seed = derive_seed(seed, attack.name, restart, rank)
        start = x[rows]
        if restart or not isinstance(attack, FabT):  # the first restart of FAB begins at the image itself
            random = uniform(own_seed, index[rows], tuple(x.shape[1:]))
            start = random_start(start, random, norm=threat.norm, eps=threat.eps)
        found = _attempt(attack, fast, x[rows], target, index[rows], threat, own_seed, start, logits.shape[1])
        if not isinstance(attack, OwnAttack):  # whose results are checked already
            check_allowed(found, x[rows], threat)
        with torch.no_grad():
            found_margin = margins(model(found), labels[rows])
        stronger = found_margin < margin[rows]
        margin[rows[stronger]] = found_margin[stronger]
        x_adv[rows[stronger]] = found[stronger]
    return Outcome(margin, x_adv)


def check_allowed(x_adv: Tensor, x: Tensor, threat: Threat) -> None:
    """Raise ValueError unless x_adv lies in [0, 1] and in the eps ball around x (to float32 rounding)."""
    beyond = excess(x_adv, x, norm=threat.norm, eps=threat.eps)
    if not beyond <= 0:  # also NaN
        raise ValueError(f"an attack left the {threat.norm} ball of {threat.eps} by {beyond}")
    if not bool(((x_adv >= 0) & (x_adv <= 1)).all()):
        raise ValueError("an attack left [0, 1]")


def _attempts(attack: Attack, other_classes: int) -> Iterator[tuple[int, int]]:
    """Yield restart and rank of the target class; untargeted attacks have one rank."""
    ranks = min(attack.targets, other_classes) if isinstance(attack, ApgdT | FabT) else 1
    for restart in range(attack.restarts):
        for rank in range(ranks):
            yield restart, rank


def _attempt(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    index: Tensor,
    threat: Threat,
    seed: int,
    start: Tensor,
    classes: int,
) -> Tensor:
    """Run one attack once. target: (n, 2), label and target class; start: a random point of the ball."""
    labels, norm, eps = target[:, 0], threat.norm, threat.eps
    match attack:
        case EvaluationPgd(steps=steps, step_size=length):
            return pgd(
                model, x, labels, loss=cross_entropy, norm=norm, eps=eps, step_size=length, steps=steps, start=start
            )
        case ApgdCe(steps=steps, rho=rho):
            return apgd(
                model, x, labels, labels, loss=cross_entropy, norm=norm, eps=eps, steps=steps, rho=rho, start=start
            )
        case ApgdT(steps=steps, rho=rho):
            loss = targeted_dlr if classes >= 4 else targeted_margin
            return apgd(model, x, labels, target, loss=loss, norm=norm, eps=eps, steps=steps, rho=rho, start=start)
        case FabT():
            return fab(
                model,
                x,
                labels,
                target[:, 1],
                norm=norm,
                eps=eps,
                steps=attack.steps,
                alpha_max=attack.alpha_max,
                eta=attack.eta,
                beta=attack.beta,
                start=start,
            )
        case Square(queries=queries, p_init=p_init):
            return square(model, x, labels, index, norm=norm, eps=eps, queries=queries, p_init=p_init, seed=seed)
        case OwnAttack():
            return own_attack(attack, model, x, labels, norm=norm, eps=eps, seed=derive_seed(seed, int(index[0])))
