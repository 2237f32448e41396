"""Each kind of problem that pydantic can find in a config or a spec is told in plain words, with what to do."""

import copy
import json
import math
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError
from refusals import refusal, refusals
from stages import SUMMARY

from bat.config import Config, Model, Training, as_yaml, load, parse, specs
from bat.config.reference import keys_at
from bat.config.words import KINDS, either, meant, shown, told

BASE = yaml.safe_load(as_yaml(load(str(Path(__file__).parents[2] / "config/config.yaml"))))
RECORDS = [Config, Model, *(each for each in vars(specs).values() if getattr(each, "__name__", "").endswith("Spec"))]
# what can be found wrong where the schema of a record has one of these
FOUND = {
    "bool": {"bool_type"},
    "int": {"int_type"},
    "float": {"float_type", "finite_number"},
    "str": {"string_type"},
    "literal": {"literal_error"},
    "tuple": {"tuple_type", "too_short", "too_long", "missing"},
    "dict": {"dict_type"},
    "dataclass": {"dataclass_type"},
    "dataclass-args": {"missing", "unexpected_keyword_argument"},
    "tagged-union": {"dict_type", "union_tag_invalid", "union_tag_not_found"},
    "union": set(),
    "nullable": set(),
    "default": set(),
    "definitions": set(),
    "definition-ref": set(),
    "function-after": {"value_error"},
    "function-before": {"value_error"},
}
LIMITS = {
    "gt": "greater_than",
    "ge": "greater_than_equal",
    "lt": "less_than",
    "le": "less_than_equal",
    "multiple_of": "multiple_of",
}
TEXTS = {"min_length": "string_too_short", "max_length": "string_too_long", "pattern": "string_pattern_mismatch"}


def reachable(schema):
    """Return the kinds of problems that a schema of pydantic can find."""
    if isinstance(schema, list | tuple):
        return set().union(*map(reachable, schema))
    if not isinstance(schema, dict):
        return set()
    found = set().union(*map(reachable, schema.values()))
    kind = schema.get("type")
    if not isinstance(kind, str) or kind in ("dataclass-field", "no-info", "with-info"):
        return found
    found |= FOUND[kind]
    if kind in ("int", "float"):
        found |= {problem for limit, problem in LIMITS.items() if limit in schema}
    if kind == "str":
        found |= {problem for limit, problem in TEXTS.items() if limit in schema}
    return found


def edited(path, value):
    config = copy.deepcopy(BASE)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = config
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return config


