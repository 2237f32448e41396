"""Released scores in their true layouts, against loops over the samples; and what is refused."""

import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal
from stubs import Lines, named, written

import bat.io.given
from bat.cli import main
from bat.config.specs import ImportScoresSpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import KEY, provenance
from bat.io.schemas import SCHEMAS
from bat.scores.importing import import_scores as stage
from bat.scores.names import SourceFiles, read_names, source_files, with_names
from bat.scores.released import (
    Influence,
    Released,
    check_released_labels,
    read_released,
    released_influence,
    released_memorization,
)

CLASSES, TRAINING, TESTS = 3, 60, 24
THRESHOLD = 0.15
TABLES = ["memorization", "influence", "train_influence", "test_groups", "validation_groups"]

random = np.random.default_rng(0)
TRAIN_LABELS = random.permutation(np.arange(TRAINING) % CLASSES)
TEST_LABELS = random.permutation(np.arange(TESTS) % CLASSES)
MEMORIZATION = random.uniform(-0.05, 1, TRAINING).astype(np.float32)
INFLUENCE = random.uniform(-0.2, 0.5, (TESTS, TRAINING)).astype(np.float32)


def part(index, labels):
    index = np.sort(index)
    pixels = torch.zeros(len(index), 1, 4, 4, dtype=torch.uint8)
    return Part(pixels, torch.tensor(labels[index]), torch.tensor(index), 255)


def data_set(train=50, validation=7, tests=20):
    """A data set with its own test file, of which some samples are not used."""
    random = np.random.default_rng(1)
    order, tests = random.permutation(TRAINING), random.permutation(TESTS)[:tests]
    parts = part(order[:train], TRAIN_LABELS), part(order[train : train + validation], TRAIN_LABELS)
    return DataSet(*parts, part(tests, TEST_LABELS), CLASSES)


# -- the layouts


def feldman_zhang(**changed):
    """As cifar100_infl_matrix.npz: the rows of a block are in the order of its index, here a shuffled one."""
    arrays = {"tr_mem": MEMORIZATION, "tr_labels": TRAIN_LABELS, "tt_labels": TEST_LABELS}
    shuffle = np.random.default_rng(2)
    for label in range(CLASSES):
        rows = shuffle.permutation(np.flatnonzero(label == TRAIN_LABELS))
        columns = shuffle.permutation(np.flatnonzero(label == TEST_LABELS))
        arrays |= {f"tr_classidx_{label}": rows, f"tt_classidx_{label}": columns}
        arrays[f"infl_matrix_class{label}"] = INFLUENCE.T[np.ix_(rows, columns)]
    return {name: array for name, array in (arrays | changed).items() if array is not None}


def without_test_index():
    blocks = {f"tt_classidx_{label}": None for label in range(CLASSES)}
    for label in range(CLASSES):
        rows = feldman_zhang()[f"tr_classidx_{label}"]
        blocks[f"infl_matrix_class{label}"] = INFLUENCE.T[np.ix_(rows, np.flatnonzero(label == TEST_LABELS))]
    return feldman_zhang(**blocks)


def plain(**changed):
    arrays = {"memorization": MEMORIZATION, "influence": INFLUENCE, "labels": TRAIN_LABELS, "test_labels": TEST_LABELS}
    return {name: array for name, array in (arrays | changed).items() if array is not None}


def cscores(**changed):
    return {"labels": TRAIN_LABELS, "scores": 1 - np.maximum(MEMORIZATION, 0)} | changed


def table(**changed):
    frame = pd.DataFrame({"train_index": np.arange(TRAINING), "memorization": MEMORIZATION, "label": TRAIN_LABELS})
    return frame.sample(frac=1, random_state=0).assign(**changed)


def npz(path, arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path / "data.safetensors", data_set(), provenance("data"))
    named(tmp_path / "files.parquet", data_set())
    return tmp_path


def import_scores(folder, file, layout, threshold=THRESHOLD):
    """Run the stage and return its tables and log."""
    flags = {"spec": json.dumps({"format": layout, "threshold": threshold}), "data": folder / "data.safetensors"}
    flags |= {"files": folder / "files.parquet", "scores": file, "top": folder / "top.csv", "log": folder / "log"}
    flags |= {name.replace("_", "-"): folder / f"{name}.parquet" for name in TABLES}
    main(["import-scores", *(str(text) for name, value in flags.items() for text in (f"--{name}", value))])
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}, (folder / "log").read_text()


def expected_pairs(data, threshold=THRESHOLD):
    """Pairs of an atypical training sample and a test sample of its class, by loops."""
    return {
        (int(i), int(j)): INFLUENCE[j, i]
        for i in data.train.index
        for j in data.test.index
        if MEMORIZATION[i] > threshold and TRAIN_LABELS[i] == TEST_LABELS[j]
    }


@pytest.mark.parametrize(
    ("layout", "arrays"),
    [
        ("feldman_zhang", feldman_zhang()),
        ("feldman_zhang", without_test_index()),
        ("npz", plain()),
        ("npz", plain(labels=None, test_labels=None)),
    ],
    ids=["feldman_zhang", "without index of tests", "npz", "npz without labels"],
)
def test_a_release_with_influence_becomes_the_tables_of_stage_1(folder, layout, arrays):
    tables, log = import_scores(folder, npz(folder / "released.npz", arrays), layout)
    data = data_set()
    index = data.train.index.numpy()
    scores = tables["memorization"]
    assert scores["train_index"].tolist() == index.tolist()
    assert scores["label"].tolist() == TRAIN_LABELS[index].tolist()
    assert scores["class_name"].tolist() == [f"class {label}" for label in scores["label"]]
    assert scores["file"].tolist() == [f"train/{place}.png" for place in index]
    top = pd.read_csv(folder / "top.csv")
    assert top["memorization"].tolist() == pytest.approx(sorted(scores["memorization"], reverse=True), abs=5e-5)
    assert tables["test_groups"]["file"].tolist() == [f"test/{place}.png" for place in data.test.index]
    np.testing.assert_array_equal(scores["memorization"], MEMORIZATION[index].astype(float))
    np.testing.assert_array_equal(scores["atypical"], MEMORIZATION[index] > THRESHOLD)
    assert scores[["standard_error", "ci_low", "ci_high", "p_in", "p_out"]].isna().all(axis=None)
    assert (scores[["n_in", "n_out"]] == 0).all(axis=None)

    pairs = expected_pairs(data)
    strong = {pair: value for pair, value in pairs.items() if value > THRESHOLD}
    found = tables["influence"]
    assert {(row.train_index, row.test_index): np.float32(row.influence) for row in found.itertuples()} == strong
    assert (found["label"] == TRAIN_LABELS[found["train_index"]]).all()
    assert found["significant"].all()
    assert found[["standard_error", "p_value"]].isna().all(axis=None)
    assert found.equals(found.sort_values(["train_index", "test_index"]))

    groups = tables["test_groups"]
    assert groups["test_index"].tolist() == data.test.index.tolist()
    assert groups["label"].tolist() == data.test.labels.tolist()
    for row in groups.itertuples():
        influences = {i: value for (i, j), value in pairs.items() if j == row.test_index}
        assert row.atypical == (max(influences.values()) > THRESHOLD)
        assert np.float32(row.max_influence) == max(influences.values())
        assert row.max_influence_train_index == max(influences, key=influences.get)
        assert row.memorization == MEMORIZATION[row.max_influence_train_index]
    assert groups["atypical"].sum() > 0
    assert groups["accuracy"].isna().all()
    assert (groups["models"] == 0).all()

    validation = tables["validation_groups"]
    assert validation["validation_index"].tolist() == data.validation.index.tolist()
    assert not validation["atypical"].any()
    assert validation[["max_influence", "max_influence_train_index"]].isna().all(axis=None)
    assert tables["train_influence"].empty
    assert "validation samples are training samples of the file" in log
    assert ("no labels" in log) == ("labels" not in arrays and layout == "npz")
    for name in TABLES:
        assert list(tables[name]) == SCHEMAS[name].names


