import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from bat.config import LibraryModel, OwnModel, SizedModel
from bat.data.dataset import Part
from bat.models import build, for_attacks, lowered, mode

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 7, 9), (2, 5, 4), (3, 1, 1), (1, 2, 3)]
NAMES = ["small_cnn", "mlp"]


def part(shape=(1, 8, 8), n=12, seed=0, pixel_max=16):
    random = np.random.default_rng(seed)
    pixels = torch.tensor(random.integers(0, pixel_max + 1, (n, *shape)), dtype=torch.uint8)
    return Part(pixels, torch.arange(n) % 3, torch.arange(n), pixel_max)


def network(name="small_cnn", width=4, samples=None, classes=3, seed=0):
    return build(SizedModel(name=name, width=width), samples or part(), classes=classes, seed=seed)


def expected_parameters(name, shape, w, classes):
    channels, height, width = shape
    if name == "mlp":
        pixels = channels * height * width
        return pixels * w + w + w * w + w + w * classes + classes
    convolutions = 9 * (channels * w + w * 2 * w + 2 * w * 4 * w)
    normalisations = 2 * (w + 2 * w + 4 * w)
    # two strides of 2, each rounding up, and means over the halves of what they leave
    rows, columns = (min((size + 3) // 4, 2) for size in (height, width))
    return convolutions + normalisations + 4 * w * rows * columns * classes + classes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_networks_of_any_image_size_run_and_have_the_parameters_of_the_formula(name, shape):
    samples = part(shape)
    model = network(name, 4, samples)
    assert sum(weights.numel() for weights in model.parameters()) == expected_parameters(name, shape, 4, 3)
    with mode(model, training=False):
        logits, features = model(samples.images()), model.features(samples.images())
    assert logits.shape == (12, 3)
    assert features.shape == (12, model.head.in_features)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits, features @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 64, 20), (1, 9, 5), (1, 33, 3)], ids=str)
