import copy
import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from refusals import refusal
from snakemake.utils import update_config

from bat.config import (
    Bat,
    Config,
    FixedModel,
    ImageFolder,
    LibraryModel,
    Natural,
    Npz,
    OneCycle,
    Packaged,
    Pgd,
    PgdAt,
    Published,
    Recipe,
    Steps,
    load,
    parse,
    schema,
    share,
    subset_size,
)
from bat.data import split
from bat.errors import BatError
from bat.memorization import subset_masks
from bat.plan import SOURCES
from bat.sources import Samples, Source

ROOT = Path(__file__).parents[2]
SCHEMA_FILE = ROOT / "workflow" / "schemas" / "config.schema.yaml"


def read(*names):
    """Merge configuration files as snakemake does with several of them."""
    merged = {}
    for name in names:
        update_config(merged, yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text(encoding="utf-8")))
    return merged


def without_null_width(value):
    """Drop what only takes an inherited width away: no record of a network of fixed size has it."""
    model = value["model"]
    return value if model["width"] is not None else value | {"model": {"name": model["name"]}}


DEFAULT = ("config",)
SMOKE = ("config", "smoke")
LARGE = ["mnist", "cifar10", "cifar100", "tiny_imagenet"]
SHIPPED = [DEFAULT, *(("config", name) for name in ("smoke", "digits_full", "mnist5k", *LARGE))]


def edited(path, value):
    """Return the default configuration with the value at ``path`` ("a.b.0.c") set, or removed where it is DROP."""
    config = copy.deepcopy(read("config"))
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
def test_shipped_configurations_are_read_as_written(names):
    value = read(*names)
    config = parse(Config, value, "here")
    value = without_null_width(value)
    # through JSON, in which tuples are lists
    assert json.loads(json.dumps(dataclasses.asdict(config))) == value


def test_smoke_changes_the_default_and_nothing_is_lost_in_the_merge():
    smoke, default = parse(Config, read(*SMOKE), ""), parse(Config, read(*DEFAULT), "")
    assert (smoke.experiment, smoke.training.seeds, smoke.training.recipe.epochs) == ("smoke", (0, 1), 3)
    assert smoke.training.methods == default.training.methods
    assert smoke.training.recipe.schedule == default.training.recipe.schedule


@pytest.mark.parametrize("name", ["resnet9", "resnet18", "preact_resnet18", "resnet50", "wrn_28_10", "wrn_34_10"])
def test_a_network_of_fixed_size_stands_alone_or_takes_an_inherited_width_away(name):
    expected = FixedModel(name=name)
    assert parse(Config, edited("model", {"name": name}), "").model == expected
    assert parse(Config, edited("model", {"name": name, "width": None}), "").model == expected
    assert Draft202012Validator(schema()).is_valid(edited("model", {"name": name}))


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
    assert config.model == FixedModel(name="preact_resnet18")


def test_subset_models_have_a_network_of_their_own_where_one_is_named():
    config = parse(Config, read("config", "cifar10"), "")
    assert (config.model.name, config.subset_model.name) == ("preact_resnet18", "resnet9")
    config = parse(Config, read("config"), "")
    assert config.memorization.model is None
    assert config.subset_model == config.model
    wrong = edited("memorization.model", {"name": "resnet9", "width": 3})
    assert refusal(parse, Config, wrong, "here").startswith("here: memorization.model: resnet9 has no width")


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
    assert Draft202012Validator(schema()).is_valid(edited("model", {"name": name}))


def test_unions_become_the_record_that_their_name_says():
    config = parse(Config, read("config"), "")
    assert [type(method) for method in config.training.methods] == [Natural, PgdAt, Bat]
    assert type(config.memorization.recipe.schedule) is OneCycle
    assert type(config.training.recipe.schedule) is Steps


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
    assert json.loads(json.dumps(dataclasses.asdict(config))) == value
    assert not list(Draft202012Validator(schema()).iter_errors(value))


def test_a_trial_must_score_each_sample_too():
    config = edited("memorization.subset_fraction", 0.99)
    parse(Config, config, "here")
    assert "leaves 12 of 12 training samples" in refusal(parse, Config, config | {"subsample": 0.02}, "here")


@given(st.integers(2, 10**6), st.floats(0, 1, exclude_min=True))
def test_a_share_is_a_part_of_at_least_2(samples, subsample):
    assert 2 <= share(samples, subsample) <= samples
    assert share(samples, 1.0) == samples
    assert abs(share(samples, subsample) - samples * subsample) <= 2


