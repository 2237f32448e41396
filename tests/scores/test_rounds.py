"""Whether there are subset models enough: which samples are near the threshold, and how precise their scores are."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stages import call, fails
from worlds import MODELS, World, tally

from bat.scores.rounds import errors_near, smallest_of_share

SPEC = {"score": "hard", "threshold": 0.2, "standard_error": 0.1, "quantile": 0.75}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), seed=16)


def told(world: World, **changed: Any) -> dict[str, Any]:
    call(
        "enough",
        world.folder,
        spec=SPEC | changed,
        data="data.safetensors",
        shards=world.shards,
        enough="enough.json",
        log="enough.log",
    )
    found: dict[str, Any] = json.loads((world.folder / "enough.json").read_text())
    return found


def near(world: World, threshold: float) -> list[float]:
    """The standard errors of the samples near a threshold, smallest first, by loops."""
    errors = []
    for i in range(world.mask.shape[1]):
        a, n, b, m = tally(world.mask[:, i], world.right["correct_train"][:, i])
        error = math.sqrt(a / n * (1 - a / n) / n + b / m * (1 - b / m) / m)
        if abs(a / n - b / m - threshold) <= 2 * error:
            errors.append(error)
    return sorted(errors)


def test_the_share_of_samples_near_the_threshold_decides(world: World) -> None:
    errors = near(world, 0.2)
    assert 4 < len(errors) < world.mask.shape[1]
    reached = errors[math.ceil(0.75 * len(errors)) - 1]
    for wanted, expected in ((reached * 1.001, True), (reached * 0.999, False)):
        found = told(world, standard_error=wanted)
        assert found["enough"] is expected
        assert (found["models"], found["near"]) == (MODELS, len(errors))
        assert found["standard_error"] == pytest.approx(reached)
        assert found["data"] == world.data.digest()
    text = f"60 models: {len(errors)} training samples are near the threshold, of which 75% have a standard error of at"
    assert f"{text} most {reached:.3f}: more, for {reached * 0.999:g}\n" in (world.folder / "enough.log").read_text()
    assert told(world, standard_error=found["standard_error"])["enough"]  # just as precise as is asked
    log = (world.folder / "enough.log").read_text()
    assert f"{text} most {reached:.3f}: enough, for {reached:g}\n" in log
    content = (world.folder / "enough.json").read_text()
    assert content == json.dumps(json.loads(content), sort_keys=True) + "\n"
    facts = {"spec.seed": 0, "spec.subset_fraction": 9 / 14, "data": world.data.digest()}
    assert found["kind"] == "enough"
    assert found["spec"] == SPEC | {"standard_error": reached * 0.999, "shards": facts}


def test_without_a_sample_near_the_threshold_there_is_nothing_to_wait_for(world: World) -> None:
    found = told(world, threshold=0.999999, standard_error=0.000001)
    assert not near(world, 0.999999)
    assert (found["near"], found["standard_error"], found["enough"]) == (0, None, True)
    log = (world.folder / "enough.log").read_text()
    assert "60 models: 0 training samples are near the threshold: enough, for 1e-06\n" in log


def test_the_soft_score_decides_where_it_is_asked_for(world: World) -> None:
    errors = []
    for i in range(world.mask.shape[1]):
        sides = [world.said["p_train"][world.mask[:, i] == has, i].astype(float) for has in (True, False)]
        error = math.sqrt(sum(side.var(ddof=1) / len(side) for side in sides))
        if abs(sides[0].mean() - sides[1].mean() - 0.2) <= 2 * error:
            errors.append(error)
    found = told(world, score="soft")
    assert found["near"] == len(errors)
    assert found["standard_error"] == pytest.approx(sorted(errors)[math.ceil(0.75 * len(errors)) - 1])


def test_the_score_that_decides_is_the_one_that_is_asked_for() -> None:
    table = pd.DataFrame(
        {
            "memorization": [0.5, 0.31, np.nan],
            "standard_error": [0.1, 0.1, np.nan],
            "soft_memorization": [0.2, 0.6, 0.1],
            "soft_standard_error": [0.05, 0.2, 0.06],
        }
    )
    assert errors_near(table, score="hard", threshold=0.11).tolist() == [0.1]
    assert errors_near(table, score="soft", threshold=0.21).tolist() == [0.05, 0.2, 0.06]


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0.01, 0.99))
def test_so_large_a_share_does_not_exceed_it_and_no_smaller_value_will_do(values: list[float], share: float) -> None:
    found = smallest_of_share(np.array(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values)


def test_shards_of_other_data_are_refused(world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = World(tmp_path, seed=17)
    line = fails(
        capsys,
        "enough",
        tmp_path,
        spec=SPEC,
        data="data.safetensors",
        shards=[world.folder / name for name in other.shards],
        enough="enough.json",
    )
    assert f"trained on other data than {tmp_path / 'data.safetensors'}: remove the shards" in line
