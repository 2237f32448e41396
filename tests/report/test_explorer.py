"""The data of the score explorer against loops over the tables, and its page in a browser."""

import base64
import json
import math
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from browser import Opened, chromium
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from playwright.sync_api import Browser
from refusals import refusal
from stages import call
from stubs import Lines, ascii_by_default, written

from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.io.files import provenance
from bat.io.tables import read_table
from bat.report import explorer as content
from bat.report.explorer import as_script, explored, sheets, shown_size, shown_splits
from bat.report.html import render
from bat.report.stage import explorer

TRAIN, TEST = 230, 120
SIZE = (6, 5)  # width, height
METHODS, ATTACKS = ("natural", "bat"), ("apgd_ce", "square")
SEEDS = 3


def part(random: np.random.Generator, index: np.ndarray, channels: int = 3) -> Part:
    pixels = random.integers(0, 17, (len(index), channels, SIZE[1], SIZE[0]), dtype=np.uint8)
    return Part(torch.from_numpy(pixels), torch.from_numpy(index % 3), torch.from_numpy(index), pixel_max=16)


@pytest.fixture(scope="module")
def data() -> DataSet:
    random = np.random.default_rng(0)
    index = random.permutation(1000)
    splits = (np.sort(part) for part in np.split(index[: TRAIN + TEST + 4], [TRAIN, TRAIN + 4]))
    return DataSet(*(part(random, index) for index in splits), classes=3, class_names=("ant", "<bee>", "cat"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: DataSet) -> Path:
    folder, random = tmp_path_factory.mktemp("explorer"), np.random.default_rng(1)
    train, test = data.train.index.numpy(), data.test.index.numpy()
    write_data(folder / "data.safetensors", data, provenance("data"))
    facts = {"data": data.digest()}
    columns: dict[str, dict[str, Any]] = {
        "memorization": {
            "train_index": train,
            "label": train % 3,
            "memorization": np.where(train % 10 == 0, np.nan, random.random(TRAIN)),
            "taken_for": (train + 1) % 3,
            "entropy": [np.nan] * TRAIN,
            "file": [f"images/{place % 3}/{place}.png" for place in range(TRAIN)],
        },
        "robust_memorization": {"train_index": train, "memorization": random.random(TRAIN)},
        "harmful": {"train_index": train[:7], "wrong_probability": random.random(7)},
        "proxies": {"train_index": train, "label": [0] * TRAIN, "csl": random.random(TRAIN)},
        "label_errors": {"train_index": train[3:5], "label": [0, 0], "score": [0.75, 0.5]},
        "test_groups": {
            "test_index": test,
            "label": test % 3,
            "max_influence": random.random(TEST),
            "file": [None] * TEST,
        },
        "influence": {
            "train_index": random.choice(train[:9], 400),
            "test_index": random.choice(test[:15], 400),
            "influence": random.random(400),
            "significant": random.random(400) < 0.5,
        },
        "train_influence": {"train_index": train[:5], "influenced_index": train[5:10], "influence": [0.5] * 5},
    }
    rows = [(method, seed, checkpoint, place) for method in METHODS for seed in range(SEEDS)
            for checkpoint in ("best", "last") for place in random.permutation(test)]  # fmt: skip
    columns["per_sample"] = dict(
        zip(("method", "seed", "checkpoint", "test_index"), zip(*rows, strict=True), strict=True)
    )
    for metric in ("clean", "pgd", "robust"):
        columns["per_sample"][f"{metric}_correct"] = random.random(len(rows)) < 0.5
    columns["per_sample"]["broken_by"] = random.choice([*ATTACKS, None], len(rows))
    for kind, values in columns.items():
        written(folder / f"{kind}.parquet", kind, facts, **{name: list(column) for name, column in values.items()})
    return folder


KINDS = ["memorization", "robust_memorization", "influence", "train_influence", "test_groups", "harmful", "per_sample"]
KINDS += ["proxies", "label_errors"]


@pytest.fixture(scope="module")
def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {kind: read_table(folder / f"{kind}.parquet", kind) for kind in KINDS}


@pytest.fixture
def found(data: DataSet, tables: dict[str, pd.DataFrame]) -> Any:
    return explored(data, tables, shown_splits(data, tables))


def test_samples_are_sorted_and_have_their_labels_and_figures(data: DataSet, tables: Any, found: Any) -> None:
    train = found["splits"]["train"]
    scores = tables["memorization"].set_index("train_index")
    assert sorted(train["index"]) == data.train.index.tolist()
    values = train["columns"]["memorization"]
    known = values[~np.isnan(values)]
    assert (np.diff(known) <= 0).all()
    assert np.isnan(values[len(known) :]).all()
    robust, harm = tables["robust_memorization"].set_index("train_index"), tables["harmful"].set_index("train_index")
    for row, index in enumerate(train["index"]):
        assert train["label"][row] == index % 3
        assert train["takenFor"][row] == (index + 1) % 3
        assert values[row] == scores.loc[index, "memorization"] or np.isnan(values[row])
        assert train["columns"]["robust memorization"][row] == robust.loc[index, "memorization"]
        wrong = train["columns"]["wrong probability"][row]
        assert wrong == harm.loc[index, "wrong_probability"] if index in harm.index else np.isnan(wrong)
        assert train["columns"]["csl"][row] == tables["proxies"].set_index("train_index").loc[index, "csl"]
    errors = train["columns"]["likely label error"]
    found_errors = {train["index"][row]: errors[row] for row in np.flatnonzero(~np.isnan(errors))}
    assert found_errors == dict(zip(data.train.index[3:5].tolist(), [0.75, 0.5], strict=True))
    assert "entropy" not in train["columns"]  # of no sample
    assert not any("standard error" in name for name in train["columns"])


def test_models_that_are_right_and_attacks_that_break_are_counted(tables: Any, found: Any) -> None:
    test, rows = found["splits"]["test"], tables["per_sample"]
    assert list(found["methods"]) == list(METHODS)
    counted: Counter[tuple[Any, ...]] = Counter()
    for row in rows.itertuples():
        if row.checkpoint == "last":
            counted[row.method, row.test_index, "clean"] += row.clean_correct
            counted[row.method, row.test_index, "robust"] += row.robust_correct
            counted[row.method, row.test_index, row.broken_by] += 1
    for method in METHODS:
        counts = found["methods"][method]
        assert counts["models"] == SEEDS
        for row, index in enumerate(test["index"]):
            for metric in ("clean", "robust"):
                assert counts[metric][row] == counted[method, index, metric]
            for attack in ATTACKS:
                assert counts["brokenBy"][attack][row] == counted[method, index, attack]
    last = rows[rows["checkpoint"] == "last"]
    for row, index in enumerate(test["index"]):
        share = last.loc[last["test_index"] == index, "clean_correct"].mean()
        assert test["columns"]["clean right"][row] == pytest.approx(share)


def test_the_strongest_influences_of_each_sample_are_kept(tables: Any, found: Any) -> None:
    pairs, train, test = found["influence"], found["splits"]["train"]["index"], found["splits"]["test"]["index"]
    kept = {
        (train[one], test[other], value, bool(sign))
        for one, other, value, sign in zip(
            *(pairs[name] for name in ("from", "to", "value", "significant")), strict=True
        )
    }
    everything = [
        row[1:] for row in tables["influence"][["train_index", "test_index", "influence", "significant"]].itertuples()
    ]
    expected = {
        pair
        for pair in everything
        if any(sum(o[side] == pair[side] and o[2] > pair[2] for o in everything) < 12 for side in (0, 1))
    }
    assert kept == expected
    assert len(kept) < len(everything)


def test_sheets_hold_each_image_at_its_place(data: DataSet, tables: Any) -> None:
    split = shown_splits(data, tables)["train"]
    drawn = [np.asarray(sheet) for sheet in sheets(data.train, split.rows, SIZE)]
    assert [sheet.shape[:2] for sheet in drawn] == [(10 * SIZE[1], 10 * SIZE[0])] * 2 + [(3 * SIZE[1], 10 * SIZE[0])]
    order = {index: row for row, index in enumerate(data.train.index.tolist())}
    for place, index in enumerate(split.table.index):
        top, left = place % 100 // 10 * SIZE[1], place % 10 * SIZE[0]
        image = drawn[place // 100][top : top + SIZE[1], left : left + SIZE[0]]
        expected = data.train.pixels[order[index]].numpy().transpose(1, 2, 0).astype(int) * 255 // 16
        assert (image == expected).all()


@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 8), (8, 8)), ((64, 32), (32, 64)), ((100, 200), (64, 32)), ((600, 1), (1, 64)), ((2, 900), (64, 1))],
)
def test_large_images_get_small_thumbnails(shape: tuple[int, int], size: tuple[int, int]) -> None:
    one = flat_images(np.array([70], dtype=np.uint8), shape)
    assert shown_size(DataSet(one, one, one, 1), 64) == size
    (sheet,) = sheets(one, np.array([0]), size)
    assert (sheet.mode, sheet.size) == ("L", (10 * size[0], size[1]))
    drawn = np.asarray(sheet)
    assert (drawn[:, : size[0]] == 70).all()
    assert not drawn[:, size[0] :].any()


