"""Attacks against closed forms, small independent loops, and the authors' Auto-PGD (Croce and Hein 2020)."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import snapshot, trained
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from bat.attacks.apgd import apgd
from bat.attacks.ball import project, random_start, size, step
from bat.attacks.gradient import ascent, cross_entropy, targeted_dlr, targeted_margin
from bat.attacks.pgd import pgd
from bat.data.dataset import Part
from bat.models import Network, attackable, for_attacks
from bat.training.measure import judged

torch.set_num_threads(1)

NORMS = ("linf", "l2")
norms = st.sampled_from(NORMS)
seeds = st.integers(0, 2**32 - 1)
radii = st.floats(1e-3, 2)


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniform numbers in [0, 1), a tenth of them at the ends, where clipping bites."""
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(shape, generator=random, dtype=dtype)
    ends = torch.rand(shape, generator=random)
    return torch.where(ends < 0.05, 0.0, torch.where(ends > 0.95, 1.0, values))


def length(delta: np.ndarray, norm: str) -> np.ndarray:
    flat = delta.reshape(len(delta), -1)
    return np.abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))


# -- project, step, random_start


def brute_force_projection(moved: np.ndarray, x: np.ndarray, norm: str, eps: float) -> np.ndarray:
    result = np.empty_like(x)
    for sample in range(len(x)):
        delta = moved[sample] - x[sample]
        if norm == "linf":
            inside = np.vectorize(lambda value: max(-eps, min(eps, value)))(delta)
        else:
            norm_2 = math.sqrt(sum(value**2 for value in delta.flat))
            inside = delta if norm_2 <= eps else delta / norm_2 * eps
        result[sample] = np.minimum(np.maximum(x[sample] + inside, 0), 1)
    return result


@given(norm=norms, eps=radii, seed=seeds, spread=st.floats(0, 5))
@settings(max_examples=100)
def test_project_equals_a_brute_force_and_is_idempotent(norm: str, eps: float, seed: int, spread: float) -> None:
    x = numbers(seed, 3, 2, 3, 3)
    moved = x + spread * (2 * numbers(seed + 1, 3, 2, 3, 3) - 1)
    found = project(moved, x, norm=norm, eps=eps)
    np.testing.assert_allclose(found, brute_force_projection(moved.numpy(), x.numpy(), norm, eps), atol=1e-12)
    torch.testing.assert_close(project(found, x, norm=norm, eps=eps), found, rtol=0, atol=1e-12)


@given(norm=norms, eps=radii, seed=seeds)
@settings(max_examples=50)
def test_project_keeps_points_of_the_ball_and_of_the_unit_cube(norm: str, eps: float, seed: int) -> None:
    x = numbers(seed, 2, 1, 2, 2)
    direction = 2 * numbers(seed + 1, 2, 1, 2, 2) - 1
    inside = (x + 0.99 * eps * direction / size(direction, norm)).clamp(0, 1)
    torch.testing.assert_close(project(inside, x, norm=norm, eps=eps), inside, rtol=0, atol=1e-12)


@given(norm=norms, eps=radii, seed=seeds, far=st.booleans())
@settings(max_examples=100)
@example(norm="linf", eps=0.1, seed=0, far=True)
@example(norm="l2", eps=0.1, seed=0, far=True)
def test_points_lie_in_the_ball_and_in_the_unit_cube(norm: str, eps: float, seed: int, far: bool) -> None:
    x = numbers(seed, 3, 2, 3, 3, dtype=torch.float32)
    uniform = numbers(seed + 1, 3, 2, 3, 3, dtype=torch.float32) * (1 - 2**-24)
    start = random_start(x, uniform, norm=norm, eps=eps)
    point = project(start + 100 * (uniform - 0.5), x, norm=norm, eps=eps) if far else start
    assert (length((point - x).numpy(), norm) <= eps + 1e-6).all()
    assert ((point >= 0) & (point <= 1)).all()


