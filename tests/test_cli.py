"""The stages, called in this process on a tiny experiment; their errors: one line, exit status 2, nothing written."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import (
    EVALUATE,
    MODEL,
    NATURAL,
    RECIPE,
    RESULTS,
    SCORES,
    SUBSETS,
    SUMMARY,
    TRAIN,
    call,
    command,
    digits,
    evaluation,
    fails,
    grouped,
    rewrite,
    scores,
    shard,
    summary,
    training,
)

import bat.evaluation.stage
from bat.cli import main
from bat.config import Model, parse
from bat.data.dataset import Part
from bat.data.saved import read_data
from bat.evaluation.own_model import read_weights
from bat.io.files import KEY, provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import write_table
from bat.io.tensors import read_tensors
from bat.models import build

HARMFUL = {"spec": {"threshold": 0.5}, "memorization": "memorization.parquet", "records": ["records.parquet"]}
HARMFUL |= {"harmful": "harmful.parquet"}
ATYPICAL = {"what": "atypical", "fraction": None, "random": False}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment")
    call("data", folder, **digits(), data="data.safetensors", log="logs/data.log")
    call("subsets", folder, **shard(0), log="logs/subsets.log")
    call("subsets", folder, **shard(10))
    call("scores", folder, **scores("shard-0.parquet", "shard-10.parquet"))
    null = {"threshold": SCORES["threshold"], "false_discovery_rate": 0.2, "shuffles": 2, "seed": 0}
    flags = {"data": "data.safetensors", "memorization": "memorization.parquet", "null_pairs": "null_pairs.parquet"}
    shards = ["shard-0.parquet", "shard-10.parquet"]
    call("null-pairs", folder, spec=null, shards=shards, **flags, log="null.log")
    near = {"near_duplicate": 0.05, "threshold": SCORES["threshold"]}
    found = {name: flags[name] for name in ("data", "memorization")} | {"duplicates": "duplicates.parquet"}
    call("duplicates", folder, spec=near, shards=shards, **found)
    call("train", folder, **training())
    call("groups", folder, **grouped())
    call("evaluate", folder, **evaluation())
    call("summary", folder, **summary("attacked.parquet"))
    return folder


@pytest.fixture
def copy(experiment, tmp_path):
    return shutil.copytree(experiment, tmp_path / "copy")


@pytest.mark.parametrize(
    "name",
    sorted(
        SCHEMAS.keys()
        - {"subsets", "harmful", "hardest", "proxies", "proxy_agreement"}
        - {name for name in SCHEMAS if name.startswith("robust_")}
    ),
)
def test_each_table_opens_in_plain_pandas(experiment, name):
    table = pd.read_parquet(experiment / f"{name}.parquet")
    assert list(table.columns) == SCHEMAS[name].names
    assert len(table) or name in ("influence", "train_influence", "comparisons")


def test_tables_carry_spec_version_and_data(experiment):
    facts = json.loads(pq.read_schema(experiment / "history.parquet").metadata[KEY.encode()])
    assert facts["spec"] == TRAIN
    assert facts["version"]
    assert facts["data"] == read_data(experiment / "data.safetensors").digest()


def test_rows_are_in_natural_order(experiment):
    data = read_data(experiment / "data.safetensors")
    assert pd.read_parquet(experiment / "memorization.parquet")["train_index"].tolist() == data.train.index.tolist()
    per_sample = pd.read_parquet(experiment / "per_sample.parquet")
    assert per_sample["test_index"].tolist() == 2 * data.test.index.tolist()
    assert per_sample["checkpoint"].tolist() == ["best"] * len(data.test) + ["last"] * len(data.test)


def test_history_names_the_best_epoch_once(experiment):
    history = pd.read_parquet(experiment / "history.parquet")
    assert history["epoch"].tolist() == list(range(1, 13))
    chosen = history.loc[history["best"], "validation_all_pgd_accuracy"].item()
    assert chosen == history["validation_all_pgd_accuracy"].max()


def test_the_record_of_samples_has_the_atypical_ones_with_their_scores(experiment):
    scores = pd.read_parquet(experiment / "memorization.parquet").query("atypical")
    table = pd.read_parquet(experiment / "training_samples.parquet")
    assert table["epoch"].tolist() == [epoch for epoch in range(1, 13) for _ in range(len(scores))]
    for _, rows in table.groupby("epoch"):
        assert rows["train_index"].tolist() == scores["train_index"].tolist()
        assert rows["label"].tolist() == scores["label"].tolist()
        assert rows["memorization"].tolist() == scores["memorization"].tolist()
    assert (table["method"] == "bat").all()
    assert (table["seed"] == 3).all()
    np.testing.assert_allclose(table["weight"], np.exp(-table["wrong_probability"]), rtol=1e-6)
    history = pd.read_parquet(experiment / "history.parquet")
    assert (table["wrong_probability"] > 0).groupby(table["epoch"]).sum().tolist() == history["harmful"].tolist()


def test_a_run_that_stops_early_says_so(copy):
    stops = TRAIN | {"early_stop": 1, "recipe": RECIPE | {"learning_rate": 1e-8}}
    call("train", copy, **training(spec=stops), log="train.log")
    assert "best epoch 1 of 2: stopped early" in (copy / "train.log").read_text()
    assert pd.read_parquet(copy / "records.parquet")["epoch"].tolist() == [1, 2]
    assert read_tensors(copy / "last.safetensors", "model")[1]["epoch"] == 2


def test_one_process_and_two_shards_train_the_same_models(experiment, tmp_path):
    whole = shard(0) | {"spec": SUBSETS | {"first_model": 0, "models": 20, "adversary": None}}
    for name in ("data.safetensors", "files.parquet"):
        shutil.copy(experiment / name, tmp_path)
    call("subsets", tmp_path, **whole)
    call("scores", tmp_path, **scores("shard-0.parquet"))
    for name in ("memorization", "influence", "test_groups"):
        assert (tmp_path / f"{name}.parquet").read_bytes() == (experiment / f"{name}.parquet").read_bytes()


def test_a_repeated_stage_writes_the_same_bytes(copy):
    written = ["best.safetensors", "last.safetensors", "records.parquet", "history.parquet"]
    written += ["training_samples.parquet", "attacked.parquet", "per_sample.parquet"]
    before = {name: (copy / name).read_bytes() for name in written}
    call("train", copy, **training())
    call("groups", copy, **grouped())
    call("evaluate", copy, **evaluation())
    call("summary", copy, **summary("attacked.parquet"))
    assert {name: (copy / name).read_bytes() for name in written} == before


def test_stages_leave_the_global_random_states_alone(copy):
    torch.manual_seed(7)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    call("subsets", copy, **shard(0))
    call("train", copy, **training())
    call("evaluate", copy, **evaluation())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_log_has_lines_and_the_share_of_work(experiment):
    log = (experiment / "logs" / "subsets.log").read_text()
    assert "10 of 10 models" in log
    assert "of which work" in log


def test_schema_and_help(tmp_path, capsys):
    call("schema", tmp_path, out="schema.yaml")
    assert "additionalProperties: false" in (tmp_path / "schema.yaml").read_text()
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "bat plan" in capsys.readouterr().out


def test_pairs_found_by_chance_stand_beside_those_found(experiment):
    table = pd.read_parquet(experiment / "null_pairs.parquet")
    assert table["shuffle"].tolist() == [0, 1, 2]
    strong = pd.read_parquet(experiment / "influence.parquet")
    assert table["over_threshold"].iloc[0] == len(strong)
    assert "by chance, the mean of 2 shuffles" in (experiment / "null.log").read_text()


def test_runs_are_compared(copy):
    table = pd.read_parquet(copy / "attacked.parquet")
    other = table.assign(method="other", clean_correct=False)
    rewrite(copy / "attacked.parquet", "attacked", other, copy / "other.parquet")
    history = pd.read_parquet(copy / "history.parquet").assign(method="other")
    rewrite(copy / "history.parquet", "history", history, copy / "history-2.parquet")
    flags = pd.read_parquet(copy / "flags.parquet").assign(method="other")
    rewrite(copy / "flags.parquet", "flags", flags, copy / "flags-2.parquet")
    pairs = summary("attacked.parquet", "other.parquet") | {"histories": ["history.parquet", "history-2.parquet"]}
    pairs["flags"] = ["flags.parquet", "flags-2.parquet"]
    pairs["spec"] = SUMMARY | {"questions": {"methods": [["bat", "other"]], "removal": []}}
    call("summary", copy, **pairs)
    found = pd.read_parquet(copy / "comparisons.parquet")
    clean = found[(found["metric"] == "clean") & (found["checkpoint"] == "last")].set_index("group")
    assert clean.loc["all", "difference"] == table.loc[table["checkpoint"] == "last", "clean_correct"].mean()
    assert (found[found["metric"] == "robust"]["difference"] == 0).all()
    assert set(found["tier"]) == {"apgd_ce (steps 5)"}


def test_results_are_written_for_papers_and_readers(copy):
    (copy / "benchmarks" / "train").mkdir(parents=True)
    for name, seconds in (("train/a", 60), ("summary", 120)):
        (copy / "benchmarks" / f"{name}.tsv").write_text(f"s\tcpu_time\n{seconds}\t60\n")
    tables = ("summary", "comparisons", "runs", "memorization", "test_groups", "null_pairs")
    inputs = {name: f"{name}.parquet" for name in tables} | {"flags": "all_flags.parquet", "benchmarks": "benchmarks"}
    inputs["histories"] = ["history.parquet"]
    call("results", copy, spec=RESULTS, **inputs, markdown="summary.md", latex="summary.tex", page="results.md")
    page, markdown = (copy / "results.md").read_text(), (copy / "summary.md").read_text()
    assert page.startswith("## trial\n")
    assert markdown in page
    assert "2 jobs of one thread, 3 minutes one after the other with waiting and pauses, at least 2 of them CPU" in page
    means = pd.read_parquet(copy / "summary.parquet").set_index(["checkpoint", "group", "metric"])
    assert f"| {100 * means.loc[('last', 'all', 'clean'), 'accuracy']:.1f} [" in markdown
    assert r"\toprule" in (copy / "summary.tex").read_text()


def test_figures_are_written(experiment):
    kinds = ("memorization", "train_influence", "test_groups", "per_sample", "summary", "runs")
    inputs = {name: f"{name}.parquet" for name in kinds} | {"data": "data.safetensors"}
    inputs |= {"histories": ["history.parquet"], "samples": ["training_samples.parquet"]}
    names = ("memorization", "gallery", "curves", "weights", "influence", "tradeoff", "overfitting")
    drawn = [f"{name}.{ending}" for name in names for ending in ("pdf", "svg")]
    call("figures", experiment, **inputs, out=drawn)
    for name in drawn:
        assert (experiment / name).stat().st_size > 5000


def test_a_figure_needs_its_own_tables_alone(experiment, copy, capsys):
    call("figures", copy, memorization="memorization.parquet", out=["memorization.png"])
    line = fails(capsys, "figures", copy, memorization="memorization.parquet", out=["memorization.svg", "tradeoff.svg"])
    assert "--summary is needed to draw this" in line
    line = fails(capsys, "figures", copy, memorization="memorization.parquet", out=["x.svg"])
    assert "x.svg: no such figure: take of differences, tradeoff" in line


def test_unknown_key_in_a_spec(copy, capsys):
    line = fails(capsys, "train", copy, **training(spec=TRAIN | {"sede": 1}))
    assert "--spec: sede: unknown key" in line


def test_truncated_shard(copy, capsys):
    path = copy / "shard-10.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    line = fails(capsys, "scores", copy, **scores("shard-0.parquet", "shard-10.parquet"))
    assert "shard-10.parquet: damaged" in line


def test_shards_of_two_specs(copy, capsys):
    other = SUBSETS | {"first_model": 10, "recipe": SUBSETS["recipe"] | {"learning_rate": 0.05}}
    call("subsets", copy, spec=other, data="data.safetensors", shard="other.parquet")
    line = fails(capsys, "scores", copy, **scores("shard-0.parquet", "other.parquet"))
    assert "spec.recipe.learning_rate 0.1 and 0.05" in line


def test_shards_of_other_data(copy, capsys):
    call("data", copy, **digits(split_seed=1), data="data.safetensors")
    assert "other data" in fails(capsys, "scores", copy, **scores("shard-0.parquet", "shard-10.parquet"))


def test_too_many_samples_asked_of_the_data(copy, capsys):
    line = fails(capsys, "data", copy, **digits(train_samples=1797), data="data.safetensors")
    assert "lower them" in line


def test_scores_whose_labels_differ(copy, capsys):
    table = pd.read_parquet(copy / "memorization.parquet")
    table.loc[5, "label"] = (table.loc[5, "label"] + 1) % 10
    rewrite(copy / "memorization.parquet", "memorization", table)
    line = fails(capsys, "train", copy, **training())
    assert f"row 5 is sample {table.loc[5, 'train_index']}" in line


def test_scores_that_a_run_reads_are_asked_for(copy, capsys):
    for spec, name in ((TRAIN, "method bat"), (TRAIN | {"method": NATURAL, "without": ATYPICAL}, "without atypical")):
        flags = training(spec=spec)
        del flags["memorization"]
        line = fails(capsys, "train", copy, **flags)
        assert name in line
        assert "--memorization, of stage scores" in line


def test_a_run_that_reads_no_score_is_trained_without_any(copy):
    spec = TRAIN | {"method": NATURAL}
    call("train", copy, **training(spec=spec))
    with_scores = (copy / "records.parquet").read_bytes()
    flags = training(spec=spec)
    del flags["memorization"]
    call("train", copy, **flags)
    assert (copy / "records.parquet").read_bytes() == with_scores


def test_other_groups_of_the_same_records(copy):
    before = pd.read_parquet(copy / "history.parquet")
    table = pd.read_parquet(copy / "memorization.parquet")
    wanted = table["memorization"] > table["memorization"].median()
    rewrite(copy / "memorization.parquet", "memorization", table.assign(atypical=wanted))
    call("groups", copy, **grouped())
    after, samples = (pd.read_parquet(copy / f"{name}.parquet") for name in ("history", "training_samples"))
    changed = {name for name in before if not before[name].equals(after[name])}
    kinds = [f"{attack}_{metric}" for attack in ("clean", "pgd") for metric in ("loss", "accuracy")]
    assert {"train_typical_clean_loss"} < changed
    assert changed <= {f"train_{group}_{kind}" for group in ("typical", "atypical") for kind in kinds}
    assert samples["train_index"].tolist() == 12 * table.loc[wanted, "train_index"].tolist()


def test_groups_of_other_data_or_of_too_few_files(copy, capsys):
    line = fails(capsys, "groups", copy, **grouped(histories=["a.parquet", "b.parquet"]))
    assert "--records names 1 files, --histories 2, --samples 1: give one of each a run" in line
    rewrite(copy / "records.parquet", "records", pd.read_parquet(copy / "records.parquet"), data="other")
    for stage, flags in (("groups", grouped()), ("harmful", HARMFUL)):
        line = fails(capsys, stage, copy, **flags)
        assert f"{copy}/memorization.parquet and {copy}/records.parquet are of different data" in line


def test_groups_of_other_test_samples(copy, capsys):
    groups = pd.read_parquet(copy / "test_groups.parquet")
    groups["max_influence_train_index"] = groups["max_influence_train_index"].astype("Int64")
    groups.loc[3, "label"] += 1
    write_table(copy / "test_groups.parquet", "test_groups", groups, provenance("test_groups"))
    line = fails(capsys, "summary", copy, **summary("attacked.parquet"))
    assert f"test_groups.parquet: row 3 is sample {groups.loc[3, 'test_index']}" in line


def test_per_sample_results_have_the_groups_of_their_samples(experiment):
    table = pd.read_parquet(experiment / "per_sample.parquet")
    attacked = pd.read_parquet(experiment / "attacked.parquet")
    groups = pd.read_parquet(experiment / "test_groups.parquet").set_index("test_index")
    pd.testing.assert_frame_equal(table[attacked.columns], attacked)
    for column in ("atypical", "max_influence", "memorization"):
        expected = groups.loc[table["test_index"], column].reset_index(drop=True)
        pd.testing.assert_series_equal(table[column], expected)
    assert table["atypical"].any()


def test_loss_that_is_not_finite(copy, capsys, monkeypatch):
    monkeypatch.setattr("bat.training.loop.learning_rate_factor", lambda *_: 1e31)
    line = fails(capsys, "train", copy, **training())
    assert "method bat, seed 3" in line
    assert "epoch 1, batch 2" in line


def test_loss_that_is_not_finite_in_a_subset_model(copy, capsys, monkeypatch):
    monkeypatch.setattr("bat.training.loop.learning_rate_factor", lambda *_: 1e31)
    line = fails(capsys, "subsets", copy, **shard(0))
    assert "subset model 0 (seed 0)" in line


def test_missing_input(copy, capsys):
    (copy / "best.safetensors").unlink()
    assert "no such file" in fails(capsys, "evaluate", copy, **evaluation())


def test_weights_of_another_network(copy, capsys):
    spec = EVALUATE | {"model": MODEL | {"width": 8}}
    assert "not the weights of mlp" in fails(capsys, "evaluate", copy, **evaluation(spec=spec))


def test_weights_from_another_program(copy, capsys):
    save_file(load_file(copy / "best.safetensors"), copy / "best.safetensors")
    assert "nothing of this package" in fails(capsys, "evaluate", copy, **evaluation())


def test_equal_weights_are_attacked_once_and_reported_twice(copy, monkeypatch):
    calls = []
    once = bat.evaluation.stage.attack_all
    monkeypatch.setattr(bat.evaluation.stage, "attack_all", lambda *given: calls.append(1) or once(*given))
    call("evaluate", copy, **evaluation(attacked="two.parquet", images="two.safetensors"))
    assert len(calls) == 2
    call("evaluate", copy, **evaluation(last="best.safetensors", attacked="one.parquet", images="one.safetensors"))
    assert len(calls) == 3
    table, images = pd.read_parquet(copy / "one.parquet"), load_file(copy / "one.safetensors")
    best, last = (table[table["checkpoint"] == name].drop(columns="checkpoint") for name in ("best", "last"))
    pd.testing.assert_frame_equal(best.reset_index(drop=True), last.reset_index(drop=True))
    assert torch.equal(images["best"], images["last"])
    two = pd.read_parquet(copy / "two.parquet")
    pd.testing.assert_frame_equal(two[two["checkpoint"] == "best"], table[table["checkpoint"] == "best"])


def test_saving_images_changes_no_result(copy, experiment):
    call("evaluate", copy, **evaluation(images="images.safetensors"))
    assert (copy / "attacked.parquet").read_bytes() == (experiment / "attacked.parquet").read_bytes()


@pytest.mark.parametrize(("models", "refused"), [(1, True), (3, True), (4, False), (200, False)])
def test_too_few_subset_models_are_refused_when_the_data_is_read(copy, capsys, models, refused):
    # 84 of 120 are in a subset: each sample can be left out once by 4 models, not by 3
    spec = SUBSETS | {"first_model": 0, "models": 1, "recipe": RECIPE | {"epochs": 1}}
    arguments = command("subsets", copy, spec=spec, data="data.safetensors", shard="new.parquet")
    if not refused:
        main([*arguments, "--all-models", str(models)])
        return
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--all-models", str(models)])
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert f"subsets: memorization.subset_models is {models}, too small for subsets of 84 of 120" in line
    assert "take at least 4" in line
    assert not (copy / "new.parquet").exists()


def test_evaluations_of_two_specs(copy, capsys):
    call("evaluate", copy, **evaluation(spec=EVALUATE | {"seed": 1}, attacked="other.parquet"))
    line = fails(capsys, "summary", copy, **summary("attacked.parquet", "other.parquet"))
    assert "different specs" in line


def test_output_that_cannot_be_written(copy, capsys):
    (copy / "file").write_text("not a folder")
    line = fails(capsys, "data", copy, **digits(), data="file/data.safetensors")
    assert "cannot be written" in line


def test_log_that_cannot_be_written(copy, capsys):
    (copy / "file").write_text("not a folder")
    line = fails(capsys, "data", copy, **digits(), data="data.safetensors", log="file/data.log")
    assert "choose another log" in line


def test_error_goes_to_the_log_and_to_the_terminal(copy, capsys):
    with pytest.raises(SystemExit):
        call("data", copy, **digits(train_samples=1), data="data.safetensors", log="data.log")
    assert "train_samples" in capsys.readouterr().err
    assert "train_samples" in (copy / "data.log").read_text()


def test_no_atypical_test_sample_leaves_that_group_out(copy):
    groups = pd.read_parquet(copy / "test_groups.parquet").assign(atypical=False)
    groups["max_influence_train_index"] = groups["max_influence_train_index"].astype("Int64")
    rewrite(copy / "test_groups.parquet", "test_groups", groups)
    call("summary", copy, **summary("attacked.parquet"), log="summary.log")
    assert set(pd.read_parquet(copy / "summary.parquet")["group"]) == {"all", "typical"}
    assert "no test sample is atypical" in (copy / "summary.log").read_text()
    main(f"figures --summary {copy}/summary.parquet --runs {copy}/runs.parquet --out {copy}/tradeoff.svg".split())


# -- attack


MODULE = """
import torch