CIFAR = {"name": "cifar10", "cache": "c", "train_samples": "all", "validation_samples": 5, "split_seed": 0}
METHOD = "training.methods.1"
SCHEDULE = "training.recipe.schedule"
# kind, key, value (None: no such key), the message
CASES = [
    (
        "bool_type",
        "evaluation.images",
        "no",
        'evaluation.images: "no" is wrong here: give true or false without quotes',
    ),
    ("int_type", "model.width", "16", 'model.width: "16" is wrong here: give a whole number without point or quotes'),
    ("int_type", "model.width", 16.0, "model.width: 16.0 is wrong here: give a whole number without point or quotes"),
    (
        "float_type",
        "threat.eps",
        "8/25x",
        'threat.eps: "8/25x" is wrong here: give a number without quotes (0.1, 8/255)',
    ),
    (
        "string_type",
        "experiment",
        5,
        "experiment: 5 is wrong here: give text, in quotes where it looks like a number",
    ),
    ("tuple_type", "training.seeds", 0, "training.seeds: 0 is wrong here: give a list, as in [1, 2]"),
    (
        "tuple_type",
        "evaluation.pairs",
        [["bat", "natural"], "bat"],
        'evaluation.pairs.1: "bat" is wrong here: give a list, as in [1, 2]',
    ),
    ("dict_type", "data", "digits", 'data: "digits" is wrong here: give a map of keys, KEY: VALUE'),
    ("dataclass_type", "training", [], "training: a list is wrong here: give a map of keys, KEY: VALUE"),
    (
        "literal_error",
        "threat.norm",
        "linff",
        'threat.norm: "linff" is wrong here: give linf or l2; did you mean linf?',
    ),
    (
        "literal_error",
        "compute.precision",
        16,
        "compute.precision: 16 is wrong here: give float32, bfloat16 or float16",
    ),
    (
        "literal_error",
        "evaluation.ensemble",
        "slow",
        'evaluation.ensemble: "slow" is wrong here: give fast or standard',
    ),
    (
        "union_tag_invalid",
        "data.name",
        "cifar",
        'data.name: "cifar" is wrong here: give digits, mnist5k, mnist, fashion_mnist, svhn, cifar10, cifar100, '
        "tiny_imagenet, image_folder or npz; did you mean cifar10?",
    ),
    ("union_tag_invalid", "scores.source", 3, "scores.source: 3 is wrong here: give subsets or file"),
    (
        "union_tag_invalid",
        f"{SCHEDULE}.name",
        "onecycle",
        f'{SCHEDULE}.name: "onecycle" is wrong here: give steps or one_cycle; did you mean one_cycle?',
    ),
    ("union_tag_not_found", f"{SCHEDULE}.name", None, f"{SCHEDULE}.name: missing key: add it"),
    ("missing", "training.recipe.epochs", None, "training.recipe.epochs: missing key: add it"),
    ("missing", "evaluation.pairs", [["bat"]], "evaluation.pairs.0.1: missing entry: add it"),
    ("unexpected_keyword_argument", "training.zzz", 1, "training.zzz: unknown key: remove it or correct its spelling"),
    ("greater_than_equal", "subsample", 1e-300, "subsample: 1e-300 is under 0.000001, the least: raise it"),
    (
        "less_than_equal",
        "training.recipe.learning_rate",
        1e300,
        "training.recipe.learning_rate: 1e+300 is over 100, the most: lower it",
    ),
    (
        "less_than_equal",
        "evaluation.bootstrap",
        10**6,
        "evaluation.bootstrap: 1000000 is over 100,000, the most: lower it",
    ),
    ("less_than", "memorization.threshold", 1.5, "memorization.threshold: 1.5 is not under 1: lower it"),
    ("finite_number", "threat.eps", math.inf, "threat.eps: Infinity is not finite: give a finite number"),
    ("too_short", "training.methods", [], "training.methods: has 0 entries: give at least 1"),
    ("too_long", "training.seeds", list(range(1001)), "training.seeds: has 1,001 entries: give at most 1,000"),
    ("string_too_short", "data", CIFAR | {"cache": ""}, "data.cache: is empty: give at least 1 character"),
    (
        "string_too_long",
        "experiment",
        "a" * 61,
        'experiment: "' + "a" * 61 + '" is too long: give at most 60 characters',
    ),
    (
        "string_pattern_mismatch",
        "experiment",
        "a b",
        'experiment: "a b" is no name: give a-z, 0-9 and single underscores between them, as in pgd_at_2',
    ),
    (
        "string_pattern_mismatch",
        "model",
        {"name": "timm:!"},
        'model.name: "timm:!" is no network of a library: give torchvision:NAME or timm:NAME, NAME of letters, digits, '
        "_ . or -",
    ),
    ("value_error", "training.seeds", [0, 0], "training.seeds: 0 is there twice: keep one"),
    # a value that may be one of several, and is none
    (
        "float_type",
        "training.methods.2.alpha",
        "infinite",
        'training.methods.2.alpha: "infinite" is wrong here: give a number without quotes (0.1, 8/255) or inf',
    ),
    (
        "greater_than_equal",
        "training.methods.2.alpha",
        -1,
        "training.methods.2.alpha: -1 is under 0, the least: raise it",
    ),
    (
        "string_type",
        "data.classes",
        [3, []],
        "data.classes.1: a list is wrong here: give text, in quotes where it looks like a number or a whole number "
        "without point or quotes",
    ),
    (
        "int_type",
        "data",
        CIFAR | {"train_samples": []},
        "data.train_samples: a list is wrong here: give a whole number without point or quotes",
    ),
    (
        "literal_error",
        "data",
        CIFAR | {"train_samples": "al"},
        'data.train_samples: "al" is wrong here: give all; did you mean all?',
    ),
]


