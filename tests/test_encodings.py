"""Names that are not ASCII, where the terminal or the whole locale is: no traceback, and the same files.

All steps of an encoding run in one process, for the sake of its imports, as if each were a command line of its own.
"""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import by_hand
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from stages import RESULTS, command

from bat.cli import main
from bat.config import SizedModel
from bat.data.dataset import Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.tensors import write_tensors
from bat.models import build

torch.set_num_threads(1)

UTF8 = {"LC_ALL": "C.UTF-8"}
ENCODINGS = {
    "a terminal of ASCII": {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    # as Python was before it took UTF-8 for the C locale
    "nothing but ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
}
RUN = """
import json, os, sys
from bat.cli import main
for name, arguments in json.load(open(sys.argv[1], encoding="utf-8")).items():
    print(f"-- {name}", file=sys.stderr, flush=True)
    try:
        # the bytes that a shell passes on, as this locale reads them
        main([os.fsdecode(text.encode()) for text in arguments])
        print(0)
    except SystemExit as stopped:
        print(stopped.code)
"""
USERS = """
import torch

def model():
    return modèle()

def modèle():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3, bias=False))

class Fails(torch.nn.Module):
    def forward(self, x):
        raise ValueError("échec: 日本")

class Classé(torch.nn.Module):
    def forward(self, x):
        return Classé

def raises():
    raise OSError("日本")
"""
NAMES = ("été", "日本", "c")


def npz(path: Path, **changed: Any) -> None:
    random = np.random.default_rng(0)
    parts = {"train": 60, "test": 30}
    arrays = {f"x_{part}": random.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8) for part, n in parts.items()}
    arrays |= {f"y_{part}": np.arange(n) % 3 for part, n in parts.items()}
    np.savez(path, allow_pickle=True, **arrays | {"class_names": np.array(NAMES)} | changed)


def make(folder: Path) -> None:
    """Write what the steps read: images, a model, and all tables of an experiment."""
    (folder / "données").mkdir()
    npz(folder / "données" / "é.npz")
    npz(folder / "ascii.npz")
    (folder / "base.yaml").write_text("experiment: a")
    npz(folder / "données" / "ü.npz", class_names=np.array(["é", "é", "日"]))
    for part in ("train", "test"):
        for name in ("été", "日本"):
            (folder / "images" / part / name).mkdir(parents=True)
            Image.new("L", (4, 4), 90).save(folder / "images" / part / name / "ü.png")
    (folder / "images" / "train" / "été" / "à.png").write_bytes(b"x")
    x = np.random.default_rng(1).random((6, 1, 4, 4))
    np.savez(folder / "à.npz", x=x, y=np.arange(6) % 3)
    images = Part(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.arange(2), torch.arange(2), pixel_max=255)
    network = build(SizedModel(name="mlp", width=16), images, classes=3, seed=0)
    write_tensors(folder / "lé.safetensors", network.state_dict(), provenance("model"))
    (folder / "own_model.py").write_text(USERS, encoding="utf-8")
    names = by_hand.make(folder)
    by_hand.summarize(folder, names)
    write_data(folder / "data.safetensors", replace(by_hand.data(), class_names=NAMES), provenance("data"))


def steps() -> dict[str, list[str]]:
    folder = Path()
    spec = {"train_samples": "all", "validation_samples": 12, "split_seed": 0}

    def data(kind: str, path: str, out: str = "out/é", **more: Any) -> list[str]:
        plan = {"data": {"name": kind, "path": path} | spec | more, "subsample": 1.0}
        return command("data", folder, spec=plan, data=f"{out}.safetensors", files=f"{out}.parquet", log=f"{out}.log")

    def attack(model: str, **more: str) -> list[str]:
        flags = {"model": model, "data": "à.npz", "norm": "linf", "eps": "0.01", "ensemble": "fast"}
        flags |= {"out": "out/réussi.parquet", "flags": "out/drapeaux-é.parquet"} | more
        return ["attack", *(text for flag, value in flags.items() for text in (f"--{flag}", value))]

    tables = ("summary", "comparisons", "runs", "memorization", "test_groups", "null_pairs", "harmful")
    results = {name: f"{name}.parquet" for name in tables} | {"flags": "all_flags.parquet", "benchmarks": "benchmarks"}
    results |= {"histories": [f"{by_hand.MAIN[0]}-0.history"], "markdown": "out/s.md", "latex": "out/s.tex"}
    gallery = {name: f"{name}.parquet" for name in ("memorization", "train_influence")}
    return {
        "data": data("npz", "ascii.npz", out="out/data"),
        "gallery": command("figures", folder, data="data.safetensors", **gallery, out=["out/gallery.svg"]),
        "results": command("results", folder, spec=RESULTS, **results, page="out/page.md"),
        "schema": command("schema", folder, out="out/schema.yaml"),
        "attack": attack("own_model:model", out="out/attack.parquet", flags="out/flags.parquet", log="attack-é.log"),
        # whose names are not ASCII
        "data é": data("npz", "données/é.npz"),
        "schema é": command("schema", folder, out="out/é.yaml"),
        "attack é": attack("own_model:modèle"),
        "attack by weights é": attack("lé.safetensors", architecture="mlp:16", images="out/xé.safetensors"),
        **{
            f"refused: {name}": arguments
            for name, arguments in {
                "no such data": data("npz", "données/aucun é.npz"),
                "classes of one name": data("npz", "données/ü.npz"),
                "a damaged image": data("image_folder", "images", size=None, colour="rgb", validation_samples=1),
                "a model that fails": attack("own_model:Fails", out="out/x.parquet", flags="out/y.parquet"),
                "a class for logits": attack("own_model:Classé"),
                "a function that fails": attack("own_model:raises"),
                "no such module": attack("modèle:é"),
                "no such file": attack("é.pt"),
                "no such images": attack("own_model:model", data="aucune é.npz"),
                "a flag of another language": [*command("schema", folder, out="out/x.yaml"), "--modèle", "é"],
                "no such stage": ["évaluer"],
                "an output of another format": command("schema", folder, out="out/é.é"),
                "no such configuration": ["plan", "--base", "config é.yaml"],
                "no configuration": ["plan", "--base", "données/é.npz"],
                "no setting": ["plan", "--base", "base.yaml", "--config", "é"],
                "a file for a folder": command("schema", folder, out="à.npz/é.yaml"),
            }.items()
        },
    }


