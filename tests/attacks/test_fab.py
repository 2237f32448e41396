"""FAB against linear programs, closed forms, and its authors' code (Croce and Hein 2020)."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import METHODS, snapshot, trained
from pyautoattack.fab_pt import FABAttack_PT
from scipy.optimize import bisect, linprog
from torch import Tensor, nn

from bat.attacks.fab import fab, to_plane
from bat.data.dataset import Part
from bat.models import Network, attackable
from bat.training.measure import judged

torch.set_num_threads(1)

NORMS = ("linf", "l2")
PAPER = {"alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
norms = st.sampled_from(NORMS)
seeds = st.integers(0, 2**32 - 1)


def numbers(seed: int, *shape: int) -> Tensor:
    """Uniform numbers in [0, 1), a tenth of them at the ends, where the box binds."""
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=random, dtype=torch.float64)
    ends = torch.rand(shape, generator=random)
    return torch.where(ends < 0.05, 0.0, torch.where(ends > 0.95, 1.0, values))


def length(delta: Tensor, norm: str) -> Tensor:
    return delta.flatten(1).abs().amax(1) if norm == "linf" else delta.flatten(1).norm(dim=1)


# -- the projection


def shortest_linf(point: np.ndarray, weight: np.ndarray, excess: float) -> float:
    """The least s with |step| <= s, 0 <= point + step <= 1, weight . step = -excess: a linear program."""
    d = len(point)
    within = np.block([[np.eye(d), -np.ones((d, 1))], [-np.eye(d), -np.ones((d, 1))]])
    found = linprog(
        [0] * d + [1],
        A_ub=within,
        b_ub=np.zeros(2 * d),
        A_eq=[[*weight, 0]],
        b_eq=[-excess],
        bounds=[*zip(-point, 1 - point, strict=True), (0, None)],
    )
    assert found.status == 0
    return float(found.fun)


def shortest_l2(point: np.ndarray, weight: np.ndarray, excess: float) -> np.ndarray:
    """The step of least norm: clip(point - multiplier * weight) - point, with the multiplier by bisection."""

    def step(multiplier: float) -> np.ndarray:
        return np.clip(point - multiplier * weight, 0, 1) - point

    # beyond this multiplier every pixel has met its end
    end = np.sign(excess) / np.abs(weight[weight != 0]).min()
    if excess == 0:
        return np.zeros_like(point)
    return step(bisect(lambda m: weight @ step(m) + excess, 0, end, xtol=1e-15, rtol=1e-14, maxiter=500))


@given(norm=norms, seed=seeds, share=st.floats(-1.5, 1.5), d=st.integers(1, 9), flat=st.floats(0, 0.9))
@settings(max_examples=150)
@example(norm="linf", seed=0, share=0.0, d=4, flat=0.0)
@example(norm="l2", seed=0, share=0.0, d=4, flat=0.0)
def test_steps_to_planes_equal_a_brute_force(norm: str, seed: int, share: float, d: int, flat: float) -> None:
    point, weight = numbers(seed, 1, d), numbers(seed + 1, 1, d) - 0.5
    weight[numbers(seed + 2, 1, d) < flat] = 0
    # what the box allows towards that side, which shares beyond 1 ask more than
    side = 1 if share >= 0 else -1
    full = torch.where(side * weight > 0, -point, 1 - point) * (weight != 0)
    most = float((side * weight * full).sum().abs())
    excess = torch.tensor([share * most], dtype=torch.float64)
    step = to_plane(point, weight, excess, norm=norm)
    moved = point + step
    assert ((moved >= -1e-12) & (moved <= 1 + 1e-12)).all()
    assert (step[weight == 0] == 0).all()
    if most == 0:
        assert (step == 0).all()
    elif abs(share) > 1:
        torch.testing.assert_close(step, full, rtol=0, atol=1e-9)
    elif abs(share) < 0.999 and weight[weight != 0].abs().min() > 1e-4:
        p, w, c = point[0].numpy(), weight[0].numpy(), float(excess)
        np.testing.assert_allclose(float((weight * step).sum()), -c, atol=1e-9)
        if norm == "linf":
            np.testing.assert_allclose(float(step.abs().max()), shortest_linf(p, w, c), atol=1e-6)
        else:
            np.testing.assert_allclose(step[0], shortest_l2(p, w, c), atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-30, 1e-20, 1e20])
@pytest.mark.parametrize("excess", [0.0, -1e-30, 5.0, 1e30])
def test_steps_along_no_and_extreme_gradients_are_finite_and_in_the_box(norm: str, scale: float, excess: float) -> None:
    point = numbers(0, 3, 8).float()
    weight = scale * (numbers(1, 3, 8) - 0.5).float()
    weight[:, ::3] = 0
    step = to_plane(point, weight, torch.full((3,), excess), norm=norm)
    assert step.isfinite().all()
    assert ((point + step >= 0) & (point + step <= 1)).all()
    assert (step[weight == 0] == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_gradients_is_of_no_account(norm: str) -> None:
    point, weight, excess = numbers(0, 4, 8).float(), (numbers(1, 4, 8) - 0.5).float(), torch.full((4,), 0.3)
    expected = to_plane(point, weight, excess, norm=norm)
    assert (expected != 0).any()
    # of each sample its own
    scale = torch.tensor([2.0**-80, 1, 2.0**-20, 2.0**60])
    scaled = to_plane(point, scale[:, None] * weight, scale * excess, norm=norm)
    torch.testing.assert_close(scaled, expected, rtol=1e-6, atol=0)


# -- linear models: the distance of the boundary is known


class Linear(nn.Module):
    """Logits of flattened images, in float64."""

    def __init__(self, seed: int, classes: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, 12, generator=random, dtype=torch.float64)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(-0.5 * weight.sum(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def label_and_rival(model: nn.Module, x: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Each sample's class and the class of the given rank after it."""
    with torch.no_grad():
        order = model(x).argsort(dim=1, descending=True)
    return order[:, 0], order[:, rank]


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_linear_model_is_broken_just_where_its_boundary_is_within_eps(norm: str, clipped: bool) -> None:
    model, eps = Linear(0, classes=2), {"linf": 0.04, "l2": 0.13}[norm]
    x = numbers(1, 300, 3, 2, 2) if clipped else 0.25 + 0.5 * numbers(1, 300, 3, 2, 2)
    labels, target = label_and_rival(model, x, 1)
    weight = (model.weight[target] - model.weight[labels]).detach()
    with torch.no_grad():
        logits = model(x)
    margin = (logits.gather(1, labels[:, None]) - logits.gather(1, target[:, None]))[:, 0]
    flat = x.flatten(1)
    if clipped and norm == "linf":
        distance = torch.tensor(
            [shortest_linf(p, w, -c) for p, w, c in zip(flat.numpy(), weight.numpy(), margin.tolist(), strict=True)]
        )
    elif clipped:
        steps = [shortest_l2(p, w, -c) for p, w, c in zip(flat.numpy(), weight.numpy(), margin.tolist(), strict=True)]
        distance = torch.as_tensor(np.stack(steps)).norm(dim=1)
    else:
        distance = margin / (weight.abs().sum(1) if norm == "linf" else weight.norm(dim=1))
    found = fab(model, x, labels, target, norm=norm, eps=eps, steps=100, **PAPER)
    with torch.no_grad():
        broken = model(found).argmax(1) != labels
    assert 50 < broken.sum() < 250
    # the last hundredth before the boundary is of the order of the overshoot and the steps back
    sure = (distance - eps).abs() > 0.01 * eps
    assert sure.sum() > 280
    torch.testing.assert_close(broken[sure], distance[sure] < eps)
    assert not broken[distance > eps].any()
    assert torch.equal(found[~broken], x[~broken])


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_points_break_the_model_in_the_ball_or_are_the_image(norm: str, classes: int) -> None:
    model, x, eps = Linear(classes, classes), numbers(2, 200, 3, 2, 2), {"linf": 0.08, "l2": 0.25}[norm]
    labels, target = label_and_rival(model, x, classes - 1 if classes < 10 else 3)
    found = fab(model, x, labels, target, norm=norm, eps=eps, steps=20, **PAPER)
    moved = (found != x).flatten(1).any(1)
    with torch.no_grad():
        predicted = model(found).argmax(1)
    broken = predicted != labels
    # a class that lies between the label and the target breaks a sample as well
    assert (predicted[broken] != target[broken]).any() == (classes > 2)
    assert 10 < broken.sum() < 190
    assert torch.equal(moved, broken)
    assert (length(found - x, norm) <= eps).all()
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_without_gradient_leaves_images(norm: str) -> None:
    model, x = Linear(0, classes=3), numbers(0, 4, 3, 2, 2)
    model.weight.data.zero_()
    model.bias.data = torch.tensor([1.0, 0.0, 0.0]).double()
    zeros = torch.zeros(4, dtype=torch.long)
    for start in (None, numbers(1, 4, 3, 2, 2)):
        found = fab(model, x, zeros, zeros + 1, norm=norm, eps=0.1, steps=5, start=start, **PAPER)
        assert torch.equal(found, x)