REMOVAL = {"method": "pgd_at", "fractions": [0.05, 0.1], "harmful_threshold": 0.5}


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
    ("training.recipe.schedule.factor", DROP, "training.recipe.schedule.factor: missing key", True),
    ("training.methods.2.temperature", DROP, "training.methods.2.temperature: missing key", True),
    ("data.train_samples", "600", "data.train_samples: ", True),
    ("data.train_samples", 600.5, "data.train_samples: ", True),
    ("data.train_samples", True, "data.train_samples: ", True),
    ("data.train_samples", None, "data.train_samples: ", True),
    ("data", [], "data: ", True),
    ("data", "digits", "data: ", True),
    ("memorization.recipe.flip", "no", "memorization.recipe.flip: ", True),
    ("memorization.recipe.flip", 0, "memorization.recipe.flip: ", True),
    ("threat.eps", "8/255", "threat.eps: ", True),
    ("training.seeds", 0, "training.seeds: ", True),
    ("training.seeds.1", 0.5, "training.seeds.1: ", True),
    ("experiment", 2024, "experiment: ", True),
    ("experiment", "a/b", "experiment: ", True),
    ("experiment", "../up", "experiment: ", True),
    ("training.methods.1.name", "PGD at", "training.methods.1.name: ", True),
    ("data.name", "letters", "data: ", True),
    ("data.name", "cifar10", "data.cache: missing key", True),
    ("data.cache", "cache", "data.cache: unknown key", True),
    ("data.train_samples", "all", "data.train_samples: ", True),
    ("data", PUBLISHED | {"train_samples": "most"}, "data.train_samples: ", True),
    ("data", PUBLISHED | {"train_samples": 1}, "data.train_samples: ", True),
    ("data", PUBLISHED | {"cache": ""}, "data.cache: ", True),
    ("data", FOLDER | {"size": 0}, "data.size: ", True),
    ("data", FOLDER | {"colour": "cmyk"}, "data.colour: ", True),
    ("data", FOLDER | {"cache": "cache"}, "data.cache: unknown key", True),
    ("data", NPZ | {"size": 8}, "data.size: unknown key", True),
    ("subsample", DROP, "subsample: missing key", True),
    ("subsample", 0, "subsample: ", True),
    ("subsample", 1.01, "subsample: ", True),
    ("subsample", "0.02", "subsample: ", True),
    ("model.name", "resnet", "model.name: no such network", True),
    ("model.name", DROP, "model.name: missing key", True),
    ("model.name", 18, "model.name: no such network", True),
    ("model.name", "resnet18", "model: resnet18 has no width", True),
    ("model.name", "timm:resnet18", "model: timm:resnet18 has no width", True),
    ("model", {"name": "keras:resnet18"}, "model.name: ", True),
    ("model", {"name": "timm:hf-hub:user/net"}, "model.name: ", True),
    ("model", {"name": "resnet18", "depth": 3}, "model.depth: unknown key", True),
    ("threat.norm", "l1", "threat.norm: ", True),
    ("scores", "subsets", "scores: ", True),
    ("scores.source", "web", "scores: ", True),
    ("scores.path", "scores.npz", "scores.path: unknown key", True),
    ("scores", {"source": "file", "path": "scores.npz"}, "scores.format: missing key", True),
    ("scores", {"source": "file", "path": "", "format": "npz"}, "scores.path: ", True),
    ("scores", {"source": "file", "path": "scores.npz", "format": "pickle"}, "scores.format: ", True),
    ("memorization.model", DROP, "memorization.model: missing key", True),
    ("memorization.model", {"name": "resnet"}, "memorization.model.name: no such network", True),
    ("memorization.model", {"name": "mlp"}, "memorization.model.width: missing key", True),
    ("memorization.design", "random", "memorization.design: ", True),
    ("memorization.robust.subset_models", -50, "memorization.robust.subset_models: ", True),
    ("memorization.robust.subset_models", 30, "memorization.robust.subset_models is 30, no multiple", False),
    ("training.methods.2.score", "robust_memorization", "method bat: score is robust_memorization, but", False),
    ("memorization.robust.attack", DROP, "memorization.robust.attack: missing key", True),
    ("removal", DROP, "removal: missing key", True),
    ("removal.method", "trades", "removal.method is trades, which is no method: take one of natural, pgd_at", False),
    ("removal.method", "PGD at", "removal.method: ", True),
    ("removal.fractions", [0.1, 1.0], "removal.fractions.1: ", True),
    ("removal.fractions", [0], "removal.fractions.0: ", True),
    ("removal.harmful_threshold", 1, "removal.harmful_threshold: ", True),
    ("removal", REMOVAL | {"fractions": [0.1, 0.1]}, "removal.fractions: 0.1 stands there twice", False),
    ("training.measure_every", 0, "training.measure_every: ", True),
    ("training.methods.2.score", "random", "training.methods.2.score: ", True),
    ("training.methods.2.threshold", 1, "training.methods.2.threshold: ", True),
    ("training.methods.1.score", "memorization", "training.methods.1.score: unknown key", True),
    ("training.methods.1.objective", "freat", "training.methods.1: ", True),
    ("training.methods.1.objective", DROP, "training.methods.1: ", True),
    ("evaluation.ensemble.0.name", "circle", "evaluation.ensemble.0: ", True),
    ("memorization.recipe.schedule.name", "cosine", "memorization.recipe.schedule: ", True),
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
    ("memorization.recipe.learning_rate", math.inf, "memorization.recipe.learning_rate: ", False),
    # what no single key shows
    ("memorization.subset_fraction", 0.0001, "memorization.subset_fraction is 0.0001", False),
    ("memorization.subset_fraction", 0.9999, "memorization.subset_fraction is 0.9999", False),
    ("memorization.subset_fraction", 0.999, "memorization.subset_models is 200", False),
    ("memorization.subset_models", 210, "memorization.subset_models is 210", False),
    ("memorization.models_per_shard", 60, "memorization.subset_models is 200", False),
    ("memorization.models_per_shard", 400, "memorization.subset_models is 200", False),
    ("training.methods.1.name", "bat", "training.methods has a name twice", False),
    ("training.sweeps", [{"method": "bat", "key": "alpha", "values": []}], "training.sweeps.0.values: ", True),
    ("training.sweeps", [{"method": "bat", "key": "alpha"}], "training.sweeps.0.values: missing key", True),
    ("training.sweeps", [{"method": "bat", "key": "alpha", "values": [[1]]}], "training.sweeps.0.values.0: ", True),
    (
        "training.sweeps",
        [{"method": "bat", "key": "lr", "values": [1]}],
        "training.sweeps: method bat, key lr: ",
        False,
    ),
    ("training.sweeps", [{"method": "bat", "key": "awp", "values": [-1]}], "training.sweeps: method bat, key ", False),
    ("training.methods.2.alpha", "infinite", "training.methods.2.alpha: ", True),
    ("training.methods.2.alpha", -1, "training.methods.2.alpha: ", True),
    ("training.methods.1.awp", -0.1, "training.methods.1.awp: ", True),
    ("training.methods.1.awp", DROP, "training.methods.1.awp: missing key", True),
    ("training.methods.1.eps_factor", 0, "training.methods.1.eps_factor: ", True),
    ("training.methods.0.awp", 0.0, "training.methods.0.awp: unknown key", True),
    ("training.recipe.ema_decay", 1, "training.recipe.ema_decay: ", True),
    ("training.recipe.label_smoothing", 1, "training.recipe.label_smoothing: ", True),
    ("memorization.recipe.ema_decay", DROP, "memorization.recipe.ema_decay: missing key", True),
    ("training.early_stop", -1, "training.early_stop: ", True),
    ("training.seeds", [0, 1, 0], "training.seeds: 0 stands there twice", False),
]