Ran = dict[str, tuple[int, list[str]]]


def run(folder: Path, environment: dict[str, str]) -> tuple[Ran, dict[str, bytes]]:
    """Run all steps; return the status of each with its lines on standard error, and all files written."""
    folder.mkdir()
    make(folder)
    todo = steps()
    (folder / "steps.json").write_text(json.dumps(todo), encoding="utf-8")
    base = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    arguments = [sys.executable, "-c", RUN, "steps.json"]
    done = subprocess.run(arguments, cwd=folder, env=base | environment, capture_output=True, check=False)
    said = done.stderr.decode("utf-8" if environment == UTF8 else "ascii")
    assert done.returncode == 0, said
    told = [text.splitlines()[1:] for text in said.split("-- ")[1:]]
    codes = map(int, done.stdout.split())
    written = {str(path.relative_to(folder)): path.read_bytes() for path in (folder / "out").iterdir()}
    return dict(zip(todo, zip(codes, told, strict=True), strict=True)), written


def check_refusals(found: Ran) -> None:
    for name, (code, lines) in found.items():
        assert code in (0, 2), name
        assert code == 0 or len(lines) == 1, name


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, dict[str, bytes]]:
    return run(tmp_path_factory.mktemp("utf8") / "a", UTF8)


def test_names_that_are_not_ascii_are_used_and_told(expected: tuple[Ran, dict[str, bytes]]) -> None:
    found, written = expected
    check_refusals(found)
    assert {name for name, (code, _) in found.items() if code} == {name for name in found if "refused" in name}
    told = " ".join(line for _, lines in found.values() for line in lines)
    for text in ("données/aucun é.npz", "'é'", "échec: 日本", "Classé", "modèle:é", "é.pt", "--modèle é", "évaluer"):
        assert text in told
    assert {"out/é.safetensors", "out/réussi.parquet", "out/xé.safetensors", "out/page.md"} < written.keys()
    assert "été" in pq.read_table(io.BytesIO(written["out/data.parquet"]))["class_name"].to_pylist()


@pytest.mark.parametrize("name", ENCODINGS)
def test_ascii_alone_is_enough_for_the_same_files(
    name: str, expected: tuple[Ran, dict[str, bytes]], tmp_path: Path
) -> None:
    found, written = run(tmp_path / "a", ENCODINGS[name])
    check_refusals(found)
    # by names that this locale cannot read nothing is written
    whole = "PYTHONUTF8" not in ENCODINGS[name]
    for step, (code, _) in expected[0].items():
        assert found[step][0] == code or (not whole and "é" in step)
    logs = {file for file in expected[1] if file.endswith(".log")}
    ours = {file: content for file, content in expected[1].items() if whole or file.isascii()}
    assert written.keys() == ours.keys()
    assert all(written[file] == content for file, content in ours.items() if file not in logs)


# a name as Latin-1 has it
OTHER = os.fsdecode(b"caf\xe9")
IMAGES = ["--data", "x.npz", "--norm", "linf", "--eps", "0.1"]


@pytest.mark.parametrize(
    ("flag", "arguments"),
    [
        ("out", ["schema", "--out", f"{OTHER}.yaml"]),
        ("out", ["schema", "--out", f"{OTHER}/x.yaml"]),
        ("memorization", ["figures", "--memorization", f"{OTHER}.parquet", "--out", "x.svg"]),
        ("out", ["figures", "--memorization", "x.parquet", "--out", "x.svg", f"{OTHER}.svg"]),
        ("model", ["attack", "--model", f"{OTHER}.pt", *IMAGES, "--out", "x.parquet", "--flags", "y.parquet"]),
        ("flags", ["attack", "--model", "x.pt", *IMAGES, "--out", "x.parquet", "--flags", f"{OTHER}.parquet"]),
    ],
)
def test_a_name_that_is_no_text_is_refused(
    flag: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{flag} caf" in line
    assert "is no text in UTF-8" in line
    assert not list(tmp_path.iterdir())


def test_so_is_a_folder_whose_name_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / OTHER).mkdir()
    monkeypatch.chdir(tmp_path / OTHER)
    with pytest.raises(SystemExit):
        main(["schema", "--out", "x.yaml"])
    assert "--out x.yaml: the name of the file or of its folder is no text" in capsys.readouterr().err
