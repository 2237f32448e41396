"""The public API: what a notebook imports, and no more. Its experiment is that of tests/workflow."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refusal
from torch import nn

import bat
from bat.cli import main

torch.set_num_threads(1)


def test_importing_the_package_imports_no_library_and_the_names_are_there():
    code = (
        "import sys, bat; before = sorted({'torch', 'pandas', 'numpy', 'pydantic'} & sys.modules.keys()); "
        "print(before, [callable(getattr(bat, name)) for name in bat.__all__ if name != '__version__'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[True,", "True,", "True,", "True]"]
    with pytest.raises(AttributeError, match=r"^module 'bat' has no attribute 'lod'$"):
        bat.lod  # noqa: B018


@pytest.mark.parametrize("name", ["attack", "bat_weights", "memorization"])
def test_the_examples_of_the_docstrings_hold(name):
    public = getattr(bat, name)
    module = importlib.import_module(public.__module__)
    (example,) = doctest.DocTestFinder(recurse=False).find(public, name, module=module)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_an_experiment_that_is_not_there_or_not_finished_is_one_line(tmp_path):
    assert refusal(bat.load, tmp_path / "none") == (
        f"{tmp_path}/none: no such folder: give that of an experiment, as in results/digits"
    )
    assert refusal(bat.load, tmp_path) == (
        f"{tmp_path}: not finished: it has no data/data.safetensors: run snakemake to its end"
    )


MODEL = "import torch\nW = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))\ndef model():\n    {}"
LINEAR = "m = torch.nn.Linear(16, 4, bias=False); m.weight.data = W; return torch.nn.Sequential(torch.nn.Flatten(), m)"


@pytest.fixture
def images():
    random = torch.Generator().manual_seed(1)
    x = torch.rand(30, 1, 4, 4, generator=random)
    weights = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    return x, (x.flatten(1) @ weights.T).argmax(1)


def linear():
    head = nn.Linear(16, 4, bias=False)
    head.weight.data = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    return nn.Sequential(nn.Flatten(), head)


@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_an_attack_finds_what_the_command_finds_and_leaves_the_model(images, tmp_path, monkeypatch, kind):
    x, y = images
    (tmp_path / "api_model.py").write_text(MODEL.format(LINEAR))
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    monkeypatch.chdir(tmp_path)
    flags = {"data": "images.npz", "norm": "linf", "eps": "0.03", "ensemble": "fast", "seed": "3"}
    flags |= {"out": "out.parquet", "flags": "flags.parquet", "model": "api_model:model"}
    main(["attack", *(text for flag, value in flags.items() for text in (f"--{flag}", value))])
    sys.modules.pop("api_model", None)
    model = linear().train()
    given = (x, y) if kind == "tensors" else (x.numpy(), y.numpy())
    found = bat.attack(model, *given, norm="linf", eps=0.03, seed=3, batch_size=256)
    expected = pd.read_parquet("out.parquet").drop(columns="method").dropna(axis=1, how="all")
    assert {"robust_correct", "broken_by", "margin", "pgd_correct", "apgd_t_correct"} < set(expected)
    pd.testing.assert_frame_equal(found.table[expected.columns], expected, check_dtype=False)
    assert found.robust_correct.tolist() == expected["robust_correct"].tolist()
    assert 0 < found.robust_correct.sum() < found.clean_correct.sum() == 30
    broken = torch.tensor(found.clean_correct & ~found.robust_correct)
    assert ((found.x_adv - x).abs().amax((1, 2, 3)) <= 0.03 + 1e-6).all()
    assert (model(found.x_adv).argmax(1) != y)[broken].all()
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": 2}, "eps 2: give a number from 1e-06 to 1, for pixels in [0, 1] and linf"),
        ({"norm": "l2", "eps": 5}, "eps 5: give a number from 1e-06 to 4, for pixels in [0, 1] and l2"),
        ({"norm": "l1"}, "bat.attack: threat.norm: "),
        ({"ensemble": "slow"}, "bat.attack: ensemble: "),
        ({"batch_size": 0}, "bat.attack: batch_size: 0 is under 1"),
        ({"x": torch.full((30, 1, 4, 4), 2.0)}, "bat.attack: x is float32 from 2.0 to 2.0: need uint8, or floats"),
        ({"y": torch.zeros(30)}, "bat.attack: x has shape (30, 1, 4, 4) and y (30,) of float32: need"),
        ({"model": nn.Flatten(0)}, "Flatten: outputs have shape (32,) for 2 images"),
    ],
)
def test_a_wrong_argument_of_an_attack_is_one_line(images, changed, message):
    given = {"model": linear(), "x": images[0], "y": images[1], "norm": "linf", "eps": 0.1} | changed
    assert message in refusal(lambda: bat.attack(**given))


def test_memorization_is_the_difference_of_the_rates():
    random = np.random.default_rng(0)
    mask, correct = random.random((2, 50, 6)) < 0.6
    found = bat.memorization(mask, correct)
    expected = [correct[mask[:, i], i].mean() - correct[~mask[:, i], i].mean() for i in range(6)]
    np.testing.assert_allclose(found["memorization"], expected)
    assert ((found["ci_low"] < expected) & (expected < found["ci_high"])).all()
    with pytest.raises(ValueError, match="mask is int64"):
        bat.memorization(mask.astype(int), correct)
    with pytest.raises(ValueError, match=r"correct bool of shape \(50, 5\)"):
        bat.memorization(mask, correct[:, :5])


def test_the_package_is_typed():
    assert (Path(bat.__file__).parent / "py.typed").exists()
