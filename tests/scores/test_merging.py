"""Shards of several machines joined to one experiment's: as if one machine had trained all models."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from experiments import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from stages import call, rewrite, scores
from stubs import Lines
from worlds import MODELS, World

from bat.cli import main
from bat.config import load
from bat.config.specs import SubsetsSpec, as_json
from bat.io.files import provenance
from bat.io.tables import read_table, read_table_with_facts, rows_with, write_table
from bat.scores.merging import merge

CONFIG = ["--base", str(ROOT / "config/config.yaml"), "--configfile", str(ROOT / "config/smoke.yaml")]
EXPERIMENT = load(CONFIG[1], CONFIG[3])
SIZE = 20
OWN = Path("results/smoke/subsets")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data set where the workflow of config/smoke.yaml has it, and in whole/ the shards of one machine."""
    made = World(tmp_path_factory.mktemp("world"))
    data = made.folder / "results/smoke/data"
    data.mkdir(parents=True)
    for name in ("data.safetensors", "files.parquet"):
        shutil.move(made.folder / name, data)
    for first in range(0, MODELS, SIZE):
        machine(made, made.folder / f"whole/shard-{first // SIZE:03d}.parquet", range(first, first + SIZE))
    return made


@pytest.fixture
def here(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with that data set."""
    shutil.copytree(world.folder / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def machine(world: World, path: Path, numbers: Any, **changed: Any) -> Path:
    """Write what a machine has trained: one file of some models. changed: of its spec."""
    rows = pd.concat([read_table(world.folder / name, "subsets") for name in world.shards])
    spec = (
        json.loads(as_json(SubsetsSpec.of(EXPERIMENT, first_model=min(numbers)))) | {"models": len(numbers)} | changed
    )
    about = provenance("subsets", spec=spec, data=world.data.digest())
    write_table(path, "subsets", rows.set_index("model").loc[list(numbers)].reset_index(), about)
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def refused(capsys: pytest.CaptureFixture[str], here: Path, *shards: Path) -> str:
    """Return the one line with which a merge is refused, that writes nothing."""
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["merge", *CONFIG, "--shards", *map(str, shards)])
    assert stopped.value.code == 2
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before
    return capsys.readouterr().err.splitlines()[-1].partition("merge: ")[2]


@settings(max_examples=20)
@given(st.lists(st.sets(st.integers(0, 3), min_size=1, max_size=2), min_size=MODELS, max_size=MODELS), st.randoms())
def test_models_of_any_machines_in_any_order_are_the_shards_of_one(world: World, where: Any, random: Any) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        patched.chdir(name)
        shutil.copytree(world.folder / "results", "results")
        machines = [[model for model in range(MODELS) if number in where[model]] for number in range(4)]
        files = [machine(world, Path(f"{number}.parquet"), mine) for number, mine in enumerate(machines) if mine]
        random.shuffle(files)
        main(["merge", *CONFIG, "--shards", *map(str, files)])
        assert bytes_of(OWN) == bytes_of(world.folder / "whole")


def test_scores_of_merged_shards_are_those_of_one_run(world: World, here: Path) -> None:
    for folder, ranges in (("a", [(0, 7), (50, 60)]), ("b", [(7, 35)]), ("c", [(30, 50)])):
        for first, last in ranges:
            machine(world, here / folder / f"shard-{first:03d}.parquet", range(first, last))
    main(["merge", *CONFIG, "--shards", "c", "a", "b"])
    tables = []
    for folder in (OWN, world.folder / "whole"):
        inputs = {"data": "results/smoke/data/data.safetensors", "files": "results/smoke/data/files.parquet"}
        call("scores", here, **scores(*sorted(folder.absolute().glob("*.parquet")), **inputs))
        tables.append(bytes_of(here))
    assert len(tables[0]) == 6
    assert tables[0] == tables[1]


def test_what_the_experiment_has_is_joined_and_stays_and_what_is_not_whole_is_left_out(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = machine(world, here / OWN / "shard-001.parquet", range(20, 40))
    before = own.stat().st_mtime_ns
    machine(world, here / "a.parquet", [*range(20), *range(45, 50)])
    main(["merge", *CONFIG, "--shards", "a.parquet"])
    told = capsys.readouterr().err
    assert f"{OWN}: 40 models in 2 shards; the experiment has 40" in told
    assert "models left out: 5, since no shard of 20 has all of its models" in told
    assert own.stat().st_mtime_ns == before
    whole = bytes_of(world.folder / "whole")
    del whole["shard-002.parquet"]
    assert bytes_of(here / OWN) == whole
    main(["merge", *CONFIG, "--shards", str(OWN)])  # its own folder changes nothing
    assert bytes_of(here / OWN) == whole


def test_the_configuration_is_that_of_the_current_folder_with_its_changes(world: World, here: Path) -> None:
    shutil.copytree(ROOT / "config", here / "config")
    machine(world, here / "a.parquet", range(20))
    journal: Any = Lines()
    changed = ["memorization.models_per_shard=10", "memorization.subset_models=30"]
    merge(journal, shards=[Path("a.parquet")], configfile=["config/smoke.yaml"], config=changed)
    assert (journal.bars, journal.worked) == ([(2, "shards")], 1)
    assert journal.lines == [f"{OWN}: 20 models in 2 shards; the experiment has 30"]
    for number in range(2):
        table, facts = read_table_with_facts(OWN / f"shard-00{number}.parquet", "subsets")
        assert table["model"].tolist() == [*range(10 * number, 10 * number + 10)]
        assert (facts["spec"]["first_model"], facts["spec"]["models"]) == (10 * number, 10)


def test_a_shard_may_be_of_one_model(world: World, here: Path) -> None:
    machine(world, here / "a.parquet", range(3))
    journal: Any = Lines()
    given: Any = {"base": CONFIG[1], "configfile": [CONFIG[3]], "config": ["memorization.models_per_shard=1"]}
    for _ in range(2):  # the second time they are there
        merge(journal, shards=[Path("a.parquet")], **given)
    assert journal.lines == [f"{OWN}: 3 models in 3 shards; the experiment has 40"] * 2
    assert read_table(OWN / "shard-002.parquet", "subsets")["model"].tolist() == [2]


def test_a_file_with_the_models_of_many_shards_is_not_read_whole_for_each(
    world: World, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    concat, read = pd.concat, list[int]()

    def counted(tables: list[pd.DataFrame]) -> pd.DataFrame:
        read.append(sum(map(len, tables)))
        return concat(tables)

    path = machine(world, here / "all.parquet", range(MODELS))
    monkeypatch.setattr(pd, "concat", counted)
    journal: Any = Lines()
    given: Any = {"base": CONFIG[1], "configfile": [CONFIG[3]], "config": ["memorization.models_per_shard=2"]}
    merge(journal, shards=[path], **given)
    assert read == [2] * (MODELS // 2)


def test_row_groups_of_other_models_are_not_read(world: World, tmp_path: Path) -> None:
    path = machine(world, tmp_path / "all.parquet", range(MODELS))
    place = pq.read_metadata(path).row_group(3).column(2).data_page_offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(20))
    assert rows_with(path, "model", [3, 5])["model"].tolist() == [3, 5]
    with pytest.raises(OSError, match=r"deserialize|page|Thrift|corrupt"):
        rows_with(path, "model", [3, 25])


def test_the_configuration_alone_will_do(world: World, here: Path) -> None:
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    experiment = load(CONFIG[1])
    (here / "config").mkdir()
    (here / "config/config.yaml").write_text(yaml.safe_dump(config))
    results = here / "results" / experiment.experiment
    shutil.move(here / "results/smoke", results)
    spec = json.loads(as_json(SubsetsSpec.of(experiment, first_model=0))) | {"models": 1}
    about = provenance("subsets", spec=spec, data=world.data.digest())
    rows = read_table(world.folder / "shard-0.parquet", "subsets")
    write_table(here / "one.parquet", "subsets", rows[:1], about)
    journal: Any = Lines()
    merge(journal, shards=[Path("one.parquet")])
    size, models = experiment.memorization.models_per_shard, experiment.memorization.subset_models
    folder = Path("results", experiment.experiment, "subsets")
    assert journal.lines == [
        f"{folder}: 0 models in 0 shards; the experiment has {models}",
        f"models left out: 1, since no shard of {size} has all of its models",
    ]


def test_shards_that_do_not_agree_are_refused(world: World, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = machine(world, here / "a/shard-000.parquet", range(20))
    other = machine(world, here / "b/shard-000.parquet", range(20), seed=5)
    advice = f"leave it out, or move it out of {OWN}"
    not_of = "is not of the configuration and data of experiment smoke"
    assert refused(capsys, here, first, other) == f"{other} {not_of} (spec.seed 0 and 5): {advice}"
    rewrite(first, "subsets", read_table(first, "subsets"), to=other, data="another")
    digest = world.data.digest()
    assert refused(capsys, here, first, other) == f'{other} {not_of} (data "{digest}" and "another"): {advice}'
    changed = read_table(first, "subsets")
    changed.at[3, "p_test"] = np.zeros(9, "<f2").tobytes()
    rewrite(first, "subsets", changed, to=other)
    assert refused(capsys, here, first, other) == (
        f"{first} and {other} have model 3 with another p_test each, as types of CPU can: give one of them"
    )
    third = here / "c.parquet"
    changed.at[3, "p_test"] = np.ones(9, "<f2").tobytes()
    rewrite(first, "subsets", changed, to=third)
    assert refused(capsys, here, first, other, third) == (
        f"{first} and {other} and {third} have model 3 with another p_test each, as types of CPU can: give one of them"
    )
    other.write_bytes(b"no table")
    assert f"{other}: damaged" in refused(capsys, here, first, other)
    (here / "empty").mkdir()
    assert "empty: a folder without any shard-NNN.parquet: give another" in refused(capsys, here, here / "empty")


def test_robust_shards_are_joined_among_their_own(world: World, here: Path) -> None:
    robust = json.loads(as_json(SubsetsSpec.of(EXPERIMENT, first_model=0, robust=True)))
    for name, numbers in (("a", range(7)), ("b", range(7, 20))):
        machine(world, here / f"{name}.parquet", numbers, adversary=robust["adversary"])
    journal: Any = Lines()
    given: Any = {"base": CONFIG[1], "configfile": [CONFIG[3]], "config": ["memorization.robust.subset_models=60"]}
    merge(journal, shards=[Path("a.parquet"), Path("b.parquet")], **given)
    assert journal.lines == ["results/smoke/robust_subsets: 20 models in 1 shards; the experiment has 60"]
    expected = machine(world, here / "whole.parquet", range(20), adversary=robust["adversary"])
    assert {path.name for path in (here / "results/smoke").iterdir()} == {"data", "robust_subsets"}
    assert (here / "results/smoke/robust_subsets/shard-000.parquet").read_bytes() == expected.read_bytes()


def test_own_shards_of_another_size_are_not_overwritten(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = machine(world, here / OWN / "shard-000.parquet", range(40))
    other = machine(world, here / "a.parquet", range(40, 60))
    assert refused(capsys, here, other) == (
        f"{OWN / own.name} has 40 models from 0 on, and memorization.models_per_shard is 20: move it out of {OWN} and "
        "name it in --shards"
    )


def test_own_shards_of_another_number_are_not_overwritten(
    world: World, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, numbers in (("shard-000", range(20, 40)), ("shard-001", [*range(20, 39), 41])):
        own = machine(world, here / OWN / f"{name}.parquet", numbers)
        other = machine(world, here / "a.parquet", range(40, 60))
        assert refused(capsys, here, other) == (
            f"{OWN / own.name} has 20 models from 20 on, and memorization.models_per_shard is 20: move it out of {OWN} "
            "and name it in --shards"
        )
        own.unlink()


def test_the_data_comes_first(here: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(here / "results")
    path = machine(world, here / "a.parquet", range(20))
    assert "results/smoke/data/data.safetensors: no such file" in refused(capsys, here, path)
