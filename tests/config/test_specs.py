"""What a stage is given by --spec has the ranges of the config: a slip is one line before any work."""

import json
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import pytest
from refusals import refusal
from stages import DIGITS, EVALUATE, RECIPE, RESULTS, SCORES, SUBSETS, SUMMARY, THREAT, TRAIN

from bat.cli import main
from bat.config import FileScores, Published, load, parse, questions, runs_of, specs

ADVERSARY = {"threat": THREAT, "attack": {"steps": 2, "step_size": 0.1}, "attack_bn": "eval"}
SPECS = {
    specs.DataSpec: {"data": DIGITS, "subsample": 1.0},
    specs.SubsetsSpec: SUBSETS | {"first_model": 0, "adversary": ADVERSARY},
    specs.ScoresSpec: SCORES,
    specs.NullPairsSpec: {"threshold": 0.15, "false_discovery_rate": 0.05, "shuffles": 20, "seed": 0},
    specs.ProxiesSpec: {"threshold": 0.15, "confidence": 0.95, "bootstrap": 100, "seed": 0},
    specs.ImportScoresSpec: {"format": "npz", "threshold": 0.15},
    specs.TrainSpec: TRAIN | {"without": {"what": "top", "fraction": 0.1, "random": False}},
    specs.EvaluateSpec: EVALUATE,
    specs.SummarySpec: SUMMARY | {"questions": {"pairs": [["bat", "pgd_at"]]}},
    specs.HarmfulSpec: {"threshold": 0.5},
    specs.ResultsSpec: RESULTS,
}
SEED, PART, HALF = (-1, 2**63), (9e-7, 0.9999991), (-0.01, 1)
# numbers just out of range, by key
WRONG = {
    "subsample": (9e-7, 1.01),
    "subset_fraction": PART,
    "seed": SEED,
    "first_model": (-1, 10**6),
    "models": (0, 10**6 + 1),
    "threshold": HALF,
    "false_discovery_rate": (9e-7, 0.51),
    "confidence": (0.49, 0.99991, 2),
    "shuffles": (-1, 10_001),
    "measure_every": (0, RECIPE["epochs"] + 1, 100_001),
    "early_stop": (-1, RECIPE["epochs"] + 1, 100_001),
    "batch_size": (0, 10**6 + 1),
    "bootstrap": (99, 100_001),
    "margin": (9e-7, 0.51),
    "experiment": ("", "../up", "a" * 61),
    "runs": ([SUMMARY["runs"][0] | {"base": "a b"}], [SUMMARY["runs"][0] | {"role": "best"}]),
    "questions": ({"pairs": [["bat"]]}, {"pairs": [["bat", "../up"]]}),
    "design": ("random",),
    "score": ("fuzzy",),
    "attack_bn": ("off",),
    "format": ("pickle",),
    "data": ({"name": "npz"}, "../up\n"),
    "without": (
        {"what": "top", "fraction": PART[0], "random": False},
        {"what": "top", "fraction": 1.0, "random": False},
    ),
    "threat": ({"norm": "linf", "eps": 1.01}, {"norm": "l2", "eps": 1001}, {"norm": "linf", "eps": 9e-7}),
    "pgd": (EVALUATE["pgd"] | {"steps": 0}, EVALUATE["pgd"] | {"restarts": 1001}),
    "attack": ({"steps": 0, "step_size": 0.1}, {"steps": 100_001, "step_size": 0.1}, {"steps": 1, "step_size": 9e-8}),
    "adversary": (ADVERSARY | {"threat": {"norm": "linf", "eps": 2}},),
    "ensemble": ([], "slow", [{"name": "square", "queries": 0, "restarts": 1, "p_init": 0.8}]),
    "model": ({"name": "mlp", "width": 0}, {"name": "mlp", "width": 4097}),
    "recipe": (
        *(RECIPE | {key: value} for key, value in (("epochs", 0), ("batch_size", 1), ("learning_rate", 1e300))),
        *(
            RECIPE | {key: value}
            for key, value in (("momentum", 0.9991), ("weight_decay", 1.1), ("ema_decay", 1 - 1e-9))
        ),
    ),
    "trainer": (3, {"name": "no_colon"}, {"name": "nowhere:fit"}),
    "compute": (SUBSETS["compute"] | {"micro_batch": -1},),
    "method": (TRAIN["method"] | {"temperature": 9e-4}, TRAIN["method"] | {"eps_factor": 9e-4}),
}
CASES = [
    (spec, field.name, value)
    for spec in SPECS
    for field in fields(spec)
    for value in WRONG[field.name]
    # the name of a data set, in ResultsSpec
    if (spec, field.name) != (specs.ResultsSpec, "data")
]