@given(norm=norms, seed=seeds, distance=st.floats(1e-4, 3))
@settings(max_examples=50)
def test_a_step_has_its_length_and_the_direction_of_steepest_ascent(norm: str, seed: int, distance: float) -> None:
    x, gradient = numbers(seed, 3, 2, 2, 2), numbers(seed + 1, 3, 2, 2, 2) - 0.45
    delta = (step(x, gradient, distance, norm=norm) - x).numpy()
    np.testing.assert_allclose(length(delta, norm), distance, rtol=1e-9)
    # Hoelder: no step of this length raises the linear model more than length * dual norm of the gradient
    flat = gradient.numpy().reshape(3, -1)
    dual = np.abs(flat).sum(1) if norm == "linf" else np.sqrt((flat**2).sum(1))
    np.testing.assert_allclose((delta.reshape(3, -1) * flat).sum(1), distance * dual, rtol=1e-9)


def test_the_size_of_a_perturbation_in_each_norm() -> None:
    delta = torch.tensor([[3.0, -4.0], [0.0, -2.0]]).view(2, 1, 1, 2)
    assert size(delta, "linf").tolist() == [[[[4.0]]], [[[2.0]]]]
    assert size(delta, "l2").tolist() == [[[[5.0]]], [[[2.0]]]]