from bat.config import SizedModel
from bat.models import build
from bat.io.tensors import read_tensors
from bat.data.saved import read_data


def model():
    data = read_data("data.safetensors")
    network = build(SizedModel(name="mlp", width=16), data.train, classes=10, seed=0)
    network.load_state_dict(read_tensors("last.safetensors", "model")[0])
    return network.eval()


def number():
    return 7


def narrow():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
"""


@pytest.fixture
def own(copy, monkeypatch):
    test = read_data(copy / "data.safetensors").test
    np.savez(copy / "images.npz", x=test.images(slice(0, 100)).numpy(), y=test.labels[:100].numpy())
    (copy / "own_model.py").write_text(MODULE)
    monkeypatch.chdir(copy)
    yield copy
    sys.modules.pop("own_model", None)


def attack(entry="own_model:model", **changed):
    flags = {"data": "images.npz", "norm": "linf", "eps": "0.05", "out": "own.parquet", "flags": "own_flags.parquet"}
    flags |= {"ensemble": "fast", "log": "own.log"} | changed
    main(["attack", "--model", entry, *(text for flag, value in flags.items() for text in (f"--{flag}", value))])


def test_a_users_own_model_and_images_give_what_the_workflow_gives(own):
    call("data", own, **digits(validation_samples=1477), data="data.safetensors")
    outputs = {"best": "best.safetensors", "last": "last.safetensors", "records": "natural_records.parquet"}
    call("train", own, spec=TRAIN | {"method": NATURAL}, data="data.safetensors", **outputs)
    test = read_data("data.safetensors").test
    np.savez("images.npz", x=test.images().numpy(), y=test.labels.numpy())
    attack()
    call("evaluate", own, **evaluation(spec=EVALUATE | {"ensemble": "fast", "batch_size": 60}))
    expected = pd.read_parquet("attacked.parquet").query("checkpoint == 'last'").reset_index(drop=True)
    found = pd.read_parquet("own.parquet")
    for column in ("label", "predicted", "clean_correct"):
        pd.testing.assert_series_equal(found[column], expected[column])
    # the samples have other indices, and so other random starts
    assert abs(found["robust_correct"].sum() - expected["robust_correct"].sum()) <= 2
    assert 0 < found["robust_correct"].sum() < found["clean_correct"].sum()
    assert (found["tier"] == "fast").all()
    assert (
        not pd.read_parquet("own_flags.parquet").set_index("flag")["raised"].drop(["pgd_gap", "zero_gradients"]).any()
    )
    assert f"200 images, linf 0.05: clean {100 * found['clean_correct'].mean():.2f} %" in Path("own.log").read_text()


def test_weights_and_an_architecture_are_a_model_too(own):
    attack()
    by_entry = pd.read_parquet("own.parquet")
    attack("last.safetensors", architecture="mlp:16")
    pd.testing.assert_frame_equal(
        pd.read_parquet("own.parquet").drop(columns="method"), by_entry.drop(columns="method")
    )


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_torchscript_file_is_a_model_too(own):
    attack()
    by_entry = pd.read_parquet("own.parquet")
    sys.path.insert(0, ".")
    network = importlib.import_module("own_model").model()
    sys.path.pop(0)
    torch.jit.save(torch.jit.trace(network, torch.zeros(2, 1, 8, 8)), "script.pt")
    attack("script.pt")
    found = pd.read_parquet("own.parquet")
    pd.testing.assert_series_equal(found["predicted"], by_entry["predicted"])
    assert (found["robust_correct"] != by_entry["robust_correct"]).sum() <= 1


@pytest.mark.parametrize("name", ["resnet18", "torchvision:shufflenet_v2_x0_5"])
def test_weights_of_networks_without_a_width_are_read(name, tmp_path):
    pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    part = Part(pixels, torch.arange(4), torch.arange(4), 255)
    network = build(parse(Model, {"name": name}, "here"), part, classes=7, seed=3).eval()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    found = read_weights(str(tmp_path / "weights.safetensors"), name, part)
    with torch.no_grad():
        assert torch.equal(found(part.images()), network(part.images()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"entry": "images.npz"}, "images.npz: no TorchScript file"),
        ({"entry": "last.safetensors", "architecture": "mlp:8"}, "not the weights of mlp:8"),
        ({"entry": "last.safetensors", "architecture": "mlp"}, "--architecture NAME or NAME:WIDTH: width"),
        ({"entry": "last.safetensors", "architecture": "vit:16"}, "--architecture NAME or NAME:WIDTH: name"),
        ({"entry": "last.safetensors", "architecture": "mlp:wide"}, "--architecture NAME or NAME:WIDTH: width"),
        ({"entry": "last.safetensors", "architecture": "resnet18:16"}, "not the weights of resnet18:16 for images"),
        ({"entry": "last.safetensors", "architecture": "resnet18"}, "not the weights of resnet18"),
        ({"entry": "last.safetensors", "architecture": "torchvision:vgg"}, "no such network"),
        ({"entry": "images.npz", "architecture": "mlp:16"}, "not the weights of mlp:16"),
        ({"entry": "own_model:none"}, "give module:function"),
        ({"entry": "no_such_module:model"}, "give module:function"),
        ({"entry": "own_model"}, "give module:function"),
        ({"entry": "own_model:number"}, "returned int"),
        ({"entry": "own_model:narrow"}, "a class for each label"),
        ({"norm": "l1"}, "--norm l1: give linf or l2"),
        ({"eps": "-1"}, "--eps -1: give a number from 1e-06 to 1"),
        ({"ensemble": "slow"}, "ensemble"),
        ({"device": "abacus"}, "no such device"),
        ({"data": "best.safetensors"}, "cannot be read as npz"),
        ({"data": "none.npz"}, "cannot be read as npz"),
    ],
)
def test_what_cannot_be_attacked(own, capsys, changed, message):
    with pytest.raises(SystemExit) as stopped:
        attack(**changed)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("own.parquet").exists()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 64)), np.zeros(3, int), "need (n, c, h, w)"),
        (np.zeros((3, 1, 8, 8)), np.zeros(2, int), "need (n, c, h, w)"),
        (np.zeros((3, 1, 8, 8)), np.zeros(3), "need (n, c, h, w)"),
        (np.full((3, 1, 8, 8), 1.5), np.zeros(3, int), "floats in [0, 1]"),
        (np.full((3, 1, 8, 8), np.nan), np.zeros(3, int), "floats in [0, 1]"),
        (np.zeros((3, 1, 8, 8), int), np.zeros(3, int), "need uint8"),
        (np.array([object()]), np.zeros(1, int), "cannot be read as npz"),
    ],
)
def test_images_that_cannot_be_used(own, capsys, x, y, message):
    np.savez("images.npz", x=x, y=y)
    with pytest.raises(SystemExit):
        attack()
    assert message in capsys.readouterr().err
