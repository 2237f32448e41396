import copy
import dataclasses
import json
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from refusals import refusal, refusals

from bat.config import (
    Bat,
    Config,
    Dpls,
    ImageFolder,
    LibraryModel,
    Natural,
    Npz,
    OneCycle,
    OwnMethod,
    Packaged,
    Pgd,
    PgdAt,
    Published,
    Recipe,
    ResidualModel,
    Steps,
    WideModel,
    as_yaml,
    check_files,
    editor_schema,
    is_weighted,
    load,
    natural_of,
    parse,
    pictured,
    questions,
    rounds_of,
    runs_of,
    shards_of,
    subsampled,
    subset_size,
)
from bat.config.ranges import distinct
from bat.config.strict import names_own
from bat.data.dataset import split
from bat.data.sources import Samples, Source
from bat.errors import BatError
from bat.planning.cost import SOURCES
from bat.scores.subsets import subset_masks

ROOT = Path(__file__).parents[2]


def loaded(*names):
    """Read configuration files, each an extension of those before."""
    return load(*(str(ROOT / "config" / f"{name}.yaml") for name in names))


@cache
def written_out(*names):
    return yaml.safe_load(as_yaml(loaded(*names)))


def read(*names):
    """Return all keys of configuration files, defaults included."""
    return copy.deepcopy(written_out(*names))


DEFAULT = ("config",)
SMOKE = ("config", "smoke")
LARGE = ["mnist", "cifar10", "cifar100", "tiny_imagenet"]
SHIPPED = [
    DEFAULT,
    *(("config", name) for name in ("smoke", "digits_full", "mnist5k", "my_images", "cifar100_gpu", *LARGE)),
    *(("config", name) for name in ("cifar100_animals", "cifar100_animals_published", "tiny_imagenet_10")),
]


def edited(path, value):
    """Return the default configuration with the value at ``path`` ("a.b.0.c") set, or removed where it is DROP."""
    config = read("config")
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = config
    for part in parents:
        place = place[part]
    if value is DROP:
        del place[last]
    else:
        place[last] = value
    return config


class Drop:
    def __repr__(self):
        return "DROP"


DROP = Drop()


def test_all_files_are_shipped_configurations():
    assert {names[-1] for names in SHIPPED} == {path.stem for path in (ROOT / "config").glob("*.yaml")}


@pytest.mark.parametrize("names", SHIPPED, ids="+".join)
def test_a_configuration_that_is_written_out_is_read_as_the_same(names, tmp_path):
    config, file = loaded(*names), tmp_path / "config.yaml"
    file.write_text(as_yaml(config), encoding="utf-8")
    assert load(str(file)) == loaded("config", *names) == config
    # also over the default, as --configfile
    assert load(str(ROOT / "config/config.yaml"), str(file)) == config
    assert as_yaml(load(str(file))) == as_yaml(config)


def test_a_configuration_is_written_as_yaml_that_is_easy_to_read():
    path = "é " * 40 + "a.npz"
    text = as_yaml(parse(Config, with_all(data=NPZ | {"path": path}), "here"))
    assert text.startswith("experiment: digits\ndata:\n  train_samples: all\n")
    assert f"  path: {path}\n" in text
    assert max(map(len, text.splitlines())) <= 110


def test_smoke_changes_the_default_and_nothing_is_lost_in_the_merge():
    smoke, default = parse(Config, read(*SMOKE), ""), parse(Config, read(*DEFAULT), "")
    assert (smoke.experiment, smoke.training.seeds, smoke.training.recipe.epochs) == ("smoke", (0, 1), 15)
    assert smoke.training.methods == default.training.methods
    assert smoke.training.recipe.schedule == default.training.recipe.schedule


@pytest.mark.parametrize("name", ["resnet9", "resnet18", "preact_resnet18", "resnet50", "wrn_28_10", "wrn_34_10"])
def test_a_residual_network_has_the_published_width_or_one_of_its_own(name):
    record = WideModel if name.startswith("wrn") else ResidualModel
    for value in (name, {"name": name}):
        assert parse(Config, edited("model", value), "").model == record(name=name)
        assert Draft202012Validator(editor_schema()).is_valid(edited("model", value))
    for value in (f"{name}:7", {"name": name, "width": 7}):
        assert parse(Config, edited("model", value), "").model == record(name=name, width=7)


@pytest.mark.parametrize("name", LARGE[1:])
def test_the_usual_recipe_for_cifar(name):
    config = parse(Config, read("config", name), "")
    stage, attack = config.training, Pgd(steps=10, step_size=2 / 255)
    assert (config.threat.norm, config.threat.eps) == ("linf", 8 / 255)
    assert stage.attack == config.memorization.robust.attack == attack
    assert (config.evaluation.pgd.steps, config.evaluation.pgd.step_size) == (20, 2 / 255)
    assert stage.recipe == Recipe(
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule=Steps(name="steps", warmup=0.0, milestones=(0.5, 0.75), factor=0.1),
        crop_padding=4,
        flip=True,
        label_smoothing=0.0,
        ema_decay=0.0,
    )
    assert config.model == ResidualModel(name="preact_resnet18")


def test_subset_models_have_a_network_of_their_own_where_one_is_named():
    config = parse(Config, read("config", "cifar10"), "")
    assert (config.model.name, config.subset_model.name) == ("preact_resnet18", "resnet9")
    config = parse(Config, read("config"), "")
    assert config.memorization.model is None
    assert config.subset_model == config.model
    wrong = edited("memorization.model", {"name": "timm:resnet18", "width": 3})
    assert refusal(parse, Config, wrong, "here").startswith("here: memorization.model.width: unknown key")


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("subsample", [1.0, 0.02])
def test_splits_and_subsets_of_large_data_sets_and_of_their_trials(name, subsample):
    config = parse(Config, read("config", name) | {"subsample": subsample}, "")
    known = SOURCES[name]

    def samples(count):
        labels = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % known.classes
        return Samples(labels, lambda rows: torch.zeros(len(rows), 1, 1, 1, dtype=torch.uint8))

    source = Source(samples(known.pool), samples(known.test), tuple(map(str, range(known.classes))), 255)
    data = split(source, config.data, subsample=subsample)  # refuses a class without training samples
    size, models = len(data.train), config.memorization.subset_models
    assert size == round(subsample * (known.pool - config.data.validation_samples))
    assert len(data.validation) == round(subsample * config.data.validation_samples)
    # each sample is left out of some model, and of some not
    assert models >= math.ceil(size / (size - subset_size(size, config.memorization.subset_fraction)))
    assert models % config.memorization.models_per_shard == 0


@pytest.mark.parametrize("name", ["torchvision:vgg11_bn", "timm:resnet18.a1_in1k", "timm:vit_tiny_patch16_224"])
def test_networks_of_libraries_are_named_with_their_library(name):
    assert parse(Config, edited("model", {"name": name}), "").model == LibraryModel(name=name)
    assert Draft202012Validator(editor_schema()).is_valid(edited("model", {"name": name}))


def test_unions_become_the_record_that_their_name_says():
    config = parse(Config, read("config"), "")
    assert [type(method) for method in config.training.methods] == [Natural, PgdAt, Bat]
    assert type(config.memorization.recipe.schedule) is OneCycle
    assert type(config.training.recipe.schedule) is Steps


def test_a_map_or_a_record_is_the_users_own_where_it_names_a_function():
    tag = names_own("name")
    own = ({"name": "a:b"}, LibraryModel(name="timm:a"))
    known = ({"name": "a"}, {"name": 3}, {"other": "a:b"}, {}, Packaged(name="digits"), Recipe, "a:b", None)
    assert [[tag(value) for value in values] for values in (own, known)] == [["own"] * 2, ["known"] * 8]


def test_a_file_and_its_text_give_the_same_configuration():
    config = load(str(ROOT / "config" / "config.yaml"))
    assert config == parse(Config, read("config"), "") == parse(Config, json.dumps(read("config")), "")


