"""An experiment over all stages that is killed again and again ends with the bytes of one that never was.

README.md beside this file has the last figures.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = Path("results") / "tiny"
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
# kills while a stage runs, in the order of the workflow: 32
KILLS = {
    "data": 2,
    "subsets": 4,
    "scores": 2,
    "null-pairs": 1,
    "robust-scores": 2,
    "train": 7,
    "harmful": 1,
    "evaluate": 6,
    "summary": 2,
    "figures": 2,
    "results": 1,
    "page": 1,
    "explorer": 1,
}
# seconds that a stage runs before the kill: it needs about 2 of these to start
SECONDS = (0.0, 4.0)
# results.md says how long the jobs took
SAME = (".parquet", ".safetensors", ".csv", ".tex", ".svg")


def start(folder: Path, *more: str) -> "subprocess.Popen[bytes]":
    """Start the workflow in a process group of its own."""
    files = [
        "--snakefile",
        str(ROOT / "workflow" / "Snakefile"),
        "--configfile",
        str(Path(__file__).with_name("tiny.yaml")),
    ]
    arguments = [sys.executable, "-m", "snakemake", "--cores", "2", *files, *more]
    with (folder / "snakemake.log").open("ab") as log:
        return subprocess.Popen(arguments, cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)


def finish(folder: Path) -> None:
    """Go on as the README says, to the end."""
    assert start(folder, "--unlock").wait() == 0
    assert start(folder).wait() == 0, (folder / "snakemake.log").read_text()[-3000:]


def new_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config").symlink_to(ROOT / "config")
    return path


def results(folder: Path) -> dict[str, bytes]:
    """Return all finished files by name; what is unfinished has another kind of name."""
    found = (path for path in (folder / RESULTS).rglob("*") if path.suffix in SAME)
    paths = (path for path in found if not any(part.endswith((".parts", ".tmp")) for part in path.parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def assert_only_right_files(folder: Path, expected: dict[str, bytes]) -> None:
    wrong = [name for name, content in results(folder).items() if expected.get(name) != content]
    assert not wrong


def assert_finished_like(folder: Path, expected: dict[str, bytes]) -> None:
    found = results(folder)
    assert found.keys() == expected.keys()
    assert_only_right_files(folder, expected)
    left = [str(path) for path in (folder / RESULTS).rglob("*") if re.search(r"\.(tmp|parts|checkpoint)$", path.name)]
    assert not left


def running(group: int) -> dict[int, str]:
    """Return the stages that run in a process group, by process."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
            if os.getpgid(int(process.name)) == group and words[1:3] == ["-m", "bat"]:
                found[int(process.name)] = words[3]
        except (OSError, UnicodeDecodeError):  # it has ended
            continue
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = new_folder(tmp_path_factory.mktemp("unbroken") / "a")
    assert start(folder).wait() == 0, (folder / "snakemake.log").read_text()[-3000:]
    found = results(folder)
    assert len(found) > 80
    return found


def end(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to the whole group and wait for its end."""
    with suppress(ProcessLookupError):  # the workflow is at its end
        os.killpg(process.pid, number)
    process.wait()
    deadline = time.monotonic() + 60
    while running(process.pid):
        assert time.monotonic() < deadline, "a stage did not end"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the kernel tells no processes of a group")
def test_thirty_kills_at_any_moment(expected: dict[str, bytes], tmp_path: Path) -> None:
    moments, hit, folder = random.Random(0), Counter[str](), new_folder(tmp_path / "0")
    stages = list(KILLS)
    for stage in [stage for stage, count in KILLS.items() for _ in range(count)]:
        process = start(folder)
        # one that is over when an earlier kill came late is not waited for
        if wait_for(process, stages[stages.index(stage) :]):
            time.sleep(moments.uniform(*SECONDS))
        hit.update(sorted(set(running(process.pid).values())) or ["no stage"])
        end(process, signal.SIGKILL)
        assert_only_right_files(folder, expected)
        assert start(folder, "--unlock").wait() == 0
    finish(folder)
    assert_finished_like(folder, expected)
    print(f"{sum(KILLS.values())} kills, stages hit: {dict(hit)}")  # noqa: T201  # pytest -s shows it


def wait_for(process: "subprocess.Popen[bytes]", stages: Sequence[str]) -> int:
    """Wait until one of the stages runs, and return its process; 0 where the workflow ends before."""
    while process.poll() is None:
        for number, name in running(process.pid).items():
            if name in stages:
                return number
        time.sleep(0.02)
    return 0


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="the kernel tells no processes of a group")
@pytest.mark.parametrize("stage", ["subsets", "train", "evaluate"])
def test_ctrl_c_a_request_to_stop_and_a_killed_worker(stage: str, expected: dict[str, bytes], tmp_path: Path) -> None:
    """In turn on one experiment: SIGINT and SIGTERM in a slow stage, and the process of one of its jobs killed."""
    moments, folder = random.Random(stage), new_folder(tmp_path / "a")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start(folder)
        assert wait_for(process, [stage]), "ended too soon for this test"
        time.sleep(moments.uniform(1, 4))
        end(process, number)
        assert process.returncode != 0
        assert_only_right_files(folder, expected)
        assert start(folder, "--unlock").wait() == 0
    process = start(folder)
    worker = wait_for(process, [stage])
    time.sleep(moments.uniform(1, 3))
    try:
        os.kill(worker, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended: another one
        os.kill(wait_for(process, [stage]), signal.SIGKILL)
    # snakemake goes on with what does not need that job, and says which failed
    assert process.wait() == 1
    assert "Failed: " in (folder / "snakemake.log").read_text()
    assert_only_right_files(folder, expected)
    finish(folder)
    assert_finished_like(folder, expected)
