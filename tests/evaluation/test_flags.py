"""Each flag just under its limit, at it and just over it, on models and tables that are made for that."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bat.attacks.ensemble import STANDARD
from bat.data.dataset import Part
from bat.evaluation.flags import Probe, _difference, find_flags, is_random, probe

torch.set_num_threads(1)

# a limit is not over itself, and the next number is
LIMITS = {"random_forward": 1e-4, "batch_dependent": 1e-3, "zero_gradients": 0.01, "square_gain": 0.2, "pgd_gap": 5.0}


class Said(nn.Module):
    """Three classes: 1, -1 and ``third``, a function of the images and of how many passes there were before.

    The spread of its outputs is 1, so that the third is the share of it.
    """

    def __init__(self, third: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.third, self.calls = third, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        height = self.third(x.double(), self.calls)
        self.calls += 1
        outputs = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) + height[:, None] * torch.tensor([0, 0, 1])
        # a gradient that no flag is about
        return outputs + 0 * x.double().sum()


def images(n: int) -> Part:
    """Images of two pixels, the first of which tells one from another."""
    x = torch.stack([torch.arange(n) / (2 * n) + 0.25, torch.full((n,), 0.5)], 1).view(n, 1, 1, 2)
    return Part(x, torch.zeros(n, dtype=torch.int64), torch.arange(n), pixel_max=1)


def samples(n: int = 10, **wrong: int) -> pd.DataFrame:
    """Per-sample results of n samples, all right but the first ``wrong`` of a column."""
    columns = ("pgd_correct", "fab_t_correct", "square_correct", "robust_correct")
    counts = dict.fromkeys(columns, 0) | wrong
    fab, square = (counts[f"{name}_correct"] for name in ("fab_t", "square"))
    broken_by = ["fab_t" if i < fab else "square" if i < square else None for i in range(n)]
    table = pd.DataFrame(
        {name: pd.array([i >= count for i in range(n)], dtype="boolean") for name, count in counts.items()}
    )
    return table.assign(broken_by=pd.array(broken_by, dtype="string"))


def flags(
    model: nn.Module, part: Part, *, table: pd.DataFrame | None = None, before: Probe | None = None, **changed: Any
) -> pd.DataFrame:
    table = samples() if table is None else table
    options = {"before": before or probe(model, part, 512), "nonfinite": 0, "ensemble": STANDARD} | changed
    return find_flags(model, part, table, **options).set_index("flag")


def over(limit: float) -> float:
    return math.nextafter(limit, math.inf)


def constant(value: float) -> Callable[[Tensor, int], Tensor]:
    return lambda x, call: torch.full((len(x),), value, dtype=torch.float64)


def honest() -> Said:
    return Said(lambda x, call: x.flatten(1)[:, 0] / 100)


def test_the_limits_are_those_that_are_tested() -> None:
    found = flags(honest(), images(8))["limit"].to_dict()
    exact = dict.fromkeys(["training_mode", "softmax_outputs", "nonfinite_outputs"], 0.0)
    assert found == exact | LIMITS


def test_an_honest_model_raises_none() -> None:
    found = flags(honest(), images(8))
    assert not found["raised"].any()
    assert (found["value"] == 0).all()


def test_training_mode_of_any_part_is_flagged() -> None:
    model = honest()
    model.part = nn.Dropout()
    model.part.eval()
    assert not flags(model, images(4)).loc["training_mode", "raised"]
    model.part.train()
    found = flags(model, images(4)).loc["training_mode"]
    assert (found["value"], found["raised"]) == (1, True)
    assert (model.training, model.part.training) == (False, True)


@pytest.mark.parametrize(
    ("outputs", "raised"),
    [
        ([[0.25, 0.75], [1.0, 0.0]], True),
        ([[0.25, 0.75 + 0.0049], [1.0, 0.0]], True),
        ([[0.25, 0.75 - 0.0049], [1.0, 0.0]], True),
        ([[0.25, 0.75 + 0.0051], [1.0, 0.0]], False),
        ([[0.25, 0.75 - 0.0051], [1.0, 0.0]], False),
        ([[0.25, 0.75], [1.0 + 1e-6, -1e-6]], False),
        ([[1.0, 0.0], [2.0, 0.0]], False),
        ([[-1.0, 2.0], [0.5, 0.5]], False),
    ],
)
def test_outputs_are_probabilities_where_every_row_is(outputs: list[list[float]], raised: bool) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor(outputs, dtype=torch.float64)[: len(x)] + 0 * x.double().sum()

    model = Fixed().eval()
    before = Probe(model(images(2).images()).detach(), 0.0, 0.0)
    found = flags(model, images(2), before=before).loc["softmax_outputs"]
    assert (found["value"], found["raised"]) == (raised, raised)


# -- outputs that change


@pytest.mark.parametrize("pass_number", [1, 2, 3, 4])
def test_outputs_that_differ_by_over_the_limit_in_another_pass_are_random(pass_number: int) -> None:
    # 0: the outputs that all are compared with; 1: the same once more; 2, 3: other batches; 4: after the attacks
    for value in (LIMITS["random_forward"], over(LIMITS["random_forward"])):
        model = Said(lambda x, call, value=value: constant(value * (call == pass_number))(x, call))
        # as many images as are passed alone: a pass a batch
        part = images(1)
        found = flags(model, part)
        assert model.calls == 5
        random, mixed = found.loc["random_forward"], found.loc["batch_dependent"]
        if pass_number in (2, 3):
            assert (random["value"], mixed["value"]) == (0, value)
        else:
            assert random["value"] == value
            assert random["raised"] == (value > LIMITS["random_forward"])


def test_what_the_first_passes_found_counts_too() -> None:
    model, part = honest(), images(3)
    logits = probe(model, part, 512).logits
    for value in (LIMITS["random_forward"], over(LIMITS["random_forward"])):
        found = flags(model, part, before=Probe(logits, value, 0.0)).loc["random_forward"]
        assert (found["value"], found["raised"]) == (value, value > LIMITS["random_forward"])


def test_a_difference_that_is_no_number_is_random() -> None:
    assert not is_random(LIMITS["random_forward"])
    assert is_random(over(LIMITS["random_forward"]))
    assert is_random(math.nan)


BATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    # where the third output differs from that of the whole batch of 8
    "the size of its batch": lambda x: torch.full((len(x),), len(x) == 4),
    "being alone": lambda x: torch.full((len(x),), len(x) == 1),
    "its place": lambda x: (torch.arange(len(x)) == 0) & (x.flatten(1)[:, 0] > 0.25),
    "the others of its batch": lambda x: (x.flatten(1)[:, 0] < 0.4).all().expand(len(x)),
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("value", [LIMITS["batch_dependent"], over(LIMITS["batch_dependent"])])
def test_outputs_that_depend_by_over_the_limit_on_the_batch_are_flagged(name: str, value: float) -> None:
    model = Said(lambda x, call: value * BATCHES[name](x).double())
    found = flags(model, images(8))
    assert found.loc["random_forward", "value"] == 0
    assert found.loc["batch_dependent", "value"] == value
    assert found.loc["batch_dependent", "raised"] == (value > LIMITS["batch_dependent"])


def test_a_batch_of_one_is_compared_with_batches_of_two() -> None:
    model = Said(lambda x, call: torch.full((len(x),), float(len(x) == 2)))
    assert probe(model, images(4), 1).mixed == 1


def test_of_a_random_model_nothing_is_said_about_batches() -> None:
    model = Said(lambda x, call: constant(0.1 * call)(x, call))
    found = flags(model, images(4))
    assert found.loc["random_forward", "raised"]
    assert math.isnan(found.loc["batch_dependent", "value"])
    assert not found.loc["batch_dependent", "raised"]


def test_the_difference_of_outputs_without_spread_is_not_divided() -> None:
    class Flat(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return torch.tensor([[2.0, 2.0]]).repeat(len(x), 1) + torch.tensor([0.0, 0.5]) * (self.calls == 2)

    assert probe(Flat().eval(), images(4), 512).random == 0.5


# -- counts


@pytest.mark.parametrize(("count", "raised"), [(0, False), (1, True)])
def test_one_image_with_outputs_that_are_not_finite_is_flagged(count: int, raised: bool) -> None:
    found = flags(honest(), images(4), nonfinite=count).loc["nonfinite_outputs"]
    assert (found["value"], found["raised"]) == (count, raised)


def without_gradient(wanted: Callable[[Tensor], Tensor]) -> nn.Module:
    """Return a model that has no gradient at the images that ``wanted`` chooses, and one in the first pixel at others.

    The gradient in the second pixel is 0 at all.
    """

    class Partly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = x.flatten(1)[:, 0]
            kept = torch.where(wanted(first), first.detach(), first)
            return torch.stack([kept, -kept], 1)

    return Partly().eval()


@pytest.mark.parametrize(("count", "raised"), [(0, False), (1, False), (2, True), (100, True)])
@pytest.mark.parametrize("batch_size", [7, 512])
def test_a_share_of_images_without_any_gradient_is_flagged(count: int, raised: bool, batch_size: int) -> None:
    part = images(100)
    last = part.images().flatten(1)[:, 0].sort(descending=True).values
    model = without_gradient(lambda first: first >= last[count - 1] if count else first < 0)
    found = flags(model, part, batch_size=batch_size).loc["zero_gradients"]
    assert (found["value"], found["raised"]) == (count / 100, raised)


def test_an_image_has_a_gradient_where_any_pixel_has() -> None:
    part = images(10)
    assert flags(without_gradient(lambda first: first < 0), part).loc["zero_gradients", "value"] == 0
    assert flags(without_gradient(lambda first: first > 0), part).loc["zero_gradients", "value"] == 1


def test_images_after_the_first_512_are_not_looked_at() -> None:
    part = images(514)
    edge = part.images().flatten(1)[511, 0]
    assert flags(without_gradient(lambda first: first > edge), part).loc["zero_gradients", "value"] == 0
    assert flags(without_gradient(lambda first: first >= edge), part).loc["zero_gradients", "value"] == 1 / 512


# -- points


GAPS = {
    # the columns, and numbers of samples of which the limit is a whole number: their shares round to either side
    "square_gain": ("fab_t_correct", "square_correct", (500, 1000, 9000, 10_000)),
    "pgd_gap": ("pgd_correct", "robust_correct", (20, 140, 300, 1000)),
}


@pytest.mark.parametrize("flag", GAPS)
def test_points_of_accuracy_are_flagged_over_the_limit(flag: str) -> None:
    before, after, sizes = GAPS[flag]
    model, part = honest(), images(2)
    seen = probe(model, part, 512)
    for n in sizes:
        limit = round(n * LIMITS[flag] / 100)
        for wrong in (0, 1, 7, n // 2, n - limit - 1):
            for gained, raised in ((limit - 1, False), (limit, False), (limit + 1, True)):
                table = samples(n, **{before: wrong, after: wrong + gained})
                found = flags(model, part, table=table, before=seen).loc[flag]
                assert found["value"] == pytest.approx(100 * gained / n)
                assert found["raised"] == raised


@pytest.mark.parametrize("ensemble", [STANDARD[:2], STANDARD[3:], (STANDARD[3], STANDARD[0])], ids=str)
def test_what_was_not_run_has_no_value_and_raises_nothing(ensemble: Any) -> None:
    found = flags(honest(), images(2), table=samples(10, square_correct=10), ensemble=ensemble)
    assert math.isnan(found.loc["square_gain", "value"])
    assert not found.loc["square_gain", "raised"]
    assert found.loc["pgd_gap", "value"] == 0


@pytest.mark.parametrize(
    ("batch_size", "again"),
    [(1, [2, 2, 2]), (2, [1] * 6), (3, [1] * 6), (4, [2, 2, 2]), (100, [3, 3])],
)
def test_batches_of_a_second_look_are_half_as_large_or_two(batch_size: int, again: list[int]) -> None:
    sizes: list[int] = []

    def third(x: Tensor, calls: int) -> Tensor:
        sizes.append(len(x))
        return torch.zeros(len(x))

    probe(Said(third), images(6), batch_size)
    whole = [len(rows) for rows in torch.arange(6).split(batch_size)]
    assert sizes == [*whole, *whole, *again, 1, 1, 1, 1]


def test_a_flag_says_what_it_means() -> None:
    found = flags(Said(lambda x, _: 0 * x.flatten(1)[:, 0]), images(6))
    assert list(found) == ["value", "limit", "raised", "meaning"]
    meaning = "points of PGD accuracy over robust accuracy: PGD alone overestimates"
    assert found.loc["pgd_gap"].tolist() == [0.0, 5.0, False, meaning]


def test_a_difference_is_a_share_of_the_spread_around_the_mean_of_each_image() -> None:
    said = torch.tensor([[4.0, -4.0, 0.0], [44.0, 36.0, 40.0]], dtype=torch.float64)
    moved = said + torch.tensor([[0.0, 0.0, 1.0], [0.0, -2.0, 0.0]])
    assert _difference(moved, said) == 0.5
    assert _difference(said, said) == 0
    # without any spread the difference itself
    assert _difference(torch.full((1, 2), 7.0), torch.full((1, 2), 4.0)) == 3
    assert _difference(torch.tensor([[math.nan, 0.0]]), torch.tensor([[1.0, -1.0]])) == math.inf
