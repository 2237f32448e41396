"""What jobs ask a cluster for, and how many there are, by hand and as written down."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bat.config import (
    Config,
    ImageFolder,
    LibraryModel,
    Npz,
    Published,
    ResidualModel,
    SizedModel,
    Until,
    WideModel,
    load,
)
from bat.planning import resources
from bat.planning.jobs import jobs_of
from bat.planning.resources import Sizes, needs, sizes_of

ROOT = Path(__file__).parents[2]
DIGITS = load(str(ROOT / "config/config.yaml"))
CIFAR10 = load(str(ROOT / "config/config.yaml"), str(ROOT / "config/cifar10.yaml"))
SIZES = Sizes(train=900, validation=40, test=60, shape=(3, 10, 20), classes=5)
CNN, MLP = SizedModel(name="small_cnn", width=4), SizedModel(name="mlp", width=50)
PARTS: dict[str, Any] = {"train_samples": "all", "validation_samples": 5_000, "split_seed": 0}


def fixed(name: Any) -> ResidualModel | WideModel:
    return WideModel(name=name) if name.startswith("wrn") else ResidualModel(name=name)


def test_sizes_of_known_data_sets_and_of_a_trial() -> None:
    assert sizes_of(DIGITS) == Sizes(600, 200, 997, (1, 8, 8), 10)
    assert sizes_of(replace(DIGITS, subsample=0.5)) == Sizes(300, 100, 498, (1, 8, 8), 10)
    svhn = Published(name="svhn", cache="c", **PARTS)
    assert sizes_of(replace(CIFAR10, data=svhn)) == Sizes(68_257, 5_000, 26_032, (3, 32, 32), 10)
    assert sizes_of(replace(CIFAR10, data=Published(name="cifar100", cache="c", **PARTS))).classes == 100


def test_of_some_classes_there_are_as_many_images_as_of_others() -> None:
    some: dict[str, Any] = PARTS | {"cache": "c"}
    svhn = Published(name="svhn", classes=7, **some)
    assert sizes_of(replace(CIFAR10, data=svhn)) == Sizes(46_279, 5_000, 18_222, (3, 32, 32), 7)
    pair = Published(name="cifar100", classes=("apple", "bear"), **some | {"validation_samples": 100})
    assert sizes_of(replace(CIFAR10, data=pair)) == Sizes(900, 100, 200, (3, 32, 32), 2)
    # of 898, without a test part of their own
    assert sizes_of(replace(DIGITS, data=replace(DIGITS.data, classes=5))) == Sizes(600, 200, 98, (1, 8, 8), 5)


def test_a_users_own_data_set_is_counted_or_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ImageFolder(name="image_folder", path="none", size=None, colour="grey", **PARTS)
    config = replace(CIFAR10, data=folder)
    assert sizes_of(config) == Sizes(50_000, 5_000, 10_000, (3, 64, 64), 10)
    assert sizes_of(replace(config, data=replace(folder, size=7))).shape == (1, 7, 7)
    assert sizes_of(replace(config, data=Npz(name="npz", path="none", **PARTS))).shape == (3, 64, 64)
    monkeypatch.setattr(resources, "counted", lambda data: ((100, 20, 30), (3, 5, 6), 4) if data == folder else None)
    assert sizes_of(config) == Sizes(100, 20, 30, (3, 5, 6), 4)


def test_sizes_by_hand() -> None:
    assert SIZES.samples == 1000
    assert SIZES.megabytes == 0.6


@pytest.mark.parametrize(
    ("model", "floats"),
    [
        (MLP, 4 * 50),
        (CNN, 8 * 200 * 4),
        (fixed("resnet9"), 200 * 1_000),
        (fixed("resnet18"), 200 * 2_500),
        (fixed("preact_resnet18"), 200 * 2_500),
        (fixed("resnet50"), 200 * 9_000),
        (fixed("wrn_28_10"), 200 * 9_000),
        (ResidualModel(name="resnet18", width=32), 200 * 2_500 / 2),
        (WideModel(name="wrn_28_10", width=4), 200 * 9_000 / 4),
        (LibraryModel(name="torchvision:resnet18"), 200 * 9_000),
    ],
)
def test_memory_of_a_batch(model: Any, floats: float) -> None:
    # 4 bytes a number, activations and gradients, and eight copies of the images
    assert resources._batch_mb(model, SIZES, 30) == pytest.approx(8 * 30 * (floats + 8 * 600) / 1e6)


@pytest.mark.parametrize(
    ("model", "work"),
    [
        (MLP, 600 * 50 + 50**2),
        (CNN, 200 * 9 * 4 * (3 + 4)),
        (fixed("resnet9"), 200 * 2.5e5),
        (fixed("resnet18"), 200 * 5.5e5),
        (fixed("preact_resnet18"), 200 * 5.5e5),
        (fixed("resnet50"), 200 * 1.3e6),
        (fixed("wrn_34_10"), 200 * 6e6),
        (ResidualModel(name="resnet50", width=32), 200 * 1.3e6 / 4),
        (WideModel(name="wrn_34_10", width=4), 200 * 6e6 / 16),
        (LibraryModel(name="torchvision:resnet18"), 200 * 6e6),
    ],
)
def test_minutes_of_passes(model: Any, work: float) -> None:
    # 4e9 multiply-adds a second, three times over, and what any job takes
    assert resources._minutes(model, SIZES, 1e7) == pytest.approx(20 + 3 * 1e7 * work / 4e9 / 60, rel=1e-9)


def test_memory_of_the_estimators() -> None:
    # 12 bytes an answer, 200 bytes a pair of one class, of which a third of the training samples
    pairs = 900 * 960 / 5 / 3
    assert resources._scores_mb(5e6, SIZES) == pytest.approx((12 * 5e6 + 170 * pairs / 5 + 6 * pairs) / 1e6)
    # a block of answers, and one of pairs
    large = Sizes(train=50_000, validation=0, test=10_000, shape=(3, 32, 32), classes=5)
    assert resources._scores_mb(1e9, large) == pytest.approx(620 + 170 * 4 + 6 * 50_000 * 60_000 / 5 / 3 / 1e6)


def large(model: Any) -> Config:
    """An experiment on SVHN whose needs are neither hidden by rounding nor as large as a cluster gives."""
    plan, training = CIFAR10.memorization, CIFAR10.training
    memorization = replace(
        plan,
        subset_models=900,
        models_per_shard=10,
        shuffles=3,
        model=None,
        recipe=replace(plan.recipe, epochs=2, batch_size=4000),
        robust=replace(plan.robust, subset_models=800),
    )
    return replace(
        CIFAR10,
        data=Published(name="svhn", cache="c", **PARTS),
        model=model,
        memorization=memorization,
        training=replace(
            training,
            seeds=(0, 1, 2),
            recipe=replace(training.recipe, epochs=30, batch_size=5000),
            measure_every=7,
        ),
        evaluation=replace(CIFAR10.evaluation, batch_size=9000),
    )


BOTH = {
    "download": (4000, 240),
    "data": (2200, 30),
    "scores": (3800, 29),
    "enough": (1900, 21),
    "null_pairs": (3800, 24),
    "duplicates": (5400, 84),
    "import_scores": (7200, 40),
    "robust_scores": (3800, 28),
    "proxies": (2400, 35),
    "groups": (1100, 83),
    "harmful": (1200, 20),
    "hardest": (1200, 20),
    "summary": (3600, 83),
    "figures": (2600, 27),
    "results": (1300, 20),
    "page": (900, 20),
    "explorer": (2800, 30),
}


@pytest.mark.parametrize(
    ("model", "own"),
    [
        (
            SizedModel(name="small_cnn", width=3),
            {"subsets": (3100, 35), "robust_subsets": (3100, 198), "train": (3600, 211), "evaluate": (5700, 2288)},
        ),
        (
            SizedModel(name="mlp", width=40),
            {"subsets": (2400, 31), "robust_subsets": (2400, 153), "train": (2600, 164), "evaluate": (4000, 1722)},
        ),
    ],
)
def test_needs_are_as_written_down(model: Any, own: dict[str, tuple[int, int]]) -> None:
    found = needs(large(model))
    assert {rule: (each["mem_mb"], each["runtime"]) for rule, each in found.items()} == BOTH | own
    assert all(each.keys() == {"mem_mb", "runtime"} for each in found.values())


# before they are rounded up: of the two above, and of digits, where nothing is as large as a block, with its images
EXACT: dict[str, tuple[float, float]] = {
    "download": (4_000, 240),
    "data": (2_120.063232, 29.9289),
    "scores": (3_792.192663, 28.93601),
    "enough": (1_825.015808, 20.893601),
    "null_pairs": (3_792.192663, 23.574404),
    "duplicates": (5_392.524311, 83.12969456),
    "import_scores": (7_172.192663, 40),
    "robust_scores": (3_792.192663, 27.94312),
    "proxies": (2_359.245408, 34.545001),
    "groups": (1_019.1468, 83),
    "harmful": (1_145.7252, 20),
    "hardest": (1_145.7252, 20),
    "summary": (3_524.0256, 83),
    "figures": (2_518.918608, 26.3),
    "results": (1_229.8932, 20),
    "page": (900, 20),
    "explorer": (2_715.606608, 29.9289),
}
EXACT_CNN: dict[str, tuple[float, float]] = {
    "subsets": (3_082.895616, 34.41199693),
    "robust_subsets": (3_082.895616, 197.0616765),
    "train": (3_502.919646, 210.6906614),
    "evaluate": (5_688.738048, 2_287.158118),
}
EXACT_MLP: dict[str, tuple[float, float]] = {
    "subsets": (2_301.583616, 30.81455788),
    "robust_subsets": (2_301.583616, 152.8645682),
    "train": (2_526.279646, 163.091565),
    "evaluate": (3_930.786048, 1_721.243264),
}
EXACT_DIGITS: dict[str, tuple[float, float]] = {
    "download": (4_000, 240),
    "data": (900.460032, 20.1797),
    "subsets": (904.686464, 30.73369664),
    "robust_subsets": (904.686464, 85.1060288),
    "scores": (905.162428, 20.03594),
    "enough": (904.427808, 20.003594),
    "null_pairs": (905.162428, 20.075474),
    "duplicates": (1_073.011004, 20.000156),
    "import_scores": (4_900.849628, 40),
    "robust_scores": (900.849628, 20),
    "train": (909.789832, 22.81868595),
    "proxies": (905.387808, 20.123594),
    "groups": (902.8752, 35),
    "harmful": (904.8, 20),
    "hardest": (904.8, 20),
    "evaluate": (918.566272, 102.0060416),
    "summary": (923.928, 35),
    "figures": (913.699936, 21.5),
    "results": (903.591, 20),
    "page": (900, 20),
    "explorer": (915.673008, 20.1797),
}


@pytest.mark.parametrize(
    ("config", "exact"),
    [
        (large(SizedModel(name="small_cnn", width=3)), EXACT | EXACT_CNN),
        (large(SizedModel(name="mlp", width=40)), EXACT | EXACT_MLP),
        (replace(DIGITS, evaluation=replace(DIGITS.evaluation, images=True)), EXACT_DIGITS),
    ],
    ids=["small_cnn", "mlp", "digits"],
)
def test_what_needs_are_rounded_from(config: Config, exact: dict[str, tuple[float, float]]) -> None:
    found = resources._estimates(config)
    assert found.keys() == exact.keys()
    for rule, each in found.items():
        assert each == pytest.approx(exact[rule], rel=1e-9), rule


def test_scores_that_are_read_leave_the_needs_as_they_are() -> None:
    read = load(str(ROOT / "config/config.yaml"), settings=("scores={source: file, path: s.csv, format: table}",))
    assert needs(read) == needs(DIGITS)


def test_no_job_asks_for_more_than_a_week() -> None:
    assert needs(CIFAR10)["train"]["runtime"] == 7 * 24 * 60


def test_bat_takes_longer_for_its_second_loss() -> None:
    config = large(MLP)
    methods = tuple(method for method in config.training.methods if method.objective in ("natural", "pgd_at"))
    removal = replace(config.removal, method=None)
    plain = replace(
        config,
        training=replace(config.training, methods=methods),
        removal=removal,
        evaluation=replace(config.evaluation, pairs=(), baseline=methods[-1].name),
    )
    assert needs(plain)["train"]["runtime"] < needs(config)["train"]["runtime"]


# -- jobs


def test_jobs_of_digits_in_the_order_in_which_they_start() -> None:
    assert list(jobs_of(DIGITS).items()) == [
        ("data", 1),
        ("subsets", 4),
        ("scores", 1),
        ("null_pairs", 1),
        ("duplicates", 1),
        ("train", 15),
        ("proxies", 1),
        ("groups", 1),
        ("evaluate", 15),
        ("summary", 1),
        ("figures", 1),
        ("results", 1),
        ("page", 1),
        ("explorer", 1),
    ]


def test_jobs_of_all_there_is() -> None:
    config = large(MLP)
    found = jobs_of(config)
    assert {rule: found[rule] for rule in ("download", "subsets", "robust_subsets", "robust_scores", "harmful")} == {
        "download": 1,
        "subsets": 90,
        "robust_subsets": 80,
        "robust_scores": 1,
        "harmful": 1,
    }
    assert found["train"] == found["evaluate"] == 3 * 21


def test_the_hardest_are_looked_for_where_they_are_left_out() -> None:
    for removal, jobs, runs in (
        ("{method: pgd_at, fractions: [0.1], hardest: [0.1, 0.2]}", {"harmful": 1, "hardest": 1}, 12),
        ("{method: pgd_at, fractions: [0.1]}", {"harmful": 1}, 8),
        ("{hardest: [0.1]}", {}, 0),
    ):
        config = load(str(ROOT / "config/config.yaml"), settings=(f"removal={removal}",))
        found = jobs_of(config)
        assert {rule: count for rule, count in found.items() if rule in ("harmful", "hardest")} == jobs
        assert found["train"] == 5 * (3 + runs)


def test_without_shuffles_there_are_no_null_pairs() -> None:
    assert "null_pairs" not in jobs_of(replace(DIGITS, memorization=replace(DIGITS.memorization, shuffles=0)))


def test_of_models_in_rounds_the_most_are_asked_for() -> None:
    one = large(MLP)
    rounds = replace(one.memorization, subset_models=200, until=Until(standard_error=0.05, at_most=900))
    found = jobs_of(replace(one, memorization=rounds))
    assert found == jobs_of(one) | {"enough": 4}  # 200, 400, 600 and 800; at 900 nobody asks
    assert needs(replace(one, memorization=rounds)) == needs(one)


def test_where_no_distance_is_given_no_duplicates_are_looked_for() -> None:
    assert "duplicates" not in jobs_of(replace(DIGITS, memorization=replace(DIGITS.memorization, near_duplicate=None)))


def test_scores_from_a_file_need_no_subset_models() -> None:
    config = load(str(ROOT / "config/config.yaml"), settings=("scores={source: file, path: s.csv, format: table}",))
    found = jobs_of(config)
    assert found["import_scores"] == 1
    assert not found.keys() & {"subsets", "scores", "null_pairs"}


def test_one_shard_of_models_under_attack_is_scored() -> None:
    config = large(MLP)
    few = replace(config.memorization, robust=replace(config.memorization.robust, subset_models=10))
    found = jobs_of(replace(config, memorization=few))
    assert (found["robust_subsets"], found["robust_scores"]) == (1, 1)