def test_a_step_along_gradients_whose_squares_no_float_holds_has_its_length() -> None:
    gradient = torch.tensor([1e-30, 1e30, 1.0]).view(3, 1, 1, 1) * torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
    moved = step(torch.zeros(3, 1, 1, 2), gradient, 0.5, norm="l2")
    np.testing.assert_allclose(moved.flatten(1), [[0.3, -0.4]] * 3, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_along_no_gradient_stays(norm: str) -> None:
    x = numbers(0, 2, 1, 2, 2)
    assert torch.equal(step(x, torch.zeros_like(x), 0.1, norm=norm), x)


def test_a_step_takes_a_length_for_each_sample() -> None:
    x, gradient = numbers(0, 2, 1, 2, 2), numbers(1, 2, 1, 2, 2) - 0.5
    lengths = torch.tensor([0.1, 0.3], dtype=torch.float64).view(2, 1, 1, 1)
    for norm in NORMS:
        both = step(x, gradient, lengths, norm=norm)
        alone = [step(x[[i]], gradient[[i]], float(lengths[i]), norm=norm) for i in range(2)]
        assert torch.equal(both, torch.cat(alone))


def test_starts_of_linf_are_uniform_in_the_cube() -> None:
    x = torch.full((4000, 1, 2, 2), 0.5, dtype=torch.float64)
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delta = (random_start(x, uniform, norm="linf", eps=0.2) - x).flatten()
    # 16,000 uniform numbers: 5 standard errors
    assert abs(float(delta.mean())) < 5 * 0.2 / math.sqrt(3 * 16000)
    quantiles = torch.quantile(delta, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    np.testing.assert_allclose(quantiles, [-0.16, 0, 0.16], atol=5 * 0.4 * 0.5 / math.sqrt(16000))


def test_starts_of_l2_have_a_uniform_direction_and_the_length_eps() -> None:
    x = torch.full((4000, 1, 2, 2), 0.5, dtype=torch.float64)
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    delta = (random_start(x, uniform, norm="l2", eps=0.2) - x).view(4000, 4) / 0.2
    np.testing.assert_allclose(delta.norm(dim=1), 1, rtol=1e-9)
    # on the unit sphere of 4 dimensions: E[d] = 0, E[d d^T] = I / 4, E[d_i^4] = 3 / (4 * 6)
    np.testing.assert_allclose(delta.mean(0), 0, atol=5 * 0.5 / math.sqrt(4000))
    np.testing.assert_allclose(delta.T @ delta / 4000, np.eye(4) / 4, atol=5 * 0.25 / math.sqrt(4000))
    np.testing.assert_allclose((delta**4).mean(0), 1 / 8, atol=5 * 0.2 / math.sqrt(4000))


@pytest.mark.parametrize("end", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_finite_at_the_ends_of_the_uniform_numbers(norm: str, end: float) -> None:
    x = torch.full((1, 1, 2, 2), 0.5)
    assert random_start(x, torch.full_like(x, end), norm=norm, eps=0.2).isfinite().all()


# -- linear models: the worst case is known


class Linear(nn.Module):
    """Logits of flattened images, in float64."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).to(self.weight) @ self.weight.T + self.bias


def linear(seed: int, classes: int, scale: float = 1.0) -> Linear:
    random = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(classes, 12, generator=random, dtype=torch.float64)
    return Linear(weight, -0.5 * weight.sum(1))


def middle(seed: int, n: int) -> Tensor:
    """Images away from 0 and 1, so that balls of radius 0.2 are not clipped."""
    return 0.25 + 0.5 * torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fall(weight: np.ndarray, norm: str, eps: float) -> float:
    """How much the worst perturbation lowers w.x: eps times the dual norm (Hoelder)."""
    return eps * float(np.abs(weight).sum() if norm == "linf" else np.sqrt((weight**2).sum()))


def attack_from_a_start(
    name: str, model: nn.Module, x: Tensor, labels: Tensor, norm: str, eps: float, **more: Any
) -> Tensor:
    start = random_start(x, numbers(5, *x.shape, dtype=x.dtype), norm=norm, eps=eps)
    common = {"norm": norm, "eps": eps, "start": start, "loss": cross_entropy} | more
    if name == "pgd":
        return pgd(model, x, labels, step_size=2 * eps, steps=60, **common)
    return apgd(model, x, labels, labels, rho=0.75, steps=60, **common)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_attacks_reach_the_worst_case_of_a_binary_linear_model(name: str, norm: str) -> None:
    model, x, eps = linear(0, classes=2), middle(1, 200), {"linf": 0.03125, "l2": 0.125}[norm]
    weight = (model.weight[0] - model.weight[1]).detach().numpy()
    with torch.no_grad():
        logits = model(x)
    labels = logits.argmax(1)
    margin = logits.amax(1) - logits.amin(1)
    with torch.no_grad():
        attacked = model(attack_from_a_start(name, model, x, labels, norm, eps))
    rows = torch.arange(len(x))
    after = (attacked[rows, labels] - attacked[rows, 1 - labels]).numpy()
    worst = (margin - fall(weight, norm, eps)).numpy()
    assert 50 < (worst > 0).sum() < 150
    np.testing.assert_array_equal(after > 0, worst > 0)
    # apgd leaves a broken sample at the first point that broke it
    reached = slice(None) if name == "pgd" else worst > 0
    np.testing.assert_allclose(after[reached], worst[reached], atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_attacks_reach_the_worst_case_of_each_pair_of_classes(name: str, norm: str) -> None:
    model, x, eps = linear(2, classes=4, scale=0.5), middle(3, 60), {"linf": 0.03125, "l2": 0.125}[norm]
    with torch.no_grad():
        clean = model(x)
    labels = clean.argmax(1)
    rows = torch.arange(len(x))
    for other in range(4):
        rivals = torch.full_like(labels, other)

        def gap(logits: Tensor, labels: Tensor, other: int = other) -> Tensor:
            return logits[:, other] - logits.gather(1, labels[:, None])[:, 0]

        with torch.no_grad():
            attacked = model(attack_from_a_start(name, model, x, labels, norm, eps, loss=gap))
        weight = model.weight.detach().numpy()
        for i in rows[labels != rivals].tolist():
            before = float(clean[i, labels[i]] - clean[i, other])
            worst = before - fall(weight[labels[i]] - weight[other], norm, eps)
            if name == "pgd" or attacked[i].argmax() == labels[i]:
                assert float(attacked[i, labels[i]] - attacked[i, other]) == pytest.approx(worst, abs=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "apgd"])
def test_cross_entropy_breaks_no_more_than_a_multiclass_linear_model_allows(name: str, norm: str) -> None:
    model, x, eps = linear(4, classes=5), middle(5, 200), {"linf": 0.03125, "l2": 0.125}[norm]
    weight = model.weight.detach().numpy()
    with torch.no_grad():
        clean = model(x)
        labels = clean.argmax(1)
        stood = (model(attack_from_a_start(name, model, x, labels, norm, eps)).argmax(1) == labels).numpy()
    worst = [
        min(
            float(clean[i, y] - clean[i, other]) - fall(weight[y] - weight[other], norm, eps)
            for other in range(5)
            if other != y
        )
        for i, y in enumerate(labels.tolist())
    ]
    robust = np.array(worst) > 0
    assert stood[robust].all()
    # the cross-entropy climbs towards several classes at once: it misses a tenth, and breaks the rest
    assert (stood & ~robust).sum() <= 20
    assert (~stood).sum() > 80


def test_pixels_are_clipped_at_the_worst_case_of_a_linear_model() -> None:
    model = Linear(torch.tensor([[1.0] * 12, [-1.0] * 12]).double(), torch.zeros(2).double())
    x = torch.full((1, 3, 2, 2), 0.05, dtype=torch.float64)
    for name in ("pgd", "apgd"):
        attacked = attack_from_a_start(name, model, x, torch.tensor([0]), "linf", 0.1)
        assert torch.equal(attacked, torch.zeros_like(x))


# -- step by step against a loop in numpy


def softmax_gradient(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, label: int) -> np.ndarray:
    logits = weight @ x + bias
    p = np.exp(logits - logits.max())
    p /= p.sum()
    p[label] -= 1
    return weight.T @ p


def numpy_pgd(model: Linear, x: np.ndarray, label: int, norm: str, eps: float, step_size: float, path: np.ndarray):
    """Yield the points of one sample. x, path: (d,); the analytic gradient of a linear softmax model."""
    weight, bias = model.weight.detach().numpy(), model.bias.detach().numpy()
    while True:
        gradient = softmax_gradient(weight, bias, path, label)
        if norm == "linf":
            path = np.clip(path + step_size * np.sign(gradient), x - eps, x + eps)
        else:
            delta = path + step_size * gradient / np.linalg.norm(gradient) - x
            path = x + delta * min(1, eps / np.linalg.norm(delta))
        path = np.clip(path, 0, 1)
        yield path


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_equals_a_loop_in_numpy_step_by_step(norm: str) -> None:
    model, x = linear(6, classes=5), numbers(7, 20, 3, 2, 2)
    labels = torch.arange(20) % 5
    eps = {"linf": 0.1, "l2": 0.4}[norm]
    start = random_start(x, numbers(8, *x.shape), norm=norm, eps=eps)
    paths = [
        numpy_pgd(model, x[i].flatten().numpy(), int(labels[i]), norm, eps, eps / 3, start[i].flatten().numpy())
        for i in range(20)
    ]
    for steps in range(1, 9):
        found = pgd(
            model, x, labels, loss=cross_entropy, norm=norm, eps=eps, step_size=eps / 3, steps=steps, start=start
        )
        np.testing.assert_allclose(found.flatten(1), np.stack([next(path) for path in paths]), atol=1e-12)


def test_pgd_of_no_steps_is_its_start() -> None:
    x = numbers(0, 2, 3, 2, 2)
    found = pgd(
        linear(0, 2), x, torch.tensor([0, 1]), loss=cross_entropy, norm="linf", eps=0.1, step_size=1, steps=0, start=x
    )
    assert torch.equal(found, x)


def bumpy(seed: int) -> nn.Sequential:
    """A small smooth network in float64, of high curvature, so that steps oscillate and checkpoints halve them."""
    random = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    for parameter in model.parameters():
        parameter.data = 2.5 * torch.randn(parameter.shape, generator=random, dtype=torch.float64) / 2
    return model


def apgd_of_one(
    model: nn.Module,
    x: Tensor,
    label: Tensor,
    start: Tensor,
    norm: str,
    eps: float,
    steps: int,
    rho: float,
    checkpoints: Sequence[int] = (),
) -> tuple[Tensor, int]:
    """Algorithm 1 of Croce and Hein 2020 for one sample, from the paper: the point and how often the step was halved.

    Where the paper writes "fewer than rho", the authors' code has "at most", as here. The momentum after a return to
    the best point is counted from there, and a rise from the last point looked at: also as in the authors' code.
    """

    def look(point: Tensor) -> tuple[float, Tensor, bool]:
        point = point.clone().requires_grad_(True)
        logits = model(point)
        value = torch.logsumexp(logits[0], 0) - logits[0, label[0]]
        value.backward(inputs=[point])
        return float(value.detach()), point.grad, bool(logits.argmax(1) != label)

    def into(point: Tensor) -> Tensor:
        expected = brute_force_projection(point.detach().numpy(), x.numpy(), norm, eps)
        return torch.as_tensor(expected)

    def ascend(point: Tensor, gradient: Tensor) -> Tensor:
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        return into(point + eta * direction)

    # w_j = ceil(p_j * steps), p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06); all exact for 100 steps
    checkpoints, p_old, p = list(checkpoints), 0.0, 0.22 if not checkpoints else 2
    while p <= 1:
        checkpoints.append(round(p * steps))
        p_old, p = p, p + max(p - p_old - 0.03, 0.06)
    eta, halvings, halved_before = 2 * eps, 0, True
    point, previous, (value, gradient, broken) = start, start, look(start)
    best, rises, value_at_check, last_check = (value, start, gradient), 0, value, 0
    if broken:
        return start, halvings
    for k in range(steps):
        ahead = ascend(point, gradient)
        if k:
            ahead = into(point + 0.75 * (ahead - point) + 0.25 * (point - previous))
        before = value
        previous, point, (value, gradient, broken) = point, ahead, look(ahead)
        if broken:
            return point, halvings
        rises += value > before
        if value > best[0]:
            best = (value, point, gradient)
        if k + 1 in checkpoints:
            few = rises <= rho * (k + 1 - last_check)
            stuck = not halved_before and best[0] == value_at_check
            halved_before = few or stuck
            if halved_before:
                eta, halvings, point, gradient = eta / 2, halvings + 1, best[1], best[2]
            value_at_check, rises, last_check = best[0], 0, k + 1
    return best[1], halvings


@pytest.mark.parametrize("rho", [0.75, 0.5])
@pytest.mark.parametrize("norm", NORMS)
def test_apgd_equals_the_algorithm_of_the_paper_sample_by_sample(norm: str, rho: float) -> None:
    eps, steps, n = {"linf": 0.0625, "l2": 0.125}[norm], 100, 24
    model, x = bumpy(0), numbers(1, n, 3, 2, 2)
    with torch.no_grad():
        labels = model(x).argmax(1)
    start = random_start(x, numbers(2, *x.shape), norm=norm, eps=eps)
    found = apgd(model, x, labels, labels, loss=cross_entropy, norm=norm, eps=eps, steps=steps, rho=rho, start=start)
    runs = [apgd_of_one(model, x[[i]], labels[[i]], start[[i]], norm, eps, steps, rho) for i in range(n)]
    torch.testing.assert_close(found, torch.cat([point for point, _ in runs]), rtol=0, atol=1e-7)
    with torch.no_grad():
        stood = model(found).argmax(1) == labels
    assert 3 < stood.sum() < n - 3
    assert max(halvings for _, halvings in runs) >= 3


@pytest.mark.parametrize(
    ("steps", "checkpoints"),
    [
        # the authors' code: intervals are whole numbers of steps, at least 1, and each at least 1 shorter
        (1, [1]),
        (9, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (14, [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
        (50, [11, 21, 30, 38, 45]),
    ],
)
@pytest.mark.parametrize("norm", NORMS)
def test_apgd_of_few_steps_equals_the_algorithm(norm: str, steps: int, checkpoints: list[int]) -> None:
    model, x, eps = bumpy(0), numbers(1, 8, 1, 3, 4), {"linf": 0.06, "l2": 0.12}[norm]
    with torch.no_grad():
        labels = model(x).argmax(1)
    start = random_start(x, numbers(2, *x.shape), norm=norm, eps=eps)
    found = apgd(model, x, labels, labels, loss=cross_entropy, norm=norm, eps=eps, steps=steps, rho=0.75, start=start)
    runs = [apgd_of_one(model, x[[i]], labels[[i]], start[[i]], norm, eps, steps, 0.75, checkpoints) for i in range(8)]
    torch.testing.assert_close(
        found, torch.cat([point for point, _ in runs]), rtol=0, atol=1e-11 if steps < 20 else 1e-7
    )
    with torch.no_grad():
        assert 0 < (model(found).argmax(1) == labels).sum() < 8


# -- against the authors' code, on a network trained on digits


@pytest.fixture(scope="module")
def digits() -> tuple[Network, Part]:
    model, test = trained("pgd_at", name="small_cnn", width=8, epochs=8)
    test = test.take(torch.arange(300))
    assert judged(model, test).correct.numpy().mean() > 0.9
    return model, test


def authors_apgd(model: nn.Module, norm: str, eps: float, steps: int = 100) -> APGDAttack:
    name = {"linf": "Linf", "l2": "L2"}[norm]
    return APGDAttack(model, n_iter=steps, norm=name, eps=eps, seed=0, loss="ce", rho=0.75, device="cpu")


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("linf", 0.1), ("l2", 0.4)])
def test_apgd_agrees_with_its_authors_code(digits: tuple[Network, Part], norm: str, eps: float) -> None:
    model, test = digits
    x, labels = test.images(), test.labels
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    start = random_start(x, uniform, norm=norm, eps=eps)
    with attackable(model), torch.random.fork_rng():
        ours = apgd(model, x, labels, labels, loss=cross_entropy, norm=norm, eps=eps, steps=100, rho=0.75, start=start)
        theirs = authors_apgd(model, norm, eps)
        with torch.no_grad():
            stood = model(ours).argmax(1) == labels
            loss = cross_entropy(model(ours), labels)
            own_start = model(theirs.perturb(x, labels)).argmax(1) == labels
        # from the same starts rounding is all that differs
        _, their_stood, their_loss, _ = theirs.attack_single_run(x, labels, x_init=start)
    assert 150 < stood.sum() < 290
    assert (stood != their_stood).sum() <= 1
    both = stood & their_stood
    assert (loss - their_loss)[both].abs().quantile(0.95) < 1e-4
    # from others, random starts: 1 % of 300, which is what two runs of the authors' code differ by
    assert abs(int(stood.sum() - own_start.sum())) <= 2
    assert (stood != own_start).sum() <= 3


@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.6)])
def test_apgd_and_its_authors_code_break_the_same_samples_of_a_natural_model(norm: str, eps: float) -> None:
    # here a sample's start decides whether it breaks: from starts of their own the two may differ, as two seeds would
    model, test = trained("natural", name="small_cnn", width=8, epochs=8)
    test = test.take(torch.from_numpy(judged(model, test).correct.numpy()).nonzero().flatten()[:300])
    x, labels = test.images(), test.labels
    with torch.no_grad():
        ranked = model(x).argsort(dim=1, descending=True)
    options: dict[str, Any] = {"norm": norm, "eps": eps, "steps": 100, "rho": 0.75}
    name = {"linf": "Linf", "l2": "L2"}[norm]
    for rank in range(2):  # the cross-entropy, then the most likely wrong class
        uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(rank))
        start = random_start(x, uniform, norm=norm, eps=eps)
        loss = targeted_dlr if rank else cross_entropy
        target = torch.stack([labels, ranked[:, rank]], dim=1) if rank else labels
        targeted = APGDAttack_targeted(model, norm=name, eps=eps, device="cpu")
        theirs = targeted if rank else authors_apgd(model, norm, eps)
        theirs.init_hyperparam(x)
        theirs.y_target = ranked[:, rank]
        with attackable(model), torch.random.fork_rng():
            ours = apgd(for_attacks(model), x, labels, target, loss=loss, start=start, **options)
            with torch.no_grad():
                stood = model(ours).argmax(1) == labels
            _, their_stood, _, _ = theirs.attack_single_run(x, labels, x_init=start)
        assert 10 < stood.sum() < 290
        assert (stood != their_stood).sum() <= 1


# -- what attacks leave behind, and what they do not depend on


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "apgd"])
@pytest.mark.parametrize("training", [False, True])
def test_attacks_leave_everything_as_found(digits: tuple[Network, Part], name: str, norm: str, training: bool) -> None:
    model = copy.deepcopy(digits[0]).train(training)
    for module in model.modules() if training else ():
        if isinstance(module, nn.BatchNorm2d):
            # running statistics that move are the caller's choice of mode, not the attack's doing
            module.momentum, module.num_batches_tracked = 0.0, None
    next(model.parameters()).requires_grad_(False)
    x, labels = digits[1].images(slice(20)), digits[1].labels[:20]
    inputs = x.clone(), labels.clone()
    before = snapshot(model)
    with torch.no_grad():
        found = attack_from_a_start(name, model, x, labels, norm, 0.1)
    torch.testing.assert_close(snapshot(model), before, rtol=0, atol=0)
    assert torch.equal(x, inputs[0])
    assert torch.equal(labels, inputs[1])
    assert not found.requires_grad
    assert not torch.equal(found, x)


@given(order=st.permutations(range(12)), norm=norms)
@settings(max_examples=10)
def test_a_sample_alone_and_in_any_order_takes_the_same_path(order: list[int], norm: str) -> None:
    model, x, eps = bumpy(0), numbers(4, 12, 3, 2, 2), {"linf": 0.0625, "l2": 0.125}[norm]
    with torch.no_grad():
        labels = model(x).argmax(1)
    # of the 12 some break early, some late, some never
    start = random_start(x, numbers(5, *x.shape), norm=norm, eps=eps)

    def attack(rows: list[int]) -> Tensor:
        return apgd(
            model,
            x[rows],
            labels[rows],
            labels[rows],
            loss=cross_entropy,
            norm=norm,
            eps=eps,
            steps=30,
            rho=0.75,
            start=start[rows],
        )

    together = attack(order)
    alone = torch.cat([attack([i]) for i in order])
    # batches of other sizes round differently, and an attack carries that on
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    with torch.no_grad():
        assert 0 < (model(together).argmax(1) == labels[order]).sum() < 12


def test_broken_samples_are_dropped_from_later_forward_passes() -> None:
    model, x = bumpy(0), numbers(4, 40, 3, 2, 2)
    with torch.no_grad():
        labels = model(x).argmax(1)
    sizes = []
    handle = model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    start = random_start(x, numbers(5, *x.shape), norm="linf", eps=0.0625)
    found = apgd(model, x, labels, labels, loss=cross_entropy, norm="linf", eps=0.0625, steps=30, rho=0.75, start=start)
    handle.remove()
    with torch.no_grad():
        left = int((model(found).argmax(1) == labels).sum())
    assert sizes == sorted(sizes, reverse=True)
    assert 40 == sizes[0] > sizes[-1] == left > 0
    assert len(sizes) == 31


def test_nothing_is_run_once_all_are_broken() -> None:
    model, x = bumpy(3), numbers(4, 5, 3, 2, 2)
    with torch.no_grad():
        labels = (model(x).argmax(1) + 1) % 4
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    start = x.clone()
    found = apgd(model, x, labels, labels, loss=cross_entropy, norm="l2", eps=0.1, steps=30, rho=0.75, start=start)
    handle.remove()
    assert len(calls) == 1
    assert torch.equal(found, start)


@given(seed=seeds, norm=norms, eps=st.floats(0.01, 0.5), steps=st.integers(1, 12))
@settings(max_examples=30)
def test_apgd_breaks_a_sample_or_raises_its_loss(seed: int, norm: str, eps: float, steps: int) -> None:
    model, x = bumpy(seed), numbers(seed + 1, 16, 3, 2, 2)
    with torch.no_grad():
        labels = model(x).argmax(1)
        start = random_start(x, numbers(seed + 2, *x.shape), norm=norm, eps=eps)
        found = apgd(
            model, x, labels, labels, loss=cross_entropy, norm=norm, eps=eps, steps=steps, rho=0.75, start=start
        )
        broken = model(found).argmax(1) != labels
        raised = cross_entropy(model(found), labels) >= cross_entropy(model(start), labels)
        broken_at_start = model(start).argmax(1) != labels
    assert (broken | raised).all()
    assert torch.equal(found[broken_at_start], start[broken_at_start])
    assert (length((found - x).numpy(), norm) <= eps + 1e-9).all()
    assert ((found >= 0) & (found <= 1)).all()


@given(seed=seeds, n=st.integers(1, 6), classes=st.integers(2, 5))
@settings(max_examples=30)
def test_cross_entropy_of_each_sample_equals_the_formula(seed: int, n: int, classes: int) -> None:
    logits = 20 * (numbers(seed, n, classes) - 0.5)
    labels = torch.arange(n) % classes
    expected = [
        -math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-9, atol=1e-9)


def written_out_dlr(logits: list[float], label: int, target: int) -> float:
    first, _, third, fourth, *_ = sorted(logits, reverse=True)
    return (logits[target] - logits[label]) / (first - (third + fourth) / 2)


@given(seed=seeds, n=st.integers(1, 6), classes=st.integers(4, 7))
@settings(max_examples=50)
def test_targeted_dlr_of_four_classes_and_more_equals_the_formula(seed: int, n: int, classes: int) -> None:
    logits = 20 * (numbers(seed, n, classes) - 0.5)
    labels = torch.arange(n) % classes
    pairs = torch.stack([labels, (labels + 1 + torch.arange(n) % (classes - 1)) % classes], dim=1)
    expected = [
        written_out_dlr(row, label, target)
        for row, (label, target) in zip(logits.tolist(), pairs.tolist(), strict=True)
    ]
    found = targeted_dlr(logits, pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(targeted_dlr(3 * logits - 7, pairs), expected, rtol=1e-9, atol=1e-9)
    differences = [
        row[target] - row[label] for row, (label, target) in zip(logits.tolist(), pairs.tolist(), strict=True)
    ]
    np.testing.assert_allclose(targeted_margin(logits, pairs), differences, rtol=1e-12)


def test_targeted_dlr_of_exactly_four_classes_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, -1.0], [0.0, 2.0, 2.0, 1.0]], dtype=torch.float64)
    # (3 - 4) / (4 - (1 - 1) / 2), and at a tie of the first two (2 - 0) / (2 - (1 + 0) / 2)
    found = targeted_dlr(logits, torch.tensor([[0, 2], [0, 1]]))
    assert found.tolist() == pytest.approx([-1 / 4, 2 / 1.5], abs=1e-11)


@pytest.mark.parametrize("classes", [4, 5])
def test_targeted_dlr_of_equal_logits_is_finite_and_so_is_its_gradient(classes: int) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, classes, bias=False))
    nn.init.zeros_(flat[1].weight)
    pairs = torch.tensor([[0, 1], [2, 3]])
    value, _, gradient = ascent(flat, torch.full((2, 1, 2, 2), 0.5), pairs, targeted_dlr)
    assert value.tolist() == [0, 0]
    assert gradient.isfinite().all()


def test_targeted_dlr_of_equal_logits_rises_towards_the_target() -> None:
    logits = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    targeted_dlr(logits, torch.tensor([[0, 1]])).sum().backward()
    assert logits.grad.sign().tolist() == [[-1, 1, 0, 0, 0]]


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_than_four_classes_have_no_dlr_but_a_margin(classes: int) -> None:
    logits, pairs = numbers(0, 5, classes), torch.tensor([[0, 1]] * 5)
    with pytest.raises((RuntimeError, IndexError)):
        targeted_dlr(logits, pairs)
    assert torch.equal(targeted_margin(logits, pairs), logits[:, 1] - logits[:, 0])
