"""What a stage tells while it runs: plain lines in its log, a progress bar on a terminal."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Journal:
    """The log of one stage.

    Lines go to the file ``log``, or to standard error without one. Bars are drawn on standard error only where that
    is a terminal.
    """

    def __init__(self, stage: str, log: str | None) -> None:
        self._stage = stage
        self._work = 0.0
        self._logger = logging.Logger(stage)
        self._handler = (
            logging.FileHandler(log, mode="w", encoding="utf-8", errors="backslashreplace")
            if log
            else logging.StreamHandler(sys.stderr)
        )
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        self._logger.addHandler(self._handler)

    def line(self, text: str) -> None:
        """Write one line."""
        self._logger.info(text)

    def failure(self, text: str, *, traceback: bool = False) -> None:
        """Write the error that ends the stage, with the traceback of the one that is being handled."""
        self._logger.error(text, exc_info=traceback)

    def bar(self, items: Iterable[T], total: int, unit: str) -> Iterator[T]:
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
        """Close the log."""
        self._handler.close()

    def finish(self) -> None:
        """Write how much CPU time the process has used, and how much of it was work and not start-up or files."""
        self.line(f"CPU time {time.process_time():.2f} s, of which work {self._work:.2f} s")
