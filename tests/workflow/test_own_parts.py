"""Parts of the user's own through the whole workflow: the examples of docs/own_parts.md as they stand."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from experiments import ROOT, SMOKE, edit, new_experiment, planned, snakemake, tables
from safetensors.torch import load_file

TEXT = (ROOT / "docs/own_parts.md").read_text()
NETWORK, METHOD, ATTACK, DATA, TRAINER = EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(CONFIG,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
OWN = {"configfile": "config/own.yaml"}
# one file per part, so that an edit concerns one part alone
FILES = {"own_network": NETWORK, "own_method": METHOD, "own_attack": ATTACK, "own_data": DATA, "own_trainer": TRAINER}
PLACES = {"network": "own_network", "method": "own_method", "inner": "own_method", "attack": "own_attack"}
PLACES |= {"data": "own_data", "fit": "own_trainer"}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A finished experiment of own parts alone, which no test may change."""
    folder = new_experiment(tmp_path_factory.mktemp("own"))
    for name, example in FILES.items():
        (folder / f"{name}.py").write_text(example)
    text = re.sub(r"my_parts:(\w+)", lambda found: f"{PLACES[found[1]]}:{found[1]}", CONFIG)
    (folder / OWN["configfile"]).write_text(text)
    done = snakemake(folder, **OWN)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(own, tmp_path):
    return shutil.copytree(own, tmp_path / "copy")


def test_all_five_parts_at_once_reach_the_page_of_results(own):
    results = own / "results/own"
    files = pd.read_parquet(results / "data/files.parquet")
    assert set(files["class_name"]) == {f"digit {number}" for number in range(10)}
    scores = pd.read_parquet(results / "scores/memorization.parquet")
    # whom they have seen, nearest neighbours know
    assert (scores["p_in"] == 1).all()
    assert scores["atypical"].any()
    runs = pd.read_parquet(results / "evaluation/runs.parquet").set_index("method")
    assert runs["objective"].to_dict() == {
        "pgd_at": "pgd_at",
        "weighted": "own_method:method",
        "margin": "own_method:method",
    }
    assert runs["weighted"].tolist() == [False, True, False]
    samples = pd.read_parquet(results / "models/weighted/seed-0/samples.parquet")
    weighed = samples[samples["wrong_probability"] > 0]
    assert (weighed["weight"] < 1).all()
    per_sample = pd.read_parquet(results / "evaluation/per_sample.parquet")
    assert set(per_sample["tier"]) == {"apgd_ce (steps 10) + own_attack:attack"}
    assert "own_attack:attack" in set(per_sample["broken_by"])
    assert list(load_file(results / "models/margin/seed-0/last.safetensors")) == [
        *(f"body.{layer}.{kind}" for layer in (1, 3) for kind in ("bias", "weight")),
        "head.bias",
        "head.weight",
        "mean",
        "std",
    ]
    assert "own_network:network" in (results / "results.md").read_text()


SCORED = {"scores": 1, "null_pairs": 1, "duplicates": 1}


@pytest.mark.parametrize(
    ("part", "rerun"),
    [
        ("own_trainer", {"subsets": 2, **SCORED, "train": 1, "evaluate": 1}),
        ("own_attack", {"evaluate": 3}),
        ("own_method", {"train": 2, "evaluate": 2, "groups": 1}),
        ("own_network", {"train": 3, "evaluate": 3, "groups": 1}),
        ("own_data", {"data": 1, "subsets": 2, **SCORED, "train": 3, "evaluate": 3, "groups": 1}),
        (None, {}),
    ],
)
def test_an_edit_of_a_part_reruns_what_runs_it_and_what_follows(copy, part, rerun):
    if part:
        path = copy / f"{part}.py"
        path.write_text(path.read_text() + "\n# edited\n")
        rerun = {"groups": 1} | rerun if part == "own_trainer" else rerun
        rerun = rerun | {"summary": 1, "figures": 1, "results": 1, "page": 1, "explorer": 1}
    assert planned(copy, **OWN) == rerun


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "model: no module own_network, neither in "),
        ("def net(: pass", "model: own_network.py is no Python that runs"),
        ("def net(): pass", "model: own_network.py has no network: correct the name"),
    ],
)
def test_a_part_that_is_not_there_is_one_line_when_the_run_is_planned(copy, text, message):
    (copy / "own_network.py").unlink()
    if text:
        (copy / "own_network.py").write_text(text)
    done = snakemake(copy, "--dry-run", **OWN)
    assert done.returncode == 2
    (line,) = [each for each in done.stderr.splitlines() if each.startswith("config/")]
    assert message in line


def test_a_part_that_fails_stops_its_job_with_one_line(copy):
    (copy / "own_data.py").write_text("def data():\n    return {'x_train': 1 / 0}\n")
    done = snakemake(copy, "results/own/data/files.parquet", **OWN)
    assert done.returncode == 1
    where = "own_data:data: the function fails (ZeroDivisionError: division by zero, own_data.py line 2)"
    assert f"bat data: {where}: give def data(), which returns" in done.stderr


BUILT_IN = """
import torch.nn.functional as F

from bat.training.losses import Losses, bat_weights, discrimination_loss, harmful_samples, weighted_mean


def cross_entropy(model, batch):
    logits = model(batch.x)
    return F.cross_entropy(logits, batch.labels), logits


def benign(model, batch, *, alpha, beta, temperature):
    features = model.features(batch.x)
    logits = model.head(features)
    losses = F.cross_entropy(logits, batch.labels, reduction="none")
    weights = bat_weights(logits, batch.labels, batch.atypical, alpha=alpha)
    harmful = harmful_samples(logits, batch.labels, batch.atypical)
    pairs = discrimination_loss(features, batch.labels, harmful, temperature=temperature)
    return Losses(weighted_mean(losses, weights) + beta * pairs, logits, weights, pairs)
"""


def test_the_same_network_and_losses_as_own_parts_and_as_built_in_ones_end_in_the_same_bytes(finished, tmp_path):
    folder = new_experiment(tmp_path)
    (folder / "same.py").write_text(NETWORK + BUILT_IN)
    benign = {"alpha": 1.0, "beta": 0.2, "temperature": 0.1}

    def change(config):
        config["model"] = {"name": "same:network", "options": {"units": 32}}
        config["training"]["methods"] = [
            {"name": "natural", "objective": "same:cross_entropy", "inner": None},
            {"name": "pgd_at", "objective": "same:cross_entropy"},
            {"name": "bat", "objective": "same:benign", "score": "memorization", "options": benign},
        ]

    edit(folder, change)
    done = snakemake(folder, "--until", "summary", "null_pairs", "duplicates")  # all tables
    assert done.returncode == 0, done.stderr
    own, expected = tables(folder / SMOKE), tables(finished / SMOKE)
    # of training that is known to be natural
    proxies = [expected.pop(Path(f"scores/{name}.parquet")) for name in ("proxies", "proxy_agreement")]
    assert all(proxies)
    assert own.keys() == expected.keys()
    for place in own:
        one, other = (pd.read_parquet(each / SMOKE / place) for each in (folder, finished))
        if place.name == "runs.parquet":
            assert set(one.pop("objective")) == {"same:cross_entropy", "same:benign"}
            other = other.drop(columns="objective")
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    weights = sorted(path.relative_to(folder) for path in folder.glob(f"{SMOKE}/models/*/*/*.safetensors"))
    assert len(weights) == 3 * 2 * 2
    for place in weights:
        one, other = (load_file(each / place) for each in (folder, finished))
        assert one.keys() == other.keys()
        assert all(one[name].numpy().tobytes() == other[name].numpy().tobytes() for name in one)
