"""The ensemble on linear models, where the exact robust accuracy is known, and on models that mask their gradients."""

import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from networks import trained
from torch import Tensor, nn

import bat.attacks.ensemble
from bat.attacks.ball import random_start
from bat.attacks.ensemble import STANDARD, TIERS, Outcome, check_allowed, margins, members, run_attack, tier
from bat.attacks.gradient import cross_entropy, targeted_dlr, targeted_margin
from bat.config import ApgdCe, ApgdT, Attack, EvaluationPgd, FabT, OwnAttack, Square, Threat
from bat.data.dataset import Part
from bat.evaluation.flags import find_flags, probe
from bat.evaluation.under_attack import attack_samples, sample_table
from bat.seeds import derive_seed, uniform

torch.set_num_threads(1)

SIDE = 4
PGD = EvaluationPgd(name="pgd", steps=20, step_size=0.01, restarts=1)


def short_square(queries: int) -> Attack:
    return replace(STANDARD[3], queries=queries)


class Linear(nn.Module):
    """Logits W x + b, away from the edges of [0, 1] where the images are."""

    def __init__(self, classes: int, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weights = nn.Parameter(torch.randn(classes, SIDE * SIDE, generator=random))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x.flatten(1) - 0.5) @ self.weights.T


def images(model: nn.Module, n: int, seed: int = 1) -> Part:
    """Images in [0.4, 0.6], labelled as the model sees them, with a tenth of the labels wrong."""
    random = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(n, 1, SIDE, SIDE, generator=random)
    with torch.no_grad():
        logits = model(x)
    labels = logits.argmax(1)
    labels[::10] = logits[::10].argmin(1)
    return Part(x, labels, torch.arange(n) + 100, pixel_max=1)


def distances(model: Linear, part: Part, norm: str) -> np.ndarray:
    """The distance of each image to the nearest other class, 0 or less where it is misclassified."""
    with torch.no_grad():
        logits = model(part.images()) / model.scale
        weights = model.weights
        found = torch.full((len(part),), torch.inf)
        for other in range(len(weights)):
            difference = weights[part.labels] - weights[other]
            gap = logits.gather(1, part.labels[:, None]).squeeze(1) - logits[:, other]
            length = difference.abs().sum(1) if norm == "linf" else difference.norm(dim=1)
            found = torch.where(part.labels == other, found, torch.minimum(found, gap / length))
    return found.numpy()


def results(model: nn.Module, part: Part, threat: Threat, ensemble: tuple[Attack, ...], **changed: Any) -> Any:
    found = attack_samples(
        model,
        part,
        changed.get("rows", torch.arange(len(part))),
        threat=threat,
        pgd_attack=PGD,
        ensemble=ensemble,
        seed=changed.get("seed", 0),
    )
    return found


@pytest.mark.parametrize("name", ["fast", "standard"])
@pytest.mark.parametrize("classes", [2, 3, 4, 5, 10])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.08)])
def test_every_tier_reaches_the_exact_robust_accuracy_of_a_linear_model(
    name: str, classes: int, norm: Any, eps: float
) -> None:
    model = Linear(classes)
    part = images(model, 60)
    exact = distances(model, part, norm) > eps
    assert 0 < exact.sum() < 54
    found = results(model, part, Threat(norm=norm, eps=eps), TIERS[name][:3])
    table = sample_table(part, found, TIERS[name][:3])
    np.testing.assert_array_equal(table["robust_correct"], exact)


def test_square_alone_comes_close_on_a_linear_model() -> None:
    model = Linear(3)
    part = images(model, 60)
    threat = Threat(norm="linf", eps=0.02)
    exact = distances(model, part, "linf") > threat.eps
    table = sample_table(part, results(model, part, threat, STANDARD[3:]), STANDARD[3:])
    assert (table["robust_correct"] >= exact).all()
    assert table["robust_correct"].sum() <= exact.sum() + 2


def test_margins_agree_with_argmax_also_at_ties() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5], [2.0, 2.0, 0.0], [2.0, 2.0, 0.0]])
    labels = torch.tensor([0, 2, 0, 1])
    found = margins(logits, labels)
    assert found[:2].tolist() == [1.0, -0.5]
    np.testing.assert_array_equal(found > 0, logits.argmax(1) == labels)