def test_of_images_with_more_channels_the_first_three_are_shown() -> None:
    part = Part(torch.tensor([10, 20, 30, 40], dtype=torch.uint8).view(1, 4, 1, 1), torch.zeros(1), torch.zeros(1), 255)
    (sheet,) = sheets(part, np.array([0]), (1, 1))
    assert (sheet.mode, sheet.getpixel((0, 0))) == ("RGB", (10, 20, 30))


def flat_images(greys: np.ndarray, shape: tuple[int, int]) -> Part:
    """Images of one grey each."""
    pixels = torch.from_numpy(greys)[:, None, None, None].expand(-1, 1, *shape).contiguous()
    return Part(pixels, torch.zeros(len(greys), dtype=torch.int64), torch.arange(len(greys)), 255)


def unpacked(packed: dict[str, Any]) -> list[float | None]:
    """What the page does."""
    kind = np.dtype(packed["type"].removesuffix("Array").lower()).newbyteorder("<")
    numbers = np.frombuffer(base64.b64decode(packed["base64"]), kind).tolist()
    if "scale" not in packed:
        return numbers
    return [None if number == packed["none"] else number / packed["scale"] for number in numbers]


FLOATS = st.floats(-2000, 2000) | st.just(math.nan)


@given(arrays.arrays(np.float64, st.integers(0, 5), elements=FLOATS))
def test_floats_are_packed_to_thousandths(values: np.ndarray) -> None:
    found = unpacked(json.loads(as_script({"a": values})[len("window.DATA=") : -2])["a"])
    assert [number is None for number in found] == np.isnan(values).tolist()
    assert all(
        abs(number - value) <= 0.0005 + 1e-9 for number, value in zip(found, values, strict=True) if number is not None
    )


