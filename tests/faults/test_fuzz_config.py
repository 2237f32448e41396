"""Made-up configurations and specs: each is refused in lines, or means the same written out and makes sense, soon.

--hypothesis-show-statistics says how many were accepted and refused.
"""

import copy
import importlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from stages import EVALUATE, SCORES, SUBSETS, TRAIN

from bat.cli import main
from bat.config import as_yaml, check_files, compared, load, removal_runs
from bat.errors import BatError

ROOT = Path(__file__).parents[2]
BASE = ROOT / "config/config.yaml"
SHIPPED = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "config").glob("*.yaml"))]
SECONDS = 2  # of CPU time: other work on the machine does not count


def fuzz(examples: int) -> Any:
    return settings(max_examples=examples, derandomize=True, suppress_health_check=list(HealthCheck), database=None)


NUMBERS = [0, -1, 1, 2, 0.5, 1e-300, 5e-324, 1e-9, 1.5, 2.0, 1e9, 1e308, 10**6, 10**12, 2**63, 2**64, 10**400, -1e9]
WORDS = [
    *("", " ", "no", "yes", "inf", "nan", "1e-3", "010", "1:30", "null", "all", "digits", "cifar10", "npz", "{a}"),
    *("~x/y", "a\nb", "a\0b", "é", "\u2028", "\x1b[31m", "x" * 300, "x" * 5000, "linf", "l2", "memorization", "file"),
    *("bat", "mlp", "../up", "/dev/zero", "natural", "steps", "one_cycle", "pgd_at", "balanced", "timm:x"),
    *("2026-11-25", "{", "%s", "$x"),
]  # fmt: skip
SPECIAL = [math.inf, -math.inf, math.nan, True, False, None]
SCALARS = st.sampled_from([*NUMBERS, *WORDS, *SPECIAL]) | st.integers() | st.floats() | st.text(max_size=8)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner),
    max_leaves=8,
) | st.sampled_from([[0] * 5000, list(range(3000)), [[]] * 10, {str(i): i for i in range(2000)}])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in maps and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [each for key, inner in items for each in ((*path, key), *places(inner, (*path, key)))]