PARTED = {"train_samples": "all", "validation_samples": 100, "split_seed": 0}
PUBLISHED = PARTED | {"name": "cifar10", "cache": "cache"}
FOLDER = PARTED | {"name": "image_folder", "path": "images", "size": None, "colour": "rgb"}
NPZ = PARTED | {"name": "npz", "path": "images.npz"}


@pytest.mark.parametrize(
    ("data", "record"),
    [
        (PUBLISHED, Published),
        (FOLDER, ImageFolder),
        (FOLDER | {"size": 32, "train_samples": 50}, ImageFolder),
        (NPZ, Npz),
    ],
)
def test_the_data_becomes_the_record_that_its_name_says(data, record):
    value = edited("data", data)
    config = parse(Config, value, "here")
    assert type(config.data) is record
    assert dataclasses.asdict(config.data).items() >= data.items()
    assert not list(Draft202012Validator(editor_schema()).iter_errors(value))


def test_a_trial_must_score_each_sample_too():
    config = edited("memorization.subset_fraction", 0.99)
    parse(Config, config, "here")
    assert "leaves 12 of 12 training samples" in refusal(parse, Config, config | {"subsample": 0.02}, "here")


@given(st.integers(2, 10**6), st.floats(0, 1, exclude_min=True))
def test_a_share_is_a_part_of_at_least_2(samples, subsample):
    assert 2 <= subsampled(samples, subsample) <= samples
    assert subsampled(samples, 1.0) == samples
    assert abs(subsampled(samples, subsample) - samples * subsample) <= 2


REMOVAL = {"method": "pgd_at", "fractions": [0.05, 0.1], "hardest": [0.1], "harmful_threshold": 0.5}


def test_a_method_with_the_name_of_a_run_is_refused():
    config = edited("removal", REMOVAL)
    parse(Config, config, "here")
    config["training"]["methods"][0]["name"] = "pgd_at_without_top_0_1"
    assert "two runs have one name" in refusal(parse, Config, config, "here")
    parse(Config, edited("training.methods.0.name", "pgd_at_without_top_0_1"), "here")  # without removal there is none


@pytest.mark.parametrize(
    ("pairs", "refused"),
    [
        ([["bat", "natural"]], None),
        ([["natural", "bat"]], None),
        ([["bat", "bat"]], "[bat, bat]"),
        ([["bat", "natural"], ["bat", "natural"]], "[bat, natural]"),
        ([["bat", "natural"], ["natural", "bat"]], "[natural, bat]"),
        # all methods are compared with pgd_at, the baseline
        ([["bat", "natural"], ["bat", "pgd_at"]], "[bat, pgd_at]"),
        ([["pgd_at", "bat"]], "[pgd_at, bat]"),
        ([["pgd_at", "pgd_at"]], "[pgd_at, pgd_at]"),
    ],
)
def test_a_pair_that_would_count_twice_is_refused(pairs, refused):
    config = edited("evaluation.pairs", pairs)
    if refused:
        assert f"evaluation.pairs has {refused}" in refusal(parse, Config, config, "here")
        config["evaluation"]["baseline"] = None  # then only what the list itself holds counts
        if all(len(set(pair)) == 2 and "pgd_at" in pair for pair in pairs[-1:]):
            parse(Config, config, "here")
    else:
        parse(Config, config, "here")