@given(arrays.arrays(np.int64, st.integers(0, 5), elements=st.integers(-(2**31), 2**31 - 1)))
def test_whole_numbers_are_packed_exactly(values: np.ndarray) -> None:
    assert unpacked(json.loads(as_script({"a": values})[len("window.DATA=") : -2])["a"]) == values.tolist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], "Uint8"),
        ([0, 256], "Uint16"),
        ([65535], "Uint16"),
        ([65536], "Int32"),
        ([-128, 127], "Int8"),
        ([-1, 128], "Int16"),
        ([-129], "Int16"),
        ([-32769], "Int32"),
        ([], "Uint8"),
        # the least of each type is kept for NaN
        ([-0.127, 0.127, math.nan], "Int8"),
        ([0.128], "Int16"),
        ([-0.128], "Int16"),
        ([-32.767, 32.767], "Int16"),
        ([-32.768], "Int32"),
    ],
)
def test_numbers_take_as_few_bytes_as_hold_them(values: list[float], kind: str) -> None:
    found = json.loads(as_script({"a": np.array(values, dtype=None if values else np.int64)})[len("window.DATA=") : -2])
    assert found["a"]["type"] == f"{kind}Array"
    assert unpacked(found["a"]) == [None if math.isnan(value) else value for value in values]


def test_the_script_is_short_and_holds_no_number_that_json_lacks() -> None:
    assert as_script({"a": [1, "é"], "b": {}}) == 'window.DATA={"a":[1,"\\u00e9"],"b":{}};\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_script({"a": math.nan})


