"""The public API on a finished experiment: the tutorial as it stands, and what ``bat.load`` gives."""

import doctest
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from experiments import ENVIRONMENT, ROOT, SMOKE
from refusals import refusal
from sklearn.datasets import load_digits

import bat
from bat.report import experiment as reading


def test_the_tutorial_runs_and_draws_the_images(finished, tmp_path):
    text = (ROOT / "docs/tutorial.py").read_text()
    (tmp_path / "tutorial.py").write_text(text.replace("results/digits", str(finished / SMOKE)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "tutorial.py"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tutorial.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"\d+ atypical of 200 training samples", done.stdout)
    assert "apgd_ce" in done.stdout
    assert len(re.findall(r"^# %%", text, re.MULTILINE)) > 8


def test_an_experiment_is_read_back_as_it_was_written(finished, monkeypatch):
    monkeypatch.chdir(finished)
    found = bat.load(SMOKE)
    for name in ("memorization", "influence", "test_groups", "null_pairs"):
        pd.testing.assert_frame_equal(getattr(found, name), pd.read_parquet(f"{SMOKE}/scores/{name}.parquet"))
    for name in ("summary", "comparisons", "runs", "flags", "by_seed", "per_sample"):
        pd.testing.assert_frame_equal(
            getattr(found, name), pd.read_parquet(f"{SMOKE}/evaluation/{name}.parquet"), check_dtype=False
        )
    assert (found.harmful, found.robust_memorization) == (None, None)
    assert len(found.history) == 3 * 2 * 15  # methods, seeds, epochs
    digits = load_digits()
    assert found.scores.shape == (len(digits.images),)
    np.testing.assert_array_equal(found.scores[found.memorization["train_index"]], found.memorization["memorization"])
    assert np.isnan(found.scores).sum() == len(digits.images) - 200
    part = found.data.train
    assert torch.equal(part.images()[:, 0], torch.tensor(digits.images[part.index], dtype=torch.float32) / 16)
    (example,) = doctest.DocTestFinder(recurse=False).find(bat.load, "load", module=reading)
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize(
    "place", ["data/data.safetensors", "evaluation/summary.parquet", "scores/memorization.parquet"]
)
def test_an_experiment_without_its_end_is_one_line(finished, tmp_path, place):
    folder = shutil.copytree(finished / SMOKE, tmp_path / "smoke")
    (folder / place).unlink()
    assert refusal(bat.load, folder) == f"{folder}: not finished: it has no {place}: run snakemake to its end"


def test_an_experiment_with_a_table_of_other_data_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished / SMOKE, tmp_path / "smoke")
    text = (folder / "evaluation/summary.parquet").read_bytes()
    (folder / "evaluation/summary.parquet").write_bytes(text[:-9] + bytes([text[-9] ^ 1]) + text[-8:])
    assert "summary.parquet: damaged" in refusal(bat.load, folder)