def mutate(draw: Callable[[Any], Any], value: dict[str, Any]) -> dict[str, Any]:
    """Change one to three places: another value, another key, none, a second one, or all of it in a list."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        found = places(value)
        if not found:
            break
        *parents, last = draw(st.sampled_from(found))
        place: Any = value
        for part in parents:
            place = place[part]
        match draw(st.sampled_from(["value", "near", "key", "drop", "wrap", "more"])):
            case "value":
                place[last] = copy.deepcopy(draw(JUNK))
            case "near" if isinstance(place[last], int | float):
                place[last] *= draw(st.sampled_from([-1, 0, 0.5, 2, 10, 1000, 10**6, 10**9]))
            case "key" if isinstance(place, dict):
                place[draw(st.sampled_from([*WORDS, str(last) + "s", str(last).upper()]))] = place.pop(last)
            case "drop":
                del place[last]
            case "wrap":
                place[last] = [place[last]] * draw(st.integers(1, 3))
            case "more" if isinstance(place, list):
                place.append(copy.deepcopy(draw(JUNK)))
    return value


@st.composite
def configurations(draw: Callable[[Any], Any]) -> str:
    """Return YAML of a shipped configuration, or a complete one, with changed values and keys."""
    value = yaml.safe_load(draw(st.sampled_from(SHIPPED)))
    text = yaml.safe_dump(mutate(draw, value), allow_unicode=draw(st.booleans()), sort_keys=False, width=10**6)
    assert isinstance(text, str)
    return text


TOKENS = [
    *("\t", "\n", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "<<: *a", "!!str ", "!!python/object:os.system ", "'"),
    *('"', "#", "---\n", "...\n", "%YAML 1.2\n", "\ufeff", "\0", "\x07", "1e-3", "010", "1:30", ".inf", ".nan", "no"),
    *("~", "?", "2026-11-25", "training:\n", "  ", "|\n", ">\n", "\x85", "\u2028", "\r", "\r\n", "\U0001f600", "="),
    *(",", "1_000", "@"),
]  # fmt: skip


@st.composite
def texts(draw: Callable[[Any], Any]) -> str:
    """Return the text of a shipped file with pieces put in, taken out, doubled or moved."""
    text = draw(st.sampled_from(SHIPPED))
    for _ in range(draw(st.integers(1, 4))):
        at, to = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        lines = text.splitlines(keepends=True) or [""]
        line = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["insert", "cut", "double", "line", "swap"])):
            case "insert":
                text = text[:at] + draw(st.sampled_from(TOKENS) | st.text(max_size=3)) + text[at:]
            case "cut":
                text = text[:at] + text[min(to, at + draw(st.integers(1, 40))) :]
            case "double":
                text = "".join([*lines[: line + 1], *lines[line:]])
            case "line":
                text = "".join([*lines[:line], *lines[line + 1 :]])
            case "swap":
                other = draw(st.integers(0, len(lines) - 1))
                lines[line], lines[other] = lines[other], lines[line]
                text = "".join(lines)
    return text


def numbers(value: Any, name: str = "") -> list[tuple[str, float]]:
    """Return all numbers with the names of their keys."""
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in numbers(inner, key)]
    if isinstance(value, list | tuple):
        return [each for inner in value for each in numbers(inner, name)]
    return [(name, value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


SMALL = {
    **dict.fromkeys(("steps", "epochs", "measure_every", "early_stop", "bootstrap"), 10**5),
    **dict.fromkeys(("batch_size", "micro_batch", "queries", "subset_models", "models_per_shard", "at_most"), 10**6),
    **dict.fromkeys(("standard_error", "quantile"), 1),
    **dict.fromkeys(("restarts", "eps_factor", "temperature"), 1000),
    **dict.fromkeys(
        ("threshold", "harmful_threshold", "subset_fraction", "awp", "rho", "weight_decay", "confidence"), 1
    ),
    **dict.fromkeys(
        ("subsample", "label_smoothing", "momentum", "ema_decay", "fractions", "hardest", "milestones", "warmup"), 1
    ),
    "weight_decay": 1,
    **dict.fromkeys(("margin", "false_discovery_rate"), 0.5),
    **dict.fromkeys(("width", "crop_padding", "size"), 4096),
    "learning_rate": 100,
}
# a number so small that it is as good as 0, which is not allowed
NOT_0 = {
    **dict.fromkeys(
        ("eps", "subsample", "subset_fraction", "fractions", "hardest", "milestones", "margin", "rho", "p_init"), 1e-6
    ),
    **dict.fromkeys(("step_size", "learning_rate", "eps_factor", "temperature", "false_discovery_rate"), 1e-8),
    "confidence": 0.5,
}
SIGNED = {"offset": -100, "bias": -10}


def check_sense(value: dict[str, Any]) -> None:
    """Check a configuration that was accepted: the list of what makes no sense."""
    for name, number in numbers(value):
        assert math.isfinite(number)
        assert number <= SMALL.get(name, 2**63 - 1)
        assert number >= SIGNED.get(name, NOT_0.get(name, 0)) or name == "values"
    stage, plan, threat = value["training"], value["memorization"], value["threat"]
    assert 0 < threat["eps"] <= (1 if threat["norm"] == "linf" else 1000)
    for attack in (stage["attack"], plan["robust"]["attack"], value["evaluation"]["pgd"]):
        assert 0 < attack["step_size"] <= 2.001 * threat["eps"]
    assert max(stage["measure_every"], stage["early_stop"]) <= stage["recipe"]["epochs"]
    for recipe in (plan["recipe"], stage["recipe"]):
        assert recipe["learning_rate"] * recipe["weight_decay"] < 1
    assert value["evaluation"]["bootstrap"] * (1 - value["evaluation"]["confidence"]) >= 1.999
    assert len(set(stage["seeds"])) == len(stage["seeds"]) >= 1
    for key in ("fractions", "hardest"):
        assert len(set(value["removal"][key])) == len(value["removal"][key])
    models = plan["until"]["at_most"] if plan["until"] else plan["subset_models"]
    assert models >= plan["subset_models"]
    assert (models + plan["robust"]["subset_models"]) / plan["models_per_shard"] <= 10_000
    assert len(value["experiment"]) <= 60
    assert value["experiment"].replace("_", "").isalnum()
    for path in (value["data"].get("path"), value["data"].get("cache"), value["scores"].get("path")):
        assert path is None or (path.isprintable() and "{" not in path and 0 < len(path) <= 4000)


def told(folder: Path, text: str | bytes, *changes: str) -> str | None:
    """Read a file as the Snakefile does, over the default; return why it is refused; None once it is checked."""
    file = folder / "made.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    start = time.process_time()
    try:
        config = load(str(BASE), str(file), settings=changes)
        check_files(config)
        methods = config.training.methods
        runs = len(methods) + len(removal_runs(methods, config.removal))
        compared(methods, config.evaluation, config.removal)
        value = asdict(config)
    except BatError as error:
        lines = str(error).splitlines()
        assert all(line.isprintable() and len(line) < 3000 for line in lines)
        assert 1 <= len(lines) <= 51
        event("refused")
        return str(error)
    finally:
        assert time.process_time() - start < SECONDS
    check_sense(value)
    assert runs * len(config.training.seeds) <= 10_000
    # what was accepted means the same when it is written out
    file.write_text(as_yaml(config), encoding="utf-8")
    assert load(str(file)) == config
    event("accepted")
    return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configurations")


@given(configurations())
@fuzz(1500)
def test_values_and_keys(folder: Path, text: str) -> None:
    told(folder, text)


@given(texts())
@fuzz(1200)
def test_raw_text(folder: Path, text: str) -> None:
    told(folder, text)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-16", "surrogatepass")))
@fuzz(200)
def test_bytes(folder: Path, content: bytes) -> None:
    told(folder, content)


KEYS = sorted(yaml.safe_load(BASE.read_text(encoding="utf-8")))


@given(
    st.sampled_from([*KEYS, *WORDS]), JUNK.map(lambda value: yaml.safe_dump(value, width=10**6)) | st.text(max_size=20)
)
@fuzz(500)
def test_settings(folder: Path, key: str, value: str) -> None:
    told(folder, "experiment: made\n", f"{key}={value}")


@st.composite
def simple(draw: Callable[[Any], Any]) -> tuple[str, list[str]]:
    """Return a file, and at times a setting: what can stand on a command line."""
    text = draw(configurations() | texts())
    printable = st.sampled_from(
        ["subsample=0.5", "subsample=1e-1", "training={seeds: [0]}", "experiment=no", "model={width: 8}"]
    )
    return text, draw(st.lists(printable, max_size=1))


def test_through_snakemake(folder: Path) -> None:
    found: list[str] = []

    @given(simple())
    @fuzz(36)
    def one(made: tuple[str, list[str]]) -> None:
        text, changes = made
        expected = told(folder, text, *changes)
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            ROOT / "workflow/Snakefile",
            "--dry-run",
            "--quiet",
        ]
        more = ["--config", *changes] if changes else []
        done = subprocess.run(
            list(map(str, [*command, "--configfile", "made.yaml", *more])),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        found.append(f"{done.returncode}")
        if expected is None:
            assert done.returncode == 0, done.stderr
            return
        assert done.returncode != 0
        # what Snakemake's own loader cannot read it refuses before the Snakefile, in its own words
        if done.returncode == 2:
            lines = [
                line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")
            ]
            assert lines == expected.replace(f"{folder}/", "").splitlines()

    one()
    assert {"0", "2"} <= set(found)


SPECS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "null-pairs": (
        {"threshold": 0.15, "false_discovery_rate": 0.05, "shuffles": 20, "seed": 0},
        [
            "--data",
            "none.safetensors",
            "--shards",
            "s.parquet",
            "--memorization",
            "m.parquet",
            "--null-pairs",
            "o.parquet",
        ],
    ),
    "subsets": (SUBSETS | {"first_model": 0}, ["--data", "none.safetensors", "--shard", "o.parquet"]),
    "scores": (
        SCORES,
        ["--data", "none.safetensors", "--shards", "none.parquet"]
        + [f"--{name}={name}.parquet" for name in ("memorization", "influence", "train-influence")]
        + [f"--{name}={name}.parquet" for name in ("test-groups", "validation-groups")],
    ),
    "train": (
        TRAIN,
        ["--data", "none.safetensors", "--best", "b.safetensors", "--last", "l.safetensors", "--records", "r.parquet"],
    ),
    "evaluate": (
        EVALUATE,
        ["--data", "none.safetensors", "--best", "b.safetensors", "--last", "l.safetensors"]
        + [f"--{name}={name}.parquet" for name in ("attacked", "flags")],
    ),
    "harmful": (
        {"threshold": 0.5},
        ["--memorization", "m.parquet", "--records", "r.parquet", "--harmful", "o.parquet"],
    ),
}


@pytest.fixture(scope="module")
def _imported() -> None:
    """Import the stages before the time of a case is taken."""
    for module in ("scores.stage", "training.stage", "evaluation.stage"):
        importlib.import_module(f"bat.{module}")


@pytest.mark.usefixtures("_imported")
@given(st.data())
@fuzz(600)
def test_specs(folder: Path, capsys: pytest.CaptureFixture[str], data: Any) -> None:
    stage = data.draw(st.sampled_from(sorted(SPECS)))
    spec, flags = SPECS[stage]
    text = json.dumps(mutate(data.draw, spec))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(['"', "{", "}", ",", "NaN", "[" * 2000, '"seed": 1, ', "\n", "9" * 400]))
            + text[at:]
        )
    start = time.process_time()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as stopped:
            main([stage, "--spec", text, *flags])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 1 or all("--spec: " in line for line in lines)
    assert time.process_time() - start < SECONDS
    event("refused" if "--spec: " in lines[0] else "accepted")