def plain(found: Any) -> Any:
    """Arrays as lists, None for NaN."""
    if isinstance(found, dict):
        return {name: plain(value) for name, value in found.items()}
    if isinstance(found, list | np.ndarray):
        return [plain(value) for value in (found if isinstance(found, list) else found.tolist())]
    return None if isinstance(found, float) and math.isnan(found) else found


def test_all_that_the_page_reads_of_a_small_experiment() -> None:
    small = DataSet(
        *(
            Part(torch.zeros(len(index), 1, 3, 128, dtype=torch.uint8), torch.arange(len(index)) % 2, index, 255)
            for index in (torch.tensor([5, 3, 8, 6]), torch.tensor([4]), torch.tensor([7, 2, 9]))
        ),
        classes=2,
        class_names=("ant", "bee"),
    )
    nan = math.nan
    tables: dict[str, dict[str, Any]] = {
        "memorization": {
            "train_index": [3, 5, 8, 6],
            "label": [1, 0, 0, 1],
            "file": ["a/b/x.png", "y.png", None, "a/b/z.png"],
            "memorization": [0.5, 0.5, nan, 0.75],
            "standard_error": 0.125,
            "ci_low": [0.25, 0.5, nan, 0.5],
            "ci_high": [0.5, 0.75, nan, 1.0],
            "soft_p_in": [0.1, 0.2, 0.3, 0.4],
            "n_in": 4,
            "atypical": [True, True, False, False],
            "taken_for": [1, nan, 0, 1],
            "taken_for_share": [0.5, nan, 0.25, 1.0],
        },
        "robust_memorization": {
            "train_index": [8, 3],
            "memorization": [0.1, 0.2],
            "soft_memorization": [0.3, 0.4],
            "p_in": 0.5,
        },
        "harmful": {"train_index": [3], "wrong_probability": [0.9], "wrong_share": [0.8], "memorization": [0.5]},
        "proxies": {"train_index": [6, 8, 3, 5], "label": 0, "csl": [1.0, 2.0, 3.0, 4.0]},
        "label_errors": {"train_index": [6], "score": [0.6], "taken_for": [0]},
        "test_groups": {
            "test_index": [2, 9, 7],
            "file": [None] * 3,
            "max_influence": [nan, 0.2, 0.2],
            "memorization": [0.1, 0.2, 0.3],
            "taken_for": [nan] * 3,
            "entropy": [nan] * 3,
        },
        "influence": {
            "train_index": [5, 3, 3],
            "test_index": [7, 9, 2],
            "influence": [0.1, 0.3, 0.1],
            "significant": [None, True, False],
        },
        "train_influence": {
            "train_index": [8],
            "influenced_index": [3],
            "influence": [0.1],
            "significant": [True],
        },
        "per_sample": {
            "method": ["nat"] * 9 + ["bat"] * 2,
            "seed": [0] * 3 + [1] * 3 + [2] * 3 + [0] * 2,
            "checkpoint": ["last"] * 6 + ["best"] * 3 + ["last"] * 2,
            "test_index": [2, 7, 9] * 3 + [2, 7],
            "clean_correct": [True] * 6 + [False] * 3 + [True] * 2,
            "pgd_correct": [True, True, False, True, False, False, False, False, False, True, False],
            "robust_correct": [True, False, False, True, False, False, False, False, False, True, False],
            "broken_by": [None, "apgd", "apgd", None, "square", "apgd", "fab", "fab", "fab", None, "fab"],
        },
    }
    frames = {kind: pd.DataFrame(columns) for kind, columns in tables.items()}
    splits = shown_splits(small, frames)
    assert {name: split.rows.tolist() for name, split in splits.items()} == {"train": [3, 0, 1, 2], "test": [0, 2, 1]}
    found = explored(small, frames, splits)
    assert found["splits"]["train"]["takenFor"].dtype == np.int64
    assert plain(found) == {
        "classes": ["ant", "bee"],
        "tile": [64, 2],
        "large": [128, 3],
        "perRow": 10,
        "splits": {
            "train": {
                "index": [6, 5, 3, 8],
                "label": [1, 0, 1, 0],
                "columns": {
                    "memorization": [0.75, 0.5, 0.5, None],
                    "probability if trained on": [0.4, 0.2, 0.1, 0.3],
                    "atypical": [0.0, 1.0, 1.0, 0.0],
                    "share of models that take it for that": [1.0, None, 0.5, 0.25],
                    "robust memorization": [None, None, 0.2, 0.1],
                    "robust soft memorization": [None, None, 0.4, 0.3],
                    "wrong probability": [None, None, 0.9, None],
                    "wrong share": [None, None, 0.8, None],
                    "csl": [1.0, 4.0, 3.0, 2.0],
                    "likely label error": [0.6, None, None, None],
                },
                "takenFor": [1, -1, 1, 0],
                "file": {
                    "folders": ["a/b/", ""],
                    "folder": [0, 1, 0, 1],
                    "name": ["z.png", "y.png", "x.png", ""],
                },
                "interval": [[0.5, 0.5, 0.25, None], [1.0, 0.75, 0.5, None]],
            },
            "test": {
                "index": [7, 9, 2],
                "label": [0, 0, 1],
                "columns": {
                    "max influence": [0.2, 0.2, None],
                    "memorization of its strongest influence": [0.3, 0.2, 0.1],
                    "clean right": [1.0, 1.0, 1.0],
                    "pgd right": [pytest.approx(1 / 3), 0.0, 1.0],
                    "robust right": [0.0, 0.0, 1.0],
                },
            },
        },
        "influence": {"from": [2, 1, 2], "to": [1, 0, 2], "value": [0.3, 0.1, 0.1], "significant": [1, 0, 0]},
        "trainInfluence": {"from": [3], "to": [2], "value": [0.1], "significant": [1]},
        "methods": {
            "nat": {
                "models": 2,
                "clean": [2, 2, 2],
                "pgd": [1, 0, 2],
                "robust": [0, 0, 2],
                "brokenBy": {"apgd": [1, 2, 0], "square": [1, 0, 0]},
            },
            "bat": {
                "models": 1,
                "clean": [1, 0, 1],
                "pgd": [0, 0, 1],
                "robust": [0, 0, 1],
                "brokenBy": {"fab": [1, 0, 0]},
            },
        },
    }


