"""Data sets that a function of the user's own returns."""

import numpy as np
import pytest
import torch
from refusals import refusal

from bat.config import Npz, OwnData
from bat.data.dataset import load_source
from bat.data.sources import open_source

TEXT = """
import numpy as np
random = np.random.default_rng(0)
X, Y = random.integers(0, 256, (60, 5, 4, 3), dtype=np.uint8), np.arange(60) % 3
GOOD = {"x_train": X[:40], "y_train": Y[:40], "x_test": X[40:], "y_test": Y[40:]}

def data(): return GOOD | {"class_names": ["a", "b", "c"]}
def floats(): return GOOD | {"x_train": np.maximum(X[:40] - 0.4, 0) / 255, "x_test": X[40:] / np.float32(255)}
def lists(): return {key: value.tolist() for key, value in GOOD.items() if key[0] == "y"} | {
    key: value for key, value in GOOD.items() if key[0] == "x"}
def unnamed(): return GOOD | {"class_names": None}
def pool(): return {"x_train": X / 255, "y_train": Y}
def wide(): return GOOD | {"x_test": X[40:] / 170}
def nan(): return GOOD | {"x_test": X[40:] / np.nan}
def flat(): return GOOD | {"x_train": X[:40].reshape(40, -1)}
def short(): return GOOD | {"y_test": Y[:40]}
def gap(): return GOOD | {"y_train": Y[:40] + 1}
def ragged(): return GOOD | {"y_test": [[0], [1, 2]]}
def text(): return GOOD | {"y_train": ["a"] * 40}
def less(): return {"x_train": X}
def more(): return GOOD | {"x_val": X}
def pair(): return X, Y
def raises(): return GOOD["x"]
def wants(path): return GOOD
"""
SPLIT = {"train_samples": 20, "validation_samples": 10, "split_seed": 0}


def load(name, **options):
    return load_source(OwnData(name=name, **SPLIT, **options), subsample=1.0)


@pytest.mark.parametrize("function", ["data", "floats", "lists", "unnamed"])
def test_arrays_are_what_the_same_arrays_in_a_file_are(module, tmp_path, function):
    users = module(TEXT)
    found = load(f"{users}:{function}")
    scope = {}
    exec(TEXT, scope)
    np.savez(tmp_path / "a.npz", **scope["GOOD"])
    expected = load_source(Npz(name="npz", path=str(tmp_path / "a.npz"), **SPLIT), subsample=1.0)
    assert found.digest() == expected.digest()
    assert found.train.pixels.shape == (20, 3, 5, 4)
    assert found.class_names == (("a", "b", "c") if function == "data" else ("0", "1", "2"))
    assert torch.equal(found.test.index, torch.arange(20))


def test_a_pool_has_no_test_part(module):
    source = open_source(OwnData(name=f"{module(TEXT)}:pool", **SPLIT))
    assert source.test is None
    assert len(source.train.labels) == 60


def test_the_function_is_given_the_options(module):
    assert len(load(f"{module(TEXT)}:wants", options={"path": "here"}).test) == 20


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wide", "x_test has values from 0 to 1.5: give floats in [0, 1], or uint8"),
        ("nan", "x_test has values from nan to nan"),
        ("flat", "x_train has shape (40, 60): give (n, h, w)"),
        ("short", "y_test is int64 of shape (40,): give integers of shape (20,)"),
        ("gap", "y_train has no class 0, but the highest is 3"),
        ("ragged", "y_test is no array (ValueError: "),
        ("text", "y_train is <U1 of shape (40,): give integers"),
        ("less", "has no y_train: give def data(), which returns a dict"),
        ("more", "has 'x_val', which is unknown"),
        ("pair", "returned a tuple: give def data()"),
        ("raises", "the function fails (KeyError: 'x', users_"),
        ("wants", "the function wants arguments (missing a required argument: 'path')"),
    ],
)
def test_what_is_no_data_set_is_one_line(module, function, message):
    name = f"{module(TEXT)}:{function}"
    said = refusal(load, name)
    assert said.startswith((f"data {name}: ", name))
    assert message in said
    assert ("give def data()" in said) == (function in ("ragged", "less", "more", "pair", "raises", "wants"))