# -- against the authors' code, on networks trained on digits


@pytest.fixture(scope="module")
def digits() -> tuple[dict[str, Network], Part]:
    models = {}
    for name in METHODS:
        models[name], test = trained(name, name="small_cnn", width=8, epochs=8)
        test = test.take(torch.arange(200))
        assert judged(models[name], test).correct.float().mean() > 0.9
    return models, test


def stands_fab_t(model: nn.Module, x: Tensor, labels: Tensor, norm: str, eps: float, targets: int = 9) -> Tensor:
    """Which samples stand after FAB-T: one class after the other, on those that stood."""
    with torch.no_grad():
        classes = model(x).argsort(dim=1, descending=True)
    stands = classes[:, 0] == labels
    for rank in range(1, targets + 1):
        rows = stands.nonzero().flatten()
        found = fab(model, x[rows], labels[rows], classes[rows, rank], norm=norm, eps=eps, steps=100, **PAPER)
        with torch.no_grad():
            stands[rows] = model(found).argmax(1) == labels[rows]
    return stands


def authors_stands(model: nn.Module, x: Tensor, labels: Tensor, norm: str, eps: float, targets: int = 9) -> Tensor:
    name = {"linf": "Linf", "l2": "L2"}[norm]
    attack = FABAttack_PT(model, norm=name, eps=eps, targeted=True, n_target_classes=targets, device="cpu")
    with torch.random.fork_rng(), torch.no_grad():
        return model(attack.perturb(x, labels)).argmax(1) == labels