# path, value, what the message must hold, whether the schema refuses it too
WRONG = [
    ("experimnt", 1, "experimnt: unknown key", True),
    ("data.colour", 1, "data.colour: unknown key", True),
    ("memorization.recipe.lr", 1, "memorization.recipe.lr: unknown key", True),
    ("memorization.recipe.schedule.factor", 0.1, "memorization.recipe.schedule.factor: unknown key", True),
    ("training.methods.2.gamma", 1, "training.methods.2.gamma: unknown key", True),
    ("training.methods.0.alpha", 1.0, "training.methods.0.alpha: unknown key", True),
    ("evaluation.ensemble.0.step_size", 0.1, "evaluation.ensemble.0.step_size: unknown key", True),
    ("experiment", DROP, "experiment: missing key", True),
    ("model.width", DROP, "model.width: missing key", True),
    ("training.recipe.epochs", DROP, "training.recipe.epochs: missing key", True),
    ("data.train_samples", "600", "data.train_samples: ", True),
    ("data.train_samples", 600.5, "data.train_samples: ", True),
    ("data.train_samples", True, "data.train_samples: ", True),
    ("data.train_samples", None, "data.train_samples: ", True),
    ("data", [], "data: ", True),
    ("data", "digits", "data: ", True),
    ("memorization.recipe.flip", "no", "memorization.recipe.flip: ", True),
    ("memorization.recipe.flip", 0, "memorization.recipe.flip: ", True),
    ("threat.eps", "8/255.", "threat.eps: ", True),
    ("threat.eps", "8/0", "threat.eps: ", False),
    ("threat.eps", "0.1", "threat.eps: ", True),
    ("threat.eps", "8/", "threat.eps: ", True),
    ("training.seeds", 0, "training.seeds: ", True),
    ("training.seeds.1", 0.5, "training.seeds.1: ", True),
    ("experiment", 2024, "experiment: ", True),
    ("experiment", "a/b", "experiment: ", True),
    ("experiment", "../up", "experiment: ", True),
    ("training.methods.1.name", "PGD at", "training.methods.1.name: ", True),
    ("data.name", "letters", "data.name: ", True),
    ("data.name", "cifar10", "data.test_samples: unknown key", True),
    ("data.cache", "cache", "data.cache: unknown key", True),
    ("data.train_samples", "some", "data.train_samples: ", True),
    ("data.validation_samples", 1.5, "data.validation_samples: ", True),
    ("data.validation_samples", "all", "data.validation_samples: ", True),
    ("data.classes", 1, "data.classes: ", True),
    ("data.classes", 11, "data.classes is 11, but digits has 10 classes, numbered from 0", False),
    ("data.classes", [3, 10], "data.classes has 10, but digits has 10 classes, numbered from 0", False),
    ("data.classes", [3, -1], "data.classes.1: ", True),
    ("data.classes", ["3"], "data.classes: ", True),
    ("data.classes", "3", "data.classes: ", True),
    ("data.classes", [3, 3], "data.classes: 3 is there twice", False),
    ("data.classes", [3, 0.5], "data.classes.1: ", True),
    ("data", PUBLISHED | {"train_samples": "most"}, "data.train_samples: ", True),
    ("data", PUBLISHED | {"train_samples": 1}, "data.train_samples: ", True),
    ("data", PUBLISHED | {"cache": ""}, "data.cache: ", True),
    ("data", FOLDER | {"size": 0}, "data.size: ", True),
    ("data", FOLDER | {"colour": "cmyk"}, "data.colour: ", True),
    ("data", FOLDER | {"cache": "cache"}, "data.cache: unknown key", True),
    ("data", NPZ | {"size": 8}, "data.size: unknown key", True),
    ("subsample", 0, "subsample: ", True),
    ("subsample", 1.01, "subsample: ", True),
    ("subsample", "0.02", "subsample: ", True),
    ("model.name", "resnet", "model.name: no such network", True),
    ("model.name", DROP, "model.name: missing key", True),
    ("model.name", 18, "model.name: no such network", True),
    ("model.name", "timm:resnet18", "model.width: unknown key", True),
    ("model", "mlp", "model.width: missing key", False),
    ("model", "mlp:x", "model.width: ", False),
    ("model", "mlp:0", "model.width: 0 is under 1", False),
    ("model", "resnet", "model.name: no such network", False),
    ("model", {"name": "keras:resnet18"}, "model: no module keras, ", False),
    ("model", {"name": "timm:hf-hub:user/net"}, "model.name: ", True),
    ("model", {"name": "resnet18", "depth": 3}, "model.depth: unknown key", True),
    ("threat.norm", "l1", "threat.norm: ", True),
    ("scores", "subsets", "scores: ", True),
    ("scores.source", "web", "scores.source: ", True),
    ("scores.path", "scores.npz", "scores.path: unknown key", True),
    ("scores", {"source": "file", "path": "scores.npz"}, "scores.format: missing key", True),
    ("scores", {"source": "file", "path": "", "format": "npz"}, "scores.path: ", True),
    ("scores", {"source": "file", "path": "scores.npz", "format": "pickle"}, "scores.format: ", True),
    ("memorization.model", {"name": "resnet"}, "memorization.model.name: no such network", True),
    ("memorization.model", {"name": "mlp"}, "memorization.model.width: missing key", True),
    ("memorization.design", "random", "memorization.design: ", True),
    ("memorization.robust.subset_models", -50, "memorization.robust.subset_models: ", True),
    ("memorization.robust.subset_models", 30, "memorization.robust.subset_models is 30, no multiple", False),
    ("training.methods.2.score", "robust_memorization", "method bat: score is robust_memorization, but", False),
    ("memorization.robust.attack", None, "memorization.robust.attack: ", True),
    ("removal", None, "removal: ", True),
    ("removal.method", "trades", "removal.method is trades, which is no method: take one of natural, pgd_at", False),
    ("removal.method", "PGD at", "removal.method: ", True),
    ("removal.fractions", [0.1, 1.0], "removal.fractions.1: ", True),
    ("removal.fractions", [0], "removal.fractions.0: ", True),
    ("removal.hardest", [0.1, 1.0], "removal.hardest.1: ", True),
    ("removal", REMOVAL | {"hardest": [0.1, 0.1]}, "removal.hardest: 0.1 is there twice", False),
    ("removal.harmful_threshold", 1, "removal.harmful_threshold: ", True),
    ("removal", REMOVAL | {"fractions": [0.1, 0.1]}, "removal.fractions: 0.1 is there twice", False),
    ("training.measure_every", 0, "training.measure_every: ", True),
    ("training.methods.2.score", "random", "training.methods.2.score: ", True),
    ("training.methods.2.threshold", 1, "training.methods.2.threshold: ", True),
    ("training.methods.1.score", "memorization", "training.methods.1.score: unknown key", True),
    ("training.methods.1.objective", "freat", "training.methods.1.objective: ", True),
    ("training.methods.1", "pgdat", "training.methods.1: pgdat is no method: take one of natural, pgd_at", False),
    ("training.variants", {}, "training.variants: unknown key", True),
    ("evaluation.ensemble.0.name", "circle", "evaluation.ensemble.0.name: ", True),
    ("memorization.recipe.schedule.name", "cosine", "memorization.recipe.schedule.name: ", True),
    ("memorization.subset_fraction", 0, "memorization.subset_fraction: ", True),
    ("memorization.subset_fraction", 1, "memorization.subset_fraction: ", True),
    ("memorization.subset_fraction", -0.1, "memorization.subset_fraction: ", True),
    ("memorization.threshold", 1, "memorization.threshold: ", True),
    ("training.recipe.schedule.milestones", [0.5, 1.0], "training.recipe.schedule.milestones.1: ", True),
    ("training.recipe.epochs", 0, "training.recipe.epochs: ", True),
    ("training.recipe.momentum", 1, "training.recipe.momentum: ", True),
    ("threat.eps", 0, "threat.eps: ", True),
    ("training.seeds", [], "training.seeds: ", True),
    ("training.seeds", [-1], "training.seeds.0: ", True),
    ("training.methods", [], "training.methods: ", True),
    ("evaluation.ensemble", [], "evaluation.ensemble: ", True),
    ("evaluation.bootstrap", 99, "evaluation.bootstrap: ", True),
    ("threat.eps", math.inf, "threat.eps: ", True),
    ("threat.eps", math.nan, "threat.eps: ", False),
    ("memorization.recipe.learning_rate", math.inf, "memorization.recipe.learning_rate: ", True),
    # what no single key shows
    ("memorization.subset_fraction", 0.0001, "memorization.subset_fraction is 0.0001", False),
    ("memorization.subset_fraction", 0.9999, "memorization.subset_fraction is 0.9999", False),
    ("memorization.subset_fraction", 0.999, "memorization.subset_models is 200", False),
    ("training.methods.2.alpha", "Infinity", "training.methods.2.alpha: ", True),
    ("memorization.subset_models", 210, "memorization.subset_models is 210", False),
    ("memorization.models_per_shard", 60, "memorization.subset_models is 200", False),
    ("memorization.models_per_shard", 400, "memorization.subset_models is 200", False),
    ("training.methods.1.name", "bat", "two runs have one name, those of removal included: bat", False),
    ("training.sweeps", [], "training.sweeps: unknown key", True),
    ("training.methods.2.alpha", "infinite", "training.methods.2.alpha: ", True),
    ("training.methods.2.alpha", -1, "training.methods.2.alpha: ", True),
    ("training.methods.1.awp", -0.1, "training.methods.1.awp: ", True),
    ("training.methods.1.eps_factor", 0, "training.methods.1.eps_factor: ", True),
    ("training.methods.0.awp", 0.0, "training.methods.0.awp: unknown key", True),
    ("training.recipe.ema_decay", 1, "training.recipe.ema_decay: ", True),
    ("training.recipe.label_smoothing", 1, "training.recipe.label_smoothing: ", True),
    ("training.early_stop", -1, "training.early_stop: ", True),
    ("training.seeds", [0, 1, 0], "training.seeds: 0 is there twice", False),
]


@pytest.mark.parametrize(("path", "value", "message", "_"), WRONG)
def test_a_wrong_configuration_is_refused_in_lines_that_name_the_place(path, value, message, _, tmp_path):
    config = edited(path, value)
    assert refusals(parse, Config, config, "here")[0].startswith(f"here: {message}")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert refusals(load, str(file))[0].startswith(f"{file}: {message}")


RECIPES = ("memorization.recipe", "training.recipe")
ATTACKS = ("training.attack", "memorization.robust.attack", "evaluation.pgd")
BELOW_1 = math.nextafter(1, 0)
SEED, PART, HALF, COUNT, MANY = (0, 2**63 - 1), (1e-6, 0.999999), (0, BELOW_1), (1, 100_000), (0, 10_000)
# the least and the greatest that a key may be; the next number beyond is refused by the key's own range
RANGES = {
    "data.train_samples": (2, 10**9),
    "data.validation_samples": (2, 10**9),
    "data.split_seed": SEED,
    "subsample": (1e-6, 1.0),
    "model.width": (1, 4096),
    "threat.eps": (1e-6, 1000.0),
    "compute.micro_batch": (0, 10**6),
    "memorization.subset_models": (1, 10**6),
    "memorization.models_per_shard": (1, 10**6),
    "memorization.subset_fraction": PART,
    "memorization.seed": SEED,
    "memorization.threshold": HALF,
    "memorization.false_discovery_rate": (1e-6, 0.5),
    "memorization.confidence": (0.5, 0.9999),
    "memorization.shuffles": MANY,
    "memorization.robust.subset_models": (0, 10**6),
    "training.seeds.0": SEED,
    "training.measure_every": COUNT,
    "training.checkpoint_minutes": MANY,
    "training.early_stop": (0, 100_000),
    "training.methods.1.eps_factor": (0.001, 1000.0),
    "training.methods.1.awp": (0, 1),
    "training.methods.2.threshold": HALF,
    "training.methods.2.alpha": MANY,
    "training.methods.2.beta": MANY,
    "training.methods.2.temperature": (0.001, 1000.0),
    "removal.fractions.0": PART,
    "removal.harmful_threshold": HALF,
    "evaluation.seed": SEED,
    "evaluation.batch_size": (1, 10**6),
    "evaluation.pgd.restarts": (1, 1000),
    "evaluation.ensemble.0.steps": COUNT,
    "evaluation.ensemble.0.restarts": (1, 1000),
    "evaluation.ensemble.0.rho": PART,
    "evaluation.confidence": (0.5, 0.9999),
    "evaluation.bootstrap": (100, 100_000),
    "evaluation.margin": (1e-6, 0.5),
    **{f"{attack}.steps": COUNT for attack in ATTACKS},
    **{f"{attack}.step_size": (1e-7, 2000.0) for attack in ATTACKS},
    **{f"{recipe}.epochs": COUNT for recipe in RECIPES},
    **{f"{recipe}.batch_size": (2, 10**6) for recipe in RECIPES},
    **{f"{recipe}.learning_rate": (1e-8, 100.0) for recipe in RECIPES},
    **{f"{recipe}.momentum": (0, 0.999) for recipe in RECIPES},
    **{f"{recipe}.weight_decay": (0, 1.0) for recipe in RECIPES},
    **{f"{recipe}.crop_padding": (0, 4096) for recipe in RECIPES},
    **{f"{recipe}.label_smoothing": (0, 0.9) for recipe in RECIPES},
    **{f"{recipe}.ema_decay": (0, 0.99999) for recipe in RECIPES},
    "training.recipe.schedule.milestones.0": PART,
    "training.recipe.schedule.factor": PART,
    "training.recipe.schedule.warmup": (0, 0.9),
    "memorization.recipe.schedule.warmup": PART,
}