def test_c_scores_stand_for_memorization_and_have_no_influence(folder):
    tables, log = import_scores(folder, npz(folder / "released.npz", cscores()), "cscores")
    index = data_set().train.index.numpy()
    expected = np.maximum(MEMORIZATION[index], 0)
    np.testing.assert_allclose(tables["memorization"]["memorization"], expected, atol=1e-7)
    assert tables["influence"].empty
    assert not tables["test_groups"]["atypical"].any()
    assert "no test sample can be called atypical" in log


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_users_table_may_be_in_any_order_and_lack_labels_and_validation_samples(folder, ending):
    data = data_set()
    rows = table().drop(columns="label")
    rows = rows[~rows["train_index"].isin(data.validation.index.numpy())]
    file = folder / f"own.{ending}"
    # the index as pandas users like to have it
    rows.set_index("train_index").to_parquet(file) if ending == "parquet" else rows.to_csv(file, index=False)
    tables, log = import_scores(folder, str(file), "table")
    np.testing.assert_allclose(tables["memorization"]["memorization"], MEMORIZATION[data.train.index], atol=1e-7)
    assert "no labels of training samples" in log


def by_file(**changed):
    """A table that names files in place of train_index, of all samples that the data set takes."""
    data = data_set()
    place = {
        f"{name}/{index}.png": index for name in ("train", "validation") for index in data.parts()[name].index.tolist()
    }
    frame = pd.DataFrame({"file": [*place], "memorization": MEMORIZATION[[*place.values()]]})
    return frame.assign(train_index=[*place.values()], **changed)


@pytest.fixture
def drawn(folder):
    """The same data set as a draw of a source of 60 and 24 samples."""
    source = {"train": TRAINING, "test": TESTS, "own_test": True}
    write_data(folder / "data.safetensors", data_set(), provenance("data", source=source))
    return folder


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("columns", [["file", "memorization"], ["memorization", "train_index", "file"]])
def test_a_users_table_may_name_files(drawn, ending, columns):
    # those of a test sample, and of what the data set does not take, are left out
    files = ["test/0.png", "a;b.png", *(f"{number}.png" for number in range(6))]
    others = pd.DataFrame({"file": files, "memorization": 0.5, "train_index": range(8)})
    rows = pd.concat([by_file().sample(frac=1, random_state=1), others])[columns]
    file = drawn / f"own.{ending}"
    rows.to_parquet(file) if ending == "parquet" else rows.to_csv(file, index=False, sep=";")
    tables, _ = import_scores(drawn, str(file), "table")
    np.testing.assert_allclose(tables["memorization"]["memorization"], MEMORIZATION[data_set().train.index], atol=1e-7)


def twice(rows):
    return pd.concat([rows, rows[3:4]])


def swapped(rows):
    return rows.assign(file=np.roll(rows["file"], 1))


def unknown(rows):
    return pd.concat([rows, *(rows[:1].assign(file=f"cat {k}.png") for k in range(8))])


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        (twice, ["file"], "file train/{3}.png is there twice: give each sample one row"),
        (
            unknown,
            ["file"],
            "file cat 0.png is not of the data set (8 of 65 are not): write names as data/files.parquet",
        ),
        (swapped, ["file", "train_index"], "has train_index {0}, but {56} in the data set; 57 of 57 differ: leave out"),
        (lambda rows: rows[1:], ["file"], "has no score of training sample {0}"),
        (lambda rows: rows.assign(file=7), ["file"], "column file holds int64: need names of files, none missing"),
        (lambda rows: rows.assign(file=[None, *rows["file"][1:]]), ["file"], "1 of them missing: need names"),
    ],
)
def test_a_table_whose_files_are_not_those_of_the_data_set_is_refused(drawn, change, columns, message, capsys):
    change(by_file())[["memorization", *columns]].to_parquet(drawn / "own.parquet")
    with pytest.raises(SystemExit):
        import_scores(drawn, str(drawn / "own.parquet"), "table")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{drawn / 'own.parquet'}: " in line
    assert message.format(*by_file()["train_index"]) in line


def test_where_test_samples_are_of_the_training_part_no_file_is_unknown_to_the_source():
    split = [("train", 0), ("train", 3), ("validation", 1), ("test", 2)]
    names = pd.DataFrame({"file": ["a", "b", "c", "d"]}, index=pd.MultiIndex.from_tuples(split))
    names.index.names = ["split", "index"]
    place, others = source_files(names, {"train": 4, "test": 4, "own_test": False})
    assert (place.to_dict(), others) == ({"a": 0, "b": 3, "c": 1, "d": -1}, 0)
    assert source_files(names, {"train": 9, "test": 9, "own_test": False}).others == 5
    # a test part of its own, whose index begins at 0 again, whether or not one of its samples has that of another
    for index in (0, 2):
        apart = names.set_axis(pd.MultiIndex.from_tuples([*split[:3], ("test", index)], names=names.index.names))
        assert source_files(apart, {"train": 4, "test": 2, "own_test": True}).others == 2


def test_names_are_those_of_the_data_set_by_split_and_index(folder):
    files, digest = folder / "files.parquet", data_set().digest()
    names = read_names(files, data=("data", digest))
    validation = data_set().validation
    table = pd.DataFrame({"place": validation.index.numpy()[::-1]}, index=range(5, 12))
    found = with_names(table, names, "validation")
    assert found.columns.tolist() == ["place", "class_name", "file"]
    assert found["class_name"].tolist() == [f"class {label}" for label in validation.labels.tolist()[::-1]]
    assert found["file"].tolist() == [f"validation/{index}.png" for index in validation.index.tolist()[::-1]]
    assert refusal(lambda: read_names(files, data=("data", "another"))) == (
        f"data and {files} are of different data: remove the one that is out of date, and run its stage again"
    )


def test_a_table_of_files_needs_a_data_set_that_has_some(drawn):
    names = written(drawn / "files.parquet", "files", {"data": data_set().digest()}, split=["train"], file=[None])
    assert names.exists()
    by_file()[["file", "memorization"]].to_parquet(drawn / "own.parquet")
    sizes = {"train": 1, "test": 0, "own_test": True}
    files = source_files(read_names(names, data=("data", data_set().digest())), sizes)
    line = refusal(read_released, str(drawn / "own.parquet"), "table", files)
    assert "has no column train_index, and the samples of the data set have no files: add it" in line


def test_this_projects_own_table_can_be_brought_back(folder):
    before, _ = import_scores(folder, npz(folder / "released.npz", plain()), "npz")
    (folder / "memorization.parquet").rename(folder / "own.parquet")
    after, _ = import_scores(folder, str(folder / "own.parquet"), "table")
    pd.testing.assert_frame_equal(after["memorization"], before["memorization"])


def test_a_missing_score_is_nan_and_not_atypical(folder):
    index = int(data_set().train.index[4])
    scores = MEMORIZATION.copy()
    scores[index] = np.nan
    table_of, log = import_scores(folder, npz(folder / "released.npz", plain(memorization=scores)), "npz")
    row = table_of["memorization"].set_index("train_index").loc[index]
    assert np.isnan(row["memorization"])
    assert not row["atypical"]
    assert "1 have no score" in log


