"""The plan of an experiment: formulas by hand, and its predictions by a clock that counts images instead of seconds."""

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from snakemake.utils import update_config
from stubs import Lines

import bat.planning.stage
from bat.attacks.ensemble import STANDARD
from bat.cli import main
from bat.config import Adversary, EvaluationPgd, FileScores, OwnTrainer, Packaged, SizedModel, load
from bat.config.shorthand import extended
from bat.config.specs import DataSpec, SubsetsSpec, TrainSpec, as_json
from bat.data.dataset import load_source
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.models import build
from bat.planning import cost as plan
from bat.planning import resources, timing
from bat.planning.resources import needs
from bat.scores import subsets
from bat.scores.precision import models_for, worst_standard_error
from bat.training import run as training
from bat.training.losses import objective

ROOT = Path(__file__).parents[2]
SMOKE = load(str(ROOT / "config/config.yaml"), str(ROOT / "config/smoke.yaml"))
SHORT = replace(SMOKE.training, recipe=replace(SMOKE.training.recipe, epochs=3, batch_size=128))


@pytest.mark.parametrize(("models", "expected"), [(100, 0.109), (200, 0.077), (2000, 0.024), (4000, 0.017)])
def test_worst_standard_error_at_070(models, expected):
    assert worst_standard_error(models, 0.7) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("fraction", [0.5, 0.7, 0.9])
def test_worst_standard_error_is_the_worst_of_all_rates(fraction):
    p = np.linspace(0, 1, 101)
    variance = p * (1 - p) / (fraction * 1000)
    others = p * (1 - p) / ((1 - fraction) * 1000)
    assert worst_standard_error(1000, fraction) == pytest.approx(np.sqrt((variance[:, None] + others).max()))


def test_models_for_a_standard_error_by_hand():
    assert models_for(0.02, 0.7) == 2977  # 0.25 (1 / 0.7 + 1 / 0.3) / 0.0004 = 2976.2
    assert models_for(0.1, 0.5) == 100  # 0.25 * 4 / 0.01, exactly


@given(st.floats(0.005, 0.5), st.floats(0.05, 0.95))
def test_models_for_is_the_least_number(error, fraction):
    models = models_for(error, fraction)
    assert worst_standard_error(models, fraction) <= error * (1 + 1e-8)
    assert models == 1 or worst_standard_error(models - 1, fraction) > error


KEYS, LEAVES = st.sampled_from("abc"), st.integers() | st.lists(st.integers(), max_size=2)
MAPS = st.recursive(
    st.dictionaries(KEYS, LEAVES, min_size=1, max_size=3),
    lambda inner: st.dictionaries(KEYS, LEAVES | inner, min_size=1, max_size=3),
    max_leaves=8,
)


@given(MAPS, MAPS)
def test_config_files_are_merged_as_snakemake_does(first, second):
    ours = extended(first, second)
    update_config(first, second)
    assert ours == first


def test_a_config_file_that_changes_another():
    assert SMOKE.experiment == "smoke"
    assert SMOKE.training.recipe.epochs == 15
    assert SMOKE.memorization.recipe.batch_size == 64  # from config.yaml
    assert [attack.name for attack in SMOKE.evaluation.ensemble] == ["apgd_ce", "apgd_t", "fab_t", "square"]


def like(name, train_samples, validation_samples, subsample=1.0, classes=None):
    data = SimpleNamespace(
        name=name, train_samples=train_samples, validation_samples=validation_samples, classes=classes
    )
    return SimpleNamespace(experiment="it", data=data, subsample=subsample)


@pytest.mark.parametrize(
    ("config", "counts", "shape", "classes"),
    [
        (like("digits", 600, 200), (600, 200, 997), (1, 8, 8), 10),
        (like("cifar100", 900, 100), (900, 100, 10_000), (3, 32, 32), 100),
        (like("cifar100", "all", 5_000, 0.01), (450, 50, 100), (3, 32, 32), 100),
        (like("digits", "all", 0.1), (1294, 144, 359), (1, 8, 8), 10),
        (like("cifar100", "all", 0.1, classes=2), (900, 100, 200), (3, 32, 32), 2),
        (like("cifar10", "all", 500, classes=("cat", "dog", "ship")), (14_500, 500, 3_000), (3, 32, 32), 3),
        (like("digits", "all", 0.1, classes=(3, 8)), (258, 29, 72), (1, 8, 8), 2),
    ],
)
def test_random_data_has_the_size_of_the_real(config, counts, shape, classes):
    data = plan.random_data(config, "snakemake")
    assert tuple(len(part) for part in data.parts().values()) == counts
    assert tuple(data.train.pixels.shape[1:]) == shape
    assert data.classes == classes
    for part in data.parts().values():
        assert (part.pixel_max, part.pixels.dtype) == (255, torch.uint8)
        assert (int(part.pixels.min()), int(part.pixels.max())) == (0, 255)
        assert part.index.tolist() == list(range(len(part)))
    assert set(data.test.labels.tolist()) <= set(range(classes))
    again = plan.random_data(config, "snakemake")
    assert data.digest() == again.digest()


def test_random_data_of_digits_is_as_large_as_digits():
    data = Packaged(name="digits", train_samples=600, validation_samples=200, split_seed=0)
    real, drawn = load_source(data, subsample=1.0), plan.random_data(like("digits", 600, 200), "snakemake")
    assert [part.pixels.shape for part in drawn.parts().values()] == [p.pixels.shape for p in real.parts().values()]
    assert drawn.classes == real.classes


def test_random_data_in_the_place_of_a_users_own_that_was_counted(monkeypatch):
    config = like("image_folder", 10, 10)
    for module in (plan, resources):
        monkeypatch.setattr(module, "counted", lambda data: ((5, 2, 3), (1, 4, 4), 3) if data is config.data else None)
    monkeypatch.setattr(resources, "shape_of", lambda data: None)
    monkeypatch.setattr(resources, "split_sizes", lambda data: None)
    data = plan.random_data(config, "snakemake")
    assert [(len(part), *part.pixels.shape[1:]) for part in data.parts().values()] == [(n, 1, 4, 4) for n in (5, 2, 3)]
    assert data.classes == 3