def test_equal_samples_and_pairs_stay_in_their_order() -> None:
    part = flat_images(np.zeros(200, dtype=np.uint8), (1, 1))
    data, score = DataSet(part, part, part, 1), np.arange(200) % 2 / 2
    tables = {"memorization": pd.DataFrame({"train_index": range(200), "memorization": score})}
    pairs = {"train_index": range(200), "test_index": range(200), "influence": score, "significant": True}
    tables["influence"] = pd.DataFrame(pairs)
    splits = shown_splits(data, tables)
    expected = [*range(1, 200, 2), *range(0, 200, 2)]
    assert splits["train"].table.index.tolist() == splits["train"].rows.tolist() == expected
    assert explored(data, tables, splits)["influence"]["to"].tolist() == expected


def test_only_memorization_must_be_there(data: DataSet, tables: Any) -> None:
    few = {"memorization": tables["memorization"]}
    found = explored(data, few, shown_splits(data, few))
    assert found["splits"]["test"]["columns"] == found["methods"] == {}
    assert found["splits"]["test"]["index"].tolist() == data.test.index.tolist()
    nothing = {name: [] for name in ("from", "to", "value", "significant")}
    assert plain(found["influence"]) == plain(found["trainInfluence"]) == nothing
    as_script(found)


def test_accuracies_are_shown_without_groups_of_test_samples(data: DataSet, tables: Any) -> None:
    few = {kind: tables[kind] for kind in ("memorization", "per_sample")}
    columns = shown_splits(data, few)["test"].table
    assert list(columns) == ["clean_right", "pgd_right", "robust_right"]
    assert columns.notna().all(axis=None)


# -- the page


def make(folder: Path, index: str, *kinds: str) -> Path:
    call("explorer", folder, data="data.safetensors", **{kind: f"{kind}.parquet" for kind in kinds}, index=index)
    return folder / index


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(folder: Path, browser: Browser) -> Opened:
    return Opened(browser, make(folder, "explorer/index.html", *KINDS))