@pytest.mark.parametrize(("kind", "key", "value", "message"), CASES)
def test_what_is_wrong_is_told_in_plain_words(kind, key, value, message):
    text = json.dumps(edited(key, value))
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Config).validate_json(text)
    assert kind in [problem["type"] for problem in caught.value.errors()]
    assert refusal(parse, Config, text, "here") == f"here: {message}"


def test_there_are_words_and_a_case_for_each_kind_that_can_be_found():
    found = set().union(*(reachable(TypeAdapter(record).core_schema) for record in RECORDS)) | {"json_invalid"}
    assert len(RECORDS) == 17
    assert found == KINDS
    assert {kind for kind, *_ in CASES} == KINDS - {"json_invalid"}


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', '{"a": "\x00"}', "[" * 300 + "]" * 300], ids=["half", "control", "deep"]
)
def test_a_text_that_python_takes_for_json_and_pydantic_does_not(text):
    assert refusal(parse, Config, text, "here").startswith("here: not JSON (")


def test_a_map_in_a_spec_is_one(tmp_path):
    message = refusal(parse, specs.SummarySpec, SUMMARY | {"questions": {"pairs": 3}}, "--spec")
    assert message == "--spec: questions.pairs: 3 is wrong here: give a list, as in [1, 2]"
    message = refusal(parse, specs.SummarySpec, SUMMARY | {"questions": []}, "--spec")
    assert message == "--spec: questions: a list is wrong here: give a map of keys, KEY: VALUE"


@pytest.mark.parametrize(
    ("key", "value", "guess"),
    [
        # beside the right key, as in a file that extends the default
        ("training.seed", [0], "seeds"),
        ("memorization.recipe.learningrate", 0.1, "learning_rate"),
        ("training.methods.2.temprature", 0.1, "temperature"),
        ("experimnt", "a", "experiment"),
        ("training.methods.0.alpha", 1.0, None),
        ("training.x", 1, None),
    ],
)
def test_a_misspelt_key_is_guessed(key, value, guess):
    said = f"here: {key}: unknown key: remove it or correct its spelling"
    hint = f"; did you mean {guess}?" if guess else ""
    assert refusal(parse, Config, edited(key, value), "here") == said + hint


def test_a_misspelt_key_in_place_of_the_right_one_is_guessed():
    config = edited("training.recipe.epochs", None)
    config["training"]["recipe"]["epoch"] = 3
    message = refusal(parse, Config, config, "here")
    assert (
        message == "here: training.recipe.epoch: unknown key: remove it or correct its spelling; did you mean epochs?"
    )
    config["training"]["methd"] = config["training"].pop("methods")
    said = [line.split(": ")[1] for line in refusals(parse, Config, config, "here")]
    assert sorted(said) == ["training.methd", "training.recipe.epoch"]


def test_keys_are_guessed_of_the_kind_of_record_that_there_is():
    images = {"name": "image_folder", "path": "images"}
    guesses = [("colour", images | {"color": "rgb"}), ("path", images | {"pth": "a"})]
    # keys that the map has, or could have; none of another kind
    for guess, data in guesses:
        assert f"did you mean {guess}?" in refusal(parse, Config, edited("data", data), "here")
    assert "mean" not in refusal(parse, Config, edited("data", {"name": "digits", "color": "rgb"}), "here")
    trades = {"name": "trades", "bet": 1}
    assert "did you mean beta?" in refusal(parse, Config, edited("training.methods.2", trades), "here")