def test_a_data_set_of_unknown_size():
    line = refusal(plan.random_data, like("image_folder", 10, 10), "snakemake --cores 1 x")
    assert line.endswith("how many images it has is known only after it was read: first run snakemake --cores 1 x")


def test_disk_by_hand_and_by_the_files(tmp_path):
    data = plan.random_data(SMOKE, "snakemake")
    stored = plan.disk(SMOKE, data, runs=3, weights=1000)
    assert stored["weights"] == 2 * 3 * 2 * 1000  # best and last of 3 methods and 2 seeds
    assert stored["subsets"] == 40 * (200 // 8 + 1797 // 8 + 3 * 1797)
    assert stored["adversarial images"] == 2 * 3 * 2 * 1547 * 64 * 4  # float32
    # 3 epochs, measured each or the second and last: two losses of 2 bytes and two bits a sample of any split; of a
    # training sample 2 bytes more, and 4 in each epoch
    for every, measured in ((1, 3), (2, 2)):
        config = replace(SMOKE, training=replace(SHORT, measure_every=every))
        found = plan.disk(config, data, runs=3, weights=1000)["records of training"]
        assert found == 6 * (measured * (1797 * 17 // 4 + 2 * 200) + 3 * 200 * 4)
    # by hand, with robust subset models and 12 epochs of which each fifth is measured
    robust = replace(SMOKE.memorization, robust=replace(SMOKE.memorization.robust, subset_models=20))
    recipe = replace(SMOKE.training.recipe, epochs=12)
    long = replace(SMOKE, memorization=robust, training=replace(SMOKE.training, recipe=recipe, measure_every=5))
    assert plan.disk(long, data, runs=3, weights=1000) == {
        "data": 1797 * (64 + 16),
        "subsets": 40 * (25 + 224 + 5391) + 20 * (25 + 2 * (224 + 5391)),
        "weights": 2 * 6 * 1000,
        "records of training": 6 * (3 * (17 * 1797 // 4 + 2 * 200) + 12 * 4 * 200),
        "tables": 6 * (4 * 1547 * 8 + 12 * 500 + 20 * 12 * 200 // 5 + 30_000) + 90 * 1797,
        "adversarial images": 2 * 6 * 4 * 1547 * 64,
    }
    unkept = replace(SMOKE, evaluation=replace(SMOKE.evaluation, images=False))
    assert plan.disk(unkept, data, runs=3, weights=1000)["adversarial images"] == 0
    write_data(tmp_path / "data.safetensors", data, "{}")
    assert stored["data"] == pytest.approx((tmp_path / "data.safetensors").stat().st_size, rel=0.02)


def test_disk_by_number_of_classes():
    """A byte holds 256 classes; one more byte a sample and model from there on."""
    data = plan.random_data(SMOKE, "snakemake")
    few, most = (replace(data, classes=classes) for classes in (255, 256))
    more = {name: disk_of(most)[name] - count for name, count in disk_of(few).items()}
    assert more == dict.fromkeys(more, 0) | {"subsets": 40 * 1797}


def disk_of(data):
    stored = plan.disk(SMOKE, data, runs=3, weights=1)
    assert all(isinstance(count, int) for count in stored.values())
    return stored


def test_disk_by_scores_from_a_file_has_no_subset_models():
    scores = FileScores(source="file", path="scores.npz", format="npz")
    assert plan.disk(replace(SMOKE, scores=scores), plan.random_data(SMOKE, ""), runs=3, weights=1)["subsets"] == 0


def test_table_adds_up():
    lines = plan.table([plan.Stage("a", 3, 1800.0), plan.Stage("b", 1, 3600.0)], threads=2, unit="CPU")
    assert lines == [
        "stage                      jobs   minutes a job     CPU hours",
        "a                             3           30.00         3.000",
        "b                             1           60.00         2.000",
        "total                         4                         5.000",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (512, "512 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (10 * 2**10, "10 KiB"),
        (2.25 * 2**20, "2.25 MiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (2**42, "4 TiB"),
        (5000 * 2**40, "5e+03 TiB"),
    ],
)
def test_size(count, text):
    assert plan.bytes_text(count) == text


def test_an_attack_is_shortened_by_what_it_is_multiplied_with():
    times = {attack.name: timing.shortened(attack, 100)[1] for attack in STANDARD}
    # steps or queries over 10, times 9 targets
    assert times == {"apgd_ce": 10, "apgd_t": 90, "fab_t": 90, "square": 500}
    assert timing.shortened(STANDARD[1], 4)[1] == 30  # three other classes
    short, times = timing.shortened(EvaluationPgd(name="pgd", steps=5, step_size=0.1, restarts=4), 10)
    assert (short.steps, short.restarts, times) == (5, 1, 4)


@pytest.mark.parametrize(("full", "seconds_each"), [(5, 1e-9), (1000, 1e-9), (1000, 1e-3), (10**6, 1e-2), (3, 100.0)])
def test_seconds_are_in_proportion_to_samples(full, seconds_each):
    tried = []

    def run(count):
        tried.append(count)
        return count * seconds_each

    assert timing.seconds_for(full, run) == pytest.approx(full * seconds_each)
    assert max(tried) <= full
    # the largest try takes at most four times what is enough
    assert max(tried) * seconds_each <= max(2 * timing.BUDGET, min(full, 8) * seconds_each)


@pytest.fixture
def images(monkeypatch):
    """Let time be the number of images that have gone through a network's last layer."""
    clock = SimpleNamespace(now=0)

    def count(module, inputs, outputs):
        if isinstance(module, torch.nn.Linear) and module.out_features == 10:
            clock.now += len(outputs)

    monkeypatch.setattr(timing, "now", lambda: clock.now)
    monkeypatch.setattr(timing, "BUDGET", 1500)  # images, so less than an epoch
    hook = torch.nn.modules.module.register_module_forward_hook(count)
    yield clock
    hook.remove()


def test_subset_models_by_a_clock_of_images(images, monkeypatch):
    monkeypatch.setattr(timing, "stackable", lambda *args, **kwargs: False)
    data = plan.random_data(SMOKE, "snakemake")
    # 12 epochs on 140 of 200 samples, then once each sample of 200 + 50 + 1547
    assert timing.subset_seconds(SMOKE, data, robust=False) == pytest.approx(12 * 140 + 1797, rel=1e-3)
    steps = SMOKE.memorization.robust.attack.steps
    expected = 12 * 140 * (steps + 1) + 1797 * (steps + 2)  # recorded clean and under attack
    assert timing.subset_seconds(SMOKE, data, robust=True) == pytest.approx(expected, rel=1e-3)


def test_subset_models_that_are_trained_together_share_their_time(images, monkeypatch):
    monkeypatch.setattr(timing, "stackable", lambda *args, **kwargs: True)

    def half_of_one_by_one(samples, masks, spec, *, seeds):
        assert masks.shape == (len(seeds), len(samples.train))
        images.now += spec.recipe.epochs * masks.sum() / 2

    monkeypatch.setattr(timing, "train_stacked", half_of_one_by_one)
    data = plan.random_data(SMOKE, "snakemake")
    assert timing.subset_seconds(SMOKE, data, robust=False) == pytest.approx(12 * 140 / 2 + 1797, rel=1e-3)


def test_what_is_trained_together_is_timed_together(monkeypatch):
    """What decides it for the stage decides it here."""
    asked = []
    monkeypatch.setattr(timing, "BUDGET", 0.01)
    monkeypatch.setattr(timing, "stackable", lambda *args, **kwargs: not asked.append((args, kwargs)))
    data = plan.random_data(SMOKE, "snakemake")
    assert timing.subset_seconds(SMOKE, data, robust=False) > 0
    ((samples, masks, spec), seeds) = asked[0][0], asked[0][1]["seeds"]
    assert samples is data
    assert masks.sum(1).tolist() == [140] * 8
    assert len(seeds) == 8
    assert spec.model == SMOKE.subset_model


OWN = replace(SMOKE, memorization=replace(SMOKE.memorization, model=SizedModel(name="small_cnn", width=2)))


@pytest.mark.parametrize(
    ("act", "name"),
    [
        (lambda data: timing.first_step(OWN, data), "small_cnn"),
        (lambda data: timing.subset_seconds(OWN, data, robust=False), "small_cnn"),
        (lambda data: timing.subset_seconds(OWN, data, robust=True), "small_cnn"),
        (lambda data: timing.method_seconds(OWN, data, OWN.training.methods[1]), "mlp"),
        (lambda data: timing.evaluation_seconds(OWN, data), "mlp"),
    ],
    ids=["first step", "subsets", "robust subsets", "method", "evaluation"],
)
def test_each_stage_is_timed_with_its_own_network(act, name, monkeypatch):
    built = []
    for module in (timing, training, subsets):
        monkeypatch.setattr(
            module, "build", lambda model, *parts, **at: built.append(model) or build(model, *parts, **at)
        )
    monkeypatch.setattr(timing, "BUDGET", 0.01)
    act(plan.random_data(OWN, "snakemake"))
    assert {model.name for model in built} == {name}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_method_by_a_clock_of_images_as_in_a_real_run(images, place):
    stage = replace(SHORT, measure_every=2)
    method = stage.methods[place]
    data = plan.random_data(SMOKE, "snakemake")
    predicted = timing.method_seconds(replace(SMOKE, training=stage), data, method)
    spec = TrainSpec(
        model=SMOKE.model,
        threat=SMOKE.threat,
        recipe=stage.recipe,
        compute=SMOKE.compute,
        attack=stage.attack,
        attack_bn=stage.attack_bn,
        measure_every=2,
        early_stop=0,
        without=None,
        method=method,
        seed=0,
    )
    before = images.now
    training.train_run(spec, data)
    assert predicted == pytest.approx(images.now - before, rel=0.03)
    steps = stage.attack.steps if objective(method).inner else 0
    # 3 epochs, measured after the second and the last
    assert images.now - before == 3 * 200 * (steps + 1) + 2 * 1797 * (stage.attack.steps + 2)


def test_evaluation_by_a_clock_of_images(images):
    data = plan.random_data(SMOKE, "snakemake")
    config = replace(SMOKE, evaluation=replace(SMOKE.evaluation, ensemble=(STANDARD[0],)))
    seconds = timing.evaluation_seconds(config, data)
    # the clean pass, a step of PGD, and the passes that check it
    assert seconds["clean"] == pytest.approx(3 * 1547, rel=0.2)
    assert seconds["PGD"] == pytest.approx(timing.STANDING * 20 * 1547, rel=0.25)
    assert seconds["apgd_ce"] == pytest.approx(timing.STANDING * 100 * 1547, rel=0.25)


def test_attacks_are_timed_while_all_samples_stand(monkeypatch):
    broken = []
    real = timing.attack_samples

    def seen(*arguments, **options):
        found = real(*arguments, **options)
        broken.append(int((found["broken_by"] >= 0).sum()))
        return found

    monkeypatch.setattr(timing, "attack_samples", seen)
    monkeypatch.setattr(timing, "BUDGET", 0.01)
    timing.evaluation_seconds(SMOKE, plan.random_data(SMOKE, "snakemake"))
    assert len(broken) >= 6
    assert not any(broken)


def test_timed_passes_items_on_until_the_budget_is_spent(monkeypatch):
    monkeypatch.setattr(timing, "BUDGET", 10)
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(timing, "now", lambda: next(clock))
    seconds = []
    # the first is free; three of 4 seconds are more than 10
    assert list(timing.timed(range(100), seconds)) == [0, 1, 2, 3]
    assert seconds == [4, 4, 4, 4]
    assert timing.settled([9.0, 1.0, 3.0, 2.0]) == 2
    assert timing.settled([9.0]) == 9


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "BUDGET", 0.02)
    return tmp_path


def planned(capsys, *arguments):
    main(["plan", "--configfile", "config/smoke.yaml", *arguments])
    return capsys.readouterr().out


def test_plan_prints_jobs_and_precision(folder, capsys):
    text = planned(capsys, "--standard-error", "0.05")
    jobs = {line[:24].strip(): int(line[24:31]) for line in text.splitlines()[4:20]}
    assert jobs == {
        "data": 1,
        "subsets": 2,
        "scores": 1,
        "null_pairs": 1,
        "duplicates": 1,
        "train natural": 2,
        "train pgd_at": 2,
        "train bat": 2,
        "proxies": 1,
        "groups": 1,
        "evaluate": 6,
        "summary": 1,
        "figures": 1,
        "results": 1,
        "page": 1,
        "explorer": 1,
    }
    assert "random images in its place" in text
    assert "at most 0.173" in text  # 1.0911 / sqrt(40)
    assert "477 models, so memorization.subset_models: 480 (24 shards)" in text  # 1.1905 / 0.0025
    weights = build(SMOKE.model, plan.random_data(SMOKE, "snakemake").train, classes=10, seed=0).state_dict().values()
    assert f"{sum(tensor.numel() for tensor in weights):,} weights" in text


def test_plan_of_models_in_rounds_is_of_all_of_them(folder, capsys):
    text = planned(capsys, "--config", "memorization={until: {standard_error: 0.1, at_most: 100}}")
    jobs = {line[:24].strip(): line[24:31].strip() for line in text.splitlines()[4:12]}
    assert (jobs["subsets"], jobs["enough"]) == ("5", "2")
    assert "subset models in rounds of 40, all of them counted here: memorization.until may stop at fewer" in text
    assert "with 100 models: at most 0.109" in text


def test_plan_names_the_network_of_stage_1_where_it_has_its_own(folder, capsys):
    own = "memorization={model: {name: small_cnn, width: 2}}"
    # three convolutions; normalisation with 4 numbers a channel and a counter; a head on 8 x 2 x 2 features; mean and
    # deviation of pixels
    count = 18 + 72 + 288 + 4 * (2 + 4 + 8) + 3 + 32 * 10 + 10 + 2
    assert f" weights; of stage 1 small_cnn, {count} weights, on cpu" in planned(capsys, "--config", own)
    (folder / "scores.npz").touch()
    imported = planned(capsys, "--config", own, "scores={source: file, path: scores.npz, format: npz}")
    assert "of stage 1" not in imported


def test_plan_takes_the_data_set_that_is_on_disk(folder, capsys):
    data = {"name": "digits", "train_samples": 200, "validation_samples": 50, "split_seed": 0}
    where = folder / "results/smoke/data"
    for split_seed, origin in ((0, "results/smoke/data/data.safetensors"), (1, "random images in its place")):
        spec = json.dumps({"data": data | {"split_seed": split_seed}, "subsample": 1.0})
        main(["data", "--spec", spec, "--data", f"{where}/data.safetensors", "--files", f"{where}/files.parquet"])
        assert f"digits ({origin})" in planned(capsys)


def test_plan_of_a_trial_and_of_scores_from_a_file(folder, capsys):
    (folder / "scores.npz").touch()
    scores = "scores={source: file, path: scores.npz, format: npz}"
    text = planned(capsys, "--config", "subsample=0.5", scores, "--standard-error", "0.1")
    assert "100 train, 25 validation, 774 test images" in text
    assert "import_scores" in text
    assert "subsets  " not in text
    assert "standard error" not in text


def test_plan_of_retraining_and_of_robust_subset_models(folder, capsys):
    removal = "removal={method: pgd_at, fractions: [0.1]}"
    text = planned(capsys, "--config", removal, "memorization={robust: {subset_models: 20}}")
    jobs = {line[:24].strip(): int(line[24:31]) for line in text.splitlines()[4:24]}
    assert jobs["robust_subsets"] == jobs["robust_scores"] == jobs["scores"] == jobs["harmful"] == 1
    # without atypical, the top 10 %, harmful, benign ones; each with a random twin; two seeds
    assert jobs["pgd_at_without_..."] == 2 * 8
    assert jobs["evaluate"] == 2 * (3 + 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *((["--standard-error", text], "give a number from 0.000001") for text in ("2", "1", "0", "-1", "nan", "1e-7")),
        (["--configfile", "config/none.yaml"], "config/none.yaml: cannot be read (No such file"),
        (["--base", "none.yaml"], "none.yaml: cannot be read (No such file"),
        (["--configfile", "config"], "config: cannot be read (a folder, not a file)"),
        (["--configfile", "config/wrong.yaml"], "plan: config/wrong.yaml: memorization.subset_model: unknown key"),
        (["--config", "subsample"], "--config subsample: give KEY=VALUE"),
        (["--config", "=1"], "--config =1: give KEY=VALUE"),
        (["--config", "subsample=[0"], "--config subsample=[0: cannot be read as YAML"),
        (["--config", "subsample=010"], "--config subsample=010: 010 is read in several ways"),
        (["--config", "training.sed=[0]"], "--config training.sed=[0]: training.sed: unknown key"),
        (["--config", "training={seeds: [0, 0]}"], "training.seeds: 0 is there twice"),
        (["--config", "scores={source: file, path: none.npz, format: npz}"], "scores.path: none.npz: No such file"),
        (["--config", "subsample=2"], "subsample: 2 is over 1, the most: lower it"),
        (["--device", "abacus"], "no such device"),
    ],
)
def test_what_cannot_be_planned(folder, capsys, arguments, message):
    (folder / "config/wrong.yaml").write_text("memorization: {subset_model: 3}")
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# -- times of stand-ins, which move a clock of their own


class Clock:
    """Stand-ins for all that is timed: each moves the clock by its own seconds a sample, and keeps what it is given."""

    def __init__(self, monkeypatch):
        self.now, self.given = 7.0, {}
        monkeypatch.setattr(timing, "now", lambda: self.now)
        monkeypatch.setattr(timing, "BUDGET", 0.5)
        for name in ("network", "epochs_on", "answers", "recorded", "train_stacked", "fit", "attack_samples"):
            monkeypatch.setattr(timing, name, getattr(self, name))
        monkeypatch.setattr(training, "train_run", self.train_run)

    def keep(self, name, *given, **options):
        self.given.setdefault(name, []).append((*given, options))

    def network(self, part, spec, **options):
        self.keep("network", part, spec, **options)
        self.now += 5
        return "a network"

    def epochs(self, seconds):
        self.now += 3 * seconds  # the first time takes longer
        for _ in range(4):
            yield "an epoch"
            self.now += seconds

    def epochs_on(self, model, part, spec, **options):
        self.keep("epochs_on", model, part, spec, **options)
        return self.epochs(0.01 * len(part))

    def answers(self, model, few, spec, **options):
        self.keep("answers", model, few, spec, **options)
        self.now += 0.02 * len(few.train)

    def recorded(self, few, part, spec, **options):
        assert part is few.train
        self.keep("recorded", few, spec, **options)
        self.now += 0.03 * len(part)

    def train_stacked(self, few, masks, spec, **options):
        self.keep("train_stacked", few, masks, spec, **options)
        self.now += 0.04 * len(few.train)

    def train_run(self, spec, few, watch, **options):
        self.keep("train_run", spec, few, **options)
        for _ in watch(iter(range(3))):
            self.now += 0.01 * len(few.train)

    def fit(self, model, part, **options):
        self.keep("fit", model, part, **options)
        return self.epochs(0.005 * len(part))

    def attack_samples(self, model, part, rows, **options):
        assert not model.training
        with torch.no_grad():
            assert torch.equal(part.labels, model(part.images()).argmax(1))
        assert rows.tolist() == list(range(len(part)))
        self.keep("attack_samples", len(part), **options)
        costs = {"pgd": 0.003, "apgd_ce": 0.005, "apgd_t": 0.002, "fab_t": -0.0005, "square": 0.011}
        self.now += len(part) * (0.001 + sum(costs[attack.name] for attack in options["ensemble"]))


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


SOME = plan.random_data(SMOKE, "snakemake")


def sizes(data):
    return [len(part) for part in data.parts().values()]


def test_the_first_step_is_one_of_the_networks_of_stage_1(clock):
    timing.first_step(OWN, SOME)
    (part, spec, options), (model, first, gentle, more) = clock.given["network"][0], clock.given["epochs_on"][0]
    assert part is SOME.train
    assert (spec.model, spec.trainer, options) == (OWN.subset_model, None, {"classes": 10, "seed": 0})
    assert spec.first_model == 0
    assert (model, first.index.tolist()) == ("a network", list(range(0, 200, 25)))
    assert gentle == replace(spec, recipe=replace(spec.recipe, learning_rate=1e-6))
    assert more == {"seed": 0, "what": "plan"}
    assert clock.now == pytest.approx(7 + 5 + 3 * 0.08)  # an epoch begins, and does not end
    timing.first_step(OWN, replace(SOME, train=SOME.train.take(torch.arange(3))))
    assert len(clock.given["epochs_on"][1][1]) == 3


def test_the_first_step_is_of_this_package_also_beside_a_trainer_of_the_users(clock):
    trainer = OwnTrainer(name="users:fit", code="0")
    timing.first_step(replace(OWN, memorization=replace(OWN.memorization, trainer=trainer)), SOME)
    spec = clock.given["network"][0][1]
    assert (spec.model, spec.trainer) == (OWN.subset_model, None)


@pytest.mark.parametrize(("robust", "design"), [(False, "balanced"), (True, "independent")])
def test_subset_models_are_built_trained_and_recorded_one_by_one(clock, robust, design, monkeypatch):
    asked, config = [], replace(SMOKE, memorization=replace(SMOKE.memorization, design=design))
    monkeypatch.setattr(timing, "stackable", lambda *given, **options: asked.append((given, options)))
    # 12 epochs of 140 samples, and 200 samples recorded
    assert timing.subset_seconds(config, SOME, robust=robust) == pytest.approx(5 + 12 * 1.4 + 4)
    ((part, spec, options),) = clock.given["network"]
    assert (len(part), options) == (140, {"classes": 10, "seed": 0})
    assert spec == SubsetsSpec.of(config, first_model=0, robust=robust)
    for model, _, gentle, more in clock.given["epochs_on"]:
        assert gentle == replace(spec, recipe=replace(spec.recipe, learning_rate=1e-6))
        assert (model, more) == ("a network", {"seed": 0, "what": "plan"})
    assert [len(part) for _, part, *_ in clock.given["epochs_on"]] == [8, 32]
    for model, _, recording, more in clock.given["answers"]:
        assert (model, recording, more) == ("a network", spec, {"seed": 0})
    # of each split as large a share
    assert {tuple(sizes(few)) for _, few, *_ in clock.given["answers"]} == {(8, 2, 62), (32, 8, 248)}
    ((data, masks, stacked), options) = asked[0]
    assert (data, stacked, options) == (SOME, spec, {"seeds": range(8)})
    assert np.array_equal(masks, subsets.subset_masks(200, 140, design=design, seed=0, first=0, count=8))


def test_subset_models_that_are_trained_together_are_timed_for_one_epoch(clock, monkeypatch):
    monkeypatch.setattr(timing, "stackable", lambda *_, **__: True)
    few = replace(SMOKE, memorization=replace(SMOKE.memorization, models_per_shard=4))
    assert timing.subset_seconds(few, SOME, robust=False) == pytest.approx(5 + 12 * 1.4 + 4)
    recipe = replace(SMOKE.memorization.recipe, learning_rate=1e-6, epochs=1)
    for data, masks, spec, options in clock.given["train_stacked"]:
        assert sizes(data)[1:] == sizes(SOME)[1:]
        assert masks.shape == (4, len(data.train))
        assert (masks.dtype, masks.all()) == (bool, True)
        assert (spec.recipe, options) == (recipe, {"seeds": range(4)})
    assert {len(data.train) for data, *_ in clock.given["train_stacked"]} == {8, 32}


def test_subset_models_of_a_trainer_are_timed_as_a_whole(clock):
    own = replace(SMOKE.memorization, trainer=OwnTrainer(name="users:fit", code="0"))
    assert timing.subset_seconds(replace(SMOKE, memorization=own), SOME, robust=False) == pytest.approx(140 * 0.03)
    for few, spec, options in clock.given["recorded"]:
        assert (spec.trainer, options) == (own.trainer, {"seed": 0, "what": "plan"})
        assert sizes(few) in ([8, 2, 62], [32, 8, 248])
    assert "network" not in clock.given


@pytest.mark.parametrize(("every", "seconds"), [(1, 3 * 2), (2, 2 * 2 + 1), (3, 2 + 2 * 1)])
def test_a_methods_epochs_are_timed_with_and_without_a_measurement(clock, every, seconds):
    stage = replace(SHORT, measure_every=every, early_stop=3)
    config, method = replace(SMOKE, training=stage), stage.methods[2]
    assert timing.method_seconds(config, SOME, method) == pytest.approx(seconds)
    gentle = replace(stage.recipe, learning_rate=1e-6)
    for spec, few, options in clock.given["train_run"]:
        assert (spec.recipe, spec.measure_every, spec.early_stop, spec.without) == (gentle, 1, 0, None)
        assert (spec.method, spec.seed, spec.model) == (method, stage.seeds[0], SMOKE.model)
        assert options.pop("chosen").tolist() == [row % 20 == 0 for row in range(len(few.train))]
        assert not options
    assert {tuple(sizes(few)) for _, few, _ in clock.given["train_run"]} == {(8, 2, 62), (32, 8, 248)}
    for model, part, options in clock.given.get("fit", []):
        assert model.head.out_features == 10
        assert options.pop("atypical").tolist() == [row % 20 == 0 for row in range(len(part))]
        assert (options.pop("objective").inner is None) == (objective(method).inner is None)
        adversary = Adversary(threat=SMOKE.threat, attack=stage.attack, attack_bn=stage.attack_bn)
        wanted = {"recipe": gentle, "seed": 0, "what": "plan", "adversary": adversary, "compute": SMOKE.compute}
        assert options == wanted
    assert ("fit" in clock.given) == (every > 1)


def test_an_epoch_without_a_measurement_takes_no_longer(clock, monkeypatch):
    monkeypatch.setattr(timing, "fit", lambda model, part, **_: clock.epochs(0.05 * len(part)))
    config = replace(SMOKE, training=replace(SHORT, measure_every=3))
    assert timing.method_seconds(config, SOME, SHORT.methods[0]) == pytest.approx(3 * 2)


@pytest.mark.parametrize("batch_size", [16, 5000])
def test_attacks_are_timed_step_by_step(clock, batch_size):
    config = replace(SMOKE, evaluation=replace(SMOKE.evaluation, batch_size=batch_size, ensemble=STANDARD))
    found = timing.evaluation_seconds(config, SOME)
    assert found == pytest.approx(
        {
            "clean": 1547 * 0.001,
            # 20 steps, of which 10 are timed
            "PGD": 0.5 * 2 * config.evaluation.pgd.restarts * 1547 * 0.003,
            "apgd_ce": 0.5 * 10 * 1547 * 0.005,
            "apgd_t": 0.5 * 90 * 1547 * 0.002,
            "fab_t": 0,  # never less than nothing
            "square": 0.5 * 500 * 1547 * 0.011,
        }
    )
    pgd = replace(config.evaluation.pgd, steps=1, restarts=1)
    for count, options in clock.given["attack_samples"]:
        assert count <= batch_size
        (attack,) = options.pop("ensemble") or (pgd,)
        assert attack.restarts == 1
        assert options == {"threat": replace(SMOKE.threat, eps=1e-6), "pgd_attack": pgd, "seed": SMOKE.evaluation.seed}


def test_the_clock_is_that_of_the_processor_where_one_thread_does_the_work(monkeypatch):
    monkeypatch.setattr("time.process_time", lambda: 1.0)
    monkeypatch.setattr("time.perf_counter", lambda: 2.0)
    for threads, gpu, expected in ((1, False, 1), (2, False, 2), (1, True, 2)):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert timing.now() == expected


@pytest.mark.parametrize(
    ("full", "seconds_each", "tried"),
    [
        (5, 0, [5]),
        (8, 0, [8]),
        (33, 0, [8, 32, 33]),
        (500, 0, [8, 32, 128, 500]),
        (500, 1 / 256, [8, 32, 128]),  # exactly half of the budget is enough
    ],
)
def test_four_times_as_many_are_tried_until_half_of_the_budget_is_spent(clock, full, seconds_each, tried):
    counts = []
    seconds = timing.seconds_for(full, lambda count: counts.append(count) or count * seconds_each / 2)
    assert counts == tried
    assert seconds == full * seconds_each / 2


@pytest.mark.parametrize(
    ("seconds", "passed"),
    [
        ([1, 0.25, 0.25, 0.25, 9], 4),  # over the budget, not at it, without the first
        ([5, 0.125, 0.5, 9], 3),
        ([5.125, 9], 1),  # the first alone, ten times over
    ],
)
def test_items_are_passed_on_until_the_budget_is_spent(clock, seconds, passed):
    def items():
        yield from range(len(seconds))

    spent = []
    for item in timing.timed(items(), spent):
        clock.now += seconds[item]
    assert spent == seconds[:passed]


def test_an_act_is_repeated_seven_times_after_a_first(clock):
    acts = iter([1, 0.03125, 0.03125, 0.0625, 0.0625, 0.0625, 0.03125, 0.0625, 9])

    def act():
        clock.now += next(acts)

    assert timing.repeated(act) == 0.0625
    assert list(acts) == [9]


def test_a_share_of_the_samples_is_spread_evenly_and_is_of_each_split():
    few = timing._share(SOME, 3)
    assert few.train.index.tolist() == [0, 66, 133]
    assert (few.validation.index.tolist(), len(few.test), few.classes) == ([0], 23, 10)
    assert sizes(timing._share(SOME, 200)) == [200, 50, 1547]


# -- what is printed, with made-up times


PRINTED = """\
smoke: digits (random images in its place), 200 train, 50 validation, 1,547 test images of 1 x 8 x 8, 10 classes
mlp, 3,468 weights, on cpu, 1 thread

stage                      jobs   minutes a job     CPU hours
data                          1            0.03         0.001
subsets                       2           33.37         1.112
scores                        1            0.03         0.001
null_pairs                    1            0.03         0.001
duplicates                    1            0.03         0.001
train natural                 2            1.03         0.034
train pgd_at                  2            2.03         0.068
train bat                     2            3.03         0.101
proxies                       1            0.03         0.001
groups                        1            0.03         0.001
evaluate                      6            0.25         0.025
summary                       1            0.03         0.001
figures                       1            0.03         0.001
results                       1            0.03         0.001
page                          1            0.03         0.001
explorer                      1            0.03         0.001
total                        25                         1.347

rules not timed: start-up alone (2.0 s a job)
evaluate: both checkpoints; 50% of the test samples taken to stand under an attack; seconds: clean 1, PGD 2.5, \
apgd_ce 3.14
peak memory of a job: 3 GiB
disk: 5.97 MiB (data 140 KiB, subsets 220 KiB, weights 163 KiB, records of training 212 KiB, tables 738 KiB, \
adversarial images 4.53 MiB)
standard error of memorization and influence with 40 models: at most 0.173
"""

# robust subset models, a network of their own for the others, in rounds, and retraining; on two threads
LONGER = """\
mlp, 3,468 weights; of stage 1 small_cnn, 769 weights, on cpu, 2 threads

stage                      jobs   minutes a job     CPU hours
data                          1            0.03         0.001
subsets                       5           33.37         5.561
enough                        2            0.03         0.002
scores                        1            0.03         0.001
null_pairs                    1            0.03         0.001
duplicates                    1            0.03         0.001
robust_subsets                1           66.70         2.223
robust_scores                 1            0.03         0.001
train natural                 2            1.03         0.069
train pgd_at                  2            2.03         0.136
  pgd_at_without_...         16            2.03         1.084
train bat                     2            3.03         0.202
proxies                       1            0.03         0.001
groups                        1            0.03         0.001
harmful                       1            0.03         0.001
evaluate                     22            0.25         0.187
"""
MORE = [
    "removal={method: pgd_at, fractions: [0.1]}",
    "memorization={robust: {subset_models: 20}, model: {name: small_cnn, width: 2}, until: {standard_error: 0.1, "
    "at_most: 100}}",
]


@pytest.fixture
def made_up(tmp_path, monkeypatch, capsys):
    """Call ``bat plan`` with times that are written down, and return what is printed and the journal."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = []

    def timed(name, value):
        def stand(config, data, *more, **options):
            seen.append((name, config.experiment, data.train.labels.device.type, *more, *options.values()))
            return value(*more, **options)

        monkeypatch.setattr(bat.planning.stage, name, stand)

    timed("first_step", lambda: None)
    timed("subset_seconds", lambda robust: 200 if robust else 100)
    timed("method_seconds", lambda method: {"natural": 60.0, "pgd_at": 120.0, "bat": 180.0}[method.name])
    timed("evaluation_seconds", lambda: {"clean": 1.0, "PGD": 2.5, "apgd_ce": 3.14159})
    monkeypatch.setattr("time.process_time", lambda: 2.0)
    monkeypatch.setattr(bat.planning.stage, "_memory", lambda where: "3 GiB")

    def plan(**given):
        seen.clear()
        journal = Lines()
        threads = torch.get_num_threads()
        bat.planning.stage.plan(journal, **{"configfile": ["config/smoke.yaml"]} | given)
        torch.set_num_threads(threads)
        return capsys.readouterr().out, journal, seen

    return plan


def test_the_plan_as_printed(made_up):
    text, journal, seen = made_up()
    assert text == PRINTED
    assert journal.lines == ["timing subsets", "timing attacks"]
    assert (journal.bars, journal.worked) == ([(3, "methods")], 1)
    methods = [("method_seconds", "smoke", "cpu", method) for method in SMOKE.training.methods]
    assert seen == [
        ("first_step", "smoke", "cpu"),
        ("subset_seconds", "smoke", "cpu", False),
        *methods,
        ("evaluation_seconds", "smoke", "cpu"),
    ]


def test_the_plan_of_all_kinds_of_jobs_as_printed(made_up, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    text, journal, seen = made_up(config=MORE, standard_error=0.05)
    assert text.partition("\n")[2].startswith(LONGER)
    assert text.splitlines()[-3:] == [
        "subset models in rounds of 40, all of them counted here: memorization.until may stop at fewer, and snakemake "
        "-n shows the first round",
        "standard error of memorization and influence with 100 models: at most 0.109",
        "for a standard error of 0.05: 477 models, so memorization.subset_models: 480 (24 shards)",
    ]
    assert set(journal.lines) == {"timing subsets", "timing robust_subsets", "timing attacks"}
    assert sorted(each[3] for each in seen if each[0] == "subset_seconds") == [False, True]


def test_the_plan_of_scores_from_a_file_as_printed(made_up, tmp_path):
    (tmp_path / "scores.npz").touch()
    own = ["scores={source: file, path: scores.npz, format: npz}", "memorization={model: {name: small_cnn, width: 2}}"]
    text, _, seen = made_up(config=own, standard_error=0.05)
    assert text.splitlines()[1:6] == [
        "mlp, 3,468 weights, on cpu, 1 thread",
        "",
        "stage                      jobs   minutes a job     CPU hours",
        "data                          1            0.03         0.001",
        "import_scores                 1            0.03         0.001",
    ]
    assert text.splitlines()[-1].startswith("disk: ")
    assert "subset_seconds" not in {each[0] for each in seen}


def test_the_plan_names_a_trainer_of_the_users(made_up, tmp_path):
    (tmp_path / "plan_trainer.py").write_text("def fit(): pass")
    trainer = "memorization={trainer: {name: 'plan_trainer:fit'}}"
    text, _, _ = made_up(config=[trainer])
    assert text.splitlines()[1] == "mlp, 3,468 weights; of stage 1 plan_trainer:fit, on cpu, 1 thread"
    (tmp_path / "scores.npz").touch()
    text, _, _ = made_up(config=[trainer, "scores={source: file, path: scores.npz, format: npz}"])
    assert text.splitlines()[1] == "mlp, 3,468 weights, on cpu, 1 thread"


def test_hours_on_another_device_are_its_own(made_up, monkeypatch):
    asked = []
    monkeypatch.setattr(bat.planning.stage, "device_named", lambda name: asked.append(name) or torch.device("meta"))
    monkeypatch.setattr(bat.planning.stage, "_network", lambda model, data: (f"{model.name}, 9 weights", 36))
    monkeypatch.setattr(bat.planning.stage, "_memory", lambda where: f"3 GiB of {where}")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    text, _, seen = made_up(device="x")
    assert asked == ["x"]
    assert {each[2] for each in seen} == {"meta"}
    lines = text.splitlines()
    assert lines[1] == "mlp, 9 weights, on meta, 2 threads"
    assert lines[3] == "stage                      jobs   minutes a job     GPU hours"
    assert lines[5] == "subsets                       2           33.37         1.112"
    assert "peak memory of a job: 3 GiB of meta" in lines
    assert "weights 432 B" in lines[-2]  # best and last of 3 methods and 2 seeds
    made_up()
    assert asked == ["x", "auto"]


@pytest.mark.parametrize("error", [-1.0, 0.0, 0.9e-6, 1.0, 2.0, float("nan")])
def test_a_standard_error_out_of_its_range_is_one_line(made_up, error):
    line = refusal(lambda: made_up(standard_error=error))
    assert line == f"--standard-error is {error}: give a number from 0.000001 to below 1"


def test_the_ends_of_the_range_of_standard_errors(made_up):
    assert made_up(standard_error=1e-6)[0].splitlines()[-1].startswith("for a standard error of 1e-06: ")
    assert made_up(standard_error=0.999)[0].splitlines()[-1] == (
        "for a standard error of 0.999: 2 models, so memorization.subset_models: 20 (1 shards)"
    )


def test_a_data_set_of_unknown_size_names_the_command_that_reads_it(made_up, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    own = "data={name: image_folder, path: images, size: 8, colour: grey}"
    monkeypatch.setattr(bat.planning.stage, "check_files", lambda config: None)
    line = refusal(lambda: made_up(config=[own]))
    assert line.endswith(
        "first run snakemake --cores 1 results/smoke/data/data.safetensors --configfile config/smoke.yaml --config "
        f"'{own}'"
    )
    (tmp_path / "config/config.yaml").write_text((tmp_path / "config/config.yaml").read_text())
    line = refusal(lambda: made_up(config=[own], configfile=None))
    assert "safetensors --config" in line


def test_files_of_the_experiment_are_looked_for_first(made_up, monkeypatch):
    looked = []
    monkeypatch.setattr(bat.planning.stage, "check_files", lambda config: looked.append(config.experiment) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made_up()
    assert looked == ["smoke"]


def test_the_data_set_on_disk_is_taken_where_it_is_that_of_the_experiment(made_up, tmp_path):
    spec = json.loads(as_json(DataSpec.of(SMOKE)))
    data = plan.random_data(like("digits", 30, 20), "")
    path = tmp_path / "results/smoke/data/data.safetensors"
    path.parent.mkdir(parents=True)
    write_data(path, data, provenance("data", spec=spec))
    assert made_up()[0].startswith("smoke: digits (results/smoke/data/data.safetensors), 30 train, 20 validation, ")
    write_data(path, data, provenance("data", spec=spec | {"subsample": 0.5}))
    assert made_up()[0].startswith("smoke: digits (random images in its place), 200 train, ")


def test_memory_is_the_most_that_was_held(monkeypatch):
    used = SimpleNamespace(ru_maxrss=600 * 2**10)
    monkeypatch.setattr("resource.getrusage", lambda who: used if who == resource.RUSAGE_SELF else None)
    assert bat.planning.stage._memory(torch.device("cpu")) == "600 MiB"
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda where: 2 ** (20 + where.index))
    assert bat.planning.stage._memory(torch.device("cuda", 2)) == "600 MiB, of the GPU 4 MiB"


@pytest.mark.parametrize(("name", "published"), [("preact_resnet18", 64), ("resnet50", 64), ("wrn_28_10", 16)])
def test_what_a_job_asks_for_follows_the_width(name, published):
    def asked(text):
        config = load(str(ROOT / "config/config.yaml"), str(ROOT / "config/cifar10.yaml"), settings=[f"model={text}"])
        return needs(config)["train"]

    assert asked(name) == asked(f"{name}:{published}")
    # of the same network: memory grows with the width, time with its square
    one, two, four = (asked(f"{name}:{published // part}") for part in (4, 2, 1))
    assert four["mem_mb"] - two["mem_mb"] == pytest.approx(2 * (two["mem_mb"] - one["mem_mb"]), abs=200)
    assert one["mem_mb"] < two["mem_mb"] < four["mem_mb"]


def test_a_narrow_network_takes_a_sixteenth_of_the_time():
    data = ["data={train_samples: 1000}", "training.recipe.epochs=5"]

    def minutes(text):
        config = load(
            str(ROOT / "config/config.yaml"), str(ROOT / "config/cifar10.yaml"), settings=[*data, f"model={text}"]
        )
        return needs(config)["train"]["runtime"] - 20

    assert minutes("resnet18") == pytest.approx(16 * minutes("resnet18:16"), rel=0.02)