def test_no_atypical_sample_leaves_tables_with_their_columns(folder):
    tables, log = import_scores(folder, npz(folder / "released.npz", plain()), "npz", threshold=0.999)
    assert not tables["memorization"]["atypical"].any()
    assert tables["influence"].empty
    assert "no test sample is atypical" in log


def test_tables_carry_the_file_and_the_threshold(folder):
    import_scores(folder, npz(folder / "released.npz", plain()), "npz")
    for name in TABLES:
        facts = json.loads(pq.read_schema(folder / f"{name}.parquet").metadata[KEY.encode()])
        assert (facts["kind"], facts["spec"]) == (name, {"format": "npz", "threshold": THRESHOLD})
        digest = hashlib.sha256((folder / "released.npz").read_bytes()).hexdigest()
        assert facts["file"] == {"name": "released.npz", "sha256": digest}
        assert (facts["data"], facts["models"]) == (data_set().digest(), 0)


def direct(folder, layout, arrays, threshold=THRESHOLD):
    """Run the stage on released.npz without a command line; return its journal."""
    journal = Lines()
    inputs = {"data": folder / "data.safetensors", "files": folder / "files.parquet"}
    outputs = {name: folder / f"{name}.parquet" for name in TABLES} | {"top": folder / "top.csv"}
    spec = ImportScoresSpec(format=layout, threshold=threshold)
    stage(journal, spec=spec, scores=npz(folder / "released.npz", arrays), **inputs, **outputs)
    return journal


NOT_ON_VALIDATION = "validation samples are training samples of the file, which has no influence on them: all typical"


@pytest.mark.parametrize(
    ("layout", "arrays", "threshold", "first", "last"),
    [
        ("npz", plain(), THRESHOLD, [], []),
        ("npz", plain(), 0.999, [], ["no test sample is atypical, so no rate of that group can be reported"]),
        (
            "npz",
            plain(labels=None, test_labels=None),
            THRESHOLD,
            [
                f"the file has no labels of {kind} samples: whether it has the order of the data set is not known"
                for kind in ("training", "test")
            ],
            [],
        ),
        (
            "cscores",
            cscores(),
            THRESHOLD,
            [],
            ["the file has no influence: no test sample can be called atypical, all count as typical"],
        ),
    ],
)
def test_what_is_told_of_an_import(folder, layout, arrays, threshold, first, last):
    journal = direct(folder, layout, arrays, threshold)
    found, groups = (pd.read_parquet(folder / f"{name}.parquet") for name in ("memorization", "test_groups"))
    rare = found["atypical"].sum()
    assert journal.lines == [
        *first,
        f"{rare} of 50 training samples are atypical (memorization over {threshold}); 0 have no score",
        f"{groups['atypical'].sum()} of 20 test samples are atypical",
        "0 of 7 validation samples are atypical",
        *last,
        NOT_ON_VALIDATION,
    ]
    assert journal.worked == 1


def of_training(value):
    """Scores of which those of the data set's training samples have one value."""
    scores = MEMORIZATION.copy()
    scores[data_set().train.index] = value
    return scores


@pytest.mark.parametrize(
    ("layout", "arrays", "said"),
    [
        ("npz", {"memorization": MEMORIZATION[:0]}, "0 samples, and none has a score"),
        ("npz", plain(labels=np.roll(TRAIN_LABELS, 1)), "training sample 1 has label"),
        ("npz", plain(memorization=of_training(np.nan)), "has a score of other samples, but of no training sample"),
    ],
)
def test_what_is_refused_of_an_import_is_said_of_its_file(folder, layout, arrays, said):
    assert refusal(direct, folder, layout, arrays).startswith(f"{folder / 'released.npz'}: {said}")


def test_an_import_needs_names_of_the_same_data(folder):
    other = data_set(train=49)
    named(folder / "files.parquet", other)
    assert refusal(direct, folder, "npz", plain()) == (
        f"{folder / 'data.safetensors'} and {folder / 'files.parquet'} are of different data: remove the one that is "
        "out of date, and run its stage again"
    )


def test_an_import_knows_the_classes_that_were_chosen(folder):
    data = of_classes(2, 0)
    write_data(folder / "data.safetensors", data, provenance("data", source_labels=[2, 0]))
    named(folder / "files.parquet", data)
    tables, _ = import_scores(folder, npz(folder / "released.npz", plain()), "npz")
    index = data.train.index.numpy()
    assert tables["memorization"]["memorization"].tolist() == MEMORIZATION[index].tolist()
    assert tables["memorization"]["label"].tolist() == data.train.labels.tolist()
    assert tables["test_groups"]["atypical"].any()


def test_figures_of_imported_scores_say_that_no_models_are_behind_them(folder):
    import_scores(folder, npz(folder / "released.npz", plain()), "npz")
    at = {name: str(folder / f"{name}.parquet") for name in TABLES}
    main(["figures", "--memorization", at["memorization"], "--out", str(folder / "memorization.svg")])
    data = ["--data", str(folder / "data.safetensors"), "--memorization", at["memorization"]]
    main(["figures", *data, "--train-influence", at["train_influence"], "--out", str(folder / "gallery.svg")])
    for name in ("memorization", "gallery"):
        text = (folder / f"{name}.svg").read_text().lower()
        assert "scores from a file" in text
        assert "subset models" not in text
        assert "nan" not in text


# -- what is refused


def swapped(labels, first, second):
    labels = labels.copy()
    labels[[first, second]] = labels[[second, first]]
    return labels


DATA = data_set()
# two training samples, and two test samples, of different classes; one of the first is a validation sample
FIRST = int(DATA.validation.index[2])
SECOND = next(int(i) for i in DATA.train.index if i > FIRST and TRAIN_LABELS[i] != TRAIN_LABELS[FIRST])
TEST = int(DATA.test.index[3])
OTHER = next(int(j) for j in DATA.test.index if j > TEST and TEST_LABELS[j] != TEST_LABELS[TEST])
LAST = int(DATA.train.index[-1])
CLASS_0 = feldman_zhang()["infl_matrix_class0"]


@pytest.mark.parametrize("arrays", [cscores(), plain(), feldman_zhang()], ids=["cscores", "npz", "feldman_zhang"])
def test_labels_of_another_order_are_refused_with_the_first_sample_and_both_labels(arrays, tmp_path):
    layout = "cscores" if "scores" in arrays else "npz" if "labels" in arrays else "feldman_zhang"
    name = "tr_labels" if layout == "feldman_zhang" else "labels"
    arrays = arrays | {name: swapped(TRAIN_LABELS, FIRST, SECOND)}
    if layout == "feldman_zhang":
        arrays |= {f"tr_classidx_{label}": np.flatnonzero(arrays[name] == label) for label in range(CLASSES)}
    path = npz(tmp_path / "released.npz", arrays)
    line = refusal(check_released_labels, path, read_released(path, layout), DATA)
    assert (
        f"training sample {FIRST} has label {TRAIN_LABELS[SECOND]}, but {TRAIN_LABELS[FIRST]} in the data set" in line
    )
    assert "2 of 57 differ" in line


def test_test_labels_of_another_order_are_refused_too(tmp_path):
    path = npz(tmp_path / "released.npz", plain(test_labels=swapped(TEST_LABELS, TEST, OTHER)))
    line = refusal(check_released_labels, path, read_released(path, "npz"), DATA)
    said = f"test sample {TEST} has label {TEST_LABELS[OTHER]}, but {TEST_LABELS[TEST]} in the data set; "
    assert line.startswith(f"{path}: {said}")