def test_keys_are_those_of_the_record_that_a_map_should_be():
    config = {
        "model": {"name": "timm:a"},
        "data": {"name": "a:b"},
        "threat": {"name": 3},
        "scores": [],
        "removal": 3,
        "training": {"methods": [{"objective": "a:b"}, {"objective": "natural"}, {"objective": "none"}]},
        "evaluation": {"ensemble": [{"name": "square"}]},
        "memorization": {"recipe": {"schedule": {}}, "else": {"a": {}}},
    }

    def keys(*place):
        return set(keys_at(Config, config, place))

    assert keys() == {field.name for field in fields(Config)}
    assert keys_at(Model, {"name": "mlp"}, ()) == ["name", "width"]
    assert keys("model") == {"name"}
    assert {"code", "options"} < keys("data")
    assert keys("threat") == {"norm", "eps"}
    assert keys("training") == {field.name for field in fields(Training)} - {"variants"}
    assert {"inner", "code"} < keys("training", "methods", 0)
    assert keys("training", "methods", 1) == {"name", "objective"}
    assert keys("evaluation", "ensemble", 0) == {"name", "queries", "restarts", "p_init"}
    assert keys("memorization", "recipe", "schedule") > {"name", "warmup"}
    nowhere = [("scores",), ("removal",), ("training", "methods", 2), ("memorization", "else", "a")]
    assert [keys(*place) for place in nowhere] == [set()] * 4


@pytest.mark.parametrize(
    ("key", "value", "guess"),
    [
        ("model.name", "smallcnn", "small_cnn"),
        ("model", {"name": "resnet81"}, "resnet18"),
        ("evaluation.baseline", "pgdat", "pgd_at"),
        ("evaluation.pairs", [["bta", "natural"]], "bat"),
        ("removal.method", "pgd_at2", "pgd_at"),
        ("training.methods.2", {"name": "a", "like": "bad"}, "bat"),
        ("training.methods.2", {"name": "a", "like": "bat", "bata": 1}, "beta"),
    ],
)
def test_a_misspelt_name_is_guessed(key, value, guess):
    assert f"; did you mean {guess}?" in refusal(parse, Config, edited(key, value), "here")


def test_all_that_is_wrong_is_told_once_each():
    config = edited("training.methods.2.alpha", "much")  # neither number nor inf: one problem
    config["training"]["seeds"] = [0, "a"]
    config["training"]["methods"].append("natral")
    config["evaluation"]["ensemble"] = [{"name": "circle"}]  # and so the list is too short
    config["model"] = {"name": "resnet"}  # and so it has no width
    said = [line.split(": ")[1] for line in refusals(parse, Config, config, "here")]
    assert sorted(said) == [
        "evaluation.ensemble.0.name",
        "model.name",
        "training.methods.2.alpha",
        "training.methods.3",
        "training.seeds.1",
    ]


def test_all_that_does_not_fit_together_is_told():
    config = edited("memorization.subset_models", 210)
    config["evaluation"] |= {"baseline": "best", "bootstrap": 100, "confidence": 0.99}
    config["training"]["recipe"]["crop_padding"] = 8
    said = [line.removeprefix("here: ").split()[0] for line in refusals(parse, Config, config, "here")]
    keys = ["memorization.subset_models", "evaluation.bootstrap", "training.recipe.crop_padding", "evaluation"]
    assert said == keys


def test_a_file_in_which_hardly_anything_is_right_is_told_of_in_few_lines():
    config = edited("training.seeds", [str(number) for number in range(70)])
    lines = refusals(parse, Config, config, "here")
    assert len(lines) == 51
    assert lines[-1] == "here: 20 more things are wrong"
    lines = refusals(parse, Config, edited("training.seeds", [str(number) for number in range(50)]), "here")
    assert [line.split(": ")[1] for line in lines] == [f"training.seeds.{number}" for number in range(50)]


def test_a_kind_of_problem_without_words_is_told_in_those_of_pydantic():
    assert told([{"type": "of a later pydantic", "loc": (), "msg": "Value is odd", "input": 3}]) == "Value is odd"


def test_values_are_shown_as_they_are_written():
    assert [shown(value) for value in ("é", 0.5, None, [1], (1,), {"a": 1}, "a" * 79)] == [
        '"é"', "0.5", "null", "a list", "a list", "a map", '"' + "a" * 79 + "..."
    ]  # fmt: skip


def test_lists_in_words():
    assert [either(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]


def test_only_text_that_is_close_is_guessed():
    assert meant("sevn", ["seven", "eleven"]) == "; did you mean seven?"
    assert [meant(value, ["seven"]) for value in (7, None, ["seven"], "x", "")] == [""] * 5
    assert meant("a" * 60, ["a" * 61]) == f"; did you mean {'a' * 61}?"
    assert meant("a" * 61, ["a" * 60]) == ""
