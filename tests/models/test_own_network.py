"""Networks of the user's own: split in body and head, or refused in one line."""

import sys

import pytest
import torch
from refusals import refusal
from torch import nn

from bat.config import OwnModel, SizedModel
from bat.data.dataset import Part
from bat.models import build
from bat.models.own import check_gradients

PART = Part(torch.arange(2 * 16, dtype=torch.uint8).reshape(2, 1, 4, 4), torch.arange(2), torch.arange(2), 255)
TEXT = """
import torch
from torch import nn

def mlp(*, shape, classes, units=8):
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, units), nn.ReLU(),
                         nn.Linear(units, units), nn.ReLU(), nn.Linear(units, classes))

class Block(nn.Module):
    def __init__(self, classes, after=lambda z: z):
        super().__init__()
        self.norm, self.fc, self.after = nn.BatchNorm2d(1), nn.Linear(16, classes), after
    def forward(self, x):
        return self.after(self.fc(self.norm(x).flatten(1)))

SEEN = []

class Watching(Block):
    def forward(self, x):
        SEEN.append(x)
        return super().forward(x)

class Reading(Block):
    def forward(self, x):
        return super().forward(x) * self.fc.out_features

class More(Block):
    def get_extra_state(self): return "a text"
    def set_extra_state(self, state): pass

def block(*, shape, classes): return Block(classes)
def nested(*, shape, classes): return nn.Sequential(Block(classes))
def watching(*, shape, classes): return Watching(classes)
def reading(*, shape, classes): return Reading(classes)
def more(*, shape, classes): return More(classes)
def cut(*, shape, classes): return Block(classes + 2, lambda z: z[:, :classes])
def scaled(*, shape, classes): return Block(classes, lambda z: 1.5 * z)
def double(*, shape, classes): return Block(classes, lambda z: z.double())
def softmax(*, shape, classes): return Block(classes, lambda z: z.softmax(1))
def nan(*, shape, classes): return Block(classes, lambda z: z * float("nan"))
def pair(*, shape, classes): return Block(classes, lambda z: (z, z))
def narrow(*, shape, classes): return Block(classes + 1)
def raises(*, shape, classes): return Block(classes, lambda z: 1 / 0)
def bare(*, shape, classes): return nn.Linear(4, classes)
inferred = torch.inference_mode()(block)
def text(*, shape, classes): return "a network"
def positional(shape): return None
"""


def test_a_network_is_built_as_the_same_one_of_this_package_and_leaves_the_random_state(module):
    name = module(TEXT)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = build(OwnModel(name=f"{name}:mlp", options={"units": 5}), PART, classes=3, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    expected = build(SizedModel(name="mlp", width=5), PART, classes=3, seed=7)
    assert found.state_dict().keys() == expected.state_dict().keys()
    x = PART.images()
    assert torch.equal(found(x), expected(x))
    assert torch.equal(found.features(x), expected.features(x))


@pytest.mark.parametrize("function", ["block", "nested"])
def test_the_statistics_of_a_network_are_as_new_and_it_trains(module, function):
    found = build(OwnModel(name=f"{module(TEXT)}:{function}"), PART, classes=3, seed=0)
    body = found.body if function == "block" else found.body[0]
    assert found.training
    assert int(body.norm.num_batches_tracked) == 0
    assert found.features(PART.images()).shape == (2, 16)
    assert found(PART.images()).shape == (2, 3)


def test_a_network_is_tried_on_the_same_images_whatever_the_seed(module):
    name = module(TEXT)
    for seed in (0, 1):
        build(OwnModel(name=f"{name}:watching"), PART, classes=3, seed=seed)
    first, *others = sys.modules[name].SEEN
    assert len(others) == 3
    assert all(torch.equal(first, x) for x in others)
    assert first.shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("cut", "its last nn.Linear, fc, is not its last layer"),
        ("scaled", "its last nn.Linear, fc, is not its last layer"),
        ("reading", "fails on images (2, 1, 4, 4) (AttributeError: "),
        ("double", "fails on images (2, 16) (RuntimeError: "),
        ("more", "its state_dict holds more than tensors: keep what it needs in parameters and buffers"),
        ("softmax", "its last nn.Linear, fc, is not its last layer"),
        ("nan", "its outputs are NaN or infinite before any training"),
        ("pair", "its output for 2 images is no tensor but a tuple, not (2, 3)"),
        ("narrow", "its output for 2 images is (2, 4), not (2, 3)"),
        ("raises", "fails on images (2, 1, 4, 4) (ZeroDivisionError: division by zero"),
        ("bare", "has no layers that end in one nn.Linear"),
        ("inferred", "made under torch.inference_mode, so that it has no gradients: make it outside"),
        ("text", "returned str, not a torch.nn.Module"),
        ("positional", "the function does not take what it is given"),
    ],
)
def test_a_network_that_is_none_is_one_line(module, function, message):
    model = OwnModel(name=f"{module(TEXT)}:{function}")
    said = refusal(lambda: build(model, PART, classes=3, seed=0))
    assert said.startswith((f"model {model.name}: ", model.name))
    assert message in said
    assert "give def network(*, shape, classes)" in said or function in ("nan", "more", "inferred")


def test_code_that_leaves_inference_mode_on_is_refused():
    with torch.inference_mode():
        said = refusal(check_gradients, nn.Linear(1, 1).eval(), "users:net")
    assert said == "users:net: made under torch.inference_mode, so that it has no gradients: make it outside"
    check_gradients(nn.BatchNorm2d(1), "users:net")