def test_labels_of_a_table_are_compared(tmp_path):
    table(label=table()["label"].where(table()["train_index"] != SECOND, 7)).to_csv(tmp_path / "own.csv", index=False)
    path = str(tmp_path / "own.csv")
    assert f"training sample {SECOND} has label 7" in refusal(
        check_released_labels, path, read_released(path, "table"), DATA
    )


def of_classes(*classes):
    """The data set of some classes, which are numbered anew in this order."""

    def chosen(whole):
        known = torch.isin(whole.labels, torch.tensor(classes))
        labels = torch.tensor([classes.index(label) for label in whole.labels[known].tolist()])
        return Part(whole.pixels[known], labels, whole.index[known], 255)

    return DataSet(*(chosen(part) for part in DATA.parts().values()), len(classes))


@pytest.mark.parametrize("arrays", [plain(), feldman_zhang()], ids=["npz", "feldman_zhang"])
def test_files_have_the_labels_of_the_source_where_classes_were_chosen(arrays, tmp_path):
    layout, data = "npz" if "labels" in arrays else "feldman_zhang", of_classes(2, 0)
    path = npz(tmp_path / "released.npz", arrays)
    released = read_released(path, layout)
    assert check_released_labels(path, released, data, source_labels=[2, 0]) == []
    found = released_memorization(path, released, data.train, threshold=THRESHOLD)
    assert found["memorization"].tolist() == MEMORIZATION[data.train.index.numpy()].tolist()
    assert found["label"].tolist() == data.train.labels.tolist()
    rare = data.train.take(torch.tensor(np.flatnonzero(found["atypical"])))
    pairs = released_influence(released, rare, data.test, threshold=THRESHOLD)
    assert dict(
        zip(zip(pairs["train_index"], pairs["target_index"], strict=True), pairs["influence"], strict=True)
    ) == (expected_pairs(data))
    index = min(*data.train.index.tolist(), *data.validation.index.tolist())
    line = refusal(lambda: check_released_labels(path, released, data, source_labels=[0, 2]))
    there = TRAIN_LABELS[index]
    assert f"training sample {index} has label {there}, but {2 - there} in the data set" in line
    assert "label" in refusal(check_released_labels, path, released, data)


def test_tables_have_the_labels_of_the_data_set_where_classes_were_chosen(tmp_path):
    data, path = of_classes(2, 0), str(tmp_path / "own.csv")
    own = pd.DataFrame({"train_index": data.train.index, "label": data.train.labels, "memorization": 0.5})
    own.to_csv(path, index=False)
    assert check_released_labels(path, read_released(path, "table"), data, source_labels=[2, 0]) == []


@pytest.mark.parametrize(
    ("layout", "arrays", "message"),
    [
        ("npz", plain(memorization=MEMORIZATION[:-1]), "labels has shape (60,), where its other arrays need (59,)"),
        ("npz", plain(influence=INFLUENCE.T), "influence has shape (60, 24), where its other arrays need (24, 60)"),
        ("npz", plain(memorization=MEMORIZATION[:, None]), "memorization has shape (60, 1) of float32"),
        ("npz", plain(memorization=None), "has no array memorization (it has influence, labels, test_labels)"),
        ("npz", plain(labels=TRAIN_LABELS.astype(float)), "labels has shape (60,) of float64: need integers"),
        ("npz", plain(memorization=MEMORIZATION.astype(object)), "would have to be unpickled"),
        ("npz", plain(labels=TRAIN_LABELS.astype(object)), "would have to be unpickled"),
        ("npz", plain(memorization=100 * MEMORIZATION), "need differences of rates, from -1 to 1"),
        ("npz", plain(influence=np.full_like(INFLUENCE, np.inf)), "influence goes from 0 to inf"),
        ("cscores", cscores(scores=MEMORIZATION[:-1]), "scores has shape (59,)"),
        ("cscores", plain(), "has no array scores"),
        ("cscores", cscores(scores=np.array([{}] * TRAINING)), "would have to be unpickled"),
        ("feldman_zhang", feldman_zhang(tr_mem=MEMORIZATION[1:]), "tr_mem has shape (59,)"),
        ("feldman_zhang", feldman_zhang(infl_matrix_class0=None), "has no array infl_matrix_class0"),
        ("feldman_zhang", feldman_zhang(infl_matrix_class0=CLASS_0.T), "infl_matrix_class0 has shape (8, 20)"),
        ("feldman_zhang", feldman_zhang(infl_matrix_class0=CLASS_0.astype(object)), "would have to be unpickled"),
        ("feldman_zhang", feldman_zhang(tr_classidx_1=np.arange(20)), "tr_classidx_1 is not the index of each sample"),
        ("feldman_zhang", feldman_zhang(tt_classidx_1=np.arange(8)), "tt_classidx_1 is not the index of each sample"),
    ],
)
def test_arrays_that_are_wrong_in_themselves_are_refused(layout, arrays, message, tmp_path):
    path = npz(tmp_path / "released.npz", arrays)
    line = refusal(read_released, path, layout)
    assert line.startswith(f"{path}: ")
    assert message in line


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            plain(memorization=MEMORIZATION[:40], labels=TRAIN_LABELS[:40], influence=INFLUENCE[:, :40]),
            "has no score of training sample 4",
        ),
        (plain(influence=INFLUENCE[:9], test_labels=None), "has no influence on test sample"),
        (plain(influence=INFLUENCE[:9], test_labels=TEST_LABELS[:9]), "has no influence on test sample"),
        (plain(influence=None, test_labels=TEST_LABELS[:9]), "has no label of test sample"),
    ],
)
def test_a_file_with_too_few_samples_is_refused(arrays, message, tmp_path):
    path = npz(tmp_path / "released.npz", arrays)
    line = refusal(check_released_labels, path, read_released(path, "npz"), DATA)
    assert line.startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (table().drop(columns="memorization"), "has no column memorization (it has train_index, label)"),
        (table().drop(columns="train_index"), "has no column train_index"),
        (table(train_index=0.5), "column train_index holds"),
        (table(train_index=3), "train_index 3 is there twice"),
        (table(memorization="high"), "column memorization holds"),
        (table(label="cat"), "column label holds"),
    ],
)
def test_tables_that_are_wrong_in_themselves_are_refused(rows, message, tmp_path):
    for ending, write in (("csv", rows.to_csv), ("parquet", rows.to_parquet)):
        path = tmp_path / f"own.{ending}"
        write(path, index=False)
        assert message in refusal(read_released, str(path), "table")


