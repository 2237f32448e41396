"""The command line: one subcommand a stage."""

import importlib
import os
import signal
import sys
from pathlib import Path

from bat.errors import BatError, is_out_of_memory, one_line, stoppable
from bat.io.files import disk_errors

_MEMORY = {
    "attack": "--batch-size",
    "evaluate": "evaluation.batch_size",
    "verify": "evaluation.batch_size",
    "train": "training.recipe.batch_size or compute.micro_batch",
    "subsets": "memorization.recipe.batch_size or compute.micro_batch",
}
"""What a stage's memory grows with."""


def main(arguments: list[str] | None = None) -> None:
    """Run one stage. Exits with status 2 after an error that the user can mend, quietly when it is told to stop.

    By SIGINT or SIGTERM: the status is 128 and the signal's number. Before a stage begins, while its libraries are
    imported, the signal itself ends the process, which is the same status to a shell.
    """
    try:
        _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        # nobody reads any more: also what is still to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _run(arguments: list[str] | None) -> None:
    from bat.commands import parser
    from bat.io.journal import Journal
    from bat.paths import checked

    try:
        options = vars(parser().parse_args(arguments))
    except SystemExit:
        sys.stdout.flush()
        raise
    stage, run = options.pop("stage"), options.pop("run")
    name = " ".join([stage, options.pop("figure", "")]).strip()
    try:
        options = checked(stage, options)
    except BatError as error:
        sys.exit(_complain(name, str(error)))
    log, threads = options.pop("log", None), options.pop("threads", 1)
    # read by the libraries when they are first imported
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    try:
        if log:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(name, log)
    except OSError as error:
        sys.exit(_complain(name, f"{log}: cannot be written ({error}): choose another log"))
    try:
        module, function = run.split(":")
        with disk_errors():
            # only here: a stage's libraries are heavy
            begin = getattr(importlib.import_module(f"bat.{module}"), function)
            with stoppable():
                begin(journal, **options)
        journal.finish()
    except BatError as error:
        journal.failure(one_line(error))
        sys.exit(_complain(name, str(error)) if log else 2)
    except Exception as error:
        if is_out_of_memory(error):
            key = _MEMORY.get(stage)
            line = (
                "out of memory: " + (f"lower {key}, or " if key else "") + f"give the job more ({one_line(error, 200)})"
            )
            journal.failure(line)
            sys.exit(_complain(name, line) if log else 2)
        if isinstance(error, BrokenPipeError):
            raise
        journal.failure("stopped by an unexpected error", traceback=bool(log))
        raise
    finally:
        journal.close()


def _complain(stage: str, message: str) -> int:
    print(f"bat {stage}: {one_line(message)}", file=sys.stderr)  # noqa: T201
    return 2
