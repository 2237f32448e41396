"""The shards of subset models: checked, and read a few samples at a time."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from refusals import refusal

from bat.data.dataset import DataSet, Part
from bat.io.files import provenance
from bat.io.schemas import SCHEMAS
from bat.io.tables import write_table
from bat.scores.shards import Shards, class_by_class, in_order, open_shards, said_columns

SPLITS = ("train", "validation", "test")
LABELS = torch.tensor([[0, 2, 2, 1, 0, 1, 1, 2], [1, 1, 1, 2, 0, 0, 0, 0], [2, 2, 0, 0, 2, 1, 2, 0]])
DATA = DataSet(
    *(Part(torch.zeros(8, 1, 1, 1, dtype=torch.uint8), labels, torch.arange(8) * 3, 255) for labels in LABELS),
    classes=3,
)


def opened(paths):
    return open_shards([Path(path) for path in paths], Path("data.safetensors"), DATA, "digest")


SPEC = {"seed": 0, "model": {"name": "mlp", "width": 8}, "subset_fraction": 0.7}


def shard(path, first, models=2, data="digest", stored="u1", attacked=False, **changes):
    numbers = first + np.arange(models)
    table = pd.DataFrame({"model": numbers, "seed": numbers * 11})
    for kind in ("in_subset", *(f"correct_{name}" for name in SPLITS)):
        table[kind] = [bytes([number]) for number in numbers]
    table = pd.DataFrame(dict.fromkeys(SCHEMAS["subsets"].names) | dict(table))
    for name in SPLITS:
        table[f"p_{name}"] = [np.full(8, number / 8, "<f2").tobytes() for number in numbers]
        table[f"class_{name}"] = [np.full(8, number % 3, stored).tobytes() for number in numbers]
        if attacked:
            table[f"robust_{name}"] = table[f"correct_{name}"]
            table[f"robust_p_{name}"], table[f"robust_class_{name}"] = table[f"p_{name}"], table[f"class_{name}"]
    spec = SPEC | {"first_model": first, "models": models} | changes
    write_table(path, "subsets", table, provenance("subsets", spec=spec, data=data))
    return path


def test_shards_are_read_in_the_order_of_models_whatever_theirs(tmp_path):
    paths = [shard(tmp_path / f"{first}", first, models) for first, models in ((0, 2), (2, 1), (3, 20))]
    wanted = {"in_subset": np.array([7, 0]), "p_test": np.array([3]), "class_validation": np.arange(8)}
    for order in itertools.permutations(paths):
        shards = opened(order)
        assert shards.models == 23
        found = shards.read(wanted)
        numbers = np.arange(23)
        # the first sample is in the highest bit
        assert found["in_subset"].tolist() == [[bool(k & 1), bool(k & 128)] for k in numbers]
        assert found["p_test"].tolist() == [[k / 8] for k in numbers]
        assert found["class_validation"].tolist() == [[k % 3] * 8 for k in numbers]


@pytest.mark.parametrize(("classes", "stored", "dtype"), [(255, "u1", np.uint8), (256, "<u2", np.uint16)])
def test_a_class_has_the_least_bytes_that_also_hold_no_class(classes, stored, dtype, tmp_path):
    said = torch.tensor([True, False, True]), torch.tensor([0.75, 0.1, 1]), torch.tensor([classes - 1, -1, 0])
    for under_attack, names in (
        ({}, ["correct_test", "p_test", "class_test"]),
        ({"under_attack": True}, ["robust_test", "robust_p_test", "robust_class_test"]),
    ):
        columns = said_columns("test", *said, classes, **under_attack)
        assert list(columns) == names
        correct, p, places = columns.values()
        assert correct.tolist() == [True, False, True]
        assert p.numpy().tolist() == [0.75, np.float16(0.1), 1]
        assert p.numpy().dtype == np.float16
        assert places.tolist() == [classes - 1, classes, 0]
        assert places.numpy().dtype == dtype
    shards = replace(opened([shard(tmp_path / "a", 0, 5, stored=stored)]), classes=classes)
    found = shards.read({"class_test": np.array([2, 4])})["class_test"]
    assert found.dtype == dtype
    assert found.tolist() == [[k % 3] * 2 for k in range(5)]


def test_scores_of_other_models_are_refused(tmp_path):
    shards, scores = opened([shard(tmp_path / "a", 0)]), tmp_path / "memorization.parquet"
    shards.check_scores(scores, {"spec": {"shards": shards.facts}, "models": 2})
    message = f"{scores}: of other subset models than {tmp_path / 'a'}: run stage scores again"
    for spec, models in (({"shards": shards.facts}, 3), ({"shards": shards.facts | {"spec.seed": 1}}, 2), ({}, 2)):
        assert refusal(shards.check_scores, scores, {"spec": spec, "models": models}) == message


def test_shards_tell_what_they_share(tmp_path):
    assert opened([shard(tmp_path / "b", 5, 1), shard(tmp_path / "a", 0, 5)]).facts == {
        "spec.seed": 0,
        "spec.model.name": "mlp",
        "spec.model.width": 8,
        "spec.subset_fraction": 0.7,
        "data": "digest",
    }


@pytest.mark.parametrize("name", ["in_subset", "correct_test", "p_train", "class_test"])
def test_shards_of_other_numbers_of_samples_are_refused(name, tmp_path):
    path = shard(tmp_path / "a", 0)
    shards = opened([path])
    split = "train" if name == "in_subset" else name.partition("_")[2]
    shards = replace(shards, sizes=shards.sizes | {split: 9})
    message = f"{path}: {name} does not hold 9 samples: it is of other data; remove it"
    assert refusal(shards.read, {name: np.array([0])}) == message


def test_models_that_were_not_attacked_say_nothing_under_attack(tmp_path):
    path = shard(tmp_path / "a", 0)
    message = f"{path}: models trained on clean images: give the shards trained adversarially"
    assert refusal(opened([path]).read, {"robust_test": np.array([0])}) == message


def test_shards_of_other_data_are_refused(tmp_path):
    path = shard(tmp_path / "a", 0, data="another")
    message = f"{path}: trained on other data than data.safetensors: remove the shards and run stage subsets again"
    assert refusal(opened, [path]) == message


@pytest.mark.parametrize("most", [1, 60, 10**9])
def test_classes_are_whole_however_much_is_read_at_once(most, tmp_path):
    paths = [shard(tmp_path / "a", 0, 3), shard(tmp_path / "b", 3, 250)]
    classes = list(class_by_class(opened(paths), DATA, ("correct", "p", "class"), most=most))
    assert [one.label for one in classes] == [0, 1, 2]
    for one in classes:
        for name, part in DATA.parts().items():
            rows = np.flatnonzero(part.labels.numpy() == one.label)
            assert one.index[name].tolist() == part.index[rows].tolist()
            bits = np.array([[bool(model >> (7 - row) & 1) for row in rows] for model in range(253)])
            assert np.array_equal(one.columns[f"correct_{name}"], bits.reshape(253, len(rows)))
            if name == "train":
                assert np.array_equal(one.columns["in_subset"], bits)
            assert one.columns[f"p_{name}"].dtype == np.float16
            assert np.array_equal(one.columns[f"class_{name}"], np.repeat([np.arange(253) % 3], len(rows), 0).T)


@pytest.mark.parametrize(
    ("most", "read"), [(16, [[0, 1], [2]]), (15, [[0], [1, 2]]), (14, [[0], [1], [2]]), (24, [[0, 1, 2]])]
)
def test_as_many_classes_are_read_at_once_as_fit(most, read, tmp_path):
    """Classes 0, 1 and 2 have 9, 7 and 8 samples."""
    shards, places = opened([shard(tmp_path / "a", 0, 10)]), []
    real = Shards.read
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shards, "read", lambda self, wanted: places.append(wanted["p_test"]) or real(self, wanted))
        # of each model a bit, a probability and a class, for which two bytes are counted each, and one for the mask
        classes = list(class_by_class(shards, DATA, ("correct", "p", "class"), most=10 * 7 * most))
    assert [sorted({int(DATA.test.labels[place]) for place in each}) for each in places] == read
    assert len(classes) == 3


def test_what_models_say_under_attack_is_read_alike(tmp_path):
    shards = opened([shard(tmp_path / "a", 0, 10, attacked=True)])
    attacked = class_by_class(shards, DATA, ("robust", "robust_p", "robust_class"))
    for one, other in zip(attacked, class_by_class(shards, DATA, ("correct", "p", "class")), strict=True):
        assert len(one.columns) == 10
        for name, values in one.columns.items():
            clean = name.removeprefix("robust_") if "_p_" in name or "_class_" in name else f"correct_{name[7:]}"
            expected = other.columns[name if name == "in_subset" else clean]
            assert values.dtype == expected.dtype
            np.testing.assert_array_equal(values, expected)


def test_tables_of_classes_are_joined_in_the_order_of_samples():
    part = DATA.train
    rows = [pd.DataFrame({"index": part.index[part.labels == label]}).assign(value=label) for label in range(3)]
    table = in_order(rows, part)
    assert table["index"].tolist() == part.index.tolist()
    assert table["value"].tolist() == part.labels.tolist()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "spec.seed 0 and 1"),
        ({"subset_fraction": 0.5}, "spec.subset_fraction 0.7 and 0.5"),
        ({"model": {"name": "mlp", "width": 9}}, "spec.model.width 8 and 9"),
        ({"model": {"name": "mlp"}}, "spec.model.width 8 and null"),
        ({"data": "another"}, 'data "digest" and "another"'),
        ({"seed": 1, "model": {"name": "cnn", "width": 8}}, 'spec.model.name "mlp" and "cnn"; spec.seed 0 and 1'),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_shards_of_different_specs_are_refused_with_files_keys_and_values(changes, named, tmp_path):
    paths = [shard(tmp_path / "a", 0), shard(tmp_path / "b", 2), shard(tmp_path / "c", 4, **changes)]
    message = refusal(opened, paths)
    assert message == (
        f"{paths[0]} and {paths[2]} were made by different specs ({named}): remove the one that is out of date and run "
        "stage subsets again"
    )


@pytest.mark.parametrize("firsts", [(0, 0), (0, 1), (2, 4), (0, 4), (1,)], ids=str)
def test_shards_with_a_model_twice_or_missing_are_refused(firsts, tmp_path):
    paths = [shard(tmp_path / f"{place}", first) for place, first in enumerate(firsts)]
    rows = 2 * len(paths)
    assert refusal(opened, paths) == (
        f"{paths[0]} ... {paths[-1]}: {rows} rows are not the models 0 to {rows - 1} once each: give each shard once"
    )


def test_a_missing_or_damaged_shard_is_refused_by_its_name(tmp_path):
    first = shard(tmp_path / "a", 0)
    assert f"{tmp_path / 'b'}: no such file" in refusal(opened, [first, tmp_path / "b"])
    (tmp_path / "b").write_bytes(first.read_bytes()[:-9])
    assert f"{tmp_path / 'b'}: damaged" in refusal(opened, [first, tmp_path / "b"])