def test_tiers_are_named() -> None:
    assert [attack.name for attack in members("standard")] == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert members("fast") == members("standard")[:2]
    assert members(STANDARD[1:3]) == STANDARD[1:3]
    assert tier("fast") == "fast"
    assert tier(STANDARD[1:3]) == "apgd_t + fab_t"


def test_numbers_that_are_not_autoattacks_stand_in_the_name() -> None:
    weaker = ApgdT(name="apgd_t", steps=20, targets=3), replace(STANDARD[2], alpha_max=0.25), STANDARD[3]
    assert tier(weaker) == "apgd_t (steps 20, targets 3) + fab_t (alpha_max 0.25) + square"
    assert tier((EvaluationPgd(step_size=0.5, restarts=2),)) == "pgd (step_size 0.5, restarts 2)"


def same(one: dict[str, Tensor], other: dict[str, Tensor], order: Tensor | None = None) -> None:
    for name in ("predicted", "pgd_correct", "broken_by"):
        assert torch.equal(one[name] if order is None else one[name][order], other[name]), name


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_do_not_depend_on_batch_size_and_order(norm: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 24), nn.ReLU(), nn.Linear(24, 5)).double()
    for seed, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.7, generator=torch.Generator().manual_seed(seed))

    class InDouble(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x.double())

    part = images(InDouble(), 24)
    threat = Threat(norm=norm, eps=0.2 if norm == "linf" else 0.6)
    ensemble = (*STANDARD[:3], short_square(200))
    whole = results(InDouble(), part, threat, ensemble)
    assert 0 < (whole["broken_by"] >= 0).sum() < 24
    for size in (1, 7):
        batches = [results(InDouble(), part, threat, ensemble, rows=rows) for rows in torch.arange(24).split(size)]
        same(whole, {name: torch.cat([batch[name] for batch in batches]) for name in whole})
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    same(whole, results(InDouble(), part, threat, ensemble, rows=order), order)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_in_float32_another_batch_size_differs_only_at_ties(norm: Any) -> None:
    model, test = trained("pgd_at", name="small_cnn", width=4, epochs=4)
    part = test.take(torch.arange(500))
    threat = Threat(norm=norm, eps=0.1 if norm == "linf" else 0.5)
    ensemble = (replace(STANDARD[0], steps=10), replace(STANDARD[2], steps=4, targets=1), short_square(15))
    whole = results(model, part, threat, ensemble)
    assert 50 < (whole["broken_by"] >= 0).sum() < 450
    for size in (7, 1):
        rows = torch.arange(500)[: 500 if size == 7 else 30]
        batches = [results(model, part, threat, ensemble, rows=some) for some in rows.split(size)]
        found = {name: torch.cat([batch[name] for batch in batches]) for name in whole}
        differs = (found["broken_by"] >= 0) != (whole["broken_by"][rows] >= 0)
        ties = torch.minimum(found["margin"].abs(), whole["margin"][rows].abs()) < 1e-4
        assert not (differs & ~ties).any()
        assert differs.sum() <= 2


