"""A run of AutoAttack that is killed at random moments ends with the same table."""

import json
import random
import subprocess
import sys
import time

from bat.cli import main

RECIPE = {
    "epochs": 3,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "schedule": {"name": "one_cycle", "warmup": 0.3},
    "crop_padding": 0,
    "flip": False,
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
}
MODEL = {"name": "mlp", "width": 32}
COMPUTE = {"precision": "float32", "channels_last": False, "compile": False, "micro_batch": 0}
THREAT = {"norm": "linf", "eps": 0.1}
DIGITS = {"name": "digits", "train_samples": 300, "validation_samples": 1337, "split_seed": 0}
DATA = {"data": DIGITS, "subsample": 1.0}
SUBSETS = {
    "model": MODEL,
    "subset_fraction": 0.7,
    "design": "balanced",
    "seed": 0,
    "recipe": RECIPE,
    "compute": COMPUTE,
}
SCORES = {"threshold": 0.15, "false_discovery_rate": 0.3, "confidence": 0.95}
TRAIN = {
    "model": MODEL,
    "threat": THREAT,
    "recipe": RECIPE,
    "compute": COMPUTE,
    "attack": {"steps": 3, "step_size": 0.05},
    "attack_bn": "eval",
    "measure_every": 1,
    "early_stop": 0,
    "without": None,
    "method": {"name": "pgd_at", "objective": "pgd_at", "eps_factor": 1.0, "awp": 0.0},
    "seed": 0,
}
EVALUATE = {
    "model": MODEL,
    "threat": THREAT,
    "seed": 0,
    "batch_size": 4,
    "pgd": {"name": "pgd", "steps": 20, "step_size": 0.0125, "restarts": 1},
    "ensemble": [
        {"name": "apgd_t", "steps": 50, "restarts": 1, "rho": 0.75, "targets": 9},
        {"name": "square", "queries": 1000, "restarts": 1, "p_init": 0.8},
    ],
}
KILLS = 10


def test_ten_kills_change_no_byte(tmp_path):
    at = {
        name: str(tmp_path / name)
        for name in ("data", "files", "shard", "best", "last", "history", "samples", "influence", "pairs")
    }
    groups = {name: str(tmp_path / f"{name}.parquet") for name in ("memorization", "validation-groups", "test-groups")}
    flags = [text for name, path in groups.items() for text in (f"--{name}", path)]
    shard = SUBSETS | {"first_model": 0, "models": 10, "adversary": None}
    main(["data", "--spec", json.dumps(DATA), "--out", at["data"], "--files", at["files"]])
    main(["subsets", "--spec", json.dumps(shard), "--data", at["data"], "--out", at["shard"]])
    scores = ["--shards", at["shard"], "--influence", at["influence"], "--train-influence", at["pairs"]]
    main(["scores", "--spec", json.dumps(SCORES), "--data", at["data"], *flags, *scores])
    models = ["--best", at["best"], "--last", at["last"]]
    main(
        [
            "train",
            "--spec",
            json.dumps(TRAIN),
            "--data",
            at["data"],
            *flags,
            *models,
            "--history",
            at["history"],
            "--samples",
            at["samples"],
        ]
    )
    evaluate = ["evaluate", "--spec", json.dumps(EVALUATE), "--data", at["data"], *flags[-2:], *models]

    def run(name):
        out = tmp_path / f"{name}.parquet"
        return [*evaluate, "--out", str(out), "--flags", str(tmp_path / f"{name}-flags.parquet")], out

    unbroken, expected = run("unbroken")
    main(unbroken)
    killed, out = run("killed")
    parts, moments, kills = tmp_path / "killed.parquet.parts", random.Random(0), 0
    while kills < KILLS:
        before = len(list(parts.rglob("*.safetensors")))
        process = subprocess.Popen([sys.executable, "-m", "bat", *killed], stderr=subprocess.DEVNULL)
        # once it has finished another batch, and then at any moment
        while process.poll() is None and len(list(parts.rglob("*.safetensors"))) <= before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))
        assert process.poll() is None, f"finished after {kills} kills: too fast for this test"
        process.kill()
        process.wait()
        kills += 1
        assert not out.exists()
    main(killed)
    assert out.read_bytes() == expected.read_bytes()
    assert (tmp_path / "killed-flags.parquet").read_bytes() == (tmp_path / "unbroken-flags.parquet").read_bytes()
    assert not parts.exists()