@pytest.mark.parametrize(("path", "value", "message", "_"), WRONG)
def test_a_wrong_configuration_is_refused_in_one_line_that_names_the_place(path, value, message, _, tmp_path):
    config = edited(path, value)
    assert refusal(parse, Config, config, "here").startswith(f"here: {message}")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert refusal(load, str(file)).startswith(f"{file}: {message}")


def test_too_few_subset_models_are_refused_with_the_number_that_is_needed():
    config = edited("memorization.subset_models", 3)
    config["memorization"]["models_per_shard"] = 1
    message = refusal(parse, Config, config, "here")
    assert "memorization.subset_models is 3" in message
    assert "at least 4" in message  # 180 of 600 are left out of a subset


@given(st.integers(2, 40), st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=60)
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
@settings(deadline=None)
def test_subset_size_is_the_nearest_whole_number(samples, fraction):
    size = subset_size(samples, fraction)
    assert isinstance(size, int)
    assert abs(size - fraction * samples) <= 0.5


def objects(part):
    if isinstance(part, dict):
        if part.get("type") == "object":
            yield part
        for inner in part.values():
            yield from objects(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from objects(inner)


def test_the_schema_explains_each_key_allows_no_other_and_sets_no_default():
    found = list(objects(schema()))
    assert len(found) == 35  # as many records as the configuration is made of
    for part in found:
        assert part["additionalProperties"] is False
        assert set(part["required"]) == set(part["properties"])
        for name, about in part["properties"].items():
            # pydantic leaves a description out where the record it refers to has the same
            described = about if "description" in about else schema()["$defs"][about["$ref"].rpartition("/")[2]]
            assert described["description"].endswith("."), name
    assert '"default"' not in json.dumps(schema())


def test_the_schema_itself_is_valid():
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("names", SHIPPED, ids="+".join)
def test_shipped_configurations_are_valid_under_the_schema(names):
    Draft202012Validator(schema()).validate(without_null_width(read(*names)))


@pytest.mark.parametrize(("path", "value", "_", "refused"), WRONG)
def test_the_schema_refuses_what_one_key_shows(path, value, _, refused):
    assert Draft202012Validator(schema()).is_valid(edited(path, value)) != refused


@pytest.mark.skipif(not SCHEMA_FILE.exists(), reason="generated by: python -m bat schema --out")
def test_the_schema_file_is_up_to_date():
    assert yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8")) == schema()
