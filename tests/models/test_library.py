"""Networks of torchvision and timm as bodies of this package's networks."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from methods import NATURAL
from refusals import refusal
from runs import RECIPE
from torch import nn

from bat.config import LibraryModel
from bat.data.dataset import Part
from bat.models import build, library
from bat.training.loop import fit
from bat.training.losses import objective


def part(shape=(3, 32, 32), n=4):
    pixels = torch.tensor(np.random.default_rng(0).integers(0, 256, (n, *shape)), dtype=torch.uint8)
    return Part(pixels, torch.arange(n) % 2, torch.arange(n), 255)


def network(name, samples=None, seed=0):
    return build(LibraryModel(name=name), samples or part(), classes=5, seed=seed)


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("weights must not be downloaded")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


# the last linear layer of each, by the name that torchvision gives it
HEADS = {
    "resnet18": "fc",
    "mobilenet_v3_small": "classifier.3",
    "shufflenet_v2_x0_5": "fc",
    "densenet121": "classifier",
    "swin_t": "head",
}


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_network_of_torchvision_with_the_same_weights_gives_the_same_logits(name):
    model = network(f"torchvision:{name}").eval()
    theirs = torchvision.models.get_model(name, weights=None, num_classes=5)
    own = {f"{HEADS[name]}.{kind}": getattr(model.head, kind) for kind in ("weight", "bias")}
    theirs.load_state_dict(model.body.state_dict() | own)
    x = part().images()
    with torch.no_grad():
        logits = theirs.eval()((x - model.mean) / model.std)
        torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(model(x), model.head(model.features(x)))
    assert logits.std() > 0


def test_grey_images_are_repeated():
    samples = part((1, 32, 32))
    model = network("torchvision:shufflenet_v2_x0_5", samples).eval()
    x = samples.images()
    with torch.no_grad():
        expected = model.head(model.body[1](((x - model.mean) / model.std).repeat(1, 3, 1, 1)))
        torch.testing.assert_close(model(x), expected)


def test_networks_with_further_heads_are_built_without_them():
    model = network("torchvision:googlenet")
    assert model(part().images()).shape == (4, 5)
    assert model.training


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("torchvision:resnet19", (3, 32, 32), "no such network in that library (near: resnet18"),
        ("torchvision:qqqq", (3, 32, 32), "no such network in that library (near: none is near)"),
        # whose constructor would fetch a trained backbone
        ("torchvision:fasterrcnn_resnet50_fpn", (3, 32, 32), "no such network in that library (near: "),
        ("torchvision:squeezenet1_1", (3, 32, 32), "does not end in one linear layer: choose another network"),
        ("torchvision:vit_b_32", (3, 32, 32), "does not take images (3, 32, 32)"),
        ("torchvision:resnet18", (4, 32, 32), "takes images of 3 channels or grey ones, not of 4"),
        ("timm:resnet19", (3, 32, 32), "no such network in that library (near: resnet18"),
        ("timm:vit_tiny_patch16_224", (3, 32, 32), "does not take images (3, 32, 32)"),
    ],
)
def test_what_cannot_be_used_is_refused(name, shape, message):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    line = refusal(network, name, part(shape))
    assert line.startswith(f"model {name}: {message}")
    assert "does not take" not in line or line.endswith("): choose another network")
    assert " (" in message or line == f"model {name}: {message}"


class Body(nn.Module):
    """A body that does what it is told, and remembers what it was tried on."""

    def __init__(self, act):
        super().__init__()
        self.act, self.seen = act, []

    def forward(self, x):
        self.seen.append((self.training, torch.is_grad_enabled(), x))
        return self.act(x)


def fails(x):
    raise RuntimeError("two\n  lines")


END = "does not end in one linear layer: choose another network"


@pytest.mark.parametrize(
    ("act", "width", "said"),
    [
        (lambda x: x.flatten(1)[:, :7], 7, None),
        (lambda x: x.flatten(1)[:, :7], None, None),
        (lambda x: x.flatten(1)[:, :7], 8, END),
        (lambda x: x, None, END),
        (lambda x: (x.flatten(1), x), None, END),
        (fails, None, "does not take images (3, 4, 5) (two lines): choose another network"),
    ],
)
def test_a_body_is_tried_on_black_images(act, width, said, monkeypatch):
    body = Body(act)
    monkeypatch.setattr(library, "_torchvision", lambda name, channels: (body, width) if (name, channels) else None)
    shape = torch.Size([3, 4, 5])
    if said is None:
        assert library.library_body("torchvision:some:name", shape) == (body, 7)
        assert body.training
    else:
        assert refusal(library.library_body, "torchvision:some:name", shape) == f"model torchvision:some:name: {said}"
    ((training, gradients, x),) = body.seen
    assert (training, gradients) == (False, False)
    assert torch.equal(x, torch.zeros(2, 3, 4, 5))


def test_torchvision_is_asked_for_untrained_networks_with_one_head(monkeypatch):
    asked = {}

    def made(name, **options):
        asked[name] = options
        return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)))

    monkeypatch.setattr(torchvision.models, "get_model", made)
    further = {"aux_logits": False, "init_weights": True}
    expected = {"googlenet": further, "inception_v3": further, "resnet18": {}}
    for name in expected:
        network, width = library._torchvision(name, 3)
        assert width == 4
        assert [type(layer).__name__ for layer in network[1]] == ["Linear", "ReLU", "Identity"]
    assert asked == {name: {"weights": None} | options for name, options in expected.items()}


def test_a_name_that_is_not_known_is_told_with_those_near_it():
    library._check_name("timm:resnet18", "resnet18", ["resnet18"])
    assert refusal(library._check_name, "timm:resnet19.a", "resnet19", ["resnet18", "vgg", "resnet152"]) == (
        "model timm:resnet19.a: no such network in that library (near: resnet18, resnet152)"
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_network_of_timm_with_the_same_weights_gives_the_same_logits(channels):
    timm = pytest.importorskip("timm")
    samples = part((channels, 32, 32))
    model = network("timm:resnet18.a1_in1k", samples).eval()
    theirs = timm.create_model("resnet18", pretrained=False, num_classes=5, in_chans=channels)
    theirs.load_state_dict(model.body.state_dict() | {"fc.weight": model.head.weight, "fc.bias": model.head.bias})
    x = samples.images()
    with torch.no_grad():
        expected = theirs.eval()((x - model.mean) / model.std)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_without_timm_its_networks_are_refused_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    expected = "model timm:resnet18: timm is not installed: pip install timm"
    assert refusal(network, "timm:resnet18") == expected


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "torchvision:efficientnet_b0"])
def test_layers_that_draw_random_numbers_follow_the_seed(name):
    """Dropout and stochastic depth read torch's global random state."""

    def weights(seed, before):
        torch.manual_seed(before)
        model = network(name)
        assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
        for _ in fit(
            model, part(n=8), objective=objective(NATURAL), recipe=replace(RECIPE, batch_size=4), seed=seed, what="here"
        ):
            pass
        return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])

    first = weights(1, 0)
    state = torch.get_rng_state()
    assert torch.equal(first, weights(1, 5))
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