@pytest.fixture
def page(opened: Opened) -> Any:
    opened.page.reload()
    return opened.page


def shown(page: Any) -> list[str]:
    """The samples in sight, in order."""
    found = page.eval_on_selector_all("[role=option]", "all => all.map(one => one.title)")
    return [str(title) for title in found]


def named(split: str, indices: Any) -> list[str]:
    return [f"{split} sample {index}" for index in indices]


def test_the_page_shows_the_most_memorized_first_and_draws_only_what_is_seen(page: Any, found: Any) -> None:
    indices = found["splits"]["train"]["index"]
    assert shown(page) == named("training", indices[: len(shown(page))])
    assert 20 < len(shown(page)) < 150
    page.eval_on_selector("#grid", "grid => grid.scrollTo(0, grid.scrollHeight)")
    page.wait_for_selector(f"[title='training sample {indices[-1]}']")
    assert f"training sample {indices[0]}" not in shown(page)


def test_sorting_and_filters(page: Any, found: Any) -> None:
    train = found["splits"]["train"]
    robust = train["columns"]["robust memorization"].round(3)
    page.select_option("#sort", "robust memorization")
    page.select_option("#order", "1")
    order = np.argsort(robust, kind="stable")
    assert shown(page) == named("training", train["index"][order][: len(shown(page))])
    page.fill("#low", "0.2")
    page.fill("#high", "0.6")
    page.select_option("#class", "1")
    kept = [row for row in order if 0.2 <= robust[row] <= 0.6 and train["label"][row] == 1]
    assert page.text_content("#count") == f"{len(kept)} of {TRAIN} training samples"
    assert shown(page) == named("training", train["index"][kept])
    page.click("text=Clear filters")
    assert page.text_content("#count") == f"{TRAIN} of {TRAIN} training samples"
    page.fill("#text", "images/1/")
    assert page.text_content("#count") == f"{len(range(1, TRAIN, 3))} of {TRAIN} training samples"
    page.fill("#text", str(train["index"][5]))
    assert f"training sample {train['index'][5]}" in shown(page)
    assert len(shown(page)) < 20
    page.select_option("#split", "test")
    page.fill("#text", "")
    assert page.text_content("#count") == f"{TEST} of {TEST} test samples"


def test_keys_move_open_and_close(page: Any, found: Any) -> None:
    indices = found["splits"]["train"]["index"]
    page.focus("#grid")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    across = page.evaluate("layout().across")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#grid", "aria-activedescendant") == f"place-{across + 1}"
    page.keyboard.press("Enter")
    assert page.text_content("#name").startswith(f"Training sample {indices[across + 1]}: class ")
    page.keyboard.press("ArrowLeft")
    assert page.text_content("#name").startswith(f"Training sample {indices[across]}: class ")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog")
    assert page.evaluate("document.activeElement.id") == "grid"
    page.keyboard.press("End")
    assert page.get_attribute("#grid", "aria-activedescendant") == f"place-{TRAIN - 1}"
    assert page.is_visible(f"#place-{TRAIN - 1}")


def test_a_click_shows_a_sample_with_influences_and_attacks(page: Any, found: Any) -> None:
    page.select_option("#split", "test")
    test, pairs = found["splits"]["test"], found["influence"]
    row = int(pairs["to"][0])
    index, label = test["index"][row], test["label"][row]
    page.fill("#text", str(index))
    page.click("[role=option]")
    assert page.text_content("#name") == f"Test sample {index}: class {('ant', '<bee>', 'cat')[label]}"
    values = sorted((value for to, value in zip(pairs["to"], pairs["value"], strict=True) if to == row), reverse=True)
    texts = page.eval_on_selector_all(".row button", "all => all.map(one => one.textContent)")
    assert [float(text.rstrip("*")) for text in texts] == pytest.approx(values[:12], abs=0.001)
    for method, line in zip(METHODS, page.query_selector_all("dialog tbody tr"), strict=True):
        counts = found["methods"][method]
        broken = ", ".join(f"{attack} ({n[row]})" for attack, n in counts["brokenBy"].items() if n[row])
        cells = [cell.text_content() for cell in line.query_selector_all("th, td")]
        assert cells[:2] == [method, f"{counts['clean'][row]} of {SEEDS}"]
        assert cells[4] == (broken or ("none" if counts["clean"][row] else "wrong without attack"))
    page.click(".row button >> nth=0")
    assert page.text_content("#name").startswith("Training sample ")