@pytest.mark.parametrize(
    ("layout", "name", "content"),
    [
        ("npz", "none.npz", None),
        ("npz", "own.npz", b"PK\x03\x04 cut off"),
        ("npz", "own.npz", b""),
        ("cscores", "own.npz", b"\x80\x04\x95 a pickle"),
        ("table", "own.csv", b""),
        ("table", "own.csv", b"\xff\xfe"),
        ("table", "own.parquet", b"PAR1"),
        ("table", "none.csv", None),
        ("table", "own.txt", b"train_index,memorization\n0,0.5\n"),
    ],
)
def test_files_that_cannot_be_read_are_refused(layout, name, content, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert refusal(read_released, str(tmp_path / name), layout).startswith(f"{tmp_path / name}: ")


def test_a_single_array_and_a_damaged_member_are_refused(tmp_path):
    np.save(tmp_path / "own.npy", MEMORIZATION)
    assert "a single array" in refusal(read_released, str(tmp_path / "own.npy"), "npz")
    path = npz(tmp_path / "own.npz", plain())
    content = bytearray((tmp_path / "own.npz").read_bytes())
    content[200] ^= 255
    (tmp_path / "own.npz").write_bytes(content)
    assert "array memorization cannot be read as npz (Bad CRC-32" in refusal(read_released, path, "npz")


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    trap = np.array([Trap()] * TRAINING, dtype=object)
    for layout, arrays in (("npz", plain(memorization=trap)), ("cscores", cscores(scores=trap))):
        refusal(read_released, npz(tmp_path / "own.npz", arrays), layout)
    assert not (tmp_path / "trapped").exists()


def test_a_refused_file_writes_no_table_and_exits_with_2(folder, capsys):
    path = npz(folder / "released.npz", cscores(labels=TRAIN_LABELS[::-1].copy()))
    with pytest.raises(SystemExit) as stopped:
        import_scores(folder, path, "cscores")
    assert stopped.value.code == 2
    assert {path.name for path in folder.iterdir()} == {"data.safetensors", "files.parquet", "released.npz", "log"}
    assert "bat import-scores: " in capsys.readouterr().err


# -- ranges, and numbers that tell nothing


@pytest.mark.parametrize("layout", ["cscores", "npz", "feldman_zhang", "table"])
@pytest.mark.parametrize(
    ("odd", "fits"),
    [
        (1.0, True),
        (1 + 5e-7, True),
        (1.00001, False),
        (0.0, True),
        (-5e-7, True),
        (-0.00001, None),
        (-1.0, None),
        (-1.00001, False),
        (np.inf, False),
        (-np.inf, False),
        (87.5, False),
    ],
)
def test_scores_beyond_their_range_are_refused(tmp_path, layout, odd, fits):
    scores = np.linspace(0, 1, TRAINING)
    scores[7] = odd
    fits = layout != "cscores" if fits is None else fits  # differences of rates may be negative, C-scores not
    if layout == "table":
        path = str(tmp_path / "own.csv")
        table().sort_values("train_index").assign(memorization=scores).to_csv(path, index=False)
    else:
        arrays = {
            "cscores": cscores(scores=scores),
            "npz": plain(memorization=scores),
            "feldman_zhang": feldman_zhang(tr_mem=scores),
        }[layout]
        path = npz(tmp_path / "own.npz", arrays)
    if fits:
        found = read_released(path, layout).memorization
        np.testing.assert_allclose(found, 1 - scores if layout == "cscores" else scores, rtol=0, atol=0)
    else:
        name = "scores" if layout == "cscores" else "memorization"
        need = "shares of models, from 0 to 1" if layout == "cscores" else "differences of rates, from -1 to 1"
        line = refusal(read_released, path, layout)
        assert f"{path}: {name} goes from {min(0, odd):g} to {max(1, odd):g}: need {need}" == line


@pytest.mark.parametrize(("odd", "fits"), [(-1.0, True), (-1.00001, False), (1.0, True), (1.00001, False)])
def test_influence_beyond_its_range_is_refused(tmp_path, odd, fits):
    influence = INFLUENCE.astype(float)
    influence[3, 4] = odd
    path = npz(tmp_path / "own.npz", plain(influence=influence))
    if fits:
        assert read_released(path, "npz").influence[0].values[4, 3] == odd
    else:
        low, high = min(influence.min(), odd), max(influence.max(), odd)
        line = refusal(read_released, path, "npz")
        assert line == f"{path}: influence goes from {low:g} to {high:g}: need differences of rates, from -1 to 1"


NOTHING = np.full(TRAINING, np.nan)


@pytest.mark.parametrize(
    ("layout", "arrays", "message"),
    [
        ("npz", plain(memorization=NOTHING), "60 samples, and none has a score"),
        ("cscores", cscores(scores=NOTHING), "60 samples, and none has a score"),
        ("feldman_zhang", feldman_zhang(tr_mem=NOTHING), "60 samples, and none has a score"),
        ("npz", plain(influence=np.full_like(INFLUENCE, np.nan)), "60 samples, and none has an influence"),
        ("npz", {"memorization": np.zeros(0), "labels": np.zeros(0, int)}, "0 samples, and none has a score"),
    ],
)
def test_files_without_any_number_are_refused(tmp_path, layout, arrays, message):
    assert message in refusal(read_released, npz(tmp_path / "own.npz", arrays), layout)


def test_scores_of_other_samples_alone_are_refused(folder, capsys):
    scores = MEMORIZATION.copy()
    scores[DATA.train.index] = np.nan
    with pytest.raises(SystemExit):
        import_scores(folder, npz(folder / "released.npz", plain(memorization=scores)), "npz")
    assert "has a score of other samples, but of no training sample" in capsys.readouterr().err
    assert [path.name for path in folder.glob("*.parquet")] == ["files.parquet"]


def test_scores_that_are_all_the_same_are_said(folder):
    _, log = import_scores(folder, npz(folder / "released.npz", plain(memorization=np.full(TRAINING, 0.25))), "npz")
    assert "all scores are 0.25: they tell no sample from another" in log
    _, log = import_scores(folder, npz(folder / "released.npz", plain()), "npz")
    assert "all scores" not in log


# -- how many samples the source has


def sized(folder, **sizes):
    """Write the data set as stage data does, with the number of samples in the parts of its source."""
    write_data(folder / "data.safetensors", data_set(), provenance("data", source=sizes | {"own_test": True}))


@pytest.mark.parametrize(("extra", "source", "fits"), [(0, 60, True), (1, 60, False), (-1, 61, False), (0, 61, False)])
def test_arrays_without_labels_have_as_many_samples_as_the_source(folder, capsys, extra, source, fits):
    sized(folder, train=source, test=TESTS)
    scores = np.concatenate([MEMORIZATION, [0.5]])[: TRAINING + extra]
    path = npz(folder / "released.npz", {"memorization": scores})
    if fits:
        tables, _ = import_scores(folder, path, "npz")
        np.testing.assert_array_equal(
            tables["memorization"]["memorization"], MEMORIZATION[DATA.train.index].astype(float)
        )
    else:
        with pytest.raises(SystemExit):
            import_scores(folder, path, "npz")
        assert (
            f"has {TRAINING + extra} train samples, but the data set's source has {source}" in capsys.readouterr().err
        )


@pytest.mark.parametrize(("tests", "fits"), [(TESTS, True), (TESTS - 1, False), (TESTS + 1, False)])
@pytest.mark.parametrize("labels", [True, False])
def test_influence_is_on_as_many_test_samples_as_the_source_has(tmp_path, tests, fits, labels):
    path = npz(tmp_path / "own.npz", plain() if labels else plain(labels=None, test_labels=None))
    sizes = {"train": TRAINING, "test": tests}
    if fits:
        assert check_released_labels(path, read_released(path, "npz"), DATA, sizes) == (
            [] if labels else ["training", "test"]
        )
    else:
        line = refusal(check_released_labels, path, read_released(path, "npz"), DATA, sizes)
        assert f"has {TESTS} test samples, but the data set's source has {tests}" in line


def test_a_table_may_lack_samples_but_not_have_more_than_the_source(tmp_path):
    path = str(tmp_path / "own.csv")
    needed = table()[table()["train_index"].isin(DATA.train.index.numpy())]
    needed.to_csv(path, index=False)
    assert check_released_labels(path, read_released(path, "table"), DATA, {"train": TRAINING, "test": TESTS}) == []
    last = int(needed["train_index"].max())
    assert check_released_labels(path, read_released(path, "table"), DATA, {"train": last + 1, "test": TESTS}) == []
    line = refusal(check_released_labels, path, read_released(path, "table"), DATA, {"train": last, "test": TESTS})
    assert f"has train_index up to that of {last + 1} train samples, but the data set's source has {last}" in line


# -- how tables are written


def csv_of(**more):
    return table().drop(columns="label").to_csv(index=False, **more)


LINES = "train_index,memorization\n" + "".join(f"{i},{value}\n" for i, value in enumerate(MEMORIZATION))


@pytest.mark.parametrize(
    "content",
    [
        csv_of(),
        csv_of(sep=";"),
        csv_of(sep="\t"),
        csv_of(sep="|"),
        "\ufeff" + csv_of(),
        csv_of(lineterminator="\r\n"),
        csv_of(lineterminator="\r"),
        csv_of(quoting=1),
        csv_of().replace(",", " , "),
        table().drop(columns="label").to_csv(),  # with pandas' own index, nameless
        table().assign(note="a, b; c").to_csv(index=False),
        table().set_index("train_index").to_csv(),
        csv_of() + "\n\n",
        csv_of()[:-1],
    ],
    ids=[
        "comma",
        "semicolon",
        "tab",
        "bar",
        "BOM",
        "CRLF",
        "CR",
        "quoted",
        "blanks",
        "index",
        "notes",
        "named",
        "end",
        "cut",
    ],
)
@pytest.mark.parametrize("ending", ["csv", "CSV"])
def test_a_csv_may_be_written_in_any_usual_way(tmp_path, content, ending):
    path = tmp_path / f"own.{ending}"
    path.write_bytes(content.encode())
    found = read_released(str(path), "table")
    assert found.index.tolist() == list(range(TRAINING))
    np.testing.assert_array_equal(found.memorization.astype(np.float32), MEMORIZATION)


@pytest.mark.parametrize("ending", ["parquet", "Parquet", "PARQUET"])
@pytest.mark.parametrize("index", ["range", "stored", "column"])
def test_the_index_of_a_pandas_table_may_be_the_train_index(tmp_path, ending, index):
    scores = pd.DataFrame({"memorization": MEMORIZATION}).rename_axis("train_index")
    expected = np.arange(TRAINING)
    if index == "range":
        scores.index = pd.RangeIndex(2 * TRAINING, 0, -2, name="train_index")
        expected = np.arange(2, 2 * TRAINING + 1, 2)
    elif index == "stored":
        scores = scores.sample(frac=1, random_state=3)
    else:
        scores = scores.reset_index()
    scores.to_parquet(tmp_path / f"own.{ending}")
    found = read_released(str(tmp_path / f"own.{ending}"), "table")
    assert found.index.tolist() == expected.tolist()
    np.testing.assert_array_equal(found.memorization, MEMORIZATION[::-1] if index == "range" else MEMORIZATION)


def test_a_missing_score_of_a_table_is_nan(tmp_path):
    for name, content in (
        ("a.csv", LINES.replace(f"3,{MEMORIZATION[3]}\n", "3,\n")),
        ("b.csv", LINES.replace(f"3,{MEMORIZATION[3]}\n", "3,NaN\n")),
    ):
        (tmp_path / name).write_text(content)
        found = read_released(str(tmp_path / name), "table").memorization
        assert np.flatnonzero(np.isnan(found)).tolist() == [3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (csv_of(sep=";", decimal=","), "column memorization holds '"),
        (csv_of(decimal=","), "column memorization holds '"),
        (LINES.replace(".", ","), "Expected 2 columns, got 3"),
        (LINES.replace("\n5,", "\n5.5,"), "column train_index holds '5.5' in row 7: need integers"),
        (LINES.replace("\n5,", "\n-5,"), "train_index -5 is negative"),
        (LINES.replace("\n5,", "\n6,"), "train_index 6 is there twice"),
        (
            LINES.replace("\n5,", "\n,"),
            "column train_index holds int64, 1 of them missing: need integers, none missing",
        ),
        (LINES.replace("\n5,", f"\n{2**63},"), f"column train_index holds '{2**63}' in row 7: need integers"),
        (LINES.replace("\n5,", "\n5,1,"), "Expected 2 columns, got 3"),
        (LINES.replace("\n5,", "\n5"), "Expected 2 columns, got 1"),
        (
            LINES.replace("memorization", "memorization,memorization").replace("\n5,", "\n5,1,"),
            "has 2 columns memorization",
        ),
        (LINES.replace("train_index", "train_index, train_index "), "has 2 columns train_index"),
        (LINES.replace("train_index", "index"), "has no column train_index (it has index, memorization): add it"),
        (LINES.replace("\n5,", "\n5,x"), "column memorization holds 'x"),
        ("train_index,memorization\n0,True\n", "column memorization holds 'True' in row 2: need numbers"),
        ("train_index,memorization\n0,0x1\n", "column memorization holds '0x1'"),
        ("train_index,memorization,label\n0,0.5,cat\n", "column label holds 'cat' in row 2: need integers"),
        ("train_index,memorization,label\n0,0.5,1.0\n", "column label holds '1.0'"),
        ("train_index,memorization,label\n0,0.5,\n", "column label holds int64, 1 of them missing"),
        ("train_index,memorization\n", "own.csv: "),
        ("train_index,memorization", "own.csv: "),
        ("", "has no column train_index (it has none)"),
        ("\n\n", "has no column train_index (it has none)"),
        ("0,0.5\n1,0.25\n", "has no column train_index (it has 0, 0.5)"),
    ],
)
def test_a_csv_that_is_not_clear_is_refused(tmp_path, content, message):
    (tmp_path / "own.csv").write_text(content)
    assert message in refusal(read_released, str(tmp_path / "own.csv"), "table")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_csv_in_another_encoding_is_refused(tmp_path, encoding):
    (tmp_path / "own.csv").write_text(LINES, encoding=encoding)
    assert "CSV as UTF-8" in refusal(read_released, str(tmp_path / "own.csv"), "table")