# all 9 targets once, the others with fewer for time: it is the first that break most
@pytest.mark.parametrize(
    ("name", "norm", "eps", "targets"),
    [
        ("pgd_at", "linf", 0.1, 2),
        ("pgd_at", "linf", 0.15, 3),
        ("pgd_at", "l2", 0.8, 4),
        ("natural", "linf", 0.15, 9),
        ("natural", "l2", 0.6, 3),
    ],
)
def test_fab_t_agrees_with_its_authors_code(
    digits: tuple[dict[str, Network], Part], name: str, norm: str, eps: float, targets: int
) -> None:
    model, test = digits[0][name], digits[1]
    x, labels = test.images(), test.labels
    with attackable(model):
        ours = stands_fab_t(model, x, labels, norm, eps, targets)
        theirs = authors_stands(model, x, labels, norm, eps, targets)
    assert 5 < theirs.sum() < 180
    assert abs(int(ours.sum() - theirs.sum())) <= 2
    assert (ours != theirs).sum() <= 2


# -- what it leaves behind, and what it does not depend on


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [False, True])
def test_everything_is_left_as_found(digits: tuple[dict[str, Network], Part], norm: str, training: bool) -> None:
    model = copy.deepcopy(digits[0]["natural"]).train(training)
    for module in model.modules() if training else ():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum, module.num_batches_tracked = 0.0, None
    next(model.parameters()).requires_grad_(False)
    x, labels = digits[1].images(slice(20)), digits[1].labels[:20]
    inputs = x.clone(), labels.clone()
    before = snapshot(model)
    found = fab(model, x, labels, (labels + 1) % 10, norm=norm, eps=0.8, steps=20, **PAPER)
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)
    assert torch.equal(x, inputs[0])
    assert torch.equal(labels, inputs[1])
    assert not found.requires_grad
    assert not torch.equal(found, x)