OUTSIDE = re.compile(
    r"here: (\S+): \S+ is (?:under \S+, the least: raise it|over \S+, the most: lower it|not under 1: lower it)"
)


def beyond(edge, way):
    """Return the next whole number, or for a float the next float."""
    return edge + way if isinstance(edge, int) else math.nextafter(edge, way * math.inf)


@pytest.mark.parametrize(("path", "edges"), RANGES.items())
def test_both_sides_of_each_bound(path, edges):
    for edge, way in zip(edges, (-1, 1), strict=True):
        wrong = edited(path, beyond(edge, way))
        assert OUTSIDE.fullmatch(refusal(parse, Config, wrong, "here")).group(1) == path
        # what it means beside other keys may be refused, in other words
        message = ""
        try:
            parse(Config, edited(path, edge), "here")
        except BatError as error:
            message = str(error)
        assert not message.startswith(f"here: {path}: ")


OTHERS = {
    "name": "square", "queries": 5000, "restarts": 1, "p_init": 0.8,
}, {
    "name": "fab_t", "steps": 100, "restarts": 1, "targets": 9, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9,
}  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "key", "least", "most"),
    [
        (OTHERS[0], "queries", 1, 10**6),
        (OTHERS[0], "p_init", 1e-6, 1.0),
        (OTHERS[1], "targets", 1, 10_000),
        (OTHERS[1], "alpha_max", *PART),
        (OTHERS[1], "beta", *PART),
        (OTHERS[1], "eta", 1, 10),
    ],
)
def test_both_sides_of_each_bound_of_attacks(attack, key, least, most):
    for edge, way in ((least, -1), (most, 1)):
        parse(Config, edited("evaluation.ensemble", [attack | {key: edge}]), "here")
        wrong = edited("evaluation.ensemble", [attack | {key: beyond(edge, way)}])
        assert OUTSIDE.fullmatch(refusal(parse, Config, wrong, "here")).group(1) == f"evaluation.ensemble.0.{key}"


GAIRAT = {"name": "a", "objective": "gairat", "eps_factor": 1.0, "awp": 0.0, "offset": 0.0, "burn_in": 0.5}


MAIL = {"name": "a", "objective": "mail"}


@pytest.mark.parametrize(
    ("method", "key", "least", "most"),
    [
        (GAIRAT, "offset", -100, 100),
        (GAIRAT, "burn_in", 0, 1),
        (MAIL, "slope", 0, 1000),
        (MAIL, "bias", -10, 10),
        (MAIL, "burn_in", 0, 1),
        ({"name": "a", "objective": "mail_trades"}, "trades_beta", 0, 10_000),
        ({"name": "a", "objective": "dpls"}, "smoothing", 0, math.nextafter(1, 0)),
    ],
)
def test_both_sides_of_each_bound_of_weighted_methods(method, key, least, most):
    for edge, way in ((least, -1), (most, 1)):
        parse(Config, edited("training.methods.0", method | {key: edge}), "here")
        wrong = edited("training.methods.0", method | {key: edge + way})
        assert OUTSIDE.fullmatch(refusal(parse, Config, wrong, "here")).group(1) == f"training.methods.0.{key}"


def with_all(**changes):
    """Return the default configuration with several places changed: a__b for a.b."""
    config = read("config")
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("__")]
        place = config
        for part in parents:
            place = place[part]
        place[last] = value
    return config