INDEX, SCORES = pa.array(range(4)), pa.array([0.5, 0.25, 0.0, 1.0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([("train_index", INDEX), ("memorization", pa.array([[0.5]] * 4))], "memorization holds list<"),
        ([("train_index", INDEX), ("memorization", pa.array([{"a": 1.0}] * 4))], "memorization holds struct<"),
        ([("file", pa.array([[1]] * 4)), ("memorization", SCORES)], "file holds list<element: int64>: need text"),
        ([("label", pa.array([[1]] * 4)), ("file", INDEX), ("memorization", SCORES)], "int64>: need numbers"),
        ([("train_index", INDEX), ("memorization", SCORES.cast(pa.decimal128(8, 3)))], "memorization holds decimal128"),
        ([("train_index", INDEX), ("memorization", pa.array([True] * 4))], "memorization holds bool: need numbers"),
        ([("train_index", INDEX), ("memorization", pa.array(["0.5"] * 4))], "memorization holds string"),
        ([("train_index", INDEX), ("memorization", pa.nulls(4))], "memorization holds null"),
        ([("train_index", SCORES), ("memorization", SCORES)], "train_index holds double: need integers, none missing"),
        ([("train_index", pa.array([0, None, 2, 3])), ("memorization", SCORES)], "train_index holds int64, 1 of them"),
        ([("train_index", pa.array([0, 1, 2, 2**63], pa.uint64())), ("memorization", SCORES)], "not in range"),
        ([("train_index", INDEX), ("memorization", SCORES), ("memorization", SCORES)], "has 2 columns memorization"),
        ([("train_index", INDEX), ("memorization", SCORES), ("label", pa.array(["a"] * 4))], "label holds string"),
        ([("train_index", INDEX), ("memorization", SCORES), ("label", SCORES)], "label holds double"),
        ([("train_index", INDEX[:0]), ("memorization", SCORES[:0])], "0 samples, and none has a score"),
        ([("train_index", INDEX)], "has no column memorization (it has train_index): add it"),
        ([("memorization", SCORES)], "has no column train_index (it has memorization): add it"),
    ],
)
def test_a_parquet_that_is_not_clear_is_refused(tmp_path, columns, message):
    path = tmp_path / "own.parquet"
    pq.write_table(pa.table([array for _, array in columns], names=[name for name, _ in columns]), path)
    line = refusal(read_released, str(path), "table")
    assert line.startswith(f"{path}: ")
    assert message in line


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.int32()])
@pytest.mark.parametrize("numbers", [pa.float16(), pa.float32(), pa.float64()])
def test_a_parquet_of_any_numbers_is_read(tmp_path, kind, numbers):
    names = ["label.x", "train_index", "memorization", "label"]
    columns = [
        pa.array([9] * 4),
        INDEX[::-1].cast(kind),
        pa.array([0.5, 0.25, None, 1.0], pa.float64()).cast(numbers),
        INDEX.cast(kind),
    ]
    pq.write_table(pa.table(columns, names=names), tmp_path / "own.parquet")
    found = read_released(str(tmp_path / "own.parquet"), "table")
    assert found.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(found.memorization, [1.0, np.nan, 0.25, 0.5])
    assert found.labels.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    "index",
    [
        {"kind": "range", "name": "train_index", "start": 0, "stop": 5, "step": 1},
        {"kind": "range", "name": "train_index", "start": 0, "stop": 4, "step": "1"},
        {"kind": "range", "name": "other", "start": 0, "stop": 4, "step": 1},
        7,
        ["train_index"],
    ],
)
def test_an_index_that_is_kept_wrongly_is_none(tmp_path, index):
    for about in ({"index_columns": [index]}, {"index_columns": 3}, [index]):
        metadata = {b"pandas": json.dumps(about).encode()}
        pq.write_table(pa.table({"memorization": SCORES}).replace_schema_metadata(metadata), tmp_path / "own.parquet")
        assert "has no column train_index" in refusal(read_released, str(tmp_path / "own.parquet"), "table")