@pytest.mark.parametrize("spec", SPECS)
def test_specs_are_read_as_they_are_written_and_need_each_key(spec):
    assert parse(spec, SPECS[spec], "--spec") == parse(spec, json.dumps(SPECS[spec]), "--spec")
    for field in fields(spec):
        assert field.default is MISSING or getattr(field.default, "is_required", lambda: False)()
        less = {key: value for key, value in SPECS[spec].items() if key != field.name}
        assert refusal(parse, spec, less, "--spec") == f"--spec: {field.name}: missing key: add it"
    assert refusal(parse, spec, SPECS[spec] | {"more": 1}, "--spec").startswith("--spec: more: unknown key")


@pytest.mark.parametrize(("spec", "key", "value"), CASES)
def test_a_spec_has_the_ranges_of_the_config(spec, key, value):
    assert refusal(parse, spec, SPECS[spec] | {key: value}, "--spec").startswith(f"--spec: {key}")


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (
            specs.TrainSpec,
            {"attack": {"steps": 1, "step_size": 0.11}},
            "attack.step_size is 0.11, over twice threat.eps",
        ),
        (specs.TrainSpec, {"method": TRAIN["method"] | {"eps_factor": 20.1}}, "eps_factor times threat.eps is 1.005"),
        (specs.EvaluateSpec, {"pgd": EVALUATE["pgd"] | {"step_size": 0.11}}, "pgd.step_size is 0.11, over twice"),
        (
            specs.SubsetsSpec,
            {"adversary": ADVERSARY | {"attack": {"steps": 1, "step_size": 0.11}}},
            "adversary: attack.step_size is 0.11, over twice",
        ),
        (specs.TrainSpec, {"measure_every": 13}, "measure_every is 13, over the 12 epochs of recipe: lower it"),
        (specs.SummarySpec, {"confidence": 0.99}, "bootstrap is 100, too few resamples for confidence (0.99): take"),
    ],
)
def test_attacks_in_a_spec_make_sense(spec, changes, message):
    assert message in refusal(parse, spec, SPECS[spec] | changes, "--spec")


CONFIG = load(
    str(Path(__file__).parents[2] / "config/config.yaml"),
    settings=[
        "data={classes: 5}",
        "subsample=0.5",
        "compute={micro_batch: 7}",
        "memorization={seed: 11, confidence: 0.8, threshold: 0.2, false_discovery_rate: 0.1, near_duplicate: 0.03, "
        "shuffles: 5, score: soft, design: independent, subset_fraction: 0.6, models_per_shard: 20, model: 'mlp:8', "
        "until: {standard_error: 0.04, quantile: 0.8, at_most: 600}, robust: {subset_models: 20}}",
        "training={attack_bn: train, measure_every: 3, early_stop: 6, seeds: [4, 5]}",
        "removal={method: pgd_at, fractions: [0.1], harmful_threshold: 0.4}",
        "evaluation={seed: 13, confidence: 0.9, bootstrap: 300, batch_size: 17, margin: 0.02, images: true}",
    ],
)
FILE = {"source": "file", "path": "a.csv", "format": "table"}


