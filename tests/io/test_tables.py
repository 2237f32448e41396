import struct
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from refusals import flip, refusal
from stubs import written

import bat
from bat.errors import BatError
from bat.io import files
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import (
    check_labels,
    check_one_data_set,
    check_one_run,
    pack,
    read_scores,
    read_table,
    read_table_with_facts,
    table_facts,
    table_rows,
    unpack,
    write_table,
)
from bat.io.tensors import write_tensors

VALUES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False, width=64),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=4),
    pa.binary(): st.binary(max_size=4),
}
NULLABLE = {"max_influence", "memorization", "max_influence_train_index", "broken_by", "discrimination_loss"}


def columns(name, rows):
    """A strategy for the columns of a table, as lists in which None is missing."""
    return st.fixed_dictionaries(
        {
            field.name: st.lists(
                VALUES[field.type] | st.none() if field.name in NULLABLE else VALUES[field.type],
                min_size=rows,
                max_size=rows,
            )
            for field in SCHEMAS[name]
        }
    )


def frame(name, values):
    """Columns as pandas has them in memory: nullable integers where a value is missing."""
    types = {pa.int64(): "Int64", pa.float64(): "float64", pa.bool_(): "bool"}
    return pd.DataFrame(
        {
            field.name: pd.array(values[field.name], dtype=types[field.type])
            if field.type in types
            else pd.Series(values[field.name], dtype=object)
            for field in SCHEMAS[name]
        }
    )


def example(name, rows=3):
    plain = {pa.int64(): 1, pa.float64(): 0.5, pa.bool_(): True, pa.string(): "a", pa.binary(): b"a"}
    return frame(name, {field.name: [plain[field.type]] * rows for field in SCHEMAS[name]})