def test_features_of_small_cnn_are_means_over_quarters_of_the_image(shape):
    samples = part(shape)
    model = network("small_cnn", 3, samples).eval()
    places = model.body[:9]((samples.images() - model.mean) / model.std)
    assert places.shape[2:] == tuple(-(-size // 4) for size in shape[1:])
    means = nn.functional.adaptive_avg_pool2d(places, [min(size, 2) for size in places.shape[2:]])
    torch.testing.assert_close(model.features(samples.images()), means.flatten(1))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_layer_normalises_pixels_by_the_statistics_of_training(name):
    samples = part((3, 8, 8), n=20)
    model = network(name, samples=samples).eval()
    values = samples.pixels.numpy().astype(np.float64) / 16
    mean = values.mean((0, 2, 3))[:, None, None]
    deviation = values.std((0, 2, 3), ddof=1)[:, None, None]
    other = part((3, 8, 8), n=5, seed=1)
    normalised = torch.tensor((other.pixels.numpy() / 16 - mean) / deviation, dtype=torch.float32)
    torch.testing.assert_close(model(other.images()), model.head(model.body(normalised)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_pixel_statistics_are_kept_with_the_weights(name):
    model, other = network(name, samples=part(seed=0)), network(name, samples=part(seed=1), seed=9)
    other.load_state_dict(model.state_dict())
    x = part().images()
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_a_channel_without_contrast_gives_finite_logits():
    samples = part((2, 8, 8))
    samples.pixels[:, 1] = 7
    assert torch.isfinite(network(samples=samples).eval()(samples.images())).all()


def weights(model):
    return torch.cat([tensor.flatten() for tensor in model.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    first = weights(network(name, samples=part(seed=0), seed=5))
    torch.manual_seed(2)
    again = weights(network(name, samples=part(n=30, seed=1), seed=5))
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(network(name, seed=6)))


@pytest.mark.parametrize("name", NAMES)
def test_building_leaves_the_global_random_state(name):
    before = torch.get_rng_state()
    network(name)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_network_is_in_training_mode_on_the_device_of_its_samples():
    model = network()
    assert all(module.training for module in model.modules())
    assert {tensor.device for tensor in model.state_dict().values()} == {part().pixels.device}


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


def mixed():
    """A network whose modules are in different modes, as when batch normalisation is frozen."""
    model = network().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert set(modes(model).values()) == {True, False}
    return model


@pytest.mark.parametrize("training", [False, True])
def test_mode_holds_inside_and_each_module_returns_to_its_own(training):
    model = mixed()
    found = modes(model)
    with mode(model, training=training):
        assert set(modes(model).values()) == {training}
    assert modes(model) == found


@pytest.mark.parametrize("training", [False, True])
def test_mode_is_restored_after_an_exception_that_passes_on(training):
    model = mixed()
    found = modes(model)
    with pytest.raises(ZeroDivisionError), mode(model, training=training):
        1 / 0  # noqa: B018
    assert modes(model) == found


def test_modes_can_be_nested():
    model = mixed()
    found = modes(model)
    with mode(model, training=False):
        with mode(model, training=True):
            assert set(modes(model).values()) == {True}
        assert set(modes(model).values()) == {False}
    assert modes(model) == found


@pytest.mark.parametrize("name", ["small_cnn", "mlp"])
def test_the_form_for_attacks_has_the_same_outputs_and_gradients(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    part = Part(
        torch.randint(0, 256, (9, 3, 8, 8), generator=random).to(torch.uint8), torch.zeros(9), torch.arange(9), 255
    )
    model = build(SizedModel(name=name, width=6), part, classes=4, seed=0).double()
    with mode(model, training=True):
        model(part.images().double())  # running statistics that are not 0 and 1
    x = part.images().double().requires_grad_()
    expected = model.eval()(x)
    fast = for_attacks(model)
    found = fast(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for logits in (found, expected):
        assert logits.requires_grad
    gradients = [torch.autograd.grad(logits.square().sum(), x)[0] for logits in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())


def test_a_normalisation_that_follows_no_convolution_stays_in_the_form_for_attacks() -> None:
    model = network(samples=part((1, 4, 4)))
    model.body = nn.Sequential(nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Flatten())
    model.head = nn.Linear(64, 3)
    for layer in (model.body[0], model.body[3]):
        layer.running_mean.fill_(0.3)
        layer.running_var.fill_(2.0)
    x = part((1, 4, 4)).images()
    fast = for_attacks(model.eval())
    assert [type(layer).__name__ for layer in fast][1:] == ["BatchNorm2d", "ReLU", "Conv2d", "Flatten", "Linear"]
    torch.testing.assert_close(fast(x), model(x))


class Standardised(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Shifted(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def hooked(layer: nn.Module, *, before: bool = False) -> nn.Module:
    if before:
        layer.register_forward_pre_hook(lambda layer, inputs: (inputs[0] + 1,))
    else:
        layer.register_forward_hook(lambda layer, inputs, output: 2 * output)
    return layer


def with_own_forward(layer: nn.Module) -> nn.Module:
    whole = layer.forward
    layer.forward = lambda x: 2 * whole(x)
    return layer


ODD = {
    "own convolution": lambda conv, bn: (Standardised(1, 4, 3), bn),
    "own normalisation": lambda conv, bn: (conv, Shifted(4)),
    "spectral norm": lambda conv, bn: (nn.utils.parametrizations.spectral_norm(conv), bn),
    "spectral norm of old": lambda conv, bn: (nn.utils.spectral_norm(conv), bn),
    "weight norm": lambda conv, bn: (nn.utils.parametrizations.weight_norm(conv), bn),
    "pruned": lambda conv, bn: (prune.l1_unstructured(conv, "weight", amount=0.5), bn),
    "no statistics": lambda conv, bn: (conv, nn.BatchNorm2d(4, track_running_stats=False)),
    "no scale": lambda conv, bn: (conv, nn.BatchNorm2d(4, affine=False)),
    "hook on the convolution": lambda conv, bn: (hooked(conv), bn),
    "hook before the convolution": lambda conv, bn: (hooked(conv, before=True), bn),
    "hook on the normalisation": lambda conv, bn: (conv, hooked(bn)),
    "hook before the normalisation": lambda conv, bn: (conv, hooked(bn, before=True)),
    "forward of the instance": lambda conv, bn: (with_own_forward(conv), bn),
}


@pytest.mark.parametrize("where", ["layers", "body", "network"])
@pytest.mark.parametrize("layers", ODD.values(), ids=ODD)
def test_layers_that_do_more_than_torchs_have_the_same_outputs_in_the_form_for_attacks(layers, where: str) -> None:
    samples = part((1, 8, 8))
    model = network(samples=samples)
    torch.manual_seed(0)
    model.body = nn.Sequential(*layers(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), nn.ReLU(), nn.Flatten())
    model.head = nn.Linear(144, 3)
    if where != "layers":
        hooked(model if where == "network" else model.body)
    x = samples.images()
    with mode(model, training=True):
        model(x)  # running statistics that are not 0 and 1
    expected = model.eval()(x)
    torch.testing.assert_close(for_attacks(model)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_features_of_a_body_in_mixed_precision_are_float32(precision) -> None:
    model = network().eval()
    x, seen = part().images(), []
    full = model.features(x)
    model.body.register_forward_hook(lambda body, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with lowered(model, precision):
        features = model.features(x)
    assert seen == [(torch.float32, precision)]
    assert features.dtype == torch.float32
    assert not torch.equal(features, full)
    torch.testing.assert_close(features, full, rtol=0.1, atol=0.1)


def test_a_network_of_a_library_or_of_the_users_own_is_built_for_the_images(monkeypatch, module) -> None:
    name = module("def net(): pass")
    shape, body, head = torch.Size([2, 5, 4]), nn.Flatten(), nn.Linear(40, 3)
    asked = []
    monkeypatch.setattr(
        "bat.models.network.library_body", lambda name, shape: asked.append((name, shape)) or (nn.Flatten(), 40)
    )
    monkeypatch.setattr("bat.models.network.own_network", lambda *what: asked.append(what) or (body, head))
    found = build(LibraryModel(name="torchvision:resnet18"), part(shape), classes=3, seed=0)
    assert (found.head.in_features, found.head.out_features) == (40, 3)
    own = OwnModel(name=f"{name}:net")
    found = build(own, part(shape), classes=3, seed=0)
    assert (found.body, found.head) == (body, head)
    assert asked == [("torchvision:resnet18", shape), (own, shape, 3)]


def test_a_network_in_training_mode_or_of_another_kind_is_attacked_itself() -> None:
    part = Part(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2), torch.arange(2), 255)
    model = build(SizedModel(name="small_cnn", width=2), part, classes=2, seed=0)
    assert for_attacks(model.train()) is model

    class Doubled(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    # whose own forward the parts alone would not do
    model.body = Doubled(*model.body)
    assert for_attacks(model.eval()) is model
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1)).eval()
    assert for_attacks(other) is other
