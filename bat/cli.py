"""The command line: one subcommand a stage."""

import importlib
import os
import sys
from pathlib import Path

from bat.commands import parser
from bat.errors import BatError
from bat.files import disk_errors
from bat.journal import Journal


def main(arguments: list[str] | None = None) -> None:
    """Run one stage. Exits with status 2 after an error that the user can mend."""
    options = vars(parser().parse_args(arguments))
    stage, run = options.pop("stage"), options.pop("run")
    stage = " ".join([stage, options.pop("figure", "")]).strip()
    log, threads = options.pop("log", None), options.pop("threads", 1)
    # read by the libraries when they are first imported
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    try:
        if log:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(stage, log)
    except OSError as error:
        sys.exit(_complain(stage, f"{log}: cannot be written ({error}): choose another log"))
    try:
        module, function = run.split(":")
        with disk_errors():
            # only here: a stage's libraries are heavy
            getattr(importlib.import_module(f"bat.stages.{module}"), function)(journal, **options)
        journal.finish()
    except BatError as error:
        journal.failure(str(error))
        sys.exit(_complain(stage, str(error)) if log else 2)
    except Exception:
        journal.failure("stopped by an unexpected error; its traceback is on standard error")
        raise
    finally:
        journal.close()


def _complain(stage: str, message: str) -> int:
    print(f"bat {stage}: {message}", file=sys.stderr)  # noqa: T201
    return 2
