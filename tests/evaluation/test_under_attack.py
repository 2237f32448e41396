"""What each attack is given and what is kept of it, with attacks whose outcomes are written down."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bat.evaluation.under_attack
from bat.attacks.ensemble import Outcome
from bat.config import ApgdCe, EvaluationPgd, Threat
from bat.data.dataset import Part
from bat.evaluation.under_attack import attack_samples

THREAT = Threat(norm="linf", eps=0.1)
PGD = EvaluationPgd(name="pgd", steps=1, step_size=0.1, restarts=1)
FIRST, SECOND = (ApgdCe(name="apgd_ce", steps=steps, restarts=1, rho=0.75) for steps in (1, 2))


class Pixel(nn.Module):
    """The logits (pixel, 0.5): class 0 from a half on."""

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1)
        return torch.cat([value, torch.full_like(value, 0.5)], 1)


# of five images, the last is wrong already: the margins of those that stood before each attack
MARGINS = {PGD: [-math.inf, 9.0, 9.0, -1.0], FIRST: [0.125, 0.5, 0.25, -1.0], SECOND: [0.25, -0.5, -math.inf]}


def test_each_attack_takes_what_stands_and_the_strongest_point_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.tensor([3, 3, 3, 3, 1], dtype=torch.uint8).view(5, 1, 1, 1)
    part = Part(pixels, torch.zeros(5, dtype=torch.int64), torch.arange(5) + 70, pixel_max=4)
    asked: list[Any] = []

    def run(attack: Any, model: Any, x: Tensor, logits: Tensor, labels: Tensor, index: Tensor, **given: Any) -> Outcome:
        asked.append((attack, x.flatten().tolist(), logits.tolist(), labels.tolist(), index.tolist(), given))
        return Outcome(torch.tensor(MARGINS[attack]), x + 10 * len(asked))

    monkeypatch.setattr(bat.evaluation.under_attack, "run_attack", run)
    found = attack_samples(
        Pixel(), part, torch.arange(5), threat=THREAT, pgd_attack=PGD, ensemble=[FIRST, SECOND], seed=6
    )
    given, logits = {"threat": THREAT, "seed": 6}, [0.75, 0.5]
    assert asked == [
        (attack, [0.75] * n, [logits] * n, [0] * n, list(range(70, 70 + n)), given)
        for attack, n in ((PGD, 4), (FIRST, 4), (SECOND, 3))
    ]
    assert found["predicted"].tolist() == [0, 0, 0, 0, 1]
    assert found["pgd_correct"].tolist() == [False, True, True, False, False]
    assert found["broken_by"].tolist() == [-1, 1, 1, 0, -1]
    # the image itself has the margin 0.25, and is kept where no attack finds a lower one
    assert found["margin"].tolist() == [0.125, -0.5, -math.inf, -1, -0.25]
    assert found["x_adv"].flatten().tolist() == [20.75, 30.75, 30.75, 20.75, 0.25]
    # also by the attack that stands apart
    assert found["nonfinite"].tolist() == [True, False, True, False, False]


def test_a_point_of_the_same_margin_is_no_stronger(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(torch.tensor([[[[3]]]], dtype=torch.uint8), torch.tensor([0]), torch.tensor([0]), pixel_max=4)
    moved = Outcome(torch.tensor([0.25]), torch.full((1, 1, 1, 1), 7.0))
    monkeypatch.setattr(bat.evaluation.under_attack, "run_attack", lambda *_, **__: moved)
    found = attack_samples(Pixel(), part, torch.arange(1), threat=THREAT, pgd_attack=PGD, ensemble=[FIRST], seed=6)
    assert (found["margin"].item(), found["x_adv"].item()) == (0.25, 0.75)
