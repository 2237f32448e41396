"""The specs of a tiny experiment on digits, and the stages called on it in this process."""

import json
from dataclasses import asdict

import methods
import pytest

from bat.cli import main
from bat.io.files import provenance
from bat.io.tables import read_table_with_facts, write_table

MODEL = {"name": "mlp", "width": 16}
COMPUTE = {"precision": "float32", "channels_last": False, "compile": False, "micro_batch": 0}
RECIPE = {
    "epochs": 12,
    "batch_size": 32,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "schedule": {"name": "one_cycle", "warmup": 0.3},
    "crop_padding": 0,
    "flip": False,
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
}
DIGITS = {"name": "digits", "train_samples": 120, "validation_samples": 60, "split_seed": 0}


def digits(**changed):
    return {"spec": {"data": DIGITS | changed, "subsample": 1.0}, "files": "files.parquet"}


SUBSETS = {
    "model": MODEL,
    "subset_fraction": 0.7,
    "design": "balanced",
    "seed": 0,
    "recipe": RECIPE | {"batch_size": 64},
    "compute": COMPUTE,
    "models": 10,
    "adversary": None,
    "trainer": None,
}
SCORES = {"score": "hard", "threshold": 0.15, "false_discovery_rate": 0.3, "confidence": 0.95}
THREAT = {"norm": "linf", "eps": 0.05}
NATURAL, PGD_AT, BAT = (asdict(method) for method in (methods.NATURAL, methods.PGD_AT, methods.BAT))
TRAIN = {
    "model": MODEL,
    "threat": THREAT,
    "recipe": RECIPE,
    "compute": COMPUTE,
    "attack": {"steps": 2, "step_size": 0.03},
    "attack_bn": "eval",
    "measure_every": 1,
    "early_stop": 0,
    "without": None,
    "method": BAT,
    "seed": 3,
}
EVALUATE = {
    "model": MODEL,
    "threat": THREAT,
    "seed": 0,
    "batch_size": 500,
    "pgd": {"name": "pgd", "steps": 3, "step_size": 0.05, "restarts": 2},
    "ensemble": [{"name": "apgd_ce", "steps": 5, "restarts": 1, "rho": 0.75}],
}


def planned_run(method, without=None, *, base=None, role="method"):
    """Return a run as the summary is told of it; without: what it leaves out."""
    return {"method": method, "without": without, "base": base or method["name"], "role": role}


SUMMARY = {"seed": 0, "confidence": 0.95, "bootstrap": 100, "questions": {"methods": [], "removal": []}}
SUMMARY |= {"runs": [planned_run(BAT)]}
RESULTS = {"experiment": "trial", "data": "digits", "model": MODEL, "recipe": RECIPE, "margin": 0.01}


def command(stage, folder, **flags):
    """Return the arguments of a stage; values that are records go as JSON, others as paths below ``folder``."""
    arguments = stage.split()
    for flag, value in flags.items():
        values = value if isinstance(value, list) else [value]
        texts = [json.dumps(value) if isinstance(value, dict) else str(folder / value) for value in values]
        arguments += [f"--{flag.replace('_', '-')}", *texts]
    return arguments


def call(stage, folder, **flags):
    main(command(stage, folder, **flags))


def shard(first):
    return {"spec": SUBSETS | {"first_model": first}, "data": "data.safetensors", "shard": f"shard-{first}.parquet"}


def scores(*shards, **changed):
    names = ["memorization", "influence", "train_influence", "test_groups", "validation_groups", "label_errors"]
    flags = {"spec": SCORES, "data": "data.safetensors", "files": "files.parquet", "shards": list(shards)}
    return flags | {name: f"{name}.parquet" for name in names} | {"top": "top.csv"} | changed


def training(**changed):
    outputs = {"best": "best.safetensors", "last": "last.safetensors", "records": "records.parquet"}
    flags = {"spec": TRAIN, "data": "data.safetensors", "memorization": "memorization.parquet"}
    return flags | outputs | changed


def grouped(**changed):
    inputs = {name: f"{name}.parquet" for name in ("memorization", "validation_groups", "test_groups")}
    outputs = {"histories": ["history.parquet"], "samples": ["training_samples.parquet"]}
    return inputs | {"records": ["records.parquet"]} | outputs | changed


def evaluation(**changed):
    models = {"best": "best.safetensors", "last": "last.safetensors"}
    flags = {"spec": EVALUATE, "data": "data.safetensors"}
    return flags | models | {"attacked": "attacked.parquet", "flags": "flags.parquet"} | changed


def summary(*evaluations):
    outputs = {"by_seed": "by_seed.parquet", "summary": "summary.parquet", "comparisons": "comparisons.parquet"}
    outputs |= {"runs": "runs.parquet"}
    outputs |= {"all_flags": "all_flags.parquet", "raised": "flags.csv", "per_sample": "per_sample.parquet"}
    inputs = {"test_groups": "test_groups.parquet", "attacked": list(evaluations), "flags": ["flags.parquet"]}
    inputs |= {"files": "files.parquet", "histories": ["history.parquet"]}
    return {"spec": SUMMARY} | inputs | outputs


def rewrite(path, name, table, to=None, **changed):
    """Write another table, or facts of its provenance, in place of a stage's own, or at ``to``."""
    facts = read_table_with_facts(path, name)[1] | changed
    write_table(to or path, name, table, provenance(name, **{k: facts[k] for k in facts.keys() - {"kind", "version"}}))


def fails(capsys, stage, folder, **flags):
    """Call a stage that must fail with one line and status 2, changing no file; return the line."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        call(stage, folder, **flags)
    assert stopped.value.code == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    *earlier, line = capsys.readouterr().err.splitlines()
    assert f"{stage}: " in line
    assert not any("rror" in text for text in earlier)
    return line