def test_a_table_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    parquet, text = tmp_path / "own.parquet", tmp_path / "own.csv"
    table().to_parquet(parquet)
    table().to_csv(text, index=False)
    sizes = {parquet: 16 * TRAINING * 4, text: text.stat().st_size}
    for path, what in ((parquet, f"{parquet}: a table of 60 rows"), (text, str(text))):
        monkeypatch.setattr(bat.io.given, "free_memory", lambda path=path: sizes[path] - 1)
        assert refusal(read_released, str(path), "table") == (
            f"{what} would take 0.0 GiB of memory, and 0.0 GiB are free: give the rows of this data set alone"
        )
        monkeypatch.setattr(bat.io.given, "free_memory", lambda path=path: sizes[path])
        assert len(read_released(str(path), "table").index) == TRAINING


def test_a_damaged_page_of_a_parquet_is_refused(tmp_path):
    path = tmp_path / "own.parquet"
    columns = pa.table({"train_index": pa.array(range(400)), "memorization": pa.array(np.linspace(0, 1, 400))})
    pq.write_table(columns, path, write_page_checksum=True, use_dictionary=False, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(np.linspace(0, 1, 400)[200:201].tobytes())] ^= 1
    path.write_bytes(content)
    line = refusal(read_released, str(path), "table")
    assert "own.parquet: cannot be read as a table (could not verify page integrity, CRC checksum" in line


def test_files_without_any_name_need_the_index(tmp_path):
    files = SourceFiles(pd.Series([0, 1], index=["a", "b"]), 0)
    path, none = tmp_path / "own.parquet", pd.Series([None, None], dtype=object)
    rows = pd.DataFrame({"train_index": [1, 0], "memorization": [0.5, 0.25], "file": none})
    rows.to_parquet(path)
    found = read_released(str(path), "table", files)
    assert (found.index.tolist(), found.memorization.tolist()) == ([0, 1], [0.25, 0.5])
    rows.drop(columns="train_index").to_parquet(path)
    assert refusal(read_released, str(path), "table", files) == (
        f"{path}: column file holds null, 2 of them missing: need names of files, none missing"
    )


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_names_of_files_may_be_any_texts(tmp_path, kind):
    files = SourceFiles(pd.Series([7, 3], index=["a", "b"]), 0)
    path = tmp_path / "own.parquet"
    pq.write_table(pa.table({"file": pa.array(["a", "b"], kind), "memorization": pa.array([0.5, 0.25])}), path)
    found = read_released(str(path), "table", files)
    assert (found.index.tolist(), found.memorization.tolist(), found.whole) == ([3, 7], [0.25, 0.5], False)


def test_labels_go_up_to_the_largest_integer(tmp_path):
    path = npz(tmp_path / "own.npz", plain(labels=np.full(TRAINING, 2**63 - 1)))
    assert read_released(path, "npz").labels.tolist() == [2**63 - 1] * TRAINING


@pytest.mark.parametrize(
    ("layout", "arrays"), [("feldman_zhang", without_test_index()), ("npz", plain()), ("cscores", cscores())]
)
def test_labels_and_indices_may_be_any_integers(tmp_path, layout, arrays):
    small = {name: array.astype(np.uint8) if array.dtype.kind == "i" else array for name, array in arrays.items()}
    found = read_released(npz(tmp_path / "own.npz", small), layout)
    numbers = [found.labels, *(index for block in found.influence for index in (block.train_index, block.test_index))]
    numbers += [] if found.test_labels is None else [found.test_labels]
    assert {array.dtype for array in numbers} == {np.dtype(np.int64)}
    for block in found.influence:
        np.testing.assert_array_equal(block.values, INFLUENCE.T[np.ix_(block.train_index, block.test_index)])
        assert np.all(np.diff(block.test_index) > 0)


def test_a_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    npz(folder / "released.npz", plain())
    tables, _ = import_scores(folder, "~/released.npz", "npz")
    np.testing.assert_array_equal(tables["memorization"]["memorization"], MEMORIZATION[DATA.train.index].astype(float))


