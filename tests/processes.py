"""Stages as processes of their own, for tests to stop."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from warm import Forked

Process: TypeAlias = "subprocess.Popen[str] | Forked"


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start ``python -m bat`` with these arguments."""
    return subprocess.Popen([sys.executable, "-m", "bat", *arguments], stderr=subprocess.PIPE, text=True)


def ended(process: Process) -> tuple[int, str]:
    """Wait for the end of a process; return its status, and what it said on standard error."""
    said = process.communicate()[1]
    return process.returncode, said


def wait_until(process: Process, true: Callable[[], object]) -> None:
    """Wait until something is true while the process runs."""
    while not true():
        assert process.poll() is None, f"ended too soon for this test: {ended(process)}"
        time.sleep(0.005)


def says(log: Path, text: str) -> bool:
    """Return whether a log has the text."""
    return log.exists() and text in log.read_text()
