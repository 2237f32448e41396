"""Subset models that a function of the user's own trains."""

import numpy as np
import pandas as pd
import pytest
from stages import SUBSETS, call, digits

from bat.io.tables import unpack

TEXT = """
import numpy as np
from sklearn.linear_model import LogisticRegression

def fit(images, labels, *, seed, classes, kind="labels"):
    assert images.dtype == np.float32 and images.shape[1:] == (1, 8, 8) and 0 <= images.min() <= images.max() == 1
    assert labels.dtype == np.int64 and len(labels) == len(images) and 0 <= seed < 2**32 and classes == 10
    model = LogisticRegression(random_state=seed).fit(images.reshape(len(images), -1), labels)
    of = model.predict if kind == "labels" else model.predict_proba
    return lambda images: of(images.reshape(len(images), -1))

def seeded(images, labels, *, seed, classes): return lambda images: np.full(len(images), seed % classes)
def nan(images, labels, *, seed, classes): return lambda images: np.full((len(images), 10), np.nan)
def narrow(images, labels, *, seed, classes): return lambda images: np.zeros((len(images), 9))
def text(images, labels, *, seed, classes): return lambda images: ["a"] * len(images)
def floats(images, labels, *, seed, classes): return lambda images: np.zeros(len(images))
def nothing(images, labels, *, seed, classes): return None
def fails(images, labels, *, seed, classes): return lambda images: images[0] / labels
def raises(images, labels, *, seed, classes): return labels[10**6]
def plain(images, labels): return None
"""


def shard(folder, name, **options):
    trainer = {"name": name, "options": options}
    spec = SUBSETS | {"first_model": 0, "models": 3, "model": None, "trainer": trainer}
    call("subsets", folder, spec=spec, data="data.safetensors", shard="shard.parquet")
    return pd.read_parquet(folder / "shard.parquet")


@pytest.fixture
def folder(tmp_path, module):
    call("data", tmp_path, **digits(), data="data.safetensors")
    return tmp_path, module(TEXT)


def test_labels_and_probabilities_of_scikit_learn_are_recorded_alike(folder):
    path, users = folder
    labels = shard(path, f"{users}:fit")
    (path / "shard.parquet").unlink()
    said = shard(path, f"{users}:fit", kind="probabilities")
    p = [name for name in labels if name.startswith("p_")]
    pd.testing.assert_frame_equal(labels.drop(columns=p), said.drop(columns=p))
    # a label alone is a probability of 0 or 1
    assert [np.unique(np.frombuffer(labels[name][0], "<f2")).tolist() for name in p] == 3 * [[0, 1]]
    known = np.frombuffer(said["p_test"][0], "<f2")
    right = unpack(said["correct_test"], 1797 - 180, "shard")[0]
    assert known[right].mean() > 0.5 > known[~right].max()
    inside = unpack(labels["in_subset"], 120, "shard")
    right = unpack(labels["correct_train"], 120, "shard")
    assert right[inside].mean() > 0.98 > right[~inside].mean() > 0.6
    assert unpack(labels["correct_test"], 1797 - 180, "shard").mean() > 0.6
    assert np.unique(labels["seed"]).size == 3


def test_each_model_has_a_seed_of_its_own(folder):
    path, users = folder
    said = unpack(shard(path, f"{users}:seeded")["correct_train"], 120, "shard")
    assert len({row.tobytes() for row in said}) == 3


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nan", "its predictor returned NaN or infinity for train samples"),
        (
            "narrow",
            "its predictor returned float64 of shape (120, 9) for 120 train samples of 10 classes: give def",
        ),
        ("text", "its predictor returned <U1 of shape (120,)"),
        ("floats", "its predictor returned float64 of shape (120,)"),
        ("nothing", "returned a NoneType: give def fit(images, labels, *, seed, classes)"),
        ("fails", "its predictor fails (ValueError: operands could not be broadcast"),
        ("raises", "the function fails (IndexError: "),
        ("plain", "the function does not take what it is given"),
    ],
)
def test_a_trainer_that_returns_something_else_is_one_line(folder, function, message, capsys):
    path, users = folder
    with pytest.raises(SystemExit) as stopped:
        shard(path, f"{users}:{function}")
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert f"{users}:{function}" in line
    assert message in line
