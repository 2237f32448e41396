"""Released scores in their true layouts, against loops over the samples; and what is refused."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal

from bat.cli import main
from bat.data import DataSet, Part
from bat.files import KEY, provenance
from bat.released import Influence, Released, check_labels, influence_table, memorization_table, read_released
from bat.schemas import SCHEMAS
from bat.tensors import write_data

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
    return tmp_path


def import_scores(folder, file, layout, threshold=THRESHOLD):
    """Run the stage and return its tables and log."""
    flags = {"spec": json.dumps({"format": layout, "threshold": threshold}), "data": folder / "data.safetensors"}
    flags |= {"file": file, "log": folder / "log"}
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
    assert found.equals(found.sort_values(["label", "train_index", "test_index"]))

    groups = tables["test_groups"]
    assert groups["test_index"].tolist() == data.test.index.tolist()
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
        assert facts["spec"] == {"format": "npz", "threshold": THRESHOLD}
        assert facts["file"]["name"] == "released.npz"
        assert len(facts["file"]["sha256"]) == 64
        assert facts["data"] == data_set().digest()


def test_figures_of_imported_scores_say_that_no_models_are_behind_them(folder):
    import_scores(folder, npz(folder / "released.npz", plain()), "npz")
    at = {name: str(folder / f"{name}.parquet") for name in TABLES}
    main(["figure", "memorization", "--memorization", at["memorization"], "--out", str(folder / "m.svg")])
    data = ["--data", str(folder / "data.safetensors"), "--memorization", at["memorization"]]
    main(["figure", "gallery", *data, "--train-influence", at["train_influence"], "--out", str(folder / "g.svg")])
    for name in ("m", "g"):
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
    line = refusal(check_labels, path, read_released(path, layout), DATA)
    assert (
        f"training sample {FIRST} has label {TRAIN_LABELS[SECOND]}, but {TRAIN_LABELS[FIRST]} in the data set" in line
    )
    assert "2 of 57 differ" in line


def test_test_labels_of_another_order_are_refused_too(tmp_path):
    path = npz(tmp_path / "released.npz", plain(test_labels=swapped(TEST_LABELS, TEST, OTHER)))
    line = refusal(check_labels, path, read_released(path, "npz"), DATA)
    assert f"test sample {TEST} has label {TEST_LABELS[OTHER]}, but {TEST_LABELS[TEST]} in the data set" in line


def test_labels_of_a_table_are_compared(tmp_path):
    table(label=table()["label"].where(table()["train_index"] != SECOND, 7)).to_csv(tmp_path / "own.csv", index=False)
    path = str(tmp_path / "own.csv")
    assert f"training sample {SECOND} has label 7" in refusal(check_labels, path, read_released(path, "table"), DATA)


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
    assert message in refusal(check_labels, path, read_released(path, "npz"), DATA)


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
    assert not list(folder.glob("*.parquet"))
    assert "bat import-scores: " in capsys.readouterr().err


# -- any split, any blocks


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 15), st.floats(0, 0.9))
@settings(deadline=None, max_examples=40)
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
    found = influence_table(released, data.train, data.test, threshold=threshold)
    assert {(row.train_index, row.target_index): row.influence for row in found.itertuples()} == expected
    assert len(found) == len(expected)
    assert (found["significant"] == (found["influence"] > threshold)).all()
    scores = memorization_table("here", released, data.train, threshold=threshold)
    assert scores["memorization"].tolist() == [float(MEMORIZATION[i]) for i in data.train.index]