def bumpy(seed: int) -> nn.Sequential:
    """A small smooth network in float64, of high curvature, so that paths are bent."""
    random = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    for parameter in model.parameters():
        parameter.data = 1.25 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return model


@pytest.mark.parametrize("norm", NORMS)
def test_paths_equal_those_of_its_authors_code(norm: str) -> None:
    model, x, steps = bumpy(0).float(), numbers(4, 40, 3, 2, 2).float(), 10
    labels, target = label_and_rival(model, x, 1)
    points = []
    model.register_forward_hook(lambda module, inputs, output: points.append(inputs[0].detach().clone()))
    # so near the image nothing is broken, and both go on with all samples
    eps = 1e-6
    fab(model, x, labels, target, norm=norm, eps=eps, steps=steps, **PAPER)
    ours = points.copy()
    points.clear()
    attack = FABAttack_PT(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, n_iter=steps, targeted=True)
    attack.target_class = 2
    with torch.no_grad():
        attack.attack_single_run(x, labels, is_targeted=True)
    # theirs looks at the image twice before it begins
    assert len(ours) == len(points) - 2 == 2 * steps
    torch.testing.assert_close(ours, points[2:], rtol=0, atol=1e-4)


@given(order=st.permutations(range(12)), norm=norms)
@settings(max_examples=10)
def test_a_sample_alone_and_in_any_order_takes_the_same_path(order: list[int], norm: str) -> None:
    model, x, eps = bumpy(0), numbers(4, 12, 3, 2, 2), {"linf": 0.05, "l2": 0.15}[norm]
    labels, target = label_and_rival(model, x, 1)

    def attack(rows: list[int]) -> Tensor:
        return fab(model, x[rows], labels[rows], target[rows], norm=norm, eps=eps, steps=20, **PAPER)

    together, alone = attack(order), torch.cat([attack([i]) for i in order])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)
    with torch.no_grad():
        assert 0 < (model(together).argmax(1) == labels[order]).sum() < 12


def test_a_step_takes_two_forward_passes_and_one_backward_pass_of_what_still_stands() -> None:
    model, x = bumpy(0), numbers(4, 40, 3, 2, 2)
    labels, target = label_and_rival(model, x, 1)
    forward, backward = [], []
    model.register_forward_hook(lambda module, inputs, output: forward.append(len(output)))
    model.register_full_backward_hook(lambda module, inputs, outputs: backward.append(len(outputs[0])))
    found = fab(model, x, labels, target, norm="linf", eps=0.05, steps=30, **PAPER)
    with torch.no_grad():
        left = int((model(found).argmax(1) == labels).sum())
    forward.pop()
    assert forward[::2] == forward[1::2] == backward
    assert forward == sorted(forward, reverse=True)
    assert len(backward) == 30
    assert 40 == backward[0] > backward[-1] >= left > 0


class InDouble(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        logits: Tensor = self.model(x.double())
        return logits


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_is_run_once_all_are_broken_also_in_another_precision_than_the_images(norm: str) -> None:
    model, x = InDouble(bumpy(0)), numbers(4, 8, 3, 2, 2).float()
    labels, target = label_and_rival(model, x, 1)
    found = fab(model, x, labels, target, norm=norm, eps=4, steps=200, **PAPER)
    assert found.dtype == torch.float32
    assert (found != x).flatten(1).any(1).all()
    assert model.asked < 100


@pytest.mark.parametrize("norm", NORMS)
def test_a_restart_begins_at_its_start(norm: str) -> None:
    model, x = bumpy(0), numbers(4, 40, 3, 2, 2)
    labels, target = label_and_rival(model, x, 1)
    start = (x + 0.02 * (numbers(5, *x.shape) - 0.5)).clamp(0, 1)
    points = []
    model.register_forward_hook(lambda module, inputs, output: points.append(inputs[0].detach().clone()))
    fab(model, x, labels, target, norm=norm, eps=0.05, steps=1, start=start, **PAPER)
    fab(model, x, labels, target, norm=norm, eps=0.05, steps=1, **PAPER)
    assert torch.equal(points[0], start)
    assert torch.equal(points[2], x)
