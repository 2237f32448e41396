"""An unfinished training run on disk, so that a killed one goes on. Tensors and JSON: nothing is ever unpickled."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bat.errors import BatError, stoppable
from bat.io.files import provenance, remove
from bat.io.tensors import read_tensors, write_tensors
from bat.training.run import Progress

_KIND = "checkpoint"

CHECKPOINT_FORMAT = 2
"""Of what a checkpoint holds. Raise it when names, shapes or meaning of ``Progress``, of ``Learner.state`` or of the
columns of records change, or what a run draws its random numbers from: a run of another format starts anew, where the
version of the package is the same before and after an edit."""


class Checkpoint:
    """The file that keeps an unfinished run, with all that the run depends on, ``about``."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        # as it comes back from the file, where a tuple, as of the milestones of a schedule, is a list
        self.path, self._about = path, json.loads(json.dumps(about))
        self._latest: Progress | None = None
        self._written = time.monotonic()

    def read(self, device: torch.device, tell: Callable[[str], None]) -> Progress | None:
        """Return what an earlier run of the same has done.

        None without one, or where its file is damaged or of another run; ``tell`` is told which.
        """
        if not self.path.exists():
            return None
        try:
            tensors, facts = read_tensors(self.path, _KIND)
        except BatError:
            tell(f"{self.path}: damaged, or of another version: training starts anew")
            return None
        if facts.get("format") != CHECKPOINT_FORMAT:
            tell(f"{self.path}: of another format: training starts anew")
            return None
        if facts["about"] != self._about:
            tell(f"{self.path}: of another spec, or from other inputs: training starts anew")
            return None
        done = json.loads(facts["done"])
        parts: dict[str, dict[str, Tensor]] = {"state": {}, "best": {}}
        for name, tensor in tensors.items():
            part, _, key = name.partition(".")
            if part == "rows":
                number, _, column = key.partition(".")
                done["rows"][int(number)][column] = tensor.numpy().tobytes()
            else:
                parts[part][key] = tensor.to(device)
        return Progress(state=parts["state"], best=parts["best"], **done)

    def keep(self, progress: Progress, minutes: float) -> None:
        """Take note of what is done, and write it where so many minutes have passed since the last time."""
        self._latest = progress
        if time.monotonic() - self._written >= 60 * minutes:
            self._write()

    def remove(self) -> None:
        """Remove the file: the run is finished, and its outputs are written."""
        remove(self.path)

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Write what is done when Ctrl-C ends a run, or SIGTERM: clusters send it before they take a machine away."""
        try:
            with stoppable():
                yield
        except (KeyboardInterrupt, SystemExit):
            self._write()
            raise

    def _write(self) -> None:
        if self._latest is None:
            return
        tensors = {f"state.{name}": tensor for name, tensor in self._latest.state.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._latest.best.items()}
        rows: list[dict[str, float]] = []
        for number, row in enumerate(self._latest.rows):
            rows.append({})
            for name, value in row.items():
                if isinstance(value, bytes):
                    # frombuffer wants memory that may be written to
                    tensors[f"rows.{number}.{name}"] = torch.frombuffer(bytearray(value), dtype=torch.uint8)
                else:
                    rows[-1][name] = value
        done = {name: getattr(self._latest, name) for name in ("epoch", "best_epoch", "best_right")} | {"rows": rows}
        about = provenance(_KIND, format=CHECKPOINT_FORMAT, about=self._about, done=json.dumps(done))
        write_tensors(self.path, tensors, about)
        self._latest, self._written = None, time.monotonic()
