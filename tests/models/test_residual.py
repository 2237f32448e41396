"""Residual networks against formulas written here anew, and against the numbers of parameters that others publish."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from refusals import refusal
from torch import nn

from bat.config import ResidualModel, WideModel
from bat.data.dataset import Part
from bat.models import build, for_attacks, mode
from bat.models.network import _RESIDUAL
from bat.models.residual import wide_resnet

NAMES = ["resnet9", "resnet18", "preact_resnet18", "resnet50", "wrn_28_10", "wrn_34_10"]
# With a head of 10 classes and 3 channels. resnet18 and resnet50 as in kuangliu's pytorch-cifar, counted so by
# NNI among others; wrn_28_10 as pytorchcv asserts it (Zagoruyko and Komodakis 2016: 36.5 M); preact_resnet18 and
# wrn_34_10 by the formula below; resnet9 by its own.
PARAMETERS = {
    "resnet9": 2_274_890,
    "resnet18": 11_173_962,
    "preact_resnet18": 11_172_170,
    "resnet50": 23_520_842,
    "wrn_28_10": 36_479_194,
    "wrn_34_10": 46_160_474,
}


def part(shape=(3, 8, 8), n=4):
    pixels = torch.tensor(np.random.default_rng(0).integers(0, 256, (n, *shape)), dtype=torch.uint8)
    return Part(pixels, torch.arange(n) % 2, torch.arange(n), 255)


def parameters(name, *, channels, classes):
    with torch.device("meta"):
        body, width = _RESIDUAL[name](channels, 16 if name.startswith("wrn") else 64)
        head = nn.Linear(width, classes)
    return sum(weights.numel() for weights in [*body.parameters(), *head.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_networks_have_the_published_numbers_of_parameters(name):
    assert parameters(name, channels=3, classes=10) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_all_layers_are_as_wide_as_the_first_says(name):
    """Weights of convolutions grow with the square of the width, but for those of the first."""
    published = 16 if name.startswith("wrn") else 64
    kinds = WideModel if name.startswith("wrn") else ResidualModel
    assert kinds(name=name) == kinds(name=name, width=published)

    def shapes(width):
        with torch.device("meta"):
            return [
                tuple(weights.shape[:2]) for weights in _RESIDUAL[name](3, width)[0].parameters() if weights.ndim > 1
            ]

    first, *others = shapes(4)
    full, *all_others = shapes(published)
    assert (first, full) == ((4, 3), (published, 3))
    assert [(a * published // 4, b * published // 4) for a, b in others] == all_others


def preactivation_parameters(stem, widths, blocks, classes):
    count, inputs = 27 * stem, stem
    for group, width in enumerate(widths):
        for block in range(blocks):
            count += 2 * inputs + 9 * inputs * width + 2 * width + 9 * width * width
            count += inputs * width if (group and not block) or inputs != width else 0
            inputs = width
    return count + 2 * inputs + inputs * classes + classes


def test_the_formula_of_preactivation_networks_gives_the_same_numbers():
    assert preactivation_parameters(64, (64, 128, 256, 512), 2, 10) == PARAMETERS["preact_resnet18"]
    assert preactivation_parameters(16, (160, 320, 640), 4, 10) == PARAMETERS["wrn_28_10"]
    assert preactivation_parameters(16, (160, 320, 640), 5, 10) == PARAMETERS["wrn_34_10"]


def test_the_formula_of_resnet9_gives_the_same_number():
    # inputs, outputs, side of the kernel
    layers = [(3, 64, 3), (64, 128, 5), *2 * [(128, 128, 3)], (128, 256, 3), *2 * [(256, 256, 3)], (256, 128, 3)]
    count = sum(inputs * outputs * side**2 + 2 * outputs for inputs, outputs, side in layers)
    assert count + 128 * 10 + 10 == PARAMETERS["resnet9"]


def test_wrn_28_10_with_100_classes_has_36_5_million_parameters():
    assert parameters("wrn_28_10", channels=3, classes=100) == 36_536_884


# -- the networks once more, each as a formula of its weights


def convolve(weights, x, stride=1):
    size = weights.shape[-1]
    return F.conv2d(x, weights, stride=stride, padding=(size - 1) // 2)


def normalise(at, place, x):
    """Batch normalisation in evaluation mode, from its definition."""
    mean, variance, scale, shift = (
        at[f"{place}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def resnet(at, x, *, blocks, convolutions):
    """ResNet as in He et al. 2016 (1512.03385), the stride in a bottleneck's 3 x 3 convolution."""
    x = normalise(at, "body.bn1", convolve(at["body.conv1.weight"], x)).relu()
    for group, count in enumerate(blocks, start=1):
        for block in range(count):
            place = f"body.layer{group}.{block}"
            stride = 2 if group > 1 and block == 0 else 1
            changed = x
            for number in range(1, convolutions + 1):
                weights = at[f"{place}.conv{number}.weight"]
                strided = number == (1 if convolutions == 2 else 2)
                changed = normalise(at, f"{place}.bn{number}", convolve(weights, changed, stride if strided else 1))
                if number < convolutions:
                    changed = changed.relu()
            if f"{place}.downsample.0.weight" in at:
                x = normalise(at, f"{place}.downsample.1", convolve(at[f"{place}.downsample.0.weight"], x, stride))
            x = (x + changed).relu()
    return x


