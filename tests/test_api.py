"""The public API: what a notebook imports, and no more. Its experiment is that of tests/workflow."""

import doctest
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from experiments import ROOT
from refusals import refusal
from stubs import written
from torch import nn

import bat
from bat.cli import main
from bat.config import as_yaml, load
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS

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


SCORES = ("memorization", "influence", "train_influence", "test_groups", "validation_groups")
EVALUATION = ("per_sample", "by_seed", "summary", "comparisons", "runs", "flags")
MORE = ("label_errors", "duplicates", "null_pairs", "proxies", "proxy_agreement", "harmful")
MORE += tuple(f"robust_{name}" for name in ("memorization", "influence", "effects"))
PLACES = {"files": "data"} | dict.fromkeys(SCORES + MORE, "scores") | dict.fromkeys(EVALUATION, "evaluation")
DATA = DataSet(
    *(Part(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.arange(2), torch.tensor([4, 1]), 255) for _ in range(3)),
    classes=2,
)
DIGEST = {"data": DATA.digest()}


def numbered(kind):
    """Return a column of whole numbers of a table."""
    return next(field.name for field in SCHEMAS[kind] if field.type == pa.int64())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files of a finished experiment; each table has the number of its place in ``PLACES``."""
    tmp_path = tmp_path_factory.mktemp("experiment")
    for folder in ("data", "scores", "evaluation", *(f"models/{run}/seed-{seed}" for run in "ab" for seed in (2, 10))):
        (tmp_path / folder).mkdir(parents=True)
    write_data(tmp_path / "data/data.safetensors", DATA, provenance("data", source={"train": 6}))
    for number, (kind, folder) in enumerate(PLACES.items()):
        if kind not in (*MORE, "memorization", "runs", "by_seed", "per_sample"):
            rare = {"atypical": [True]} if kind == "test_groups" else {}
            written(tmp_path / folder / f"{kind}.parquet", kind, DIGEST, **{numbered(kind): [number]}, **rare)
    target = [[*PLACES].index("test_groups")]
    written(tmp_path / "evaluation/per_sample.parquet", "per_sample", DIGEST, test_index=target, atypical=[True])
    models = {"method": ["a", "a", "a", "b", "b"], "seed": [10, 10, 2, 10, 2]}
    written(tmp_path / "evaluation/by_seed.parquet", "by_seed", DIGEST, **models)
    scored = {"train_index": [4, 1], "memorization": [0.25, 0.75]}
    written(tmp_path / "scores/memorization.parquet", "memorization", DIGEST, **scored)
    written(tmp_path / "evaluation/runs.parquet", "runs", DIGEST, method=["b", "a"])
    for path in tmp_path.glob("models/*/*"):
        rows = {"method": [path.parent.name] * 2, "seed": [int(path.name[5:])] * 2, "epoch": [1, 2]}
        written(path / "history.parquet", "history", DIGEST, **rows)
    return tmp_path


@pytest.fixture
def experiment(made, tmp_path):
    return shutil.copytree(made, tmp_path / "experiment")


def test_an_experiment_is_read_from_its_folder(experiment):
    found = bat.load(str(experiment))
    assert found.folder == experiment
    assert found.data.train.index.tolist() == [4, 1]
    np.testing.assert_array_equal(found.scores, [np.nan, 0.75, np.nan, np.nan, 0.25, np.nan])
    assert found.memorization["memorization"].tolist() == [0.25, 0.75]
    assert found.runs["method"].tolist() == ["b", "a"]
    for number, kind in enumerate(PLACES):
        if kind in MORE:
            assert getattr(found, kind) is None
        elif kind not in ("memorization", "runs", "by_seed", "per_sample"):
            assert getattr(found, kind)[numbered(kind)].tolist() == [number]
    # the runs in the order of their table
    history = found.history
    assert history.index.tolist() == list(range(8))
    rows = [(run, seed, epoch) for run in "ba" for seed in (10, 2) for epoch in (1, 2)]
    assert list(history[["method", "seed", "epoch"]].itertuples(index=False, name=None)) == rows


def test_scores_of_an_experiment_are_those_that_its_config_chose(experiment):
    scored = {"train_index": [4, 1], "memorization": [0.25, 0.75], "soft_memorization": [0.5, 0.125]}
    about = DIGEST | {"spec": {"score": "soft"}}
    for kind in SCORES:
        columns = pd.read_parquet(experiment / f"scores/{kind}.parquet").to_dict("list")
        written(experiment / f"scores/{kind}.parquet", kind, about, **scored if kind == "memorization" else columns)
    found = bat.load(experiment)
    np.testing.assert_array_equal(found.scores, [np.nan, 0.125, np.nan, np.nan, 0.5, np.nan])
    assert found.memorization["memorization"].tolist() == [0.25, 0.75]


def test_what_else_an_experiment_has_is_read_too(experiment):
    for number, kind in enumerate(MORE):
        written(experiment / f"scores/{kind}.parquet", kind, DIGEST, **{numbered(kind): [number]})
    found = bat.load(experiment)
    for number, kind in enumerate(MORE):
        assert getattr(found, kind)[numbered(kind)].tolist() == [number]


def test_what_is_left_of_a_config_before_is_not_read(experiment):
    for kind in MORE:
        written(experiment / f"scores/{kind}.parquet", kind, DIGEST, **{numbered(kind): [0]})
    rows = {"method": ["a"], "seed": [3], "epoch": [1]}
    (experiment / "models/a/seed-3").mkdir()
    written(experiment / "models/a/seed-3/history.parquet", "history", DIGEST, **rows)
    asked = {
        "scores": {"source": "file", "path": "s.npz", "format": "npz"},
        "memorization": {"near_duplicate": None},
        "training": {"methods": ["pgd_at", "bat"]},
        "removal": {"method": None},
    }
    files = {"scores": {"label_errors", "null_pairs"}, "training": {"proxies", "proxy_agreement"}}
    files |= {"memorization": {"duplicates"}, "removal": {"harmful"}}
    robust = {f"robust_{name}" for name in ("memorization", "influence", "effects")}
    for keys in (asked, {}, *({key: value} for key, value in asked.items())):
        chosen = {"removal": {"method": "pgd_at"}} | keys
        config = load(
            str(ROOT / "config/config.yaml"), settings=[f"{key}={json.dumps(value)}" for key, value in chosen.items()]
        )
        (experiment / "config.yaml").write_text(as_yaml(config))
        found = bat.load(experiment)
        missing = {kind for kind in MORE if getattr(found, kind) is None}
        assert missing == robust.union(*(files[key] for key in keys))
        assert set(found.history["seed"]) == {2, 10}


@pytest.mark.parametrize(
    "place", ["scores/influence", "scores/validation_groups", "evaluation/by_seed", "evaluation/runs"]
)
def test_tables_of_two_runs_of_a_stage_are_refused(experiment, place):
    folder, _, kind = place.partition("/")
    columns = pd.read_parquet(experiment / f"{place}.parquet").to_dict("list")
    path = written(experiment / f"{place}.parquet", kind, DIGEST | {"spec": {"seed": 3}}, **columns)
    first = experiment / {"scores": "scores/memorization.parquet", "evaluation": "evaluation/summary.parquet"}[folder]
    assert refusal(bat.load, experiment) == f"{first} and {path} are not of one run of their stage: run it again"


@pytest.mark.parametrize("changed", [{"atypical": [False]}, {"test_index": [77]}])
def test_an_evaluation_of_other_scores_is_refused(experiment, changed):
    target = [[*PLACES].index("test_groups")]
    table = {"test_index": target, "atypical": [True]} | changed
    written(experiment / "evaluation/per_sample.parquet", "per_sample", DIGEST, **table)
    assert refusal(bat.load, experiment) == (
        f"{experiment}: not finished: evaluation/ is of other scores than scores/: run snakemake to its end"
    )


def test_a_model_without_its_history_is_refused(experiment):
    path = experiment / "models/a/seed-2/history.parquet"
    path.unlink()
    assert refusal(bat.load, experiment) == f"{path}: no such file: run the stage that writes it"


@pytest.mark.parametrize("folder", [None, 5])
def test_what_is_no_path_is_no_experiment(folder):
    assert refusal(bat.load, folder) == f"{folder}: give the folder of an experiment, as in results/digits"


@pytest.mark.parametrize("place", ["data/files", "scores/validation_groups", "evaluation/flags"])
def test_an_experiment_without_a_table_is_not_finished(experiment, place):
    (experiment / f"{place}.parquet").unlink()
    assert refusal(bat.load, experiment) == (
        f"{experiment}: not finished: it has no {place}.parquet: run snakemake to its end"
    )


@pytest.mark.parametrize("place", ["evaluation/flags", "scores/duplicates"])
def test_a_table_of_other_data_in_an_experiment_is_refused(experiment, place):
    kind = place.partition("/")[2]
    path = written(experiment / f"{place}.parquet", kind, {"data": "other"}, **{numbered(kind): [0]})
    assert refusal(bat.load, experiment) == (
        f"{experiment}/data/data.safetensors and {path} are of different data: remove the one that is out of date, and "
        "run its stage again"
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
        ({"norm": "l1", "eps": 200}, "norm l1: give linf or l2"),
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