def test_the_same_call_gives_the_same_bytes() -> None:
    model = Linear(4)
    part = images(model, 30)
    threat = Threat(norm="linf", eps=0.02)
    first, second = (results(model, part, threat, STANDARD[:2]) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_everything_is_left_as_found(norm: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model.train()
    model[1].weight.requires_grad_(False)
    part = images(model.eval(), 20)
    model.train()
    torch.manual_seed(3)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ensemble = (*STANDARD[:3], short_square(50))
    seen = probe(model, part, 512)
    table = sample_table(part, results(model, part, Threat(norm=norm, eps=0.05), ensemble), ensemble)
    find_flags(model, part, table, ensemble=ensemble, before=seen, nonfinite=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True, True, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


# -- models on which PGD overestimates


class Quantised(nn.Module):
    """A linear model behind a layer of steps: its gradient is 0 everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x * 200).round() / 200)


def flags_of(model: nn.Module, part: Part, threat: Threat, ensemble: tuple[Attack, ...]) -> tuple[Any, dict[str, Any]]:
    table = sample_table(part, results(model, part, threat, ensemble), ensemble)
    seen = probe(model, part, 512)
    flags = find_flags(model, part, table, ensemble=ensemble, before=seen, nonfinite=0).set_index("flag")
    return table, flags.to_dict("index")


def test_scaled_logits_fool_pgd_and_not_the_ensemble() -> None:
    model = Linear(4, scale=1e3)
    part = images(model, 60)
    threat = Threat(norm="linf", eps=0.02)
    exact = distances(model, part, "linf") > threat.eps
    table, flags = flags_of(model, part, threat, TIERS["fast"])
    assert table["pgd_correct"].sum() > exact.sum() + 5
    np.testing.assert_array_equal(table["robust_correct"], exact)
    assert flags["zero_gradients"]["raised"]
    assert flags["pgd_gap"]["raised"]
    assert np.isnan(flags["square_gain"]["value"])


@pytest.mark.parametrize("before", [STANDARD[:3], STANDARD[:1], (STANDARD[2],)], ids=str)
def test_a_layer_of_steps_fools_gradients_and_not_square(before: tuple[Attack, ...]) -> None:
    model = Quantised()
    part = images(model, 60)
    threat = Threat(norm="linf", eps=0.02)
    square = short_square(1000)
    table, flags = flags_of(model, part, threat, (*before, square))
    taken = table[f"{before[-1].name}_correct"].sum() - table["square_correct"].sum()
    assert taken > 5
    assert flags["square_gain"]["value"] == 100 * taken / 60
    for flag in ("zero_gradients", "square_gain", "pgd_gap"):
        assert flags[flag]["raised"]


def test_an_honest_model_raises_no_flag() -> None:
    model = Linear(4).eval()
    part = images(model, 60)
    _, flags = flags_of(model, part, Threat(norm="linf", eps=0.02), STANDARD[:3])
    assert not any(flag["raised"] for name, flag in flags.items() if name != "pgd_gap")


def test_square_gains_nothing_over_attacks_that_come_after_it() -> None:
    model = Quantised()
    part = images(model, 60)
    _, flags = flags_of(model, part, Threat(norm="linf", eps=0.02), (short_square(1000), *STANDARD[:1]))
    assert np.isnan(flags["square_gain"]["value"])
    assert not flags["square_gain"]["raised"]


class Softmax(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Noisy(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.noise()

    def noise(self) -> float:
        self.calls = getattr(self, "calls", 0) + 1
        return 0.001 * self.calls


@pytest.mark.parametrize(
    ("model", "flag"),
    [
        (Softmax(4).eval(), "softmax_outputs"),
        (Noisy(4).eval(), "random_forward"),
        (Linear(4).train(), "training_mode"),
    ],
)
def test_flags_of_a_wrong_model(model: nn.Module, flag: str) -> None:
    part = images(model, 20)
    mode = model.training
    attack = (ApgdCe(name="apgd_ce", steps=2, restarts=1, rho=0.75),)
    table = sample_table(part, results(model, part, Threat(norm="linf", eps=0.01), attack), attack)
    seen = probe(model, part, 512)
    flags = find_flags(model, part, table, ensemble=attack, before=seen, nonfinite=0).set_index("flag")
    assert flags.loc[flag, "raised"]
    assert flags.loc[flag, "meaning"]
    assert model.training == mode


def test_targets_are_the_most_likely_wrong_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    import bat.attacks.ensemble

    model = Linear(5)
    part = images(model, 20)
    x, labels = part.images(), part.labels
    with torch.no_grad():
        logits = model(x)
    right = logits.argmax(1) == labels
    x, labels, logits = x[right], labels[right], logits[right]
    seen = []
    monkeypatch.setattr(bat.attacks.ensemble, "fab", lambda model, x, labels, target, **_: (seen.append(target), x)[1])
    run_attack(STANDARD[2], model, x, logits, labels, labels, threat=Threat(norm="linf", eps=0.01), seed=0)
    expected = logits.sort(dim=1, descending=True).indices[:, 1:]
    assert len(seen) == 4  # one for each wrong class, though the standard asks for 9
    torch.testing.assert_close(torch.stack(seen, dim=1), expected)


@pytest.mark.parametrize(
    ("classes", "expected"), [(2, targeted_margin), (3, targeted_margin), (4, targeted_dlr), (5, targeted_dlr)]
)
def test_targeted_apgd_takes_the_margin_where_there_are_too_few_classes_for_dlr(
    monkeypatch: pytest.MonkeyPatch, classes: int, expected: Any
) -> None:
    import bat.attacks.ensemble

    model = Linear(classes)
    part = images(model, 9)
    x, labels = part.images()[1:], part.labels[1:]
    with torch.no_grad():
        logits = model(x)
    seen = []

    def spy(model: Any, x: Tensor, labels: Tensor, target: Tensor, *, loss: Any, **_: Any) -> Tensor:
        seen.append((loss, target))
        return x

    monkeypatch.setattr(bat.attacks.ensemble, "apgd", spy)
    for attack in STANDARD[:2]:
        run_attack(attack, model, x, logits, labels, labels, threat=Threat(norm="linf", eps=0.01), seed=0)
    (untargeted, same_labels), *targeted = seen
    assert untargeted is cross_entropy
    assert torch.equal(same_labels, labels)
    # the wrong classes from the most likely on, up to 9
    assert [loss for loss, _ in targeted] == [expected] * (classes - 1)
    order = logits.sort(dim=1, descending=True).indices
    for rank, (_, target) in enumerate(targeted, start=1):
        assert torch.equal(target, torch.stack([labels, order[:, rank]], dim=1))


# -- what each attack is given, and what of its results counts


class Given:
    """Stands for an attack: keeps what it is given, and moves images as written down."""

    def __init__(self, *moves: float) -> None:
        self.calls: list[dict[str, Any]] = []
        self.moves = list(moves) or [0.0]

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        self.calls.append({"arguments": arguments, **options})
        x = next(each for each in arguments if isinstance(each, Tensor))
        return x + self.moves[min(len(self.calls), len(self.moves)) - 1]


class Pixel(nn.Module):
    """Logits (pixel, 0.5, 0.25, 0): class 0 from a half on."""

    def forward(self, x: Tensor) -> Tensor:
        others = torch.tensor([0.5, 0.25, 0.0]).expand(len(x), 3)
        return torch.cat([x.flatten(1), others], 1)


def attacked(attack: Any, pixels: list[float], labels: list[int] | None = None, threat: Any = None) -> Any:
    """Run an attack on images of one pixel, whose indices count from 70, by the seed 6."""
    x = torch.tensor(pixels).view(-1, 1, 1, 1)
    model = Pixel()
    threat = threat or Threat(norm="l2", eps=0.375)
    labels = torch.tensor(labels or [0] * len(pixels))
    return run_attack(attack, model, x, model(x), labels, torch.arange(len(x)) + 70, threat=threat, seed=6)


OWN = OwnAttack(name="users:attack", code="0", restarts=2)
BALL = {"norm": "l2", "eps": 0.375}


@pytest.mark.parametrize(
    ("function", "attack", "ranks", "expected"),
    [
        ("pgd", replace(PGD, restarts=2), 1, {"loss": cross_entropy, "step_size": 0.01, "steps": 20}),
        (
            "apgd",
            ApgdCe(name="apgd_ce", steps=7, rho=0.5, restarts=2),
            1,
            {"loss": cross_entropy, "steps": 7, "rho": 0.5},
        ),
        (
            "apgd",
            ApgdT(name="apgd_t", steps=7, rho=0.5, targets=2, restarts=2),
            2,
            {"loss": targeted_dlr, "steps": 7, "rho": 0.5},
        ),
        (
            "fab",
            FabT(name="fab_t", steps=7, targets=9, alpha_max=0.2, eta=1.5, beta=0.7, restarts=2),
            3,
            {"steps": 7, "alpha_max": 0.2, "eta": 1.5, "beta": 0.7},
        ),
        ("square", Square(name="square", queries=7, p_init=0.3, restarts=2), 1, {"queries": 7, "p_init": 0.3}),
        ("own_attack", OWN, 1, {}),
    ],
)
def test_each_attack_is_given_its_numbers(
    function: str, attack: Any, ranks: int, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given()
    monkeypatch.setattr(bat.attacks.ensemble, function, given)
    attacked(attack, [0.75, 1.0, 0.5, 0.25])
    assert len(given.calls) == 2 * ranks
    # the last is wrong already; the third is at a tie, which argmax decides for the label
    x, labels, index = torch.tensor([0.75, 1, 0.5]).view(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64), 70
    for call, (restart, rank) in zip(given.calls, product(range(2), range(ranks)), strict=True):
        seed, (model, *tensors) = derive_seed(6, attack.name, restart, rank), call.pop("arguments")
        wanted = [x, labels]
        pairs = torch.tensor([[0, rank + 1]] * 3)
        match function:
            case "apgd":
                wanted.append(pairs if ranks > 1 else labels)
            case "fab":
                wanted.append(pairs[:, 1])
            case "square":
                wanted.append(torch.arange(3) + index)
                assert call.pop("seed") == seed
            case "own_attack":
                attack, model = model, tensors.pop(0)
                assert attack is OWN
                assert call.pop("seed") == derive_seed(seed, index)
        assert isinstance(model, Pixel)
        assert [each.tolist() for each in tensors] == [each.tolist() for each in wanted]
        if function in ("pgd", "apgd", "fab"):
            random = uniform(seed, torch.arange(3) + index, (1, 1, 1))
            start = x if function == "fab" and not restart else random_start(x, random, **BALL)
            assert torch.equal(call.pop("start"), start)
        assert call == BALL | expected


def test_points_count_where_they_are_stronger_and_later_tries_have_what_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(-0.25, 0.125, -0.125)
    monkeypatch.setattr(bat.attacks.ensemble, "square", given)
    outcome = attacked(Square(name="square", queries=1, restarts=4, p_init=0.8), [0.625, 0.875])
    assert [call["arguments"][1].flatten().tolist() for call in given.calls] == [[0.625, 0.875]] + [[0.875]] * 3
    assert outcome.x_adv.flatten().tolist() == [0.375, 0.625]
    assert outcome.margin.tolist() == [-0.125, 0.125]
    assert (outcome.stands.tolist(), outcome.nonfinite.tolist()) == ([False, True], [False, False])


def test_nothing_is_tried_once_all_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given(-0.25)
    monkeypatch.setattr(bat.attacks.ensemble, "square", given)
    attacked(Square(name="square", queries=1, restarts=4, p_init=0.8), [0.625, 0.6875])
    assert [len(call["arguments"][1]) for call in given.calls] == [2]
    assert not attacked(Square(name="square", queries=1, restarts=4, p_init=0.8), [0.25]).stands.any()
    # a tie, which argmax decides against the label
    assert not attacked(Square(name="square", queries=1, restarts=4, p_init=0.8), [0.5], [1]).stands.any()
    assert len(given.calls) == 1


@pytest.mark.parametrize(
    ("move", "message"),
    [
        (-0.5, "an attack left the l2 ball of 0.375 by 0.125"),
        (float("nan"), "an attack left the l2 ball of 0.375 by nan"),
        (0.375, "an attack left [0, 1]"),
        (-0.3125, "an attack left [0, 1]"),
    ],
)
def test_an_attack_that_leaves_what_is_allowed_is_an_error(
    move: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bat.attacks.ensemble, "square", Given(move))
    pixel, label = (0.25, 1) if move == -0.3125 else (0.75, 0)
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        attacked(Square(name="square", queries=1, p_init=0.8), [pixel], [label])


def test_the_ends_of_what_is_allowed_are_allowed() -> None:
    x, ends = torch.tensor([0.625, 0.375]).view(2, 1, 1, 1), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    check_allowed(ends, x, Threat(norm="l2", eps=0.375))


def test_outputs_that_are_not_finite_break_a_sample_and_are_told() -> None:
    logits = torch.tensor([[torch.nan, 0.0], [1.0, 0.5], [0.5, 0.5], [0.5, 0.5]])
    found = margins(logits, torch.tensor([0, 0, 0, 1]))
    assert found.tolist() == [-torch.inf, 0.5, torch.finfo(torch.float32).tiny, 0]
    outcome = Outcome(found, torch.zeros(4, 1, 1, 1))
    assert outcome.nonfinite.tolist() == [True, False, False, False]
    assert outcome.stands.tolist() == [False, True, True, False]
