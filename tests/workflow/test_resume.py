"""A run of AutoAttack that is killed at random moments ends with the same table."""

import random
import time

from stages import EVALUATE, SCORES, SUBSETS, TRAIN, call, command, digits, evaluation, scores, training
from warm import Forked

BATCHES = {
    "batch_size": 4,
    "pgd": {"name": "pgd", "steps": 20, "step_size": 0.0125, "restarts": 1},
    "ensemble": [
        {"name": "apgd_t", "steps": 20, "restarts": 1, "rho": 0.75, "targets": 3},
        {"name": "square", "queries": 300, "restarts": 1, "p_init": 0.8},
    ],
}
KILLS = 3  # tests/faults has thirty, of all stages


def test_kills_change_no_byte(tmp_path):
    call("data", tmp_path, **digits(train_samples=300, validation_samples=1437), data="data.safetensors")
    call("subsets", tmp_path, spec=SUBSETS | {"first_model": 0}, data="data.safetensors", shard="shard.parquet")
    call("scores", tmp_path, **scores("shard.parquet", spec=SCORES))
    call("train", tmp_path, **training(spec=TRAIN))

    def run(name):
        return evaluation(spec=EVALUATE | BATCHES, attacked=f"{name}.parquet", flags=f"{name}-flags.parquet")

    call("evaluate", tmp_path, **run("unbroken"))
    killed, out = command("evaluate", tmp_path, **run("killed")), tmp_path / "killed.parquet"
    parts, moments, kills = tmp_path / "killed.parquet.parts", random.Random(0), 0
    while kills < KILLS:
        before = len(list(parts.rglob("*.safetensors")))
        process = Forked(*killed)
        # once it has finished another batch, and then at any moment
        while process.poll() is None and len(list(parts.rglob("*.safetensors"))) <= before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.1))
        assert process.poll() is None, f"finished after {kills} kills: too fast for this test"
        process.kill()
        process.wait()
        kills += 1
        assert not out.exists()
    call("evaluate", tmp_path, **run("killed"))
    for name in ("{}.parquet", "{}-flags.parquet"):
        assert (tmp_path / name.format("killed")).read_bytes() == (tmp_path / name.format("unbroken")).read_bytes()
    assert not parts.exists()
