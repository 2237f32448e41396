"""Short forms of a configuration, variants of methods, and what a further file changes."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from methods import BAT, METHODS, NATURAL, PGD_AT, TRADES, but
from pydantic import TypeAdapter, ValidationError
from refusals import refusal, refusals

from bat.config import (
    ApgdCe,
    Config,
    ImageFolder,
    LibraryModel,
    Method,
    Model,
    Packaged,
    ResidualModel,
    SizedModel,
    WideModel,
    as_yaml,
    load,
    parse,
    runs_of,
)
from bat.config.model import model_record
from bat.config.ranges import number
from bat.config.shorthand import OBJECTIVES, completed, extended

BASE = str(Path(__file__).parents[2] / "config/config.yaml")


def with_methods(*methods, baseline=None):
    text = f"training: {{methods: {json.dumps(methods)}}}"
    return changed(
        text, "evaluation: {baseline: null}" if baseline is None else f"evaluation: {{baseline: {baseline}}}"
    )


def changed(*texts):
    """Read the default configuration with the changes of further settings."""
    settings = []
    for text in texts:
        ((key, value),) = yaml.safe_load(text).items()
        settings.append(f"{key}={json.dumps(value)}")
    return load(BASE, settings=settings)


def test_a_name_is_a_method_with_the_constants_of_its_paper():
    known = "natural pgd_at trades mart gairat mail mail_trades dpls bat bat_trades bat_mart"
    assert tuple(known.split()) == OBJECTIVES
    assert with_methods(*OBJECTIVES).training.methods == METHODS
    assert with_methods(*({"name": name} for name in OBJECTIVES)).training.methods == METHODS


def test_a_variant_is_the_entry_that_it_is_like_but_for_its_keys():
    config = with_methods(
        "natural",
        {"name": "trades", "awp": 0.01},
        "bat",
        {"name": "trades_beta_1", "like": "trades", "beta": 1},
        {"name": "bat_drop_harmful", "like": "bat", "alpha": "inf"},
        {"name": "bat_twice", "like": "bat_drop_harmful", "beta": 0.5},
        {"name": "bat_shuffled", "like": "bat", "score": "shuffled"},
        # no entry of that name: the method itself
        {"name": "mine", "like": "pgd_at", "awp": 0.005},
        {"name": "other", "objective": "bat", "alpha": 2},
    )
    trades = but(TRADES, awp=0.01)
    assert config.training.methods == (
        NATURAL,
        trades,
        BAT,
        but(trades, name="trades_beta_1", beta=1.0),
        but(BAT, name="bat_drop_harmful", alpha="inf"),
        but(BAT, name="bat_twice", alpha="inf", beta=0.5),
        but(BAT, name="bat_shuffled", score="shuffled"),
        but(PGD_AT, name="mine", awp=0.005),
        but(BAT, name="other", alpha=2.0),
    )
    runs = {run.name: (run.base, run.role) for run in runs_of(config)}
    assert runs == {
        "natural": ("natural", "method"),
        "trades": ("trades", "method"),
        "bat": ("bat", "method"),
        "trades_beta_1": ("trades", "variant"),
        "bat_drop_harmful": ("bat", "variant"),
        "bat_twice": ("bat", "variant"),
        "bat_shuffled": ("bat", "control"),
        "mine": ("mine", "method"),
        "other": ("other", "method"),
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("natral", "natral is no method: take one of natural, pgd_at, trades, mart, gairat, mail, mail_trades, dpls, "
         "bat, bat_trades, bat_mart, or say what it is like, as in {name: mine, like: bat, alpha: 2}; did you mean "
         "natural?"),
        ({"name": "mine", "alpha": 2}, "mine is no method: take one of natural"),
        ({"alpha": 2}, "has no name: add that of a method, as in {name: bat, alpha: 2}"),
        ({"name": "a", "like": "bta"}, "like is bta, which is no earlier entry and no method: take one of bat, "
         "natural, pgd_at, trades, mart, gairat, mail, mail_trades, dpls, bat_trades, bat_mart; did you mean bat?"),
        ({"name": "a", "like": "bat", "objective": "trades"}, "is like bat, whose objective it has: remove objective, "
         "or like"),
        ({"name": "a", "like": "mart", "objective": "trades"}, "is like mart, whose objective it has: remove "
         "objective, or like"),
        ({"name": "a", "like": "later"}, "like is later, which is no earlier entry and no method"),
        ({"name": "a", "like": 3}, "like is 3, which is no earlier entry"),
        ({"name": "a", "like": []}, "like is [], which is no earlier entry"),
        ({"like": "bat"}, "name: missing key: add it"),
        ({"name": "A b", "like": "bat"}, 'name: "A b" is no name: give a-z, 0-9 and single underscores between them, '
         "as in pgd_at_2"),
    ],
)  # fmt: skip
def test_an_entry_that_is_no_method_is_refused(entry, message):
    found = refusal(with_methods, "bat", entry, {"name": "later", "like": "bat"})
    assert f"training.methods.1: {message}" in found or f"training.methods.1.{message}" in found


def test_what_is_wrong_with_a_method_is_told_once():
    line = refusal(lambda: with_methods({"name": "mine", "alpha": 2}, "bat", baseline="mine"))
    assert "training.methods.0: mine is no method" in line
    line = refusal(lambda: changed("training: {variants: {}}"))
    assert line.endswith(": training.variants: unknown key: remove it or correct its spelling")


def test_an_objective_may_stand_beside_what_has_it():
    entries = [{"name": "a", "like": "bat", "objective": "bat"}, {"name": "b", "like": "a", "objective": "bat"}]
    assert with_methods(*entries).training.methods == (but(BAT, name="a"), but(BAT, name="b"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gamma", 1.0, "gamma: unknown key"),
        ("alpha", -1.0, "alpha: -1.0 is under 0, the least"),
        ("beta", "much", 'beta: "much" is wrong here: give a number'),
        ("beta", True, "beta: true is wrong here: give a number"),
        ("reweighting", 1.0, "reweighting: 1.0 is wrong here: give true or false"),
    ],
)
def test_a_variant_has_the_keys_and_ranges_of_its_method(key, value, message):
    line = refusal(with_methods, "bat", {"name": "a", "like": "bat", key: value})
    assert f"training.methods.1.{message}" in line


def test_two_methods_of_one_name_are_refused():
    assert "two runs have one name" in refusal(with_methods, "bat", {"name": "bat", "like": "bat", "alpha": 2})


def test_methods_become_json_that_reads_back():
    for method in with_methods("bat", {"name": "inf", "like": "bat", "alpha": "inf"}).training.methods:
        assert TypeAdapter(Method).validate_json(json.dumps(asdict(method))) == method


def test_variants_stay_variants_where_a_configuration_is_written_out(tmp_path):
    config = with_methods("bat", {"name": "bat_2", "like": "bat", "alpha": 2})
    file = tmp_path / "all.yaml"
    file.write_text(as_yaml(config))
    assert load(str(file)) == config
    variant = yaml.safe_load(file.read_text())["training"]["methods"][1]
    assert list(variant.items())[:2] == [("name", "bat_2"), ("like", "bat")]
    assert "objective" not in variant
    assert "variants" not in file.read_text()


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("small_cnn:16", SizedModel(name="small_cnn", width=16)),
        ("mlp:32", SizedModel(name="mlp", width=32)),
        ("preact_resnet18", ResidualModel(name="preact_resnet18", width=64)),
        ("resnet9:8", ResidualModel(name="resnet9", width=8)),
        ("wrn_28_10", WideModel(name="wrn_28_10", width=16)),
        ("wrn_34_10:4", WideModel(name="wrn_34_10", width=4)),
        ("torchvision:vgg11_bn", LibraryModel(name="torchvision:vgg11_bn")),
        ("timm:resnet18.a1_in1k", LibraryModel(name="timm:resnet18.a1_in1k")),
    ],
)
def test_a_network_is_named_by_text(text, model):
    config = changed(f"model: {text}", f"memorization: {{model: {text}}}")
    assert config.model == config.memorization.model == model
    assert changed(f"model: {json.dumps(asdict(model))}").model == model


def test_only_text_stands_for_a_record_of_a_network():
    assert [model_record(value) for value in (None, 3, {"name": "mlp"})] == [None, 3, {"name": "mlp"}]
    for width in ("9" * 10, "9" * 5000, "8:2", "1x", "x"):
        assert model_record(f"mlp:{width}") == {"name": "mlp", "width": width}
    assert model_record("mlp:" + "9" * 9) == {"name": "mlp", "width": 999_999_999}
    # what begins with a digit is no function, and so a width of a network that there is not
    assert model_record("resnet81:1x") == {"name": "resnet81", "width": "1x"}
    assert model_record("parts:x1") == {"name": "parts:x1"}


@pytest.mark.parametrize("name", ["resnet9", "wrn_28_10", "timm:resnet18", "parts:network"])
def test_a_record_of_a_network_stays_what_it_is(name):
    code = {"code": "of another time"} if name.startswith("parts") else {}
    record = parse(Model, {"name": name} | code, "here")
    assert TypeAdapter(Model).validate_python(record) == record
    with pytest.raises(ValidationError):
        TypeAdapter(Model).validate_python(3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8/255", 8 / 255),
        ("8 / 255", 8 / 255),
        ("0.5/10", 0.05),
        ("1e-3", 0.001),
        ("-2.5E+3", -2500.0),
        *(
            (value, value)
            for value in ("8/0", "8/", "/8", "8/2/2", "a/b", "0.1", "inf", "-1/2", "", "1e", 3, None, True)
        ),
    ],
)
def test_fractions_and_powers_are_numbers(value, expected):
    assert number(value) == expected
    assert type(number(value)) is type(expected)


def test_numbers_may_be_fractions_everywhere():
    config = changed(
        "threat: {eps: 8/255}",
        "training: {attack: {step_size: 2/255}, recipe: {learning_rate: 1/20, schedule: {warmup: 1e-1}}}",
        "memorization: {recipe: {schedule: {warmup: 5/24}}}",
    )
    assert (config.threat.eps, config.training.attack.step_size) == (8 / 255, 2 / 255)
    recipe = config.training.recipe
    assert (recipe.learning_rate, recipe.schedule.warmup) == (0.05, 0.1)
    assert config.memorization.recipe.schedule.warmup == 5 / 24


def steps(config):
    return (
        config.training.attack.step_size,
        config.memorization.robust.attack.step_size,
        config.evaluation.pgd.step_size,
    )


def test_steps_are_parts_of_eps_where_none_are_given():
    assert steps(load(BASE)) == (0.0375, 0.06, 0.01875)
    assert steps(changed("threat: {eps: 8/255}")) == (2 / 255, 8 / 255 / 2.5, 1 / 255)
    config = changed("evaluation: {ensemble: [pgd, square]}")
    assert config.evaluation.ensemble[0].step_size == 0.01875
    config = changed("evaluation: {ensemble: [{name: pgd, step_size: 0.1}]}")
    assert config.evaluation.ensemble[0].step_size == 0.1


def test_a_step_in_pixels_does_not_outlive_the_eps_that_it_was_for(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(
        "training: {attack: {step_size: 0.01}}\nmemorization: {robust: {attack: {step_size: 0.02}}}\n"
        "evaluation: {pgd: {step_size: 0.03}, ensemble: [{name: pgd, step_size: 0.04}]}\n"
    )
    given = load(BASE, str(first))
    assert (*steps(given), given.evaluation.ensemble[0].step_size) == (0.01, 0.02, 0.03, 0.04)
    second.write_text("threat: {eps: 0.1}\ntraining: {attack: {steps: 3}}\n")
    config = load(BASE, str(first), str(second))
    assert (*steps(config), config.evaluation.ensemble[0].step_size) == (0.025, 0.04, 0.0125, 0.0125)
    # of the same eps, and of a file that changes both, steps stay
    second.write_text("threat: {eps: 3/20}\n")
    assert steps(load(BASE, str(first), str(second))) == (0.01, 0.02, 0.03)
    assert steps(load(BASE, str(first), settings=["threat={eps: 0.15}"])) == (0.01, 0.02, 0.03)
    second.write_text("threat: {eps: 0.1}\ntraining: {attack: {step_size: 0.05}}\n")
    assert steps(load(BASE, str(first), str(second)))[0] == 0.05
    second.write_text("threat: {norm: l2}\n")
    assert steps(load(BASE, str(first), str(second)))[0] == 0.0375


def test_sections_that_are_not_there_get_their_steps():
    found, problems = completed({"threat": {"eps": 0.8}})
    assert problems == []
    assert found == {
        "threat": {"eps": 0.8},
        "training": {"attack": {"step_size": 0.2}, "variants": {}},
        "memorization": {"robust": {"attack": {"step_size": 0.32}}},
        "evaluation": {"pgd": {"step_size": 0.1}},
    }


def test_what_is_extended_stays_as_it_was():
    base = {"threat": {"eps": 0.2}, "training": {"attack": {"step_size": 0.1}}}
    before = copy.deepcopy(base)
    assert extended(base, {"threat": {"eps": 0.3}})["training"] == {"attack": {}}
    assert base == before


def test_a_map_of_another_kind_replaces_the_one_of_the_base():
    config = changed("data: {name: image_folder, path: images}", "scores: {source: file, path: a, format: npz}")
    assert config.data == ImageFolder(name="image_folder", path="images")
    schedule = changed("training: {recipe: {schedule: {name: one_cycle}}}").training.recipe.schedule
    assert asdict(schedule) == {"name": "one_cycle", "warmup": 0.3}
    assert changed("model: mlp:8").model == SizedModel(name="mlp", width=8)


def test_a_map_of_the_same_kind_extends_that_of_the_base():
    assert changed("data: {train_samples: 100}").data == Packaged(
        name="digits", train_samples=100, validation_samples=200
    )
    assert changed("data: {name: digits, split_seed: 3}").data.train_samples == 600
    assert changed("model: {width: 8}").model == SizedModel(name="small_cnn", width=8)
    assert changed("model: small_cnn:8").model == SizedModel(name="small_cnn", width=8)
    assert changed("training: {recipe: {schedule: {factor: 0.5}}}").training.recipe.schedule.warmup == 0.1


def test_attacks_of_a_list_are_named_by_text():
    config = changed("evaluation: {ensemble: [apgd_ce, {name: square, queries: 9}]}")
    assert config.evaluation.ensemble[0] == ApgdCe(name="apgd_ce")
    assert config.evaluation.ensemble[0].rho == 0.75
    assert (config.evaluation.ensemble[1].queries, config.evaluation.ensemble[1].p_init) == (9, 0.8)


def test_a_setting_may_be_nested():
    config = load(BASE, settings=["memorization.subset_models=100", "training.recipe.schedule.warmup=0.0"])
    assert config.memorization.subset_models == 100
    assert config.training.recipe.schedule.warmup == 0.0
    assert config == load(
        BASE, settings=["memorization={subset_models: 100}", "training={recipe: {schedule: {warmup: 0.0}}}"]
    )
    line = refusal(lambda: load(BASE, settings=["memorization.subset_model=80"]))
    assert line.startswith("--config memorization.subset_model=80: memorization.subset_model: unknown key")


@pytest.mark.parametrize(
    "value", [None, [], 3, "a", {}, {"training": []}, {"training": {"methods": 3}}, {"threat": 3}, {"evaluation": []}]
)
def test_what_is_no_configuration_is_left_to_be_refused(value):
    before = copy.deepcopy(value)
    completed(value)
    extended(value, {"threat": {"eps": 1}})
    extended({}, value)
    assert value == before
    assert refusals(parse, Config, {"experiment": "a"} | (value if isinstance(value, dict) else {}), "here")


def test_an_eps_that_is_no_number_is_told_of_once():
    for eps in ("much", 0, -1, None, [], True):
        line = refusal(lambda eps=eps: changed(f"threat: {{eps: {json.dumps(eps)}}}"))
        assert "threat.eps: " in line