def test_a_spec_is_what_the_configuration_says():
    config = json.loads(json.dumps(asdict(CONFIG)))
    scores, training, evaluation = config["memorization"], config["training"], config["evaluation"]

    def of(section, *names):
        return {name: section[name] for name in names}

    shard = of(scores, "model", "subset_fraction", "design", "seed", "recipe", "trainer") | {"models": 20}
    shard |= of(config, "compute")
    adversary = {"threat": config["threat"], "attack": scores["robust"]["attack"], "attack_bn": "train"}
    train = of(config, "model", "threat", "compute")
    train |= of(training, "recipe", "attack", "attack_bn", "measure_every", "early_stop")
    runs = runs_of(CONFIG)
    removal = next(run for run in runs if run.role == "removal")
    scored = of(scores, "threshold")
    expected = [
        (specs.DataSpec.of(CONFIG), of(config, "data", "subsample")),
        (specs.SubsetsSpec.of(CONFIG, first_model=40), shard | {"first_model": 40, "adversary": None}),
        (specs.SubsetsSpec.of(CONFIG, first_model=0, robust=True), shard | {"first_model": 0, "adversary": adversary}),
        (specs.ScoresSpec.of(CONFIG), of(scores, "score", "threshold", "false_discovery_rate", "confidence")),
        (specs.EnoughSpec.of(CONFIG), scored | of(scores, "score") | of(scores["until"], "standard_error", "quantile")),
        (specs.DuplicatesSpec.of(CONFIG), of(scores, "near_duplicate", "threshold")),
        (specs.NullPairsSpec.of(CONFIG), of(scores, "threshold", "false_discovery_rate", "shuffles", "seed")),
        (specs.ProxiesSpec.of(CONFIG), scored | of(evaluation, "confidence", "bootstrap", "seed")),
        (specs.TrainSpec.of(CONFIG, removal, 5), train
        | {"method": asdict(removal.method), "without": asdict(removal.without), "seed": 5}),
        (specs.EvaluateSpec.of(CONFIG), of(config, "threat", "model")
        | of(evaluation, "seed", "batch_size", "pgd", "ensemble")),
        (specs.SummarySpec.of(CONFIG), of(evaluation, "seed", "confidence", "bootstrap")
        | {"runs": [asdict(run) for run in runs], "questions": questions(CONFIG)}),
        (specs.HarmfulSpec.of(CONFIG), {"threshold": 0.4}),
        (specs.ResultsSpec.of(CONFIG), of(config, "experiment", "model") | {"data": "digits", "margin": 0.02}
        | of(training, "recipe")),
    ]  # fmt: skip
    assert len({type(spec) for spec, _ in expected}) == 12
    for spec, value in expected:
        text = specs.as_json(spec)
        assert json.loads(text) == json.loads(json.dumps(value))
        assert parse(type(spec), text, "here") == spec
        assert text == json.dumps(json.loads(text), sort_keys=True)


def test_the_network_of_a_trainer_is_in_the_spec_of_robust_models_alone():
    trainer = specs.OwnTrainer(name="a:b", code="of another time")
    config = replace(CONFIG, memorization=replace(CONFIG.memorization, trainer=trainer))
    clean, robust = (specs.SubsetsSpec.of(config, first_model=0, robust=robust) for robust in (False, True))
    assert (clean.model, clean.trainer) == (None, trainer)
    assert (robust.model, robust.trainer) == (CONFIG.memorization.model, None)


def test_specs_of_downloads_and_of_imported_scores_are_of_experiments_that_have_them():
    published = replace(CONFIG, data=Published(name="cifar10", cache="here"))
    assert specs.DownloadSpec.of(published) == specs.DownloadSpec(name="cifar10", cache="here")
    with pytest.raises(ValueError, match=r"^data set digits is not downloaded$"):
        specs.DownloadSpec.of(CONFIG)
    once = replace(CONFIG.memorization, until=None)
    imported = specs.ImportScoresSpec.of(replace(CONFIG, memorization=once, scores=FileScores(**FILE)))
    assert imported == specs.ImportScoresSpec(format="table", threshold=0.2)
    with pytest.raises(ValueError, match=r"^the scores of this experiment come from subset models$"):
        specs.ImportScoresSpec.of(CONFIG)


def test_a_stage_refuses_a_spec_in_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = json.dumps(SUMMARY | {"confidence": 2})
    flags = ("test-groups", "per-sample", "by-seed", "summary", "comparisons", "runs", "all-flags", "raised", "files")
    arguments = [each for flag in flags for each in (f"--{flag}", f"{flag}.parquet")]
    arguments[arguments.index("raised.parquet")] = "raised.csv"
    lists = ["--attacked", "a.parquet", "--flags", "b.parquet", "--histories", "c.parquet"]
    with pytest.raises(SystemExit) as stopped:
        main(["summary", "--spec", spec, *arguments, *lists])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("summary: --spec: confidence: 2 is over 0.9999, the most: lower it")
    assert not list(tmp_path.iterdir())
