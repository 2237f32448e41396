"""Subset models that a function of the user's own trains."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refusal
from stages import SUBSETS, call, digits

from bat.config import OwnTrainer, parse
from bat.config.specs import SubsetsSpec
from bat.data.dataset import DataSet, Part
from bat.io.tables import unpack
from bat.scores.own import own_answers
from bat.scores.subsets import recorded

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


# -- the function that calls it

SMALL = """
import numpy as np
given = {}

def fit(images, labels, *, seed, classes, kind):
    given.update(images=images, labels=labels, seed=seed, classes=classes)
    return lambda images: getattr(Said, kind)(images.reshape(len(images), -1))

class Said:
    # an image is its three probabilities
    def probabilities(rows): return rows
    def labels(rows): return rows.argmax(1)
    def unsigned(rows): return rows.argmax(1).astype(np.uint8)
    def listed(rows): return rows.argmax(1).tolist()
    def infinite(rows): return np.where(len(rows) == 2, np.inf, rows)
    def logits(rows): return np.log(rows + 0.1)
    def heavy(rows): return 2 * rows
    def narrow(rows): return rows[:, 1:]
    def numbers(rows): return rows.argmax(1) * 1.0
    def few(rows): return rows.argmax(1)[1:]
    def low(rows): return rows.argmax(1) - 1
    def high(rows): return rows.argmax(1) + 1
    def fails(rows): return rows[len(rows)]

def nothing(images, labels, *, seed, classes, kind): return kind
def raises(images, labels, *, seed, classes, kind): return kind[seed]
"""
FORM = (
    "give def fit(images, labels, *, seed, classes), which returns a function from images (n, c, h, w), float32 numpy "
    "in [0, 1], to probabilities (n, classes) or labels (n,)"
)


def part(*rows):
    """Samples of a label and an image of three pixels each."""
    labels, pixels = zip(*((label, [[image]]) for label, *image in rows), strict=True)
    pixels = torch.tensor(pixels, dtype=torch.uint8)
    return Part(pixels, torch.tensor(labels), torch.arange(len(rows)), pixel_max=16)


TRAIN = part((0, 8, 4, 4), (1, 16, 0, 0), (2, 4, 5, 7))
DATA = DataSet(TRAIN, part((2, 1, 15, 0), (1, 1, 15, 0)), part((2, 0, 4, 12)), classes=3)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A function that trains on the last two samples by a function of a module of its own, and returns the answers."""
    (tmp_path / "users_small.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def told(kind, name="fit"):
        trainer = OwnTrainer(name=f"users_small:{name}", options={"kind": kind})
        return own_answers(trainer, TRAIN.take(torch.tensor([1, 2])), DATA, seed=2**32 + 5)

    yield told
    sys.modules.pop("users_small", None)


def test_a_function_is_given_its_subset_and_a_seed_of_32_bits(told):
    told("labels")
    given = sys.modules["users_small"].given
    assert (given["seed"], given["classes"], given["labels"].tolist()) == (5, 3, [1, 2])
    assert given["images"].dtype == np.float32
    assert given["images"].tolist() == [[[[1.0, 0.0, 0.0]]], [[[0.25, 0.3125, 0.4375]]]]


@pytest.mark.parametrize("kind", ["probabilities", "labels", "unsigned", "listed"])
def test_answers_are_those_of_the_predictor_for_each_split(told, kind):
    found = {name: values.tolist() for name, values in told(kind).items()}
    assert found == {
        "correct_train": [True, False, True],
        "p_train": [0.5, 0.0, 0.4375] if kind == "probabilities" else [1.0, 0.0, 1.0],
        "class_train": [0, 0, 2],
        "correct_validation": [False, True],
        "p_validation": [0.0, 0.9375] if kind == "probabilities" else [0.0, 1.0],
        "class_validation": [1, 1],
        "correct_test": [True],
        "p_test": [0.75] if kind == "probabilities" else [1.0],
        "class_test": [2],
    }


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("infinite", "its predictor returned NaN or infinity for validation samples"),
        ("narrow", "its predictor returned float32 of shape (3, 2) for 3 train samples of 3 classes"),
        ("numbers", "its predictor returned float64 of shape (3,) for 3 train samples of 3 classes"),
        ("few", "its predictor returned int64 of shape (2,) for 3 train samples of 3 classes"),
        ("low", "its predictor returned labels from -1 to 1"),
        ("high", "its predictor returned labels from 1 to 3"),
        (
            "fails",
            "its predictor fails (IndexError: index 3 is out of bounds for axis 0 with size 3, users_small.py line {})",
        ),
    ],
)
def test_what_is_no_answer_is_said_in_whole(told, kind, message):
    line = 1 + SMALL.splitlines().index("    def fails(rows): return rows[len(rows)]")
    assert refusal(told, kind) == f"trainer users_small:fit: {message.format(line)}: {FORM}"


@pytest.mark.parametrize(("kind", "low", "high"), [("logits", "-2.30259", "0.0953102"), ("heavy", "0", "2")])
def test_floats_that_are_no_probabilities_are_refused(told, kind, low, high):
    assert refusal(told, kind) == (
        f"trainer users_small:fit: its predictor returned {low} to {high} for train samples, rows that do not add up "
        "to 1: give probabilities (a softmax of logits), or labels"
    )


def test_a_function_that_returns_no_predictor_is_refused(told):
    assert refusal(told, "text", "nothing") == f"trainer users_small:nothing: returned a str: {FORM}"
    line = len(SMALL.splitlines())
    error = f"IndexError: string index out of range, users_small.py line {line}"
    assert refusal(told, "text", "raises") == f"users_small:raises: the function fails ({error}): {FORM}"


def test_what_is_recorded_of_a_trainer_are_its_answers(told):
    expected = told("probabilities")
    trainer = {"name": "users_small:fit", "options": {"kind": "probabilities"}}
    spec = parse(SubsetsSpec, SUBSETS | {"first_model": 0, "model": None, "trainer": trainer}, "")
    found = recorded(DATA, TRAIN.take(torch.tensor([1, 2])), spec, seed=7, what="")
    assert {name: values.tolist() for name, values in found.items()} == {
        name: values.tolist() for name, values in expected.items()
    }
    given = sys.modules["users_small"].given
    assert (given["seed"], given["labels"].tolist()) == (7, [1, 2])