SMALL_STEPS = {
    "training__attack__step_size": 0.01,
    "memorization__robust__attack__step_size": 0.01,
    "evaluation__pgd__step_size": 0.01,
}
ONE_PER_SHARD = {"memorization__models_per_shard": 1, "memorization__subset_models": 9_998}
CIFAR = PUBLISHED | {"validation_samples": 5000}
TEN = ["natural", "pgd_at", "bat", *({"name": f"bat_{i}", "like": "bat", "beta": i} for i in range(7))]
CASES = [
    # accepted, refused, what the message says
    ({"threat__eps": 1}, {"threat__eps": 1.01}, "here: threat: eps is 1.01, over 1, the largest linf norm"),
    (
        {"threat": {"norm": "l2", "eps": 8}},  # 64 pixels
        {"threat": {"norm": "l2", "eps": 8.01}},
        "threat.eps is 8.01, over 8, the largest l2 norm of images of 1 x 8 x 8",
    ),
    (
        {"threat": {"norm": "l2", "eps": 55.42}, "data": CIFAR},  # sqrt(3072) = 55.4256
        {"threat": {"norm": "l2", "eps": 55.43}, "data": CIFAR},
        "over 55.4256, the largest l2 norm of images of 3 x 32 x 32",
    ),
    (
        {"threat": {"norm": "l2", "eps": 9}, "data": FOLDER},
        {"threat": {"norm": "l2", "eps": 9}, "data": FOLDER | {"size": 5}},
        "over 8.66025, the largest l2 norm of images of 3 x 5 x 5",
    ),
    (
        {"threat": {"norm": "l2", "eps": 4.9}, "data": FOLDER | {"size": 5, "colour": "grey"}},
        {"threat": {"norm": "l2", "eps": 5.1}, "data": FOLDER | {"size": 5, "colour": "grey"}},
        "over 5, the largest l2 norm of images of 1 x 5 x 5",
    ),
    *(
        ({key: 0.3}, {key: 0.31}, f"{key.replace('__', '.')} is 0.31, over twice threat.eps (0.15)")
        for key in SMALL_STEPS
    ),
    ({"threat__eps": 1e-2} | SMALL_STEPS, {"threat__eps": 1e-3} | SMALL_STEPS, "over twice threat.eps (0.001)"),
    (
        {"evaluation__ensemble": [{"name": "pgd", "steps": 1, "step_size": 0.3, "restarts": 1}]},
        {"evaluation__ensemble": [{"name": "pgd", "steps": 1, "step_size": 0.31, "restarts": 1}]},
        "evaluation.ensemble.0.step_size is 0.31",
    ),
    (
        {"training__methods": [GAIRAT | {"eps_factor": 6.6}], "evaluation__baseline": None},
        {"training__methods": [GAIRAT | {"eps_factor": 6.7}], "evaluation__baseline": None},
        "method a: eps_factor times threat.eps is 1.005, over 1, the largest linf norm",
    ),
    (
        {"threat": {"norm": "l2", "eps": 4}, "training__methods__1__eps_factor": 2},
        {"threat": {"norm": "l2", "eps": 4}, "training__methods__1__eps_factor": 2.01},
        "method pgd_at: eps_factor times threat.eps is 8.04, over 8, the largest l2 norm of images of 1 x 8 x 8",
    ),
    *(
        (
            {f"{stage}__recipe__crop_padding": 7},
            {f"{stage}__recipe__crop_padding": 8},
            f"{stage}.recipe.crop_padding is 8, so that a crop of 8 x 8 pixels can show nothing",
        )
        for stage in ("memorization", "training")
    ),
    (
        {"data__train_samples": 1596},  # of 1797, 200 for validation, one test sample
        {"data__train_samples": 1597},
        "data: train_samples + validation_samples is 1797, too many for the 1797 images of digits",
    ),
    (
        {"data": CIFAR | {"train_samples": 45_000}},
        {"data": CIFAR | {"train_samples": 45_001}},
        "train_samples + validation_samples is 50001, too many for the 50000 images of cifar10",
    ),
    (
        {"data": CIFAR | {"validation_samples": 49_998}},
        {"data": CIFAR | {"validation_samples": 49_999}},
        "too many for the 50000 images of cifar10",
    ),
    (
        {"removal": REMOVAL | {"fractions": [0.001, 0.996]}},  # 600: 0.6 is 1; 2 are left
        {"removal": REMOVAL | {"fractions": [0.0008]}},  # 0.48 is 0
        "removal.fractions: 0.0008 of 600 training samples are 0",
    ),
    (
        {"removal": REMOVAL | {"hardest": [0.001, 0.996]}},
        {"removal": REMOVAL | {"hardest": [0.0008]}},
        "removal.hardest: 0.0008 of 600 training samples are 0",
    ),
    (
        {"removal": REMOVAL | {"fractions": [0.996]}},
        {"removal": REMOVAL | {"fractions": [0.999]}},
        "removal.fractions: 0.999 of 600 training samples are 599",
    ),
    (
        {"removal": REMOVAL | {"fractions": [0.00002]}, "data": CIFAR},  # 45,000: 0.9
        {"removal": REMOVAL | {"fractions": [0.00001]}, "data": CIFAR},
        "removal.fractions: 1e-05 of 45000 training samples are 0",
    ),
    (
        {"memorization__models_per_shard": 1, "memorization__subset_models": 10_000},
        {"memorization__models_per_shard": 1, "memorization__subset_models": 10_001},
        "10,001 shards of subset models, over 10,000: raise memorization.models_per_shard",
    ),
    (
        ONE_PER_SHARD | {"memorization__subset_models": 4},
        ONE_PER_SHARD | {"memorization__subset_models": 3},
        "memorization.subset_models is 3, too small for subsets of 420 of 600",
    ),
    (
        ONE_PER_SHARD | {"memorization__robust__subset_models": 2},
        ONE_PER_SHARD | {"memorization__robust__subset_models": 3},
        "10,001 shards of subset models, over 10,000: raise memorization.models_per_shard",
    ),
    (
        {"training__methods__2__score": "robust_memorization", "memorization__robust__subset_models": 50},
        {"training__methods__2__score": "robust_memorization"},
        "method bat: score is robust_memorization, but memorization.robust.subset_models is 0",
    ),
    (
        {"training__methods__2__score": "csl"},
        {"training__methods__2__score": "csl", "training__methods__0": MAIL | {"name": "natural"}},
        "method bat: score is csl, which is read from natural training, but no method is natural",
    ),
    ({"evaluation__ensemble": "fast"}, {"evaluation__ensemble": "slow"}, "evaluation.ensemble: "),
    ({"training__seeds": list(range(1000))}, {"training__seeds": list(range(1001))}, "here: training.seeds: "),
    (
        {"training__methods": TEN, "training__seeds": list(range(1000))},
        {"training__methods": [*TEN, "trades"], "training__seeds": list(range(1000))},
        "11,000 trained models, over 10,000",
    ),
    ({"experiment": "a" * 60}, {"experiment": "a" * 61}, "here: experiment: "),
    *(
        ({f"training__{key}": 40}, {f"training__{key}": 41}, f"training.{key} is 41, over the 40 epochs of training.")
        for key in ("measure_every", "early_stop")
    ),
    *(
        (
            {f"{stage}__recipe__learning_rate": 2.5, f"{stage}__recipe__weight_decay": 0.399},
            {f"{stage}__recipe__learning_rate": 2.5, f"{stage}__recipe__weight_decay": 0.4},
            f"{stage}.recipe: learning_rate times weight_decay is 1, so that a step takes all of the weights away",
        )
        for stage in ("memorization", "training")
    ),
    (
        {"evaluation__confidence": 0.98, "evaluation__bootstrap": 100},
        {"evaluation__confidence": 0.98, "evaluation__bootstrap": 99},
        "evaluation.bootstrap: ",
    ),
    (
        {"evaluation__confidence": 0.999, "evaluation__bootstrap": 2000},
        {"evaluation__confidence": 0.999, "evaluation__bootstrap": 1999},
        "evaluation.bootstrap is 1999, too few resamples for evaluation.confidence (0.999): take at least 2,000",
    ),
    (
        {"threat__eps": 0.001, "training__methods": [GAIRAT | {"eps_factor": 0.001}], "evaluation__baseline": None}
        | dict.fromkeys(SMALL_STEPS, 0.002),
        {"threat__eps": 0.0009, "training__methods": [GAIRAT | {"eps_factor": 0.001}], "evaluation__baseline": None}
        | dict.fromkeys(SMALL_STEPS, 0.0018),
        "method a: eps_factor times threat.eps is 9e-07, under 1e-06, which float32 pixels hardly show: raise it",
    ),
    ({"evaluation__pairs": []}, {"evaluation__pairs": [["bat"]]}, "here: evaluation.pairs.0.1: missing entry: add it"),
    ({}, {"evaluation__pairs": [["a", "b", "c"]]}, "here: evaluation.pairs.0: "),
    ({}, {"training": None}, "here: training: null is wrong here: give a map of keys, KEY: VALUE"),
    ({"memorization__model": None}, {"model": None}, "here: model: "),
    *(
        ({}, {"data": NPZ | {"path": path}}, f"here: data.path: {message}")
        for path, message in (
            ("{a}.npz", "no path that the workflow can use"),
            ("a}", "no path that the workflow can use"),
            ("a\nb", "no path that the workflow can use"),
            ("a\0b", "no path that the workflow can use"),
            (" a", "no path that the workflow can use"),
            ("~nosuchuser/a", "~nosuchuser/a: no such user"),
            ("a" * 256, "a name in it has more than 255 bytes"),
            ("ü" * 128, "a name in it has more than 255 bytes"),
            ("a/" * 2001, '"' + "a/" * 39 + "a... is too long: give at most 4,000 characters"),
        )
    ),
    (
        {"data": NPZ | {"path": "ü" * 127 + "X/~/ b-c.npz"}},
        {"data": PUBLISHED | {"cache": "{a}"}},
        "here: data.cache: ",
    ),
    (
        {"scores": {"source": "file", "path": "~/a.npz", "format": "npz"}},
        {"scores": {"source": "file", "path": "{a}", "format": "npz"}},
        "here: scores.path: no path that the workflow can use",
    ),
    (
        {"training__recipe__schedule__milestones": [0.75, 0.5]},
        {"training__recipe__schedule__milestones": [0.5, 0.5]},
        "here: training.recipe.schedule.milestones: 0.5 is there twice: keep one",
    ),
]


@pytest.mark.parametrize(("right", "wrong", "message"), CASES)
def test_numbers_and_names_make_sense_beside_one_another(right, wrong, message):
    parse(Config, with_all(**right), "here")
    assert message in refusal(parse, Config, with_all(**wrong), "here")


UNTIL = {"standard_error": 0.05, "at_most": 450}