def test_brushing_the_plot_filters_the_grid(page: Any) -> None:
    page.select_option("#split", "test")
    page.wait_for_selector("#scatter canvas")
    box = page.locator("#scatter").bounding_box()
    page.mouse.move(box["x"] + 90, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + box["height"] - 70, steps=4)
    page.mouse.up()
    page.wait_for_selector("#all:visible")
    brushed = page.evaluate("[...state.brushed]")
    assert 0 < len(brushed) < TEST
    assert page.text_content("#count") == f"{len(brushed)} of {TEST} test samples"
    page.click("#all")
    assert page.text_content("#count") == f"{TEST} of {TEST} test samples"


def test_nothing_is_asked_of_any_host_and_nothing_goes_wrong(opened: Opened) -> None:
    opened.page.wait_for_selector("#scatter canvas")
    assert opened.problems == []
    assert {address.partition(":")[0] for address in opened.asked} <= {"file", "data", "blob"}
    assert any(address.endswith("train-0.png") for address in opened.asked)


def test_each_control_has_a_name(page: Any) -> None:
    unnamed = page.eval_on_selector_all(
        "form :is(select, input), #axes select", "all => all.filter(one => !one.labels.length).length"
    )
    assert unnamed == 0


def test_scores_alone_make_a_page(folder: Path, browser: Browser) -> None:
    few = Opened(browser, make(folder, "few/index.html", "memorization"))
    few.page.wait_for_selector("#scatter canvas")
    few.page.select_option("#split", "test")
    few.page.click("[role=option] >> nth=0")
    assert few.problems == []


