"""The command line: one subcommand per stage. A stage's signature is its declaration: flags, types and help.

The signature is read from the source text, so that ``--help`` and a wrong flag import no stage, nor torch.
"""

import argparse
import ast
import gc
import importlib
import json
import os
import re
import signal
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from bat import __version__
from bat.errors import BatError, in_words, is_out_of_memory, one_line, stoppable
from bat.io.files import disk_errors
from bat.io.given import located
from bat.io.outputs import ENDINGS, check_output, check_text

STAGES = {
    "download": "data.stage",
    "data": "data.stage",
    "subsets": "scores.stage",
    "merge": "scores.merging",
    "enough": "scores.rounds",
    "scores": "scores.stage",
    "null-pairs": "scores.stage",
    "duplicates": "scores.duplicates",
    "import-scores": "scores.importing",
    "robust-scores": "scores.robust",
    "proxies": "scores.proxies",
    "train": "training.stage",
    "groups": "training.groups",
    "harmful": "training.stage",
    "hardest": "training.stage",
    "evaluate": "evaluation.stage",
    "summary": "evaluation.stage",
    "verify": "evaluation.verify",
    "attack": "evaluation.attack",
    "figures": "report.stage",
    "results": "report.stage",
    "page": "report.stage",
    "explorer": "report.stage",
    "plan": "planning.stage",
    "keys": "config.stage",
    "schema": "config.stage",
}
"""Subcommands, and the module of each's function, which has the same name."""

_HELP = {
    "spec": "parameters of the stage, a JSON object",
    "data": "the data set, from stage data",
    "files": "files.parquet, from stage data",
    "shards": "the shards, from stage subsets",
    "memorization": "memorization.parquet, from stage scores",
    "influence": "influence.parquet, from stage scores",
    "train_influence": "train_influence.parquet, from stage scores",
    "test_groups": "test_groups.parquet, from stage scores",
    "validation_groups": "validation_groups.parquet, from stage scores",
    "null_pairs": "null_pairs.parquet, from stage null-pairs",
    "robust_memorization": "robust_memorization.parquet, from stage robust-scores",
    "robust_influence": "robust_influence.parquet, from stage robust-scores",
    "robust_effects": "robust_effects.parquet, from stage robust-scores",
    "proxies": "proxies.parquet, from stage proxies",
    "proxy_agreement": "proxy_agreement.parquet, from stage proxies",
    "duplicates": "duplicates.parquet, from stage duplicates",
    "harmful": "harmful.parquet, from stage harmful",
    "hardest": "hardest.parquet, from stage hardest",
    "best": "weights of the best epoch, from stage train",
    "last": "weights of the last epoch, from stage train",
    "records": "records.parquet of each run, from stage train",
    "histories": "history.parquet of each run, from stage groups",
    "samples": "samples.parquet of each run, from stage groups",
    "attacked": "attacked.parquet of each run, from stage evaluate",
    "flags": "flags.parquet, from stage evaluate",
    "per_sample": "per_sample.parquet, from stage summary",
    "by_seed": "by_seed.parquet, from stage summary",
    "summary": "summary.parquet, from stage summary",
    "comparisons": "comparisons.parquet, from stage summary",
    "runs": "runs.parquet, from stage summary",
    "device": "cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)",
}
"""Flags that several stages have; a stage's docstring tells the others."""

_MEMORY = {
    "attack": "--batch-size",
    "evaluate": "evaluation.batch_size",
    "verify": "evaluation.batch_size",
    "train": "training.recipe.batch_size or compute.micro_batch",
    "subsets": "memorization.recipe.batch_size or compute.micro_batch",
}
"""What a stage's memory grows with."""

_EPILOG = """\
Examples:

  bat plan --configfile config/smoke.yaml     what an experiment will cost
  bat keys                                    what a configuration may say
  bat attack --help                           AutoAttack on a model of your own
  bat train --help                            a stage, with the call that the workflow makes of it

Each stage takes its parameters as one JSON object (--spec), reads the files it names and writes each output whole or
not at all. An error that you can fix is one line, and the exit status is 2.
"""

_NOT_OF_THE_DEFAULT = {
    "download": "config/cifar10.yaml",
    "harmful": "config/digits_full.yaml",
    "robust-scores": "config/digits_full.yaml",
}
"""Stages that the default experiment does not run, and one that does."""