# -- any split, any blocks


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 15), st.floats(0, 0.9))
@settings(max_examples=40)
def test_pairs_are_those_of_a_loop_over_blocks_and_samples(seed, train, tests, threshold):
    random = np.random.default_rng(seed)
    data = DataSet(
        part(random.permutation(TRAINING)[:train], TRAIN_LABELS),
        part(np.arange(1), TRAIN_LABELS),
        part(random.permutation(TESTS)[:tests], TEST_LABELS),
        CLASSES,
    )
    blocks, expected = [], {}
    for rows in np.array_split(random.permutation(TRAINING), 4):
        columns = random.permutation(TESTS)
        values = np.where(random.random((len(rows), TESTS)) < 0.1, np.nan, random.uniform(-1, 1, (len(rows), TESTS)))
        blocks.append(Influence(rows, columns, values))
        expected |= {
            (int(i), int(j)): values[a, b]
            for a, i in enumerate(rows)
            for b, j in enumerate(columns)
            if i in data.train.index and j in data.test.index and TRAIN_LABELS[i] == TEST_LABELS[j]
            if not np.isnan(values[a, b])
        }
    released = Released(np.arange(TRAINING), MEMORIZATION.astype(float), None, None, tuple(blocks))
    found = released_influence(released, data.train, data.test, threshold=threshold)
    assert {(row.train_index, row.target_index): row.influence for row in found.itertuples()} == expected
    assert len(found) == len(expected)
    assert (found["significant"] == (found["influence"] > threshold)).all()
    assert found.columns.tolist() == ["train_index", "target_index", *SCHEMAS["influence"].names[2:]]
    assert found.index.tolist() == list(range(len(found)))
    assert found["label"].tolist() == TRAIN_LABELS[found["train_index"].to_numpy(int)].tolist()
    scores = released_memorization("here", released, data.train, threshold=threshold)
    assert scores["memorization"].tolist() == [float(MEMORIZATION[i]) for i in data.train.index]
    assert scores.columns.tolist() == SCHEMAS["memorization"].names
    assert (scores[["n_in", "n_out"]] == 0).all(axis=None)
    assert scores["standard_error"].isna().all()


def test_what_is_just_the_threshold_is_not_over_it():
    train, tests = (part(np.arange(2), np.ones(2, dtype=int)) for _ in range(2))
    block = Influence(np.arange(2), np.arange(2), np.array([[0.5, 0.25], [0.75, np.nan]]))
    released = Released(np.arange(2), np.array([0.5, 0.75]), None, None, (block,))
    assert released_memorization("here", released, train, threshold=0.5)["atypical"].tolist() == [False, True]
    assert released_influence(released, train, tests, threshold=0.5)["significant"].tolist() == [False, False, True]
    nothing = released_influence(released, part(np.arange(0), np.zeros(0, dtype=int)), tests, threshold=0.5)
    assert (len(nothing), nothing["influence"].dtype) == (0, np.float64)


def test_a_file_of_the_first_sample_alone_has_no_other(tmp_path):
    path = npz(tmp_path / "own.npz", {"memorization": np.array([0.5])})
    one = part(np.array([1]), np.zeros(2, dtype=int))
    assert refusal(check_released_labels, path, read_released(path, "npz"), DataSet(one, one, one, 1)) == (
        f"{path}: has no score of training sample 1 (1 of 1 are missing, 1 are there): the file is of other data"
    )


# -- messages as a whole


@pytest.mark.parametrize(
    ("layout", "arrays", "message"),
    [
        (
            "npz",
            plain(memorization=None),
            "has no array memorization (it has influence, labels, test_labels): correct scores.format",
        ),
        ("npz", {"x" * 41: MEMORIZATION}, f"has no array memorization (it has {'x' * 40}): correct scores.format"),
        ("npz", {}, "has no array memorization (it has none): correct scores.format"),
        (
            "npz",
            plain(labels=TRAIN_LABELS.astype(float)),
            "array labels has shape (60,) of float64: need integers along 1 axes",
        ),
        (
            "npz",
            plain(influence=MEMORIZATION),
            "array influence has shape (60,) of float32: need floating numbers along 2 axes",
        ),
        (
            "npz",
            plain(labels=np.full(TRAINING, 2**63, np.uint64)),
            "array labels goes up to 9223372036854775808: need labels or indices",
        ),
        ("npz", plain(memorization=NOTHING), "60 samples, and none has a score: give another file"),
        (
            "npz",
            plain(influence=np.full_like(INFLUENCE, np.nan)),
            "60 samples, and none has an influence: give another file",
        ),
        (
            "feldman_zhang",
            feldman_zhang(tr_classidx_1=np.arange(20)),
            "tr_classidx_1 is not the index of each sample of class 1 once: the file is damaged",
        ),
    ],
)
def test_what_is_wrong_with_arrays_is_said_in_whole(layout, arrays, message, tmp_path):
    path = npz(tmp_path / "released.npz", arrays)
    assert refusal(read_released, path, layout) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("own.txt", LINES, "neither .parquet nor .csv: give a table, or another scores.format"),
        (
            "none.csv",
            None,
            "cannot be read as a table (No such file or directory): give Parquet, or CSV as UTF-8 with decimal points",
        ),
        ("own.csv", "a,b\n", "has no column train_index (it has a, b): add it"),
        (
            "own.csv",
            ",".join(["x" * 41, *"abcdefgh"]) + "\n",
            f"has no column train_index (it has {'x' * 40}, a, b, c, d, e, f, g): add it",
        ),
        (
            "own.csv",
            LINES.replace("\n5,", "\n5,x"),
            "column memorization holds 'x{}' in row 7: need numbers with decimal points",
        ),
        ("own.csv", LINES.replace("\n5,", "\n5.5,"), "column train_index holds '5.5' in row 7: need integers"),
        (
            "own.csv",
            f'train_index,memorization\n0,"a\n{"x" * 39}"\n',
            f"column memorization holds 'a\\n{'x' * 38}' in row 2: need numbers with decimal points",
        ),
        (
            "own.csv",
            "file,memorization\n,1\n",
            "column file holds string, 1 of them missing: need names of files, none missing",
        ),
        (
            "own.csv",
            LINES.replace("\n5,", "\n,"),
            "column train_index holds int64, 1 of them missing: need integers, none missing",
        ),
        (
            "own.csv",
            LINES.replace("\n5,", "\n-5,"),
            "train_index -5 is negative: give each sample's place in its source, from 0",
        ),
        ("own.csv", LINES.replace("\n5,", "\n6,"), "train_index 6 is there twice: give each sample one row"),
        (
            "own.csv",
            LINES.replace("train_index", "train_index, train_index "),
            "has 2 columns train_index: leave one",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_whole(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    path = str(tmp_path / name)
    assert refusal(read_released, path, "table") == f"{path}: {message.format(MEMORIZATION[5])}"


def test_what_does_not_fit_the_data_set_is_said_in_whole(tmp_path):
    path = npz(tmp_path / "own.npz", plain(labels=swapped(TRAIN_LABELS, FIRST, SECOND)))
    assert refusal(check_released_labels, path, read_released(path, "npz"), DATA) == (
        f"{path}: training sample {FIRST} has label {TRAIN_LABELS[SECOND]}, but {TRAIN_LABELS[FIRST]} in the data set; "
        "2 of 57 differ: the file is of other data, or in another order than the data set's own files"
    )
    few = npz(tmp_path / "few.npz", plain(memorization=MEMORIZATION[:40], labels=None, influence=None))
    missing = [int(i) for i in DATA.train.index if i >= 40]
    assert refusal(check_released_labels, few, read_released(few, "npz"), DATA) == (
        f"{few}: has no score of training sample {missing[0]} ({len(missing)} of 50 are missing, 40 are there): the "
        "file is of other data"
    )
    whole = npz(tmp_path / "whole.npz", plain())
    assert refusal(check_released_labels, whole, read_released(whole, "npz"), DATA, {"train": 61, "test": TESTS}) == (
        f"{whole}: has 60 train samples, but the data set's source has 61: the file is of other data"
    )
    (tmp_path / "own.csv").write_text(LINES)
    rows = str(tmp_path / "own.csv")
    assert refusal(check_released_labels, rows, read_released(rows, "table"), DATA, {"train": 59, "test": TESTS}) == (
        f"{rows}: has train_index up to that of 60 train samples, but the data set's source has 59: the file is of "
        "other data"
    )