@pytest.mark.parametrize(
    ("changes", "rounds", "shards"),
    [
        ({}, (200,), (4, 0)),
        ({"memorization__robust__subset_models": 100}, (200,), (4, 2)),
        ({"memorization__until": UNTIL}, (200, 400, 450), (9, 0)),
        ({"memorization__until": UNTIL | {"at_most": 400}}, (200, 400), (8, 0)),
        ({"memorization__until": UNTIL | {"at_most": 200}}, (200,), (4, 0)),
        (
            {"scores": {"source": "file", "path": "a", "format": "npz"}, "memorization__models_per_shard": 1},
            (),
            (0, 0),
        ),
    ],
)
def test_subset_models_are_trained_in_rounds_and_shards(changes, rounds, shards):
    config = parse(Config, with_all(**changes), "here")
    assert (rounds_of(config), shards_of(config)) == (rounds, shards)
    assert {type(count) for count in shards_of(config)} == {int}


@pytest.mark.parametrize(
    ("methods", "baseline", "drawn", "natural"),
    [
        (["pgd_at", "natural", "trades", "bat_mart", "bat"], "trades", ("natural", "trades", "bat_mart"), "natural"),
        ([{"name": "a", "objective": "natural"}, "natural", "bat"], "a", ("a", "bat"), "a"),
        (["pgd_at", "mart"], None, ("pgd_at",), None),
        (["bat_trades", "bat"], "bat", ("bat", "bat_trades"), None),
    ],
)
def test_of_each_kind_of_methods_the_first_is_drawn(methods, baseline, drawn, natural):
    config = with_all(training__methods=methods, evaluation__baseline=baseline)
    assert (pictured(parse(Config, config, "here")), natural_of(parse(Config, config, "here"))) == ((), natural)
    config["evaluation"]["images"] = True
    assert pictured(parse(Config, config, "here")) == drawn


def test_which_runs_are_compared():
    config = with_all(evaluation__pairs=[["bat", "natural"]], removal=REMOVAL | {"fractions": [], "hardest": []})
    asked = questions(parse(Config, config, "here"))
    assert asked["methods"] == [("natural", "pgd_at"), ("bat", "pgd_at")]
    assert asked["pairs"] == [("bat", "natural")]
    assert len(asked["removal"]) == 3 * 3
    config["evaluation"]["baseline"] = None
    assert questions(parse(Config, config, "here")) == asked | {"methods": []}


def test_methods_that_weigh_atypical_samples_have_a_score_and_a_threshold():
    own = OwnMethod(name="a", objective="a:b", code="of another time")
    methods = (Bat(name="a"), dataclasses.replace(own, score="memorization"), own, Natural(name="a"), Dpls(name="a"))
    assert [is_weighted(method) for method in methods] == [True, True, False, False, False]


def test_what_each_run_is_for():
    methods = ["natural", "bat", {"name": "b", "like": "bat", "alpha": 2}]
    methods += [{"name": f"b_{score}", "like": "bat", "score": score} for score in ("shuffled", "consistency")]
    config = with_all(training__methods=methods, removal=REMOVAL | {"method": "bat", "fractions": [], "hardest": []})
    runs = runs_of(parse(Config, config | {"evaluation": config["evaluation"] | {"baseline": None}}, "here"))
    assert [(run.name, run.base, run.role, run.without) for run in runs[:5]] == [
        ("natural", "natural", "method", None),
        ("bat", "bat", "method", None),
        ("b", "bat", "variant", None),
        ("b_shuffled", "bat", "control", None),
        ("b_consistency", "bat", "control", None),
    ]
    assert [(run.name, run.base, run.role) for run in runs[5:]] == [
        *((f"bat_without_{case}", "bat", "removal") for case in ("atypical", "harmful", "benign")),
        *((f"bat_without_random_{case}", "bat", "random") for case in ("atypical", "harmful", "benign")),
    ]


def test_true_is_no_1_among_values():
    assert distinct((1, True, "1", 1.0)) == (1, True, "1", 1.0)


def test_a_step_of_twice_eps_as_rounded_decimals_is_accepted():
    third = {"threat__eps": 0.1 + 0.2, "training__attack__step_size": 0.6000000000000002}
    parse(Config, with_all(**third), "here")


def test_what_is_wrong_is_said_of_the_file_or_setting_that_says_it(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("threat: {eps: 0}\nmodel: {width: 0}\n")
    second.write_text("threat: {eps: 0.1}\n")
    base = str(ROOT / "config/config.yaml")
    assert refusal(load, base, str(first), str(second)).startswith(f"{first}: model.width: ")
    width, eps = refusals(load, base, str(second), str(first))
    assert width.startswith(f"{first}: model.width: ")
    assert eps.startswith(f"{first}: threat.eps: ")
    corrected = lambda: load(base, str(first), str(second), settings=["model={width: 4}"])  # noqa: E731
    assert corrected().model.width == 4
    wrong = lambda: load(base, str(second), settings=["model={width: 4}", "model={width: -1}"])  # noqa: E731
    assert refusal(wrong).startswith("--config model={width: -1}: model.width: ")
    # an earlier list may be shorter
    entry = "{name: a, objective: pgd_at, awp: -1}"
    lists = [f"training={{methods: [{text}]}}" for text in ("natural", f"natural, {entry}")]
    line = refusal(lambda: load(base, settings=[*lists, "evaluation={baseline: null}"]))
    assert line.startswith(f"--config {lists[1]}: training.methods.1.awp: ")
    # of two that speak of a section, the one that says the key; of none that does, the last that says what it is in
    settings_ = ["training={measure_every: 0}", "training={early_stop: 1}"]
    line = refusal(lambda: load(base, settings=settings_))
    assert line.startswith(f"--config {settings_[0]}: training.measure_every: ")
    first.write_text(yaml.safe_dump(edited("training.recipe.epochs", DROP)))
    line = refusal(lambda: load(str(first), settings=settings_[1:]))
    assert line == f"{first}: training.recipe.epochs: missing key: add it"
    # what several keys show together, too
    settings_ = ["memorization={subset_models: 210}", "subsample=0.5"]
    said = "memorization.subset_models is 210, no multiple of "
    assert refusal(lambda: load(base, settings=settings_)).startswith(f"--config {settings_[0]}: {said}")
    twice = ["training={methods: [bat, bat]}", "evaluation={baseline: bat}"]
    said = f"{base}, --config {twice[0]}, --config {twice[1]}: two runs have one name"
    assert refusal(lambda: load(base, settings=twice)).startswith(said)
    alone = lambda: load(str(second), settings=["subsample=0.5"])  # noqa: E731
    assert refusals(alone)[0].startswith(f"{second}, --config subsample=0.5: experiment: missing key")


def test_the_methods_to_choose_from_are_named_in_their_order():
    message = refusal(parse, Config, edited("evaluation.baseline", "none_such"), "here")
    assert message.endswith("compares with none_such, which is no method: take of natural, pgd_at, bat")


def test_settings_are_read_as_files_are():
    base = str(ROOT / "config/config.yaml")
    settings_ = ["training={seeds: [0]}", "subsample=0.1", "experiment=trial", "removal={method: null}"]
    config = load(base, settings=settings_)
    assert (config.training.seeds, config.subsample, config.experiment) == ((0,), 0.1, "trial")
    assert config.training.attack == load(base).training.attack


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "digits", "name": "digits"}', "not JSON (name is there twice: keep one)"),
        ('{"a": {"b": 1, "b": 2}}', "not JSON (b is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON (Exceeds the limit"),
        ('{"split_seed": NaN}', "split_seed: "),
        ('{"' + "a" * 10_000 + '": 1}', "a" * 80 + "...: unknown key"),
    ],
    ids=range(6),
)
def test_a_text_of_json_that_says_no_one_thing_is_refused(text, message):
    found = refusals(parse, Packaged, text, "--spec")
    assert all(line.startswith("--spec: ") and len(line) < 400 for line in found)
    assert any(message in line for line in found)