def preactivation(at, x, *, groups, blocks):
    """Pre-activation residual network as in He et al. 2016 (1603.05027) and Zagoruyko and Komodakis 2016."""
    x = convolve(at["body.0.weight"], x)
    for number in range(1, groups * blocks + 1):
        place = f"body.{number}"
        stride = 2 if number > 1 and (number - 1) % blocks == 0 else 1
        active = normalise(at, f"{place}.norm1", x).relu()
        shortcut = convolve(at[f"{place}.shortcut.weight"], active, stride) if f"{place}.shortcut.weight" in at else x
        inner = normalise(at, f"{place}.norm2", convolve(at[f"{place}.conv1.weight"], active, stride)).relu()
        x = shortcut + convolve(at[f"{place}.conv2.weight"], inner)
    return normalise(at, f"body.{groups * blocks + 1}", x).relu()


def resnet9(at, x):
    """The network of FFCV's CIFAR-10 example, its factor of 0.2 included; no place left to take a mean over."""

    def layer(place, x, stride=1):
        normalisation = f"{place[:-1]}{int(place[-1]) + 1}"
        return normalise(at, f"body.{normalisation}", convolve(at[f"body.{place}.weight"], x, stride)).relu()

    x = layer("3", layer("0", x), stride=2)
    x = x + layer("6.3", layer("6.0", x))
    x = F.max_pool2d(layer("7", x), 2)
    x = x + layer("11.3", layer("11.0", x))
    # without padding: the outermost places of one with padding are gone
    x = layer("12", x)[:, :, 1:-1, 1:-1]
    return 0.2 * x.amax((2, 3), keepdim=True)


FORMULAS = {
    "resnet9": resnet9,
    "resnet18": lambda at, x: resnet(at, x, blocks=(2, 2, 2, 2), convolutions=2),
    "resnet50": lambda at, x: resnet(at, x, blocks=(3, 4, 6, 3), convolutions=3),
    "preact_resnet18": lambda at, x: preactivation(at, x, groups=4, blocks=2),
    "wide": lambda at, x: preactivation(at, x, groups=3, blocks=2),  # depth 16
}


def lively(model):
    """Give normalisation statistics and factors of its own, so that none can be left out unseen."""
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=random))
    return model