class Flag(NamedTuple):
    """One flag of a stage. kind: file, text, value (the spec or a number), or the format of an output."""

    name: str
    kind: str
    many: bool
    required: bool
    default: Any
    help: str


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Write the error and exit with status 2."""
        self.exit(2, f"{self.prog}: {one_line(message)}: see {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> None:
    """Run one stage. Exits with status 2 after an error that the user can fix, quietly when it is told to stop.

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


def parser(stages: Iterable[str] = STAGES) -> argparse.ArgumentParser:
    """Return the parser of some subcommands, of all by default."""
    parser = _Parser(
        prog="bat",
        description="Memorization in adversarial training: scores, benign adversarial training, evaluation, figures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for stage in stages:
        summary, about, flags = declared(stage)
        added = subparsers.add_parser(
            stage,
            help=summary,
            description=about,
            epilog=f"Example:\n\n{textwrap.indent(example(stage), '  ')}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for flag in flags:
            added.add_argument(
                f"--{flag.name.replace('_', '-')}",
                required=flag.required,
                default=flag.default,
                nargs="+" if flag.many else None,
                help=flag.help.replace("%", "%%"),
            )
        added.add_argument("--log", help="file for the log; standard error without it")
        added.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    return parser


@cache
def declared(stage: str) -> tuple[str, str, tuple[Flag, ...]]:
    """Return a stage's summary, the whole text about it, and its flags, as its source declares them."""
    function = _function(stage)
    summary, _, rest = (ast.get_docstring(function) or "").partition("\n")
    about = re.split(r"\n(?:Example|Raises):\n", rest)[0]
    told = {
        name: " ".join(text.split()) for name, text in re.findall(r"^(\w+): (.*(?:\n +\S.*)*)", about, re.MULTILINE)
    }
    flags = []
    for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        annotation = ast.unparse(argument.annotation) if argument.annotation else ""
        annotation = annotation.removesuffix(" | None")
        many, kind = annotation.startswith("list["), annotation.removeprefix("list[").removesuffix("]")
        kind = {"Path": "file", "Path | str": "file", "str": "text"}.get(kind, kind if kind in ENDINGS else "value")
        value = None if default is None else ast.literal_eval(default)
        help = told.get(argument.arg) or _HELP[argument.arg]
        if value is not None and "default" not in help:
            help += f" (default: {value})"
        flags.append(Flag(argument.arg, kind, many, default is None, value, help))
    about = re.sub(r"^(\w+): (.*(?:\n +\S.*)*)\n?", "", about, flags=re.MULTILINE)
    return summary.rstrip("."), f"{summary}\n{about}".strip(), tuple(flags)


def example(stage: str) -> str:
    """Return the example of a stage's docstring; without one, how to see the calls that the workflow makes."""
    found = re.search(r"\nExample:\n((?:(?: .*)?\n?)+)", ast.get_docstring(_function(stage)) or "")
    if found:
        return textwrap.dedent(found[1]).strip()
    rule, needs = stage.replace("-", "_"), _NOT_OF_THE_DEFAULT.get(stage)
    options = f" --configfile {needs}" if needs else ""
    return (
        "# the workflow's own calls, to copy and change\n"
        f"snakemake -n --printshellcmds --forcerun {rule} --until {rule}{options}"
    )


def _function(stage: str) -> ast.FunctionDef:
    path = Path(__file__).parent.joinpath(*STAGES[stage].split(".")).with_suffix(".py")
    (function,) = (
        node
        for node in _parsed(path).body
        if isinstance(node, ast.FunctionDef) and node.name == stage.replace("-", "_")
    )
    return function


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _run(arguments: list[str] | None) -> None:
    from bat.io.journal import Journal

    given = sys.argv[1:] if arguments is None else arguments
    try:
        # the source of the one stage that is named is read, not of all
        options = vars(parser(given[:1] if given and given[0] in STAGES else STAGES).parse_args(given))
    except SystemExit:
        sys.stdout.flush()
        raise
    stage, log, threads = (options.pop(name) for name in ("stage", "log", "threads"))
    try:
        options = _checked(stage, options, log, threads)
    except BatError as error:
        sys.exit(_complain(stage, *str(error).splitlines()))
    # read by the libraries when they are first imported
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    try:
        if log:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(stage, log)
    except OSError as error:
        sys.exit(_complain(stage, f"{log}: cannot be written ({error}): choose another log"))
    try:
        with disk_errors():
            # only here: a stage's libraries are heavy
            with _collected_later():
                function = getattr(importlib.import_module(f"bat.{STAGES[stage]}"), stage.replace("-", "_"))
            values = _values(stage, options, typing.get_type_hints(function, include_extras=True))
            with stoppable():
                function(journal, **values)
        journal.finish()
    except BatError as error:
        for line in str(error).splitlines():
            journal.failure(line)
        sys.exit(_complain(stage, *str(error).splitlines()) if log else 2)
    except Exception as error:
        if is_out_of_memory(error):
            key = _MEMORY.get(stage)
            line = (
                "out of memory: " + (f"lower {key}, or " if key else "") + f"give the job more ({in_words(error, 200)})"
            )
            journal.failure(line)
            sys.exit(_complain(stage, line) if log else 2)
        if isinstance(error, BrokenPipeError):
            raise
        journal.failure("stopped by an unexpected error", traceback=bool(log))
        raise
    finally:
        journal.close()


@contextmanager
def _collected_later() -> Iterator[None]:
    """Import without garbage collection: libraries make little garbage, and a third of a second is spent on looking."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _checked(stage: str, options: dict[str, Any], log: str | None, threads: int) -> dict[str, Any]:
    """Return the options with files as paths, ``~`` resolved.

    Raises:
        BatError: threads are out of their range; a name is no text; an output is also an input or another output, or
            cannot be written.
    """
    most = max(256, os.cpu_count() or 1)
    if not 1 <= threads <= most:
        raise BatError(f"--threads {threads}: give a whole number from 1 to {most}")
    flags = [flag for flag in declared(stage)[2] if flag.kind not in ("text", "value")]
    for flag in flags:
        given = options[flag.name]
        if given is not None:
            name = flag.name.replace("_", "-")
            options[flag.name] = [_path(name, each) for each in given] if flag.many else _path(name, given)
    read = [each for flag in flags if flag.kind == "file" for each in _named(flag, options)]
    for name, path in read:
        # npz files, which Python itself opens, may have any name
        if (stage, name) != ("attack", "data"):
            check_text(name, path, str(path))
    taken = {path.resolve(): name for name, path in read}
    written = [(ENDINGS[flag.kind], *each) for flag in flags if flag.kind in ENDINGS for each in _named(flag, options)]
    for endings, name, path in [*written, *([(None, "log", _path("log", log))] if log else [])]:
        check_output(name, path, endings)
        if (place := path.resolve()) in taken:
            raise BatError(f"--{name} and --{taken[place]} are both {path}: give each its own file")
        taken[place] = name
    return options


def _named(flag: Flag, options: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    value = options[flag.name]
    if value is not None:
        for path in value if flag.many else [value]:
            yield flag.name.replace("_", "-"), path


def _path(name: str, text: str) -> Path:
    if "\0" in text:
        raise BatError(f"--{name}: a path cannot hold the character 0")
    try:
        return located(text)
    except BatError as error:
        raise BatError(f"--{name} {error}") from error


def _values(stage: str, options: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    """Return the options, the spec and numbers parsed by the types of the stage's signature."""
    from bat.config import parse
    from bat.config.ranges import number

    for flag in declared(stage)[2]:
        given, name = options[flag.name], f"--{flag.name.replace('_', '-')}"
        if flag.kind != "value" or not isinstance(given, str):
            continue
        if flag.name != "spec":
            name = f"{name} {given}"
            try:
                given = json.dumps(int(given) if re.fullmatch(r"[-+]?\d{1,30}", given) else float(number(given)))
            except ValueError as error:
                raise BatError(f"{name}: give a number") from error
        options[flag.name] = parse(types[flag.name], given, name)
    return options


def _complain(stage: str, *lines: str) -> int:
    for line in lines:
        print(f"bat {stage}: {one_line(line)}", file=sys.stderr)  # noqa: T201
    return 2