def test_too_few_subset_models_are_refused_with_the_number_that_is_needed():
    config = edited("memorization.subset_models", 3)
    config["memorization"]["models_per_shard"] = 1
    message = refusal(parse, Config, config, "here")
    assert "memorization.subset_models is 3" in message
    assert "at least 4" in message  # 180 of 600 are left out of a subset


@given(st.integers(2, 40), st.floats(0.05, 0.95))
@settings(max_examples=60)
def test_the_fewest_subset_models_allowed_are_the_fewest_that_score_each_sample(samples, fraction):
    size = subset_size(samples, fraction)
    if size in (0, samples):
        return

    def accepted(models):
        config = edited("memorization.subset_models", models)
        config["memorization"] |= {"models_per_shard": 1, "subset_fraction": fraction}
        config["data"]["train_samples"] = samples
        try:
            return bool(parse(Config, config, "here"))
        except BatError:
            return False

    def scored(models):
        times_in = subset_masks(samples, size, design="balanced", seed=0, first=0, count=models).sum(0)
        return bool(((times_in > 0) & (times_in < models)).all())

    fewest = next(models for models in range(1, samples + 1) if scored(models))
    assert accepted(fewest)
    assert fewest == 1 or not accepted(fewest - 1)


@pytest.mark.parametrize(
    "text", ["[]", "7", "", "a: [", "a: b: c", "\tx", "!!python/object:os.system {}"], ids=lambda text: repr(text)
)
def test_a_file_that_is_no_configuration_is_refused(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    assert refusal(load, str(file)).startswith(f"{file}: ")


@pytest.mark.parametrize(
    "content",
    [b"experiment: caf\xe9", b"\xff\xfe\x00", b"experiment: 2024-01-01", b"? [a, b]\n: 1"],
    ids=["latin-1", "binary", "a date", "a list as key"],
)
def test_a_file_that_is_no_utf_8_or_cannot_be_json_is_refused(content, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    assert refusal(load, str(file)).startswith(f"{file}: ")


def test_a_missing_file_is_refused_by_its_name(tmp_path):
    assert str(tmp_path / "none.yaml") in refusal(load, str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("text", ["", "{", '{"name": }', "[1]", "null", "name"])
def test_a_text_that_is_no_json_object_is_refused(text):
    assert refusal(parse, Packaged, text, "--spec").startswith("--spec: ")


def records(value):
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from records(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from records(item)


def test_no_record_can_be_changed():
    found = list(records(parse(Config, read("config"), "")))
    assert len(found) == 22
    for record in found:
        name = dataclasses.fields(record)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, getattr(record, name))


@given(st.integers(1, 10**4), st.floats(0.01, 0.99))
def test_subset_size_is_the_nearest_whole_number(samples, fraction):
    size = subset_size(samples, fraction)
    assert isinstance(size, int)
    assert abs(size - fraction * samples) <= 0.5


def objects(part):
    if isinstance(part, dict):
        if part.get("type") == "object" and "properties" in part:  # and no map of options
            yield part
        for inner in part.values():
            yield from objects(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from objects(inner)


def test_the_schema_explains_each_key_and_allows_no_other():
    found = list(objects(editor_schema()))
    assert len(found) == 45  # as many records as the configuration is made of, and an entry of methods
    for part in found:
        assert part["additionalProperties"] is False
        assert set(part["required"]) <= set(part["properties"])
        for name, about in part["properties"].items():
            # pydantic leaves a description out where the record it refers to has the same
            refers = about["$ref"].rpartition("/")[2] if "$ref" in about else None
            described = editor_schema()["$defs"][refers] if refers and "description" not in about else about
            texts = [each.get("description", "") for each in (described, *described.get("anyOf", ()))]
            assert name == "objective" or any(text.endswith(".") for text in texts), name


@pytest.mark.parametrize(
    ("keys", "valid"),
    [
        ({"like": "bat", "score": "csl"}, True),
        ({"like": "dpls", "score": "shuffled"}, True),
        ({"like": "bat", "score": "best"}, False),
        ({"like": "mail", "factor": "mean_1"}, True),
        ({"like": "mart", "factor": 3}, True),
        ({"like": "mart", "factor": -3}, False),
        ({"like": 3}, False),
    ],
)
def test_a_variant_may_have_what_some_method_may_have_in_the_schema(keys, valid):
    config = with_all(training__methods=["natural", {"name": "a"} | keys])
    assert Draft202012Validator(editor_schema()).is_valid(config) is valid


FRACTION = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?/ ?[0-9]+(\.[0-9]+)?$"}


def test_the_schema_has_short_forms_fractions_and_no_key_that_is_written_out():
    schema = editor_schema()
    assert next(iter(schema.items())) == ("$schema", "https://json-schema.org/draft/2020-12/schema")
    assert schema["required"] == ["experiment", "data", "model", "threat", "memorization", "training"]
    parts = schema["$defs"]
    for name, required in {
        "Memorization": ["subset_models", "recipe"], "Training": ["recipe", "methods"], "Pgd": [], "Compute": [],
    }.items():  # fmt: skip
        assert parts[name]["required"] == required
    assert "variants" not in parts["Training"]["properties"]
    text = {"type": "string"}
    for model in (schema["properties"]["model"], parts["Memorization"]["properties"]["model"]):
        assert model["anyOf"][0] == text
        assert "'$ref': '#/$defs/WideModel'" in str(model["anyOf"][1])
        assert len(model["anyOf"]) == 2
    short, named, whole = parts["Training"]["properties"]["methods"]["items"]["anyOf"]
    assert short == text
    about = "The earlier entry, or the method, that this one is like but for the keys that differ."
    assert named["properties"].pop("like") == text | {"description": about}
    assert (named.pop("type"), named.pop("required"), named.pop("additionalProperties")) == ("object", ["name"], False)
    methods = [name for name in parts if "objective" in parts[name]["properties"]]
    assert named["properties"].keys() == {key for name in methods for key in parts[name]["properties"]} - {"objective"}
    assert named["properties"]["alpha"] == parts["Bat"]["properties"]["alpha"]
    assert named["properties"]["factor"] == {
        "anyOf": [parts[name]["properties"]["factor"] for name in ("Mart", "Mail")]
    }
    # of one form, though methods describe it otherwise or have another default
    assert all("default" in named["properties"][key] for key in ("slope", "trades_beta"))
    assert list(named) == ["properties"]
    assert len(whole["anyOf"]) == 2
    tier, attacks = parts["Evaluation"]["properties"]["ensemble"]["anyOf"]
    assert tier["enum"] == ["fast", "standard"]
    assert attacks["items"]["anyOf"][0] == text
    assert "'$ref': '#/$defs/Square'" in str(attacks["items"]["anyOf"][1])
    assert list(schema["properties"]["subsample"]) == ["description", "default", "title", "anyOf"]
    assert schema["properties"]["subsample"]["default"] == 1.0
    assert schema["properties"]["subsample"]["anyOf"] == [{"type": "number", "minimum": 1e-6, "maximum": 1}, FRACTION]
    assert "default" not in parts["Threat"]["properties"]["eps"]
    assert "'oneOf'" not in str(schema)


def test_the_schema_itself_is_valid():
    Draft202012Validator.check_schema(editor_schema())


@pytest.mark.parametrize("names", SHIPPED, ids="+".join)
def test_shipped_configurations_are_valid_under_the_schema(names):
    Draft202012Validator(editor_schema()).validate(read(*names))


@pytest.mark.parametrize(("path", "value", "_", "refused"), WRONG)
def test_the_schema_refuses_what_one_key_shows(path, value, _, refused):
    assert Draft202012Validator(editor_schema()).is_valid(edited(path, value)) != refused


def test_files_of_the_user_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def checked(data, scores=None):
        return check_files(parse(Config, with_all(data=data, **({"scores": scores} if scores else {})), "here"))

    def scored(path):
        return {"source": "file", "path": path, "format": "npz"}

    (tmp_path / "results/digits/scores").mkdir(parents=True)
    for name in ("a.npz", "results/digits/scores/own.npz", "results/other.npz"):
        (tmp_path / name).touch()
    digits = read("config")["data"]
    checked(digits)
    checked(digits, scored("a.npz"))
    checked(digits, scored("results/other.npz"))
    checked(NPZ | {"path": "a.npz"})
    checked(FOLDER | {"path": "results"})
    scores, data = "give a file of scores, or source: subsets", "give the data set's path"
    for given_, message in (
        ((digits, scored("none.npz")), f"scores.path: none.npz: No such file or directory: {scores}"),
        ((digits, scored("results")), f"scores.path: results: a folder, not a file: {scores}"),
        ((NPZ | {"path": "none.npz"},), f"data.path: none.npz: No such file or directory: {data}"),
        ((FOLDER | {"path": "none"},), f"data.path: none: no such folder: {data}"),
        ((FOLDER | {"path": "a.npz"},), f"data.path: a.npz: a file, not a folder: {data}"),
        # after scores from a file, the data is looked at too
        ((NPZ | {"path": "none.npz"}, scored("a.npz")), f"data.path: none.npz: No such file or directory: {data}"),
        (
            (digits, scored("results/digits/scores/own.npz")),
            "scores.path: results/digits/scores/own.npz is written by this experiment itself: copy it, or change "
            "experiment",
        ),
    ):
        assert refusal(checked, *given_) == message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("subsample", "--config subsample: give KEY=VALUE"),
        ("=1", "--config =1: give KEY=VALUE"),
        ("a" * 81, f"--config {'a' * 80}...: give KEY=VALUE"),
        ("subsample=" + "0" * 99, f"--config subsample={'0' * 70}...: 0"),
        ("a" * 90 + "=1", f"--config {'a' * 80}...: {'a' * 80}...: unknown key"),
        ("a=b=c: d", "--config a=b=c: d: a: unknown key"),
        ("subsample=010", "--config subsample=010: 010 is read in several ways"),
    ],
)
def test_a_setting_is_a_key_and_a_value_in_yaml(setting, message):
    found = refusal(lambda: load(str(ROOT / "config/config.yaml"), settings=[setting]))
    assert found.startswith(message)


SAID = [
    ({"removal": REMOVAL | {"fractions": [0.0008]}}, "removal.fractions: 0.0008 of 600 training samples are 0, and at "
     "least 1 must be removed and 2 be left: change it"),
    ({"removal": REMOVAL | {"method": "pgdat"}}, "removal.method is pgdat, which is no method: take one of natural, "
     "pgd_at, bat, or null; did you mean pgd_at?"),
    ({"threat": {"norm": "l2", "eps": 8.01}}, "threat.eps is 8.01, over 8, the largest l2 norm of images of 1 x 8 x 8: "
     "lower it"),
    ({"threat__eps": 1.01}, "threat: eps is 1.01, over 1, the largest linf norm: lower it"),
    ({"training__attack__step_size": 0.31}, "training.attack.step_size is 0.31, over twice threat.eps (0.15), the "
     "width of the ball: lower it"),
    ({"training__recipe__crop_padding": 8}, "training.recipe.crop_padding is 8, so that a crop of 8 x 8 pixels can "
     "show nothing of an image: lower it"),
    ({"data__train_samples": 1597}, "data: train_samples + validation_samples is 1797, too many for the 1797 images "
     "of digits: lower them"),
    *(({"data__validation_samples": number}, f"data.validation_samples: {number} is wrong here: give a whole number "
       "without point or quotes") for number in (1.0, 1.5)),
    ({"memorization__models_per_shard": 1, "memorization__subset_models": 10_001}, "the config asks for 10,001 shards "
     "of subset models, over 10,000: raise memorization.models_per_shard, or lower subset_models"),
    ({"training__methods": [*TEN, "trades"], "training__seeds": list(range(1000))}, "the config asks for 11,000 "
     "trained models, over 10,000: take fewer methods, removal.fractions or seeds"),
    ({"memorization__subset_models": 210}, "memorization.subset_models is 210, no multiple of models_per_shard (50): "
     "choose one, so that a larger K later trains only the new models"),
    ({"memorization__until": {"standard_error": 0.05, "at_most": 150}}, "memorization.until.at_most is 150, below "
     "subset_models (200), the first round: raise it"),
    ({"memorization__until": {"standard_error": 0.05, "at_most": 410}}, "memorization.until.at_most is 410, no "
     "multiple of models_per_shard (50): choose one"),
    ({"memorization__until": {"standard_error": 0.05, "at_most": 400},
      "scores": {"source": "file", "path": "s.npz", "format": "npz"}}, "memorization.until is given, but scores come "
     "from a file, for which no model is trained: remove one of the two"),
    ({"memorization__until": {"standard_error": 0.05, "quantile": 1, "at_most": 400}}, "memorization.until.quantile: 1 "
     "is over 0.999999, the most: lower it"),
    ({"memorization__until": {"standard_error": 0.05, "at_most": 500_050}, "memorization__models_per_shard": 50,
      "memorization__subset_models": 50}, "the config asks for 10,001 shards of subset models, over 10,000: raise "
     "memorization.models_per_shard, or lower subset_models"),
    ({"memorization__robust__subset_models": 30}, "memorization.robust.subset_models is 30, no multiple of "
     "models_per_shard (50)"),
    ({"memorization__subset_fraction": 0.0001}, "memorization.subset_fraction is 0.0001, which leaves 0 of 600 "
     "training samples in a subset: move it away from 0 and 1"),
    ({"memorization__subset_models": 3, "memorization__models_per_shard": 1}, "memorization.subset_models is 3, too "
     "small for subsets of 420 of 600: some sample would never be left out, or never in; take at least 4"),
    ({"training__methods__2__score": "robust_memorization"}, "method bat: score is robust_memorization, but "
     "memorization.robust.subset_models is 0: raise it, or choose another score"),
    ({"training__methods__0": {"objective": "trades", "name": "natural"}, "training__methods__2__score": "csl"},
     "method bat: score is csl, which is read from natural training, but no method is natural: add it, or choose "
     "another score"),
    ({"training__methods__1__name": "bat", "evaluation__baseline": "bat"}, "two runs have one name, those of removal "
     "included: bat; rename a method"),
    ({"evaluation__pairs": [["bat", "bat"]]}, "evaluation.pairs has [bat, bat], a method with itself or two that are "
     "compared already, in this order or the other (all methods are with evaluation.baseline), which would count twice "
     "in the correction for their number: remove it"),
    ({"evaluation__baseline": "pgdat"}, "evaluation compares with pgdat, which is no method: take of natural, pgd_at, "
     "bat; did you mean pgd_at?"),
    ({"evaluation__ensemble": [OTHERS[0], OTHERS[0]]}, "evaluation.ensemble: has an attack twice: square, square; give "
     "it more restarts"),
    ({"data": NPZ | {"path": "{a}"}}, "data.path: no path that the workflow can use: take one without braces, line "
     "breaks, other control characters, and spaces at its ends"),
    ({"data": NPZ | {"path": "a" * 256}}, "data.path: a name in it has more than 255 bytes, which no file can have: "
     "fix it"),
    ({"training": None}, "training: null is wrong here: give a map of keys, KEY: VALUE"),
    ({"training__seeds": [0, 0]}, "training.seeds: 0 is there twice: keep one"),
    ({"experimnt": 1}, "experimnt: unknown key: remove it or correct its spelling; did you mean experiment?"),
    ({"evaluation__pairs": [["bat"]]}, "evaluation.pairs.0.1: missing entry: add it"),
    ({"threat": {"norm": "l2"}}, "threat.eps: missing key: add it"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), SAID, ids=range(len(SAID)))
def test_what_is_wrong_is_said_in_whole_sentences(changes, message):
    assert refusal(parse, Config, with_all(**changes), "here") == f"here: {message}"