@pytest.mark.parametrize(
    ("shape", "small", "wide"), [((150, 300), [64, 32], [256, 128]), ((600, 1), [1, 64], [1, 256])]
)
def test_images_over_64_pixels_are_shown_large_from_sheets_of_their_own(
    shape: tuple[int, int], small: list[int], wide: list[int], tmp_path: Path, browser: Browser
) -> None:
    greys = np.array([10, 100, 200], dtype=np.uint8)
    parts = (flat_images(greys, shape) for _ in range(3))
    large = DataSet(*parts, classes=1, class_names=("ant",))
    write_data(tmp_path / "data.safetensors", large, provenance("data"))
    train = {"train_index": np.arange(3), "label": np.zeros(3, dtype=np.int64), "memorization": [0.1, 0.3, 0.2]}
    written(tmp_path / "memorization.parquet", "memorization", {"data": large.digest()}, **train)
    opened = Opened(browser, make(tmp_path, "explorer/index.html", "memorization"))
    opened.page.click("[role=option] >> nth=1")
    for where, size in (("#grid", small), ("dialog", wide)):
        image = opened.page.locator(f"{where} .image").first
        box = image.bounding_box() or {}
        assert [box["width"], box["height"]] == size
    shot = np.asarray(Image.open(BytesIO(image.screenshot())).convert("L"))
    middle = slice(shot.shape[1] * 2 // 5, max(1, shot.shape[1] * 3 // 5))
    assert abs(shot[60:70, middle].mean() - 200) < 2
    assert any(address.endswith("sheets/train-0-large.jpeg") for address in opened.asked)
    assert opened.problems == []


def test_the_stage_writes_all_that_the_page_reads(folder: Path, data: DataSet, tables: Any, tmp_path: Path) -> None:
    from bokeh import __version__ as bokeh
    from bokeh.util.paths import bokehjs_path

    journal, index = Lines(), tmp_path / "explorer/index.html"
    given: Any = {kind: folder / f"{kind}.parquet" for kind in KINDS}
    explorer(journal, data=folder / "data.safetensors", **given, index=index)  # type: ignore[arg-type]
    splits = shown_splits(data, tables)
    texts = {"index.html": render("explorer.html", bokeh=bokeh), "data.js": as_script(explored(data, tables, splits))}
    for name in ("bokeh.min.js", "bokeh-api.min.js"):
        texts[name] = (bokehjs_path() / "js" / name).read_text(encoding="utf-8")
    for name, text in texts.items():
        assert (index.parent / name).read_text(encoding="utf-8") == text
    assert {path.name for path in index.parent.iterdir()} == {*texts, "sheets"}
    for name, split in splits.items():
        for number, sheet in enumerate(sheets(getattr(data, name), split.rows, SIZE)):
            with Image.open(index.parent / f"sheets/{name}-{number}.png") as drawn:
                assert (drawn.format, drawn.tobytes()) == ("PNG", sheet.tobytes())
    assert len(list((index.parent / "sheets").iterdir())) == 5
    assert (journal.bars, journal.worked) == ([(5, "sheets")], 1)


def large_images(folder: Path) -> dict[str, Any]:
    """Write a data set of three large images in each split, and their scores; return what the stage takes."""
    greys = np.array([10, 100, 200], dtype=np.uint8)
    large = DataSet(*(flat_images(greys, (150, 300)) for _ in range(3)), classes=1, class_names=("ant",))
    write_data(folder / "data.safetensors", large, provenance("data"))
    scores = {"train_index": [0, 1, 2], "memorization": [0.1, 0.3, 0.2]}
    memorization = written(folder / "memorization.parquet", "memorization", {"data": large.digest()}, **scores)
    return {"data": folder / "data.safetensors", "memorization": memorization}


def test_the_stage_writes_large_images_as_photographs(tmp_path: Path) -> None:
    journal: Any = Lines()
    given = large_images(tmp_path)
    with ascii_by_default():
        explorer(journal, **given, index=tmp_path / "index.html")
    assert (tmp_path / "data.js").read_text(encoding="utf-8").startswith('window.DATA={"classes":["ant"]')
    assert journal.bars == [(4, "sheets")]
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == [
        *("test-0-large.jpeg", "test-0.png", "train-0-large.jpeg", "train-0.png"),
    ]
    part = flat_images(np.array([100, 200, 10], dtype=np.uint8), (150, 300))
    (sheet,) = sheets(part, np.arange(3), (256, 128))
    sheet.save(expected := BytesIO(), "JPEG", quality=90)
    assert (tmp_path / "sheets/train-0-large.jpeg").read_bytes() == expected.getvalue()
    with Image.open(tmp_path / "sheets/train-0.png") as drawn:
        assert drawn.size == (640, 32)


def test_scores_of_other_data_than_the_stage_shows_are_refused(tmp_path: Path) -> None:
    journal: Any = Lines()
    given = large_images(tmp_path)
    written(given["memorization"], "memorization", {"data": "e"}, train_index=[0, 1, 2])
    assert refusal(lambda: explorer(journal, **given, index=tmp_path / "index.html")) == (
        f"{given['data']} and {given['memorization']} are of different data: remove the one that is out of date, and "
        "run its stage again"
    )


def test_while_the_stage_works_there_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*of: Any) -> Any:
        raise OSError("full")

    journal: Any = Lines()
    (tmp_path / "index.html").write_text("old")
    monkeypatch.setattr(content, "sheets", fails)
    with pytest.raises(OSError, match="full"):
        explorer(journal, **large_images(tmp_path), index=tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_the_stage_writes_the_page_last_and_refuses_other_data(folder: Path, tmp_path: Path, capsys: Any) -> None:
    index = make(folder, "again/index.html", "memorization")
    files = sorted(path for path in index.parent.rglob("*") if path.is_file())
    assert max(files, key=lambda path: path.stat().st_mtime_ns) == index
    assert [path.name for path in files if path.suffix == ".png"] == [
        *(f"test-{number}.png" for number in range(2)),
        *(f"train-{number}.png" for number in range(3)),
    ]
    with Image.open(index.parent / "sheets/train-0.png") as sheet:
        assert sheet.size == (10 * SIZE[0], 10 * SIZE[1])
    written(folder / "other.parquet", "harmful", {"data": "e"}, train_index=[1])
    flags = {"data": "data.safetensors", "memorization": "memorization.parquet", "harmful": "other.parquet"}
    with pytest.raises(SystemExit):
        call("explorer", folder, **flags, index="again/index.html")
    assert "are of different data" in capsys.readouterr().err
    assert index.exists()
