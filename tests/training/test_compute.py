"""Mixed precision, channels last, accumulation and compilation: what they change, and what they must not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods import BAT, GAIRAT, METHODS, NATURAL, PGD_AT, but
from runs import ATTACK, FLOAT32, RECIPE, THREAT, network, same, samples, weights
from torch import Tensor, nn

from bat.config import Adversary, Compute, Method
from bat.models import Network, for_attacks, lowered
from bat.training.learner import Learner
from bat.training.loop import Epoch, fit
from bat.training.losses import objective

torch.set_num_threads(1)

PART = samples(60)
RARE = torch.arange(60) % 4 == 0


def trained(
    method: Method = PGD_AT,
    compute: Compute | None = None,
    *,
    name: str = "mlp",
    first: int = 1,
    state: dict[str, Tensor] | None = None,
    model: Network | None = None,
    ema_decay: float = 0.0,
) -> tuple[Network, list[Epoch], list[dict[str, Tensor]]]:
    model = network(PART, name) if model is None else model
    recipe = replace(RECIPE, epochs=3, ema_decay=ema_decay)
    epochs, states = [], []
    for epoch in fit(
        model,
        PART,
        objective=objective(method),
        recipe=recipe,
        seed=3,
        what="a run",
        atypical=RARE,
        adversary=Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval"),
        compute=compute,
        first=first,
        state=state,
    ):
        epochs.append(epoch)
        states.append(epoch.state())
    return model, epochs, states


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_plain_computing_is_the_default(method: Method) -> None:
    assert same(weights(trained(method)[0]), weights(trained(method, FLOAT32)[0]))


@given(micro_batch=st.integers(1, 40))
@settings(max_examples=15)
@pytest.mark.parametrize("method", [NATURAL, PGD_AT], ids=["natural", "pgd_at"])
def test_accumulated_gradients_are_those_of_the_whole_batch(method: Method, micro_batch: int) -> None:
    whole, epochs, _ = trained(method)
    parts, others, _ = trained(method, replace(FLOAT32, micro_batch=micro_batch))
    # without batch normalisation only rounding differs
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in others], rel=1e-4)
    assert [epoch.harmful for epoch in epochs] == [epoch.harmful for epoch in others]


def test_a_pass_has_no_more_samples_than_the_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    features = Network.features
    monkeypatch.setattr(Network, "features", lambda model, x: sizes.append(len(x)) or features(model, x))
    trained(GAIRAT, replace(FLOAT32, micro_batch=7))
    assert max(sizes) == 7


@pytest.mark.parametrize("micro_batch", [3, 7, 16])
def test_the_history_sums_up_micro_batches_by_their_share_of_the_samples(micro_batch: int) -> None:
    goal, seen = objective(BAT), []

    def outer(model: Network, batch: Any) -> Any:
        terms = goal.outer(model, batch)
        counted = terms.discrimination, terms.harmful, terms.harmful_weight
        seen.append((len(batch.x), float(terms.loss.detach()), *(float(term) for term in counted)))
        return terms

    adversary = Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval")
    compute = replace(FLOAT32, micro_batch=micro_batch)
    for epoch in fit(
        network(PART),
        PART,
        objective=replace(goal, outer=outer),
        recipe=RECIPE,
        seed=3,
        what="a run",
        atypical=RARE,
        adversary=adversary,
        compute=compute,
    ):
        assert sum(n for n, *_ in seen) == 60
        assert epoch.loss == pytest.approx(sum(n * loss for n, loss, *_ in seen) / 60, rel=1e-5)
        assert epoch.discrimination_loss == pytest.approx(sum(n * term for n, _, term, *_ in seen) / 60, rel=1e-5)
        assert epoch.discrimination_loss > 0.1
        harmful, weight = (sum(values[place] for values in seen) for place in (3, 4))
        assert epoch.harmful == harmful > 0
        assert epoch.harmful_weight == pytest.approx(weight / harmful, rel=1e-5)
        seen.clear()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", [NATURAL, BAT, but(PGD_AT, awp=0.01)], ids=["natural", "bat", "awp"])
def test_mixed_precision_rounds_the_body_alone(method: Method, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[torch.dtype]] = {"body": set(), "head": set()}
    model = network(PART)
    last = [layer for layer in model.body.modules() if isinstance(layer, nn.Linear)][-1]
    last.register_forward_hook(lambda _, __, out: seen["body"].add(out.dtype) or None)
    model.head.register_forward_hook(lambda _, __, out: seen["head"].add(out.dtype) or None)
    _, epochs, _ = trained(method, replace(FLOAT32, precision=precision), model=model)  # type: ignore[arg-type]
    assert seen == {"body": {getattr(torch, precision)}, "head": {torch.float32}}
    plain, before, _ = trained(method)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not same(weights(model), weights(plain))
    # the same training up to rounding of 8 bits
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in before], rel=0.1)
    # float32 again when the training is over
    assert model.precision is None
    assert model(PART.images()).dtype == torch.float32


def test_weights_that_moved_are_rounded_anew() -> None:
    model = network(PART)
    x = PART.images()
    with lowered(model, torch.bfloat16):
        before = model(x)
        with torch.no_grad():
            for parameter in model.body.parameters():
                parameter.mul_(2)
        assert not torch.equal(model(x), before)


def test_attacks_in_mixed_precision_are_on_the_network_itself() -> None:
    model = network(PART, "small_cnn").eval()
    assert for_attacks(model) is not model
    with lowered(model, torch.bfloat16):
        assert for_attacks(model) is model


def test_channels_last_changes_the_layout_and_only_rounding() -> None:
    _, epochs, _ = trained(name="small_cnn")
    model, others, _ = trained(compute=replace(FLOAT32, channels_last=True), name="small_cnn")
    convolution = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels > 1)
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    assert not convolution.weight.is_contiguous()
    assert [epoch.loss for epoch in epochs] == pytest.approx([epoch.loss for epoch in others], rel=1e-3)


def test_compiling_compiles_the_body_of_what_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    model, _, _ = trained(compute=replace(FLOAT32, compile=True))
    assert compiled == [model.body]
    trained(compute=FLOAT32)
    assert len(compiled) == 1


CASES = {
    "natural": (NATURAL, FLOAT32, 0.0),
    "pgd_at": (PGD_AT, FLOAT32, 0.0),
    "bat": (BAT, FLOAT32, 0.0),
    "average": (BAT, FLOAT32, 0.7),
    "bfloat16": (PGD_AT, replace(FLOAT32, precision="bfloat16"), 0.7),
    "float16": (PGD_AT, replace(FLOAT32, precision="float16"), 0.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [1, 2])
def test_training_goes_on_from_a_state_to_the_bit(case: str, after: int) -> None:
    method, compute, ema_decay = CASES[case]
    whole, epochs, states = trained(method, compute, name="small_cnn", ema_decay=ema_decay)
    # another network: all that counts is in the state
    other = network(PART, "small_cnn", seed=9)
    rest, later, ends = trained(
        method, compute, name="small_cnn", first=after + 1, state=states[after - 1], model=other, ema_decay=ema_decay
    )
    assert same(weights(rest), weights(whole))
    assert same(ends[-1], states[-1])
    assert repr(later) == repr(epochs[after:])


def test_a_state_is_a_copy() -> None:
    _, _, states = trained()
    assert not same(states[0], states[1])


@pytest.mark.parametrize(("precision", "fused"), [("float32", True), ("bfloat16", True), ("float16", False)])
def test_the_optimizer_has_the_numbers_of_the_recipe_and_is_fused_where_no_step_is_skipped(
    precision: Any, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    sgd = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda parameters, **given: made.append(given) or sgd(parameters, **given))
    Learner(network(PART), RECIPE, replace(FLOAT32, precision=precision))
    assert made == [{"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "fused": fused}]


def test_a_first_step_whose_gradients_overflow_leaves_no_trace(request: pytest.FixtureRequest) -> None:
    # what is not written to is NaN
    torch.use_deterministic_algorithms(True)
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    compute = replace(FLOAT32, precision="float16")
    learner = Learner(network(PART), replace(RECIPE, weight_decay=0.0), compute)
    bias = learner.network.head.bias
    first = bias.detach().clone()
    for factor, moved in ((torch.inf, 0.0), (1.0, 0.5), (1.0, 0.5 + 0.5 * 1.9)):
        learner.zero_gradients()
        learner.scaler.scale(factor * bias.sum()).backward()
        learner.step(0.5)
        torch.testing.assert_close(bias.detach(), first - moved)


@pytest.mark.parametrize(("precision", "scaled"), [("float16", True), ("bfloat16", False), ("float32", False)])
def test_the_scale_of_losses_goes_with_the_state(precision: Any, scaled: bool) -> None:
    compute = replace(FLOAT32, precision=precision)
    one, other = (Learner(network(PART), RECIPE, compute) for _ in range(2))
    if scaled:
        # no power of 2, as of which any float holds it
        one.scaler.load_state_dict(one.scaler.state_dict() | {"scale": 0.1, "_growth_tracker": 7})
    state = one.state()
    assert ({"scale", "growth"} <= state.keys()) == scaled
    other.load(state)
    assert other.scaler.state_dict() == one.scaler.state_dict()
    if scaled:
        assert (state["scale"].dtype, float(state["scale"])) == (torch.float64, 0.1)


def test_a_step_moves_the_weights_by_its_rate_and_their_average_after_them() -> None:
    model = network(PART, "small_cnn")
    first = model.head.bias.detach().clone()
    learner = Learner(model, replace(RECIPE, momentum=0.0, weight_decay=0.0, ema_decay=0.75), None)
    assert learner.network is not model
    averages, own = (
        next(tensor for name, tensor in each.named_buffers() if name.endswith("running_mean"))
        for each in (model, learner.network)
    )
    for parameter in learner.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    own.fill_(8)
    learner.step(0.5)
    torch.testing.assert_close(learner.network.head.bias.detach(), first - 0.5)
    torch.testing.assert_close(model.head.bias.detach(), first - 0.5)  # the first step has no average before it
    own.fill_(4)
    learner.step(0.25)
    torch.testing.assert_close(learner.network.head.bias.detach(), first - 0.75)
    torch.testing.assert_close(model.head.bias.detach(), first - 0.75 * 0.5 - 0.25 * 0.75)
    # of buffers, too: what batch normalisation counts
    torch.testing.assert_close(averages, torch.full_like(averages, 0.75 * 8 + 0.25 * 4))
    learner.zero_gradients()
    assert learner.network.head.bias.grad is None


@pytest.mark.parametrize(("precision", "enabled"), [("float16", True), ("bfloat16", False)])
def test_losses_are_scaled_on_the_device_of_the_network(
    precision: Any, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *given, **options: made.append((given, options)))
    Learner(network(PART), RECIPE, replace(FLOAT32, precision=precision))
    assert made == [(("cpu",), {"enabled": enabled})]
