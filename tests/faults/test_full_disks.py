"""Disks that are full at five sizes: the stage ends in one line and status 2, and goes on when there is room.

Once by a small tmpfs, where this process may mount one, as root may; and once by a limit on the size of each file,
which any user may set. README.md beside this file has the last figures.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stages import RECIPE, SUBSETS, TRAIN, call, command, digits, evaluation, grouped, scores, shard, summary
from stages import training as training_flags

SHORT = RECIPE | {"epochs": 3}
PLAN = TRAIN | {"recipe": SHORT}
STAGES: list[tuple[str, dict[str, Any]]] = [
    ("data", digits() | {"data": "data.safetensors"}),
    ("subsets", shard(0) | {"spec": SUBSETS | {"first_model": 0, "recipe": SHORT}}),
    ("scores", scores("shard-0.parquet")),
    ("train", training_flags(spec=PLAN)),
    ("evaluate", evaluation(images="images.safetensors")),
    ("groups", grouped()),
    ("summary", summary("attacked.parquet")),
    ("figures", {"memorization": "memorization.parquet", "out": ["memorization.svg", "memorization.pdf"]}),
]
# the stages in turn in one process, a JSON line each: status and what went to standard error
DRIVER = """
import contextlib, io, json, resource, sys
import torch
from bat.training.checkpoints import Checkpoint
from bat.cli import main
limit, *stages = map(json.loads, sys.argv[1:])
keep = Checkpoint.keep
Checkpoint.keep = lambda self, progress, minutes: keep(self, progress, 0)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
for arguments in stages:
    told, status = io.StringIO(), 0
    with contextlib.redirect_stderr(told):
        try:
            main(arguments)
        except SystemExit as stopped:
            status = stopped.code
    print(json.dumps([arguments[0], status, told.getvalue()]), flush=True)
    if status:
        break
"""


def arguments(folder: Path, log: str | None = "log") -> list[list[str]]:
    named = [
        (stage, flags | ({"log": f"logs/{stage.split()[0]}.log"} if log == "log" else {})) for stage, flags in STAGES
    ]
    lines = [command(stage, folder, **flags) for stage, flags in named]
    return [[*line, "--log", log] for line in lines] if log not in (None, "log") else lines


def run(lines: list[list[str]], limit: int = 0) -> list[tuple[str, int, str]]:
    """Run stages until one fails: name, status, and what each told on standard error."""
    texts = [json.dumps(line) for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(limit), *texts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def outputs(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.iterdir() if path.is_file() and not path.name.endswith(".checkpoint")]
    return {path.name: path.read_bytes() for path in found}


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".parts", ".checkpoint"))]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("unbroken")
    assert [status for _, status, _ in run(arguments(folder))] == [0] * len(STAGES)
    assert left(folder) == []
    return outputs(folder)


def assert_one_line(result: tuple[str, int, str], folder: Path, expected: dict[str, bytes]) -> None:
    """Assert that a stage failed as it should, and that no file is there that should not be."""
    stage, status, told = result
    assert status == 2, told
    assert len(told.splitlines()) == 1, told
    assert told.startswith(f"bat {stage}")
    assert "cannot be written" in told
    assert all(expected[name] == content for name, content in outputs(folder).items())
    assert not [name for name in left(folder) if name.endswith(".tmp")]


def goes_on(folder: Path, expected: dict[str, bytes]) -> None:
    assert [status for _, status, _ in run(arguments(folder))] == [0] * len(STAGES)
    assert outputs(folder) == expected
    assert left(folder) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount a small disk on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount(folder, 2**20)
    if mounted:
        pytest.skip(f"no disk can be mounted here: {mounted}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mount(folder: Path, size: int, again: bool = False) -> str:
    """Mount a disk of ``size`` bytes, or give it another size; return why not."""
    options = ["-o", f"{'remount,' if again else ''}size={size}"]
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.75, 0.95])
def test_a_full_disk(share: float, unbroken: dict[str, bytes], disk: Path) -> None:
    total = sum(map(len, unbroken.values()))
    assert not mount(disk, int(share * total), again=True)
    *_, failed = run(arguments(disk))
    assert_one_line(failed, disk, unbroken)
    assert not mount(disk, 3 * total + 2**20, again=True)
    goes_on(disk, unbroken)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.75, 0.95])
def test_a_limit_on_the_size_of_files(share: float, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    sizes = sorted(len(content) for content in unbroken.values())
    limit = sizes[int(share * len(sizes))] - 1
    *_, failed = run(arguments(tmp_path), limit)
    assert_one_line(failed, tmp_path, unbroken)
    goes_on(tmp_path, unbroken)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
@pytest.mark.parametrize("stage", range(len(STAGES)), ids=[stage for stage, _ in STAGES])
def test_a_log_on_a_full_disk(stage: int, tmp_path: Path) -> None:
    for name, flags in STAGES[:stage]:
        call(name, tmp_path, **flags)
    [(name, status, told)] = run([arguments(tmp_path, "/dev/full")[stage]])
    assert status == 2
    assert [line.startswith(f"bat {STAGES[stage][0]}: /dev/full: cannot be written") for line in told.splitlines()] == [
        True
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right(unbroken: dict[str, bytes], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    [failed] = run(arguments(tmp_path, None)[:1])
    assert failed[1] == 2
    assert "cannot be written" in failed[2]
    tmp_path.chmod(0o700)
    goes_on(tmp_path, unbroken)
