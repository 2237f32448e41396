"""The command line around stages that are made up: what it declares, checks, hands over and tells."""

import importlib
import os
import re
import shlex
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from pydantic import Field
from refusals import refusal

import bat
from bat import cli
from bat.cli import STAGES, Flag, declared, example, main, parser
from bat.config.specs import HarmfulSpec
from bat.errors import BatError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line sets in the environment is forgotten after a test."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


class Called:
    """Stands for stage harmful, and keeps what it is called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, does: Any = lambda journal: None) -> None:
        self.given: dict[str, Any] = {}

        def harmful(journal: Any, *, spec: HarmfulSpec, memorization: Path, records: list[Path], harmful: Path) -> None:
            self.given = {"spec": spec, "memorization": memorization, "records": records, "harmful": harmful}
            self.threads = [os.environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
            does(journal)

        self.imported: list[str] = []
        stage = SimpleNamespace(harmful=harmful)
        monkeypatch.setattr(importlib, "import_module", lambda name: self.imported.append(name) or stage)


def harmful(folder: Path, **changed: Any) -> list[str]:
    """Return the arguments of stage harmful; None leaves one out."""
    usual: dict[str, Any] = {
        "spec": '{"threshold": 0.5}',
        "memorization": folder / "m.parquet",
        "records": [folder / "r1", folder / "r2"],
        "harmful": folder / "h.parquet",
    }
    flags = [(name, value) for name, value in (usual | changed).items() if value is not None]
    return ["harmful", *(text for name, value in flags for text in (f"--{name}", *map(str, listed(value))))]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def ends(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Call the command line, which must end the process; return its status and what it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code, capsys.readouterr().err


# -- declared


def test_a_stage_is_declared_by_its_signature_and_its_docstring() -> None:
    summary, about, flags = declared("train")
    assert summary == (
        "Train one method with one seed; write the weights of best and last epoch, and the records of all epochs"
    )
    assert about.startswith(f"{summary}.\n\nGroups of samples are formed by stage groups, so that only methods that")
    assert about.endswith("and at SIGTERM.")
    assert flags == (
        Flag("spec", "value", False, True, None, "parameters of the stage, a JSON object"),
        Flag("data", "file", False, True, None, "the data set, from stage data"),
        Flag(
            "memorization",
            "file",
            False,
            False,
            None,
            "memorization.parquet, for methods that read a score, and runs without some samples",
        ),
        Flag("harmful", "file", False, False, None, "harmful.parquet, for runs without harmful or benign samples"),
        Flag("hardest", "file", False, False, None, "hardest.parquet, for runs without the hardest samples"),
        Flag(
            "robust_memorization",
            "file",
            False,
            False,
            None,
            "robust_memorization.parquet, for methods that score by it",
        ),
        Flag("proxies", "file", False, False, None, "proxies.parquet, for methods that score by one of them"),
        Flag("best", "Safetensors", False, True, None, "weights of the best epoch"),
        Flag("last", "Safetensors", False, True, None, "weights of the last epoch"),
        Flag("records", "Parquet", False, True, None, "one row per epoch, with packed values of each sample"),
        Flag(
            "checkpoint_minutes",
            "value",
            False,
            False,
            10,
            "minutes after which an epoch's end is kept, for a killed run to resume there (default: 10)",
        ),
        Flag(
            "device",
            "text",
            False,
            False,
            "auto",
            "cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)",
        ),
    )


def test_lists_texts_and_descriptions_of_several_lines() -> None:
    flags = {flag.name: flag for flag in declared("groups")[2]}
    assert flags["records"] == Flag(
        "records", "file", True, True, None, "records.parquet of each run, from stage train"
    )
    assert flags["samples"] == Flag(
        "samples",
        "Parquet",
        True,
        True,
        None,
        "one row per epoch and atypical training sample, of the same runs in the same order",
    )
    figures = {flag.name: flag for flag in declared("figures")[2]}
    assert (figures["histories"].many, figures["histories"].required, figures["out"].kind) == (True, False, "Picture")
    attack = {flag.name: flag for flag in declared("attack")[2]}
    assert attack["model"].kind == "file"
    assert attack["model"].help.endswith("Or, with --architecture, a safetensors file of weights")
    assert (attack["architecture"].kind, attack["architecture"].required) == ("text", False)
    assert attack["eps"].kind == "value"
    assert attack["batch_size"].help == "images in one forward pass (default: 256)"


def test_a_stage_of_two_words_is_a_function_of_one_name() -> None:
    summary, _, flags = declared("null-pairs")
    assert summary
    assert "null_pairs" in {flag.name for flag in flags}


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_raised_stands_in_no_help(stage: str) -> None:
    summary, about, flags = declared(stage)
    assert not summary.endswith(".")
    assert "Raises" not in about
    assert not re.search(r"^\w+: ", about, re.MULTILINE)
    assert all(flag.help for flag in flags)


@pytest.mark.parametrize("stage", STAGES)
def test_help_ends_with_an_example_that_is_understood(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([stage, "--help"])
    shown = capsys.readouterr().out.partition("\n\nExample:\n\n")[2]
    assert textwrap.dedent(shown).strip() == example(stage)
    words = shlex.split(example(stage).replace("\\\n", ""), comments=True)
    if words[0] == "bat":
        assert parser().parse_args(words[1:]).stage == stage
        return
    rules = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))
    rule = stage.replace("-", "_")
    assert re.search(rf"^ *(use )?rule .*\b{rule}\b.*:$", rules, re.MULTILINE)
    assert words[:7] == ["snakemake", "-n", "--printshellcmds", "--forcerun", rule, "--until", rule]
    assert not words[7:] or words[7] == "--configfile"
    assert all((ROOT / file).exists() for file in words[8:])


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("null-pairs", "--forcerun null_pairs --until null_pairs"),
        ("harmful", "--forcerun harmful --until harmful --configfile config/digits_full.yaml"),
    ],
)
def test_a_stage_without_an_example_has_the_calls_of_the_workflow(stage: str, words: str) -> None:
    calls = "# the workflow's own calls, to copy and change\nsnakemake -n --printshellcmds "
    assert example(stage) == f"{calls}{words}"


# -- parser


def test_the_parser_has_the_flags_of_the_stages_that_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    found = parser(["harmful"]).parse_args(
        [*harmful(Path("x"), spec=1, memorization=2, records=[3, 4], harmful=5), "--log", "6", "--threads", "7"]
    )
    assert vars(found) == {
        "stage": "harmful",
        "spec": "1",
        "memorization": "2",
        "records": ["3", "4"],
        "harmful": "5",
        "log": "6",
        "threads": 7,
    }
    required = ("spec", "data", "best", "last", "records")
    least = parser(["train"]).parse_args(["train", *(text for name in required for text in (f"--{name}", "1"))])
    assert (least.checkpoint_minutes, least.memorization, least.log, least.threads) == (10, None, None, 1)
    assert least.device == "auto"
    with pytest.raises(SystemExit) as stopped:
        parser(["harmful"]).parse_args(["train"])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line == "bat: argument STAGE: invalid choice: 'train' (choose from 'harmful'): see bat --help\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "bat: the following arguments are required: STAGE: see bat --help"),
        (
            ["harmful", "--spec", "1"],
            "bat harmful: the following arguments are required: --memorization, --records, --harmful: see bat harmful "
            "--help",
        ),
        (
            ["harmful", "--threads", "a\nb"],
            "bat harmful: argument --threads: invalid int value: 'a\\nb': see bat harmful --help",
        ),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(arguments, capsys) == (2, f"{message}\n")


def test_help_names_all_stages_and_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: bat [-h] [--version] STAGE ...\n\nMemorization in adversarial training: scores, ")
    assert "\nExamples:\n\n  bat plan --configfile config/smoke.yaml " in text
    assert all(re.search(rf"\n    {stage}\s", text) for stage in STAGES)
    assert " ".join(text.split()).count(declared("groups")[0]) == 1


def test_help_of_a_stage_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: bat train [-h] --spec SPEC")
    assert f"\n{declared('train')[1]}\n" in text
    assert "  --log LOG             file for the log; standard error without it\n" in text
    assert "  --threads THREADS     CPU threads (default: 1)\n" in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"{bat.__version__}\n"


def test_a_percent_sign_in_a_description_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = Flag("x_y", "text", False, False, None, "a share of 5 %s")
    monkeypatch.setattr(cli, "declared", lambda stage: ("summary", "about", (flag,)))
    with pytest.raises(SystemExit):
        parser(["data"]).parse_args(["data", "--help"])
    assert "--x-y X_Y    " in (text := capsys.readouterr().out)
    assert "a share of 5 %s\n" in text


# -- a stage that is called


def test_a_stage_is_called_with_what_its_flags_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Called(monkeypatch, lambda journal: journal.line("said"))
    log = tmp_path / "logs" / "deep" / "a.log"
    monkeypatch.setenv("BAT_OTHER", "as it was")
    main(harmful(tmp_path, log=log, threads=2))
    assert os.environ["BAT_OTHER"] == "as it was"
    assert stage.imported == ["bat.training.stage"]
    assert stage.given == {
        "spec": HarmfulSpec(threshold=0.5),
        "memorization": tmp_path / "m.parquet",
        "records": [tmp_path / "r1", tmp_path / "r2"],
        "harmful": tmp_path / "h.parquet",
    }
    assert stage.threads == ["2", "2"]
    first, last = log.read_text().splitlines()
    assert first.endswith(" harmful: said")
    assert re.search(r" harmful: CPU time [\d.]+ s, of which work [\d.]+ s; largest memory \d+ MB$", last)


def test_a_stage_of_two_words_gets_what_its_signature_allows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []

    def null_pairs(journal: Any, *, spec: Annotated[int, Field(ge=1)], **files: Any) -> None:
        called.append(spec)

    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(null_pairs=null_pairs))
    flags = [flag for flag in declared("null-pairs")[2] if flag.required and flag.name != "spec"]
    files = [text for flag in flags for text in (f"--{flag.name.replace('_', '-')}", f"{flag.name}.parquet")]
    main(["null-pairs", *files, "--spec", "1"])
    assert called == [1]
    status, said = ends(["null-pairs", *files, "--spec", "0"], capsys)
    assert (status, called) == (2, [1])
    assert " null-pairs: --spec: " in said


def test_the_arguments_of_the_process_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Called(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["bat", *harmful(tmp_path)])
    main()
    assert stage.given["memorization"] == tmp_path / "m.parquet"


def test_only_the_source_of_the_named_stage_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Called(monkeypatch)
    asked, of = [], cli.parser
    monkeypatch.setattr(cli, "parser", lambda stages: asked.append(list(stages)) or of(stages))
    monkeypatch.setattr(sys, "argv", ["bat", *harmful(tmp_path)])
    main()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert asked == [["harmful"], list(STAGES)]


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Called(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    main(harmful(tmp_path, memorization="~/x", records=["~/y", "z"]))
    assert stage.given["memorization"] == tmp_path / "x"
    assert stage.given["records"] == [tmp_path / "y", Path("z")]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threads": 0}, "--threads 0: give a whole number from 1 to {most}"),
        ({"threads": 100_000}, "--threads 100000: give a whole number from 1 to {most}"),
        ({"memorization": "a\0b"}, "--memorization: a path cannot hold the character 0"),
        ({"records": ["a", "b\0"]}, "--records: a path cannot hold the character 0"),
        ({"log": "\0"}, "--log: a path cannot hold the character 0"),
        (
            {"memorization": "~nobody-at-all/x"},
            "--memorization ~nobody-at-all/x: no such user: give the whole path, or ./~nobody-at-all/x where a name "
            "begins with ~",
        ),
        ({"harmful": "x.csv"}, "--harmful x.csv: give a name that ends in .parquet, as its format is"),
        ({"harmful": "{m}"}, "--harmful and --memorization are both {m}: give each its own file"),
        ({"log": "{h}"}, "--log and --harmful are both {h}: give each its own file"),
        ({"log": "{r}"}, "--log and --records are both {r}: give each its own file"),
        (
            {"memorization": "\udcff"},
            "--memorization \\udcff: the name of the file or of its folder is no text in UTF-8: rename it, or set a "
            "locale of UTF-8, as LC_ALL=C.UTF-8",
        ),
        ({"log": "{folder}"}, "--log {folder}: is a folder: give the name of a file"),
    ],
)
def test_files_are_checked_before_work_starts(
    changed: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = Called(monkeypatch)
    names = {"m": tmp_path / "m.parquet", "h": tmp_path / "h.parquet", "r": tmp_path / "r2", "folder": tmp_path}
    most = max(256, os.cpu_count() or 1)
    given = {name: value.format(**names) if isinstance(value, str) else value for name, value in changed.items()}
    status, said = ends(harmful(tmp_path, **given), capsys)
    assert (status, said) == (2, f"bat harmful: {message.format(most=most, **names)}\n")
    assert stage.imported == []
    assert list(tmp_path.iterdir()) == []


def test_an_input_may_be_given_twice_and_images_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Called(monkeypatch)
    main(harmful(tmp_path, records=[tmp_path / "r", tmp_path / "r"]))
    assert stage.given["records"] == [tmp_path / "r"] * 2
    options = {flag.name: None for flag in declared("attack")[2]}
    named = options | {"model": "m", "data": "\udcff", "architecture": "~", "out": str(tmp_path / "o.parquet")}
    checked = cli._checked("attack", named, None, 1)
    assert (checked["data"], checked["model"], checked["flags"]) == (Path("\udcff"), Path("m"), None)
    assert checked["architecture"] == "~"
    assert refusal(cli._checked, "attack", options | {"model": "\udcff"}, None, 1).startswith(
        "--model \\udcff: the name"
    )


@pytest.mark.parametrize("path", ["a\0", "\udcff", "~nobody-at-all"])
def test_a_flag_of_two_words_is_told_as_it_is_given(path: str) -> None:
    options = {flag.name: None for flag in declared("train")[2]} | {"robust_memorization": path}
    assert refusal(cli._checked, "train", options, None, 1).startswith("--robust-memorization")


@pytest.mark.parametrize(("cpus", "most"), [(3, 256), (300, 300), (None, 256)])
def test_as_many_threads_as_there_are_processors(cpus: int | None, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    options = {flag.name: None for flag in declared("harmful")[2]}
    for number in (1, most):
        cli._checked("harmful", dict(options), None, number)
    message = refusal(cli._checked, "harmful", dict(options), None, most + 1)
    assert message == f"--threads {most + 1}: give a whole number from 1 to {most}"


TYPES = {"standard_error": float | None, "device": str}


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7.0), ("-7", -7.0), ("+7", 7.0), ("0.5", 0.5), ("1e-3", 0.001), (".5", 0.5), ("9" * 30, float("9" * 30))],
)
def test_numbers_are_read_as_they_are_written(text: str, value: float) -> None:
    options = {flag.name: flag.default for flag in declared("plan")[2]} | {"standard_error": text}
    assert cli._values("plan", options, TYPES)["standard_error"] == value


def test_whole_numbers_stay_whole() -> None:
    options = {flag.name: flag.default for flag in declared("attack")[2]} | {
        "batch_size": f"{2**53 + 1}",
        "eps": "1",
    }
    types = {"batch_size": Annotated[int, Field(ge=1)], "eps": float}
    found = cli._values("attack", dict(options), types)
    assert (found["batch_size"], found["eps"], found["seed"], found["ensemble"]) == (2**53 + 1, 1.0, 0, "standard")
    assert type(found["batch_size"]) is int
    message = refusal(cli._values, "attack", options | {"batch_size": "1.5"}, types)
    assert message.startswith("--batch-size 1.5: ")
    assert refusal(cli._values, "attack", options | {"batch_size": "x"}, types) == "--batch-size x: give a number"


def test_a_wrong_spec_is_told_in_the_log_and_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, log = Called(monkeypatch), tmp_path / "log"
    status, said = ends(harmful(tmp_path, spec='{"threshold": 2}', log=log), capsys)
    assert status == 2
    assert said.startswith("bat harmful: --spec: threshold")
    assert said.removeprefix("bat harmful: ").strip() in log.read_text()
    assert stage.given == {}


# -- errors


def fails(error: BaseException) -> Any:
    def does(journal: Any) -> None:
        raise error

    return does


@pytest.mark.parametrize("with_log", [True, False])
def test_an_expected_error_is_one_line_and_status_2(
    with_log: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Called(monkeypatch, fails(BatError("this\nis wrong")))
    log = tmp_path / "log"
    status, said = ends(harmful(tmp_path, log=log if with_log else None), capsys)
    assert status == 2
    if with_log:
        assert said == "bat harmful: this\\nis wrong\n"
        assert log.read_text().endswith(" harmful: this\\nis wrong\n")
        assert len(log.read_text().splitlines()) == 1
    else:
        assert said.endswith(" harmful: this\\nis wrong\n")
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("with_log", [True, False])
@pytest.mark.parametrize(
    ("stage", "hint"), [("harmful", ""), ("train", "training.recipe.batch_size or compute.micro_batch")]
)
def test_memory_that_does_not_suffice_is_one_line(
    stage: str,
    hint: str,
    with_log: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(cli._MEMORY, "harmful", hint)
    if not hint:
        monkeypatch.delitem(cli._MEMORY, "harmful")
    Called(monkeypatch, fails(MemoryError("a" * 300)))
    log = tmp_path / "log"
    status, said = ends(harmful(tmp_path, log=log if with_log else None), capsys)
    lower = f"lower {hint}, or " if hint else ""
    line = f"harmful: out of memory: {lower}give the job more (MemoryError: {'a' * 197}...)\n"
    assert status == 2
    assert said.endswith(line)
    assert len(said.splitlines()) == 1
    if with_log:
        assert said == f"bat {line}"
        assert log.read_text().endswith(f" {line}")


def test_an_unexpected_error_leaves_its_traceback_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Called(monkeypatch, fails(KeyError("what")))
    with pytest.raises(KeyError, match="what"):
        main(harmful(tmp_path, log=tmp_path / "log"))
    text = (tmp_path / "log").read_text()
    assert " harmful: stopped by an unexpected error\nTraceback (most recent call last):" in text
    assert "KeyError: 'what'" in text
    capsys.readouterr()
    with pytest.raises(KeyError, match="what"):
        main(harmful(tmp_path))
    said = capsys.readouterr().err
    assert said.endswith(" harmful: stopped by an unexpected error\n")
    assert "Traceback" not in said


def test_an_error_of_the_disk_is_an_expected_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Called(monkeypatch, fails(OSError(28, "No space left on device", "x")))
    status, said = ends(harmful(tmp_path), capsys)
    assert status == 2
    assert said.endswith(" harmful: x: No space left on device: make room, or see to the rights of its folder\n")


def test_a_log_that_cannot_be_opened_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Called(monkeypatch)

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fails)
    log = tmp_path / "log"
    assert ends(harmful(tmp_path, log=log), capsys) == (
        2,
        f"bat harmful: {log}: cannot be written ([Errno 13] Permission denied): choose another log\n",
    )
    assert stage.imported == []


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_process_that_is_told_to_stop_says_so_by_its_status(
    error: BaseException,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Called(monkeypatch, fails(error))
    assert ends(harmful(tmp_path), capsys) == (status, "")


def test_output_that_nobody_reads_ends_the_process_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Called(monkeypatch, fails(BrokenPipeError()))
    turned: list[tuple[int, int]] = []
    opened = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *how: 77 if (path, *how) == (os.devnull, os.O_WRONLY) else opened(path, *how)
    )
    monkeypatch.setattr(os, "dup2", lambda one, other: turned.append((one, other)))
    monkeypatch.setattr(sys.stdout, "fileno", lambda: 55, raising=False)
    assert ends(harmful(tmp_path), capsys) == (141, "")
    assert turned == [(77, 55)]