def as_lists(table):
    """Values of a table read back, None where one is missing (pandas has NaN there)."""
    return {name: [None if pd.isna(value) else value for value in table[name]] for name in table}


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("name", SCHEMAS)
@given(draw=st.data())
@settings(max_examples=4)
def test_tables_come_back_with_their_values_columns_and_provenance(name, rows, draw):
    values = draw.draw(columns(name, rows))
    spec = {"seed": 1, "nested": {"x": [1, 2.5, None, "é"]}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        # the order of columns in memory is no matter, and what the schema does not name is left out
        shuffled = frame(name, values)[[field.name for field in SCHEMAS[name]][::-1]]
        write_table(path, name, shuffled.assign(more=1), provenance(name, spec=spec))
        stored, plain = pq.read_table(path), pd.read_parquet(path)
        table, facts = read_table_with_facts(path, name)
    # Arrow has no rounding of 64-bit integers with missing values among them, which pandas gives as floats
    assert stored.to_pydict() == values
    assert stored.schema.equals(SCHEMAS[name])
    assert stored.schema.metadata.keys() == {b"bat"}  # what pandas would add differs by its version
    assert list(table) == list(plain) == SCHEMAS[name].names
    pd.testing.assert_frame_equal(table, plain)
    assert facts == {"kind": name, "version": bat.__version__, "spec": spec}
    if None not in values.get("max_influence_train_index", []):
        assert as_lists(table) == values


@pytest.mark.parametrize("name", SCHEMAS)
def test_columns_read_by_plain_pandas_have_the_types_of_the_schema(name, tmp_path):
    write_table(tmp_path / "a", name, example(name), provenance(name))
    kinds = {pa.int64(): "i", pa.float64(): "f", pa.bool_(): "b", pa.string(): "O", pa.binary(): "O"}
    table = pd.read_parquet(tmp_path / "a")
    assert [table[field.name].dtype.kind for field in SCHEMAS[name]] == [kinds[field.type] for field in SCHEMAS[name]]
    assert isinstance(table.index, pd.RangeIndex)


@pytest.mark.parametrize("name", SCHEMAS)
def test_writing_again_gives_the_same_bytes(name, tmp_path):
    for file in ("a", "b"):
        write_table(tmp_path / file, name, example(name), provenance(name, spec={"x": 1}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_index_of_a_frame_does_not_get_into_its_file(tmp_path):
    for file, index in (("a", [0, 1, 2]), ("b", [7, 5, 9])):
        write_table(
            tmp_path / file, "influence", example("influence").set_index(pd.Index(index)), provenance("influence")
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_floats_are_missing_not_nan(tmp_path):
    table = example("memorization").assign(memorization=[0.5, np.nan, 1.0])
    write_table(tmp_path / "a", "memorization", table, provenance("memorization"))
    assert pq.read_table(tmp_path / "a")["memorization"].to_pylist() == [0.5, None, 1.0]
    assert read_table(tmp_path / "a", "memorization")["memorization"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("missing", ["label", "atypical"])
def test_a_frame_without_a_column_is_the_programs_fault_and_writes_nothing(missing, tmp_path):
    with pytest.raises(KeyError, match=missing):
        write_table(tmp_path / "a", "memorization", example("memorization").drop(columns=missing), provenance("x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("stopped")])
def test_a_writer_that_breaks_leaves_the_old_table_and_no_temporary_file(error, tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write_table(path, "influence", example("influence"), provenance("influence"))
    before = path.read_bytes()

    def breaks(writer, table, rows):
        raise error

    monkeypatch.setattr(pq.ParquetWriter, "write_table", breaks)
    with pytest.raises(BatError if isinstance(error, OSError) else RuntimeError, match=str(error.args[-1])):
        write_table(path, "influence", example("influence", 5), provenance("influence"))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_a_file_cut_anywhere_is_refused(tmp_path):
    write_table(tmp_path / "whole", "influence", example("influence"), provenance("influence"))
    content = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    # all cuts near the ends, where the magic numbers and the footer's length are, and some between
    for length in {*range(20), *range(20, len(content), 37), *range(len(content) - 20, len(content))}:
        path.write_bytes(content[:length])
        assert refusal(read_table, path, "influence").startswith(f"{path}: damaged")


@pytest.mark.parametrize("rows", [0, 3])
def test_each_flipped_bit_is_noticed(rows, tmp_path):
    path = tmp_path / "flipped"
    write_table(path, "by_seed", example("by_seed", rows), provenance("by_seed", spec={"seed": 1}))
    for byte in range(path.stat().st_size):
        flip(path, byte, byte % 8)
        assert refusal(read_table, path, "by_seed").startswith(f"{path}: ")
        flip(path, byte, byte % 8)
    read_table(path, "by_seed")


def test_a_table_of_another_version_or_without_checksum_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a"
    table = pa.Table.from_pandas(example("influence"), schema=SCHEMAS["influence"])
    pq.write_table(table.replace_schema_metadata({"bat": provenance("influence")}), path)
    assert "has no checksum" in refusal(read_table, path, "influence")
    monkeypatch.setattr(files, "__version__", "0.0.1")
    write_table(path, "influence", example("influence"), provenance("influence"))
    monkeypatch.undo()
    assert f"written by version 0.0.1 of bat, and this is {bat.__version__}" in refusal(read_table, path, "influence")


def test_tables_of_two_data_sets_are_refused_and_both_named(tmp_path):
    one, same, other, none = (str(tmp_path / name) for name in ("one", "same", "other", "none"))
    for path, facts in ((one, {"data": "a"}), (same, {"data": "a"}), (other, {"data": "b"}), (none, {})):
        write_table(path, "influence", example("influence"), provenance("influence", **facts))
    check_one_data_set(one, None, same)
    check_one_data_set(one, same, data=("data", "a"))
    for path in (other, none):
        end = f"and {path} are of different data: remove the one that is out of date, and run its stage again"
        assert refusal(check_one_data_set, one, None, same, path) == f"{one} {end}"
        assert refusal(lambda path=path: check_one_data_set(one, path, data=("data", "a"))) == f"data {end}"
    plain = tmp_path / "plain.parquet"
    example("influence").to_parquet(plain)  # of another program, without provenance
    check_one_data_set(none, plain)
    assert "are of different data" in refusal(check_one_data_set, one, plain)


def test_tables_of_one_run_have_one_provenance_but_for_their_kinds(tmp_path):
    facts = {"influence": {"x": 1}, "test_groups": {"x": 1}, "memorization": {"x": 2}}
    for name, each in facts.items():
        write_table(tmp_path / name, name, example(name), provenance(name, **each))
    one, same, other = (tmp_path / name for name in facts)
    check_one_run(one)
    check_one_run(one, same)
    assert (
        refusal(check_one_run, one, same, other) == f"{one} and {other} are not of one run of their stage: run it again"
    )
    example("influence").to_parquet(tmp_path / "plain")
    assert refusal(check_one_run, one, tmp_path / "plain") == (
        f"{one} and {tmp_path / 'plain'} are not of one run of their stage: run it again"
    )


def test_tables_that_are_missing_or_of_another_format_are_refused(tmp_path):
    path = tmp_path / "none"
    assert refusal(read_table, path, "influence") == f"{path}: no such file: run the stage that writes it"
    write_tensors(tmp_path / "tensors", {}, provenance("influence"))
    line = refusal(read_table, tmp_path / "tensors", "influence")
    assert line.startswith(f"{tmp_path / 'tensors'}: damaged, or no Parquet file (")
    assert "Parquet magic bytes not found" in line
    assert line.endswith("): remove it and run its stage again")


def test_a_table_of_another_kind_or_program_is_refused(tmp_path):
    write_table(tmp_path / "a", "test_groups", example("test_groups"), provenance("test_groups"))
    assert "holds test_groups, not influence" in refusal(read_table, tmp_path / "a", "influence")
    example("influence").to_parquet(tmp_path / "b")
    assert "nothing of this package" in refusal(read_table, tmp_path / "b", "influence")


def with_schema(path, table, about):
    with pq.ParquetWriter(path, table.schema.remove_metadata(), store_schema=False) as writer:
        writer.write_table(table.replace_schema_metadata())
        writer.add_key_value_metadata({"bat": files.unsealed(about)})
    files.seal(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda table: table.drop_columns("p_value"), "p_value: double"),
        (lambda table: table.append_column("more", pa.array([1, 2, 3])), "more: int64"),
        (
            lambda table: table.set_column(0, "train_index", pa.array([1.5, 2, 3])),
            "train_index: double, train_index: int64",
        ),
        (lambda table: table.rename_columns({"label": "class"}), "class: int64, label: int64"),
    ],
    ids=["missing", "too many", "another type", "another name"],
)
def test_other_columns_are_refused_and_named(change, named, tmp_path):
    table = pa.Table.from_pandas(example("influence"), schema=SCHEMAS["influence"])
    with_schema(tmp_path / "a", change(table), provenance("influence"))
    assert refusal(read_table, tmp_path / "a", "influence") == (
        f"{tmp_path / 'a'}: not the columns of influence (differing: {named}): run its stage again"
    )


def test_columns_in_another_order_are_refused(tmp_path):
    table = pa.Table.from_pandas(example("influence"), schema=SCHEMAS["influence"])
    with_schema(tmp_path / "a", table.select(table.column_names[::-1]), provenance("influence"))
    assert "not the columns of influence" in refusal(read_table, tmp_path / "a", "influence")


@pytest.mark.parametrize("kind", ["memorization", "robust_memorization"])
@pytest.mark.parametrize("spec", [{}, {"spec": {}}, {"spec": {"score": "hard"}}, {"spec": {"score": "soft"}}])
def test_scores_are_those_that_the_config_chose(kind, spec, tmp_path):
    each = ["memorization", "standard_error", "ci_low", "ci_high", "p_in", "p_out"]
    numbers = {name: [n + 0.25] for n, name in enumerate([*each, *(f"soft_{name}" for name in each)])}
    path = written(tmp_path / "scores", kind, spec | {"data": "d"}, **numbers)
    table, facts = read_scores(path, kind)
    soft = "soft_" * (spec.get("spec", {}).get("score") == "soft")
    for name in each[:4]:
        assert table[name].tolist() == numbers[soft + name]
    # shares of models are counts of right and wrong
    for name in set(numbers) - set(each[:4]):
        assert table[name].tolist() == numbers[name]
    assert facts == read_table_with_facts(path, kind)[1]


def test_a_table_is_checked_without_its_rows(tmp_path):
    path = tmp_path / "a"
    write_table(path, "influence", example("influence"), provenance("influence", spec={"x": 1}))
    assert table_facts(path, "influence") == read_table_with_facts(path, "influence")[1]
    assert refusal(table_facts, path, "flags") == f"{path}: holds influence, not flags: give another file"
    table = pa.Table.from_pandas(example("influence"), schema=SCHEMAS["influence"])
    with_schema(path, table.drop_columns("p_value"), provenance("influence"))
    assert refusal(table_facts, path, "influence") == (
        f"{path}: not the columns of influence (differing: p_value: double): run its stage again"
    )


def test_rows_come_so_many_at_a_time_and_are_kept_so_too(tmp_path):
    path = tmp_path / "a"
    labels = list(range(20))
    write_table(path, "subsets", example("subsets", 20).assign(seed=labels), provenance("subsets"))
    found = list(table_rows(path, ("seed",), 7))
    assert found == [{"seed": labels[:7]}, {"seed": labels[7:14]}, {"seed": labels[14:]}]
    with pq.ParquetFile(path) as file:
        assert file.num_row_groups == 3  # models one after the other, eight in a group
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_provenance_that_is_no_text_is_refused(tmp_path):
    table = pa.Table.from_pandas(example("influence"), schema=SCHEMAS["influence"])
    pq.write_table(table.replace_schema_metadata({"bat": b"\xff"}), tmp_path / "a")
    assert refusal(read_table, tmp_path / "a", "influence") == (
        f"{tmp_path / 'a'}: its metadata is damaged: remove it and run its stage again"
    )


def test_a_folder_name_with_an_equals_sign_adds_no_column(tmp_path):
    path = tmp_path / "seed=1" / "a.parquet"
    write_table(path, "influence", example("influence"), provenance("influence"))
    assert list(read_table(path, "influence")) == SCHEMAS["influence"].names


BITS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40))


@given(BITS)
def test_packed_bits_come_back(bits):
    packed = pack(bits)
    assert [len(row) for row in packed] == [(bits.shape[1] + 7) // 8] * len(bits)
    again = unpack(pd.Series(packed, dtype=object, name="bits"), bits.shape[1], "here")
    assert again.dtype == bool
    np.testing.assert_array_equal(again, bits)


def test_the_first_sample_is_the_highest_bit():
    bits = np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1]], dtype=bool)
    assert pack(bits) == [bytes([0b10000001, 0b10000000])]


@pytest.mark.parametrize("order", "<>")
def test_packed_numbers_are_little_endian_and_come_back(order):
    values = np.array([[1.5, -2.0, 3.0], [0.0, 4.0, 5.0]], f"{order}f4")
    packed = pack(values)
    assert packed == [struct.pack("<3f", *row) for row in values]
    column = pd.Series(packed, name="margins")
    np.testing.assert_array_equal(unpack(column, 3, "here", np.dtype("<f4")), values)
    message = refusal(unpack, column, 4, "here", np.dtype("<f4"))
    assert message == "here: margins does not hold 4 samples: it is of other data; remove it"


@pytest.mark.parametrize("samples", [8, 17, 600])
def test_bits_of_another_number_of_samples_are_refused(samples):
    column = pd.Series(pack(np.ones((3, 9), dtype=bool)), name="correct_test")
    message = refusal(unpack, column, samples, "shard.parquet")
    assert message.startswith("shard.parquet: correct_test ")
    assert str(samples) in message


def test_one_row_of_another_length_is_refused():
    refusal(unpack, pd.Series([b"ab", b"a"], name="bits"), 16, "here")


INDEX, LABELS = np.array([3, 5, 8, 9]), np.array([0, 2, 2, 1])


def scores(index=INDEX, labels=LABELS):
    return pd.DataFrame({"test_index": index, "label": labels})


def test_the_same_samples_in_the_same_order_pass():
    check_labels("scores", scores(), "test_index", INDEX, LABELS)


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("what", ["index", "label"])
def test_the_first_row_that_differs_is_named_with_both_values(what, row):
    index, labels = INDEX.copy(), LABELS.copy()
    changed = index if what == "index" else labels
    changed[row:] += 70
    message = refusal(check_labels, "scores", scores(index, labels), "test_index", INDEX, LABELS)
    assert f"row {row} is sample {index[row]} with label {labels[row]}" in message
    assert f"has sample {INDEX[row]} with label {LABELS[row]}" in message


def test_the_same_samples_in_another_order_are_refused():
    message = refusal(check_labels, "scores", scores()[::-1], "test_index", INDEX, LABELS)
    assert "row 0 is sample 9 with label 1" in message


@pytest.mark.parametrize("samples", [0, 3])
def test_another_number_of_samples_is_refused_with_both_numbers(samples):
    message = refusal(check_labels, "scores", scores()[:samples], "test_index", INDEX, LABELS)
    assert message.startswith(f"scores: {samples} samples")
    assert "4" in message