@pytest.mark.parametrize(("channels", "width"), [(3, 64), (1, 16), (3, 5)])
@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_logits_equal_the_formula_of_the_network(name, channels, width, monkeypatch):
    monkeypatch.setitem(_RESIDUAL, "wrn_28_10", lambda channels, width: wide_resnet(16, 2, channels, width))
    samples = part((channels, 16, 16), n=2)
    plan = WideModel(name="wrn_28_10", width=width) if name == "wide" else ResidualModel(name=name, width=width)
    model = build(plan, samples, classes=5, seed=0)
    model = lively(model).double().eval()
    weights, x = model.state_dict(), samples.images().double()
    with torch.no_grad():
        features = FORMULAS[name](weights, (x - weights["mean"]) / weights["std"]).mean((2, 3))
        logits = features @ weights["head.weight"].T + weights["head.bias"]
        torch.testing.assert_close(model.features(x), features, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model(x), logits, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(for_attacks(model)(x), logits, rtol=1e-9, atol=1e-9)
    assert logits.std() > 1e-3


@pytest.mark.parametrize("shape", [(3, 10, 32), (1, 32, 10)], ids=str)
def test_images_too_small_for_resnet9_are_refused(shape):
    build(ResidualModel(name="resnet9"), part((1, 11, 11)), classes=3, seed=0)(part((1, 11, 11)).images())
    message = refusal(lambda: build(ResidualModel(name="resnet9"), part(shape), classes=3, seed=0))
    assert f"at least 11 x 11 pixels, not {shape[1]} x {shape[2]}" in message


# -- what the training loop and the attacks lean on


@pytest.fixture(scope="module")
def resnet18():
    return build(ResidualModel(name="resnet18"), part(), classes=3, seed=5)


def test_weights_depend_on_the_seed_alone(resnet18):
    torch.manual_seed(9)
    state = torch.get_rng_state()
    again = build(ResidualModel(name="resnet18"), part(n=6), classes=3, seed=5).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other = build(ResidualModel(name="resnet18"), part(), classes=3, seed=6).state_dict()
    for name, weights in resnet18.named_parameters():
        assert torch.equal(weights, again[name])
        assert weights.ndim == 1 or not torch.equal(weights, other[name])


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 64), ("resnet18", 16), ("resnet50", 16), ("preact_resnet18", 16), ("wrn_28_10", 2)]
)
def test_convolutions_start_from_hes_distribution(name, width):
    torch.manual_seed(0)
    for module in _RESIDUAL[name](3, width)[0].modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            leaving = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / leaving) ** 0.5, rel=0.1)
            assert module.weight.abs().max() > 2.2 * (2 / leaving) ** 0.5  # normal, not uniform


def test_a_resnet_of_width_64_is_torchvisions_but_for_its_first_layer():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.manual_seed(0)
    mine = _RESIDUAL["resnet18"](3, 64)[0].state_dict()
    assert set(theirs) - set(mine) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if name != "conv1.weight")


def test_a_training_step_reaches_every_weight_and_statistic(resnet18):
    before = {name: tensor.clone() for name, tensor in resnet18.state_dict().items()}
    with mode(resnet18, training=True):
        F.cross_entropy(resnet18(part().images()), part().labels).backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in resnet18.parameters())
    after = resnet18.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before if "running" in name)
    resnet18.load_state_dict(before)


def test_evaluation_leaves_statistics_and_does_not_depend_on_the_batch(resnet18):
    before = {name: tensor.clone() for name, tensor in resnet18.state_dict().items()}
    x = part().images()
    with mode(resnet18, training=False), torch.no_grad():
        together, alone = resnet18(x), torch.cat([resnet18(image[None]) for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in resnet18.state_dict().items())
    with mode(resnet18, training=True), torch.no_grad():
        assert not torch.allclose(resnet18(x), together)
    resnet18.load_state_dict(before)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 1, 1), (2, 9, 7)], ids=str)
def test_any_image_size_and_number_of_channels(shape):
    samples = part(shape)
    model = build(ResidualModel(name="preact_resnet18"), samples, classes=3, seed=0).eval()
    with torch.no_grad():
        assert model(samples.images()).shape == (4, 3)
        assert model.features(samples.images()).shape == (4, 512)


def test_building_takes_seconds_at_most():
    start = time.process_time()
    build(WideModel(name="wrn_28_10"), part(), classes=10, seed=0)
    assert time.process_time() - start < 60  # about 1; with weights drawn one by one, minutes
