"""What is right, by how much, and the gradient of an attack's loss: by hand, and where numbers are not finite."""

import math
from typing import Any

import pytest
import torch
from refusals import refusal
from torch import Tensor, nn

from bat.attacks.gradient import ascent, cross_entropy, finite, label_margin, predictions
from bat.errors import BatError, Stopped

INF, NAN = math.inf, math.nan
LOGITS = torch.tensor([[1.0, 4.0, 2.0], [3.0, 3.0, -5.0], [0.0, INF, 1.0], [0.0, -INF, 1.0], [NAN, 0.0, 9.0]])


def test_rows_are_finite_where_all_their_logits_are() -> None:
    assert finite(LOGITS).tolist() == [True, True, False, False, False]


def test_a_prediction_is_the_highest_logit_and_none_of_what_is_not_finite() -> None:
    assert predictions(LOGITS).tolist() == [1, 0, -1, -1, -1]


def test_a_margin_is_the_labels_logit_less_the_highest_other() -> None:
    assert label_margin(LOGITS, torch.tensor([1, 0, 1, 0, 2])).tolist() == [2, 0, -INF, -INF, -INF]
    assert label_margin(LOGITS[:2], torch.tensor([2, 2])).tolist() == [-2, -8]


class Line(nn.Module):
    """Logits 0 and ``slope`` times the sum of an image."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        height = self.slope * x.flatten(1).sum(1)
        return torch.stack([0 * height, height], 1)


IMAGES = torch.tensor([[0.5, 0.25], [-0.5, -0.25]]).view(2, 1, 1, 2)


def test_loss_and_gradient_of_each_sample() -> None:
    x = IMAGES.clone()
    with torch.no_grad():
        value, logits, gradient = ascent(Line(2.0), x, torch.tensor([0, 1]), cross_entropy)
    # log(1 + exp 1.5) of both, and its slope by the logistic function
    assert value.tolist() == pytest.approx([math.log1p(math.exp(1.5))] * 2)
    assert logits.tolist() == [[0.0, 1.5], [0.0, -1.5]]
    slope = 2 / (1 + math.exp(-1.5))
    assert gradient.flatten().tolist() == pytest.approx([slope, slope, -slope, -slope])
    assert not (value.requires_grad)
    assert not (logits.requires_grad)
    assert not (gradient.requires_grad)
    assert not x.requires_grad


@pytest.mark.parametrize(("value", "found"), [(NAN, -1e15), (INF, 1e15), (-INF, -1e15), (3.0, 3.0)])
def test_a_loss_that_is_not_finite_becomes_the_lowest_or_a_large_one(value: float, found: float) -> None:
    values, _, gradient = ascent(Line(1.0), IMAGES, torch.tensor([0, 1]), lambda logits, _: value + 0 * logits[:, 1])
    assert values.tolist() == [pytest.approx(found)] * 2
    assert gradient.flatten().tolist() == [0] * 4


class Slope(torch.autograd.Function):
    """Passes images on, with a gradient that is given."""

    @staticmethod
    def forward(context: Any, x: Tensor, slope: float) -> Tensor:
        context.slope = slope
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        if isinstance(context.slope, BaseException):
            raise context.slope
        return torch.full_like(gradient, context.slope), None


class Odd(Line):
    """A line whose gradient is what is given, or raises it."""

    def __init__(self, slope: Any) -> None:
        super().__init__(1.0)
        self.given = slope

    def forward(self, x: Tensor) -> Tensor:
        passed: Tensor = Slope.apply(x, self.given)  # type: ignore[no-untyped-call]
        return super().forward(passed)


@pytest.mark.parametrize(("slope", "found"), [(NAN, 0.0), (INF, 1e15), (-INF, -1e15), (0.25, 0.25)])
def test_a_gradient_that_is_not_finite_becomes_none_or_a_large_one(slope: float, found: float) -> None:
    values, _, gradient = ascent(Odd(slope), IMAGES, torch.tensor([0, 1]), cross_entropy)
    assert gradient.flatten().tolist() == [pytest.approx(found)] * 4
    assert values.isfinite().all()


def test_a_model_without_a_gradient_has_one_of_0() -> None:
    for model in (lambda x: Line(1.0)(x.detach()), lambda x: torch.ones(2, 2).requires_grad_() + 0):
        _, _, gradient = ascent(model, IMAGES, torch.tensor([0, 1]), cross_entropy)  # type: ignore[arg-type]
        assert torch.equal(gradient, torch.zeros_like(IMAGES))


def test_what_a_models_own_backward_pass_raises_is_told_in_one_line() -> None:
    message = "the model has no gradient in its images (KeyError: 'what')"
    assert refusal(ascent, Odd(KeyError("what")), IMAGES, torch.tensor([0, 1]), cross_entropy) == message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped(143), MemoryError(), RuntimeError("out of memory")])
def test_a_stop_and_a_lack_of_memory_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        ascent(Odd(error), IMAGES, torch.tensor([0, 1]), cross_entropy)
    assert not isinstance(caught.value, BatError)
