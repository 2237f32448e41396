"""What a stage tells while it runs: plain lines in its log, a progress bar on a terminal."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from traceback import format_exc
from typing import TypeVar

from tqdm import tqdm

from bat.errors import BatError

_T = TypeVar("_T")


class Journal:
    """The log of one stage.

    Lines go to the file ``log``, or to standard error without one. Bars are drawn on standard error only where that
    is a terminal.
    """

    def __init__(self, stage: str, log: str | None) -> None:
        self._stage, self._log = stage, log
        self._work = 0.0
        # open as long as the stage runs
        self._file = Path(log).open("w", encoding="utf-8", errors="backslashreplace") if log else None  # noqa: SIM115

    def line(self, text: str) -> None:
        """Write one line.

        Raises:
            BatError: the log cannot be written, as on a full disk.
        """
        stamp = datetime.now().isoformat(" ", "milliseconds").replace(".", ",")
        try:
            print(f"{stamp} {self._stage}: {text}", file=self._file or sys.stderr, flush=True)
        except OSError as error:
            if self._file:
                raise self._unwritable(error) from error

    def failure(self, text: str, *, traceback: bool = False) -> None:
        """Write the error that ends the stage, where the log can be written, with the traceback of the present one."""
        with suppress(BatError):
            self.line(text + (f"\n{format_exc()}" if traceback else ""))

    def bar(self, items: Iterable[_T], total: int, unit: str) -> Iterator[_T]:
        """Pass ``items`` on, with a progress bar on a terminal and otherwise a line at each tenth."""
        for done, item in enumerate(tqdm(items, self._stage, total, unit=unit, disable=None, leave=False), start=1):
            yield item
            if 10 * done // total > 10 * (done - 1) // total:
                self.line(f"{done} of {total} {unit}")

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count the CPU time inside as the stage's work: training, attacking, scoring, drawing."""
        start = time.process_time()
        try:
            yield
        finally:
            self._work += time.process_time() - start

    def close(self) -> None:
        """Close the log, also one that cannot be written."""
        if self._file:
            with suppress(OSError):
                self._file.close()

    def finish(self) -> None:
        """Write how much CPU time the process has used, how much of it was work, and its largest memory; close.

        Work is what is not start-up or files.

        Raises:
            BatError: the log cannot be written.
        """
        used = f"CPU time {time.process_time():.2f} s, of which work {self._work:.2f} s"
        self.line(f"{used}; largest memory {_largest_memory() / 1e6:.0f} MB")
        if self._file:
            try:
                self._file.close()
            except OSError as error:  # some file systems tell only now that the disk is full
                raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> BatError:
        return BatError(f"{self._log}: cannot be written ({error}): make room or choose another log")


def _largest_memory() -> int:
    """Return the most bytes of memory that this process has had at once."""
    largest = getrusage(RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest
