"""Mutation tests: which changes of a module do its tests not see?

`make test-mutants MODULE=training.losses`, or MODULE=training.losses.bat_weights for one function. mutmut makes the
mutants once, imports torch once, and runs each mutant in a forked process by those tests of the module that call the
mutated function.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "mutants"
WANTED = 0.95
# A caught mutant needs no smallest example, whose search takes minutes. The lock of tqdm is one for all forked
# processes: after one that died with it the others would wait without end, which would count as caught.
_CONFTEST = """

import gc
from threading import RLock

from hypothesis import Phase, settings
from tqdm import tqdm

tqdm.set_lock(RLock())

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None, derandomize=True)
settings.load_profile("mutants")


def pytest_configure():
    gc.freeze()
"""
_COPIED = ("bat", "tests", "config", "workflow", "docs", "benchmarks", ".ci")


def main() -> int:
    """Run the mutants of the named modules and print what survives; 1 if more than 5 % of a module do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="modules (training.losses) or functions (training.losses.bat_weights)")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    table = tomllib.loads((HERE / "modules.toml").read_text())["tests"]
    scores = [_tested(name, table, given.workers) for name in given.names or sorted(table)]
    return int(min(scores) < WANTED)


def _tested(name: str, table: dict[str, list[str]], workers: int) -> float:
    """Run the mutants of one module or function, print its survivors and its line, and return its score."""
    module = name if (ROOT / "bat" / f"{name.replace('.', '/')}.py").exists() else name.rpartition(".")[0]
    path = Path("bat", f"{module.replace('.', '/')}.py")
    if not (ROOT / path).exists():
        raise SystemExit(f"{name}: no such module of bat")
    function = name.removeprefix(module).removeprefix(".")
    # beside functions named x_f, mutmut has methods named xǁClassǁf
    pattern = f"bat.{module}.x*{function}__mutmut_*" if function else f"bat.{module}.*"
    room, _, inner = module.partition(".")
    default = f"tests/{room}" if inner else f"tests/test_{room}.py"
    tests = [test if test.startswith("-") else str(_only(test)) for test in table.get(module, [])] or [default]
    folder = WORK / module
    _copy(folder, path, tests)
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(workers), pattern]
        failed = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT).returncode
    found = dict(re.findall(r"^ *(\S+): (.+)$", _mutmut(folder, "results", "--all", "true"), re.MULTILINE))
    found = {mutant: state for mutant, state in found.items() if fnmatch(mutant, pattern) and state != "not checked"}
    if failed or not found:
        raise SystemExit(f"{name}: mutmut failed, see {folder / 'log'}")
    left = {mutant: state for mutant, state in found.items() if state not in ("killed", "timeout")}
    reasons = tomllib.loads((HERE / "equivalent.toml").read_text())["equivalent"]
    equivalent = 0
    for mutant, state in left.items():
        change = [line for line in _mutmut(folder, "show", mutant).splitlines() if re.match(r"[-+](?![-+])", line)]
        if any(_explains(reason, module, mutant, change) for reason in reasons):
            equivalent += 1
        else:
            print(f"{mutant}: {state}", *change, sep="\n")
    total, killed = len(found), len(found) - len(left)
    score = killed / max(total - equivalent, 1)
    late = list(found.values()).count("timeout")
    kinds = f"{killed} caught ({late} by the clock), {equivalent} equivalent, {len(left) - equivalent} not caught"
    print(f"{name}: {total} mutants: {kinds}; {score:.1%}", flush=True)
    return score


def _only(test: str) -> Path:
    (found,) = ROOT.glob(f"tests/**/{test}.py")
    return found.relative_to(ROOT)


def _copy(folder: Path, path: Path, tests: list[str]) -> None:
    """Copy the repository to ``folder``, with a configuration that mutates the module ``path`` alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("README.md", "RESULTS.md", "Makefile", "environment.yml"):
        shutil.copy(ROOT / file, folder / file)
    with (folder / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(_CONFTEST)
    chosen = f"only_mutate = {json.dumps([str(path)])}\npytest_add_cli_args_test_selection = {json.dumps(tests)}\n"
    project = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(project.replace("[tool.mutmut]\n", f"[tool.mutmut]\n{chosen}"))


def _mutmut(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def _explains(reason: dict[str, Any], module: str, mutant: str, change: list[str]) -> bool:
    """Return whether an entry of equivalent.toml is of this mutant."""
    added = "\n".join(line for line in change if line.startswith("+"))
    if reason.get("module", module) != module or reason.get("function", "") not in mutant:
        return False
    return re.search(reason["change"], added) is not None


if __name__ == "__main__":
    sys.exit(main())
