"""Near-duplicates among training samples, and what they hide: each value against loops, and planted repeats."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refusal
from scipy.sparse import csr_array
from stages import call, fails, rewrite, scores
from stubs import Lines, named, written
from worlds import MODELS, World, tally

from bat.config import parse
from bat.config.specs import DuplicatesSpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import read_data, write_data
from bat.io.files import provenance
from bat.io.tables import pack, read_table_with_facts, unpack
from bat.scores.duplicates import duplicates as stage
from bat.scores.duplicates import influence_among, neighbours
from bat.scores.estimators import influence_rates, memorization_scores
from bat.scores.subsets import subset_masks

SPEC = {"near_duplicate": 0.05, "threshold": 0.2}
SCORED = {"score": "hard", "threshold": 0.2, "false_discovery_rate": 0.1, "confidence": 0.8}
# few values, so that many distances are equal
IMAGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12)


def part(pixels: Any, labels: Any, pixel_max: int = 255) -> Part:
    shaped = torch.tensor(pixels, dtype=torch.uint8).reshape(len(labels), 1, 1, -1)
    return Part(shaped, torch.tensor(labels), torch.arange(len(labels)) * 3 + 1, pixel_max)


def compare_neighbours(images: list[Any], block: int, within: float) -> None:
    """What is found of images of two pixels and a label equals loops."""
    pixels, labels = [image[:2] for image in images], [image[2] for image in images]
    own, other, near = neighbours(part(pixels, labels, pixel_max=4), within=within, block=block)
    squared = [[sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) for two in pixels] for one in pixels]
    for kind, of_class in ((own, True), (other, False)):
        for i, row in enumerate(squared):
            among = [j for j in range(len(row)) if j != i and (labels[j] == labels[i]) == of_class]
            first = min(among, key=lambda j: row[j], default=-1)
            assert kind.row[i] == first
            assert kind.near[i] == any(math.sqrt(row[j] / 2) / 4 <= within for j in among)
            if among:
                assert kind.distance[i] == pytest.approx(math.sqrt(row[first] / 2) / 4)
            else:
                assert math.isnan(kind.distance[i])
            if of_class:
                expected = [int(j in among and math.sqrt(row[j] / 2) / 4 <= within) for j in range(len(row))]
                assert near.toarray()[i].tolist() == expected


@given(IMAGES, st.integers(1, 5), st.sampled_from([0.0, 0.25, 0.3]))
def test_the_nearest_is_the_first_of_the_nearest_whatever_the_block(
    images: list[Any], block: int, within: float
) -> None:
    compare_neighbours(images, block, within)


@pytest.mark.parametrize(("block", "within"), [(1, 0.0), (3, 0.25), (4, 0.4), (20, 0.25)])
def test_the_nearest_of_some_images_equal_loops(block: int, within: float) -> None:
    """Repeats, equal distances on both sides, some of just 0.25, and a class of one."""
    images = [(0, 1, 0), (3, 3, 1), (1, 0, 0), (0, 1, 0), (2, 2, 1), (1, 0, 1), (0, 3, 2), (3, 3, 1), (3, 2, 0)]
    compare_neighbours(images, block, within)
    compare_neighbours(images[::-1], block, within)
    compare_neighbours(images[:1], block, within)


@given(IMAGES, st.integers(1, 5))
def test_near_duplicates_are_mutual(images: list[Any], block: int) -> None:
    own, other, near = neighbours(
        part([image[:2] for image in images], [image[2] for image in images]), within=0.005, block=block
    )
    assert (near.toarray() == near.toarray().T).all()
    for kind in (own, other):
        there = kind.row >= 0
        assert (kind.distance[kind.row[there]] <= kind.distance[there]).all()


def test_images_that_differ_in_one_step_of_one_pixel_are_told_from_repeats() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(128, 256, size=(40, 3 * 32 * 32))
    pixels[39] = pixels[3]
    pixels[38] = pixels[5]
    pixels[38, 7] += 1 if pixels[38, 7] < 255 else -1
    own, _, near = neighbours(part(pixels, np.zeros(40, dtype=np.int64)), within=0, block=16)
    assert np.flatnonzero(own.distance == 0).tolist() == [3, 39]
    assert (own.row[38], own.row[5]) == (5, 38)
    assert np.argwhere(near.toarray()).tolist() == [[3, 39], [39, 3]]
    assert own.distance[38] == pytest.approx(1 / 255 / math.sqrt(3072), rel=1e-12)


def test_a_block_of_images_at_a_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = Part.take

    def take(self: Part, rows: torch.Tensor) -> Part:
        taken.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(Part, "take", take)
    neighbours(part(np.zeros((25, 4)), np.arange(25)), within=0, block=8)
    # each once for itself, and again beside each before it
    assert sorted(taken) == [1] * 4 + [8] * 6


def test_a_distance_at_which_all_is_near_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images = part(np.zeros((9, 4)), np.zeros(9, dtype=np.int64))
    monkeypatch.setattr("bat.scores.duplicates._MOST", 72)
    assert neighbours(images, within=0.1)[2].sum() == 72
    # of two blocks each pair is met once
    monkeypatch.setattr("bat.scores.duplicates._MOST", 48)
    assert neighbours(images, within=0.1, block=4)[2].sum() == 72
    monkeypatch.setattr("bat.scores.duplicates._MOST", 47)
    assert "over 47 pairs" in refusal(lambda: neighbours(images, within=0.1, block=4))
    monkeypatch.setattr("bat.scores.duplicates._MOST", 71)
    assert refusal(lambda: neighbours(images, within=0.1)) == (
        "over 71 pairs of training samples are at most 0.1 apart, which says nothing: lower "
        "memorization.near_duplicate, or give null for no search"
    )


class Repeats(World):
    """A world with planted repeats: exact and near ones in class 0, and one image with both labels."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, seed=16)
        data = read_data(folder / "data.safetensors")
        zero, one = (np.flatnonzero(self.labels["train"] == label) for label in (0, 1))
        self.repeated, self.near, self.disputed = zero[:2], zero[2:4], (zero[4], one[0])
        pixels = data.train.pixels.clone()
        for first, second in (self.repeated, self.near, self.disputed):
            pixels[second] = pixels[first]
        pixels[self.near[1], 0, 0, 0] ^= 8
        train = Part(pixels, data.train.labels, data.train.index, 255)
        self.data = DataSet(train, data.validation, data.test, classes=2)
        write_data(folder / "data.safetensors", self.data, provenance("data"))
        named(folder / "files.parquet", self.data)
        for shard in self.shards:
            table, facts = read_table_with_facts(folder / shard, "subsets")
            rewrite(folder / shard, "subsets", table, spec=facts["spec"], data=self.data.digest())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Repeats:
    made = Repeats(tmp_path_factory.mktemp("world"))
    call("scores", made.folder, **scores(*made.shards, spec=SCORED))
    call("duplicates", made.folder, **flags(made.shards))
    return made


def flags(shards: Any = (), **changed: Any) -> dict[str, Any]:
    given = {"spec": SPEC, "data": "data.safetensors", "memorization": "memorization.parquet"}
    return given | ({"shards": list(shards)} if shards else {}) | {"duplicates": "duplicates.parquet"} | changed


def influence(world: World, source: int, target: int) -> float:
    """Influence of a training sample on another, of the models that left the latter out, by loops."""
    counted = [not world.mask[k, target] for k in range(MODELS)]
    a, n, b, m = tally(world.mask[:, source], world.right["correct_train"][:, target], counted)
    return a / n - b / m


def together_influence(world: World, near: list[int], target: int) -> float:
    """The same of at least one of its near-duplicates."""
    counted = [not world.mask[k, target] for k in range(MODELS)]
    any_in = [any(world.mask[k, j] for j in near) for k in range(MODELS)]
    a, n, b, m = tally(any_in, world.right["correct_train"][:, target], counted)
    return a / n - b / m


def test_the_table_equals_loops(world: World) -> None:
    direct(world)
    table, facts = read_table_with_facts(world.folder / "duplicates.parquet", "duplicates")
    assert facts["data"] == world.data.digest()
    index, labels = world.index["train"], world.labels["train"]
    place = {int(number): row for row, number in enumerate(index)}
    memorization = read_table_with_facts(world.folder / "memorization.parquet", "memorization")[0]
    shared = ["train_index", "label", "memorization", "atypical"]
    pd.testing.assert_frame_equal(table[shared], memorization[shared])
    images = world.data.train.pixels.numpy().reshape(len(labels), -1).astype(float) / 255
    for i, row in enumerate(table.itertuples()):
        distances = np.sqrt(((images - images[i]) ** 2).mean(1))
        others = [j for j in range(len(labels)) if j != i]
        for same, found, distance in (
            (True, row.nearest_index, row.nearest_distance),
            (False, row.other_index, row.other_distance),
        ):
            j = min((j for j in others if (labels[j] == labels[i]) == same), key=lambda j: distances[j])
            assert place[found] == j
            assert distance == pytest.approx(distances[j], abs=1e-12)
        assert row.other_label == 1 - labels[i]
        near = [j for j in others if labels[j] == labels[i] and distances[j] <= 0.05]
        assert row.near_duplicates == len(near)
        assert row.other_near_duplicate == (row.other_distance <= 0.05)
        together = together_influence(world, near, i) if near else math.nan
        assert row.duplicates_influence == pytest.approx(together, nan_ok=True)
        each = {j: influence(world, j, i) for j in others if labels[j] == labels[i]}
        assert row.max_influence == pytest.approx(max(each.values()))
        assert each[place[row.max_influence_train_index]] == pytest.approx(row.max_influence)
        assert row.hidden == (not row.atypical and together > 0.2)


def test_planted_repeats_are_found_and_no_other(world: Repeats, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.read_parquet(world.folder / "duplicates.parquet")
    assert np.flatnonzero(table["nearest_distance"] == 0).tolist() == world.repeated.tolist()
    assert np.flatnonzero(table["near_duplicates"]).tolist() == sorted([*world.repeated, *world.near])
    assert np.flatnonzero(table["other_near_duplicate"]).tolist() == sorted(world.disputed)
    call("duplicates", world.folder, **flags(world.shards))
    said = capsys.readouterr().err
    assert "duplicates: 1 of 1 blocks" in said
    assert "4 of 14 training samples are repeated exactly; 4 have a near-duplicate of" in said


def test_without_subset_models_pixels_alone_tell(world: World) -> None:
    call("duplicates", world.folder, **flags(duplicates="of_file.parquet"))
    table = pd.read_parquet(world.folder / "of_file.parquet")
    known = pd.read_parquet(world.folder / "duplicates.parquet")
    influences = ["duplicates_influence", "max_influence", "max_influence_train_index"]
    assert table[influences].isna().all(axis=None)
    assert not table["hidden"].any()
    rest = table.columns.drop([*influences, "hidden"])
    pd.testing.assert_frame_equal(table[rest], known[rest])


def test_scores_of_other_models_and_of_other_data_are_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("data.safetensors", "memorization.parquet", *world.shards):
        (tmp_path / name).write_bytes((world.folder / name).read_bytes())
    table, facts = read_table_with_facts(tmp_path / "memorization.parquet", "memorization")
    rewrite(tmp_path / "memorization.parquet", "memorization", table, spec=facts["spec"], models=59)
    assert "memorization.parquet: of other subset models than" in fails(
        capsys, "duplicates", tmp_path, **flags(world.shards)
    )
    rewrite(tmp_path / "memorization.parquet", "memorization", table, data="another")
    assert "are of different data" in fails(capsys, "duplicates", tmp_path, **flags(world.shards))
    rewrite(tmp_path / "memorization.parquet", "memorization", table.assign(label=7), data=facts["data"])
    line = fails(capsys, "duplicates", tmp_path, **flags(world.shards))
    assert "memorization.parquet: row 0 is sample" in line


def direct(world: World, threshold: float = 0.2, **paths: Any) -> tuple[Any, dict[str, Any]]:
    """Call the stage without a command line; return the journal and the spec."""
    journal: Any = Lines()
    inputs: Any = {name: world.folder / f"{name}.parquet" for name in ("memorization", "duplicates")}
    inputs |= {"data": world.folder / "data.safetensors", "shards": [world.folder / name for name in world.shards]}
    spec = SPEC | {"threshold": threshold}
    stage(journal, spec=parse(DuplicatesSpec, spec, ""), **inputs | paths)
    return journal, spec


def test_duplicates_are_of_scores_and_models_of_the_same_data(world: World, tmp_path: Path) -> None:
    path, said = world.of_other_data(tmp_path)
    assert refusal(lambda: direct(world, shards=[path])) == said
    table, facts = read_table_with_facts(world.folder / "memorization.parquet", "memorization")
    scored = tmp_path / "scored.parquet"
    rewrite(world.folder / "memorization.parquet", "memorization", table, to=scored, spec=facts["spec"], data="another")
    assert refusal(lambda: direct(world, memorization=scored)) == (
        f"{world.folder / 'data.safetensors'} and {scored} are of different data: remove the one that is out of date, "
        "and run its stage again"
    )


@pytest.mark.parametrize(
    ("labels", "own", "other"),
    [
        ([0, 0, 1], [(4, 0.1), (1, 0.1), None], [(9, 0.1), (9, 0.0), (4, 0.0)]),
        ([1, 1, 1], [(4, 0.1), (9, 0.0), (4, 0.0)], [None] * 3),
    ],
)
def test_a_sample_alone_in_its_class_has_none_of_it_and_one_class_no_other(
    labels: list[int], own: list[Any], other: list[Any], tmp_path: Path
) -> None:
    index = [1, 4, 9]
    train = Part(torch.tensor([10, 20, 20]).byte().view(3, 1, 1, 1), torch.tensor(labels), torch.tensor(index), 100)
    data = DataSet(train, train.take(torch.arange(3)), train.take(torch.arange(3)), classes=2)
    write_data(tmp_path / "data.safetensors", data, provenance("data"))
    facts: dict[str, Any] = {"data": data.digest(), "models": 5}
    scored: dict[str, Any] = {"train_index": index, "label": labels}
    written(tmp_path / "memorization.parquet", "memorization", facts, **scored)
    call("duplicates", tmp_path, **flags())
    table = read_table_with_facts(tmp_path / "duplicates.parquet", "duplicates")[0]
    for kind, found in (("nearest", own), ("other", other)):
        assert [None if pd.isna(one) else one for one in table[f"{kind}_index"]] == [one and one[0] for one in found]
        distances = [one[1] if one else math.nan for one in found]
        assert table[f"{kind}_distance"].tolist() == pytest.approx(distances, nan_ok=True)
        assert table["near_duplicates" if kind == "nearest" else "other_near_duplicate"].tolist() == [
            one is not None and one[1] == 0 for one in found
        ]
    others = [1 - label if one else None for label, one in zip(labels, other, strict=True)]
    assert [None if pd.isna(one) else one for one in table["other_label"]] == others


def test_a_sample_that_no_model_left_out_has_no_influence_on_it(world: World, tmp_path: Path) -> None:
    always, shards = 5, [tmp_path / name for name in world.shards]
    for path in shards:
        table, facts = read_table_with_facts(world.folder / path.name, "subsets")
        mask = unpack(table["in_subset"], 14, "")
        mask[:, always] = True
        table = table.assign(in_subset=pack(mask))
        rewrite(world.folder / path.name, "subsets", table, to=path, spec=facts["spec"])
    direct(world, shards=shards, duplicates=tmp_path / "found.parquet")
    table = read_table_with_facts(tmp_path / "found.parquet", "duplicates")[0]
    influences = table[["max_influence", "max_influence_train_index"]]
    assert influences.isna().all(axis=1).tolist() == [row == always for row in range(14)]
    assert influences.isna().any(axis=1).tolist() == [row == always for row in range(14)]


def test_pixels_stay_where_they_lie(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    real = Part.to

    def to(self: Part, device: torch.device, *, with_pixels: bool = True) -> Part:
        moved.append((device.type, with_pixels))
        return real(self, device, with_pixels=with_pixels)

    monkeypatch.setattr(Part, "to", to)
    direct(world, duplicates=tmp_path / "found.parquet")
    # the data set is read into host memory before
    assert moved == [("cpu", True)] * 3 + [("cpu", False)]


@pytest.mark.parametrize("atypical", [False, True])
def test_samples_that_their_repeats_hide_are_marked_and_told(world: World, tmp_path: Path, atypical: bool) -> None:
    found = pd.read_parquet(world.folder / "duplicates.parquet")["duplicates_influence"]
    *_, threshold, highest = sorted(found.dropna())
    assert 0 <= threshold < highest
    scored, path, out = world.folder / "memorization.parquet", tmp_path / "scored.parquet", tmp_path / "found.parquet"
    table, facts = read_table_with_facts(scored, "memorization")
    table = table.assign(atypical=(table.index == found.idxmax()) & atypical)
    rewrite(scored, "memorization", table, to=path, spec=facts["spec"])
    journal, spec = direct(world, memorization=path, duplicates=out, threshold=threshold)
    table, facts = read_table_with_facts(out, "duplicates")
    # a sample of just the threshold is not over it
    assert table.index[table["hidden"]].tolist() == [found.idxmax()] * (not atypical)
    assert journal.lines == [
        "4 of 14 training samples are repeated exactly; 4 have a near-duplicate of their class, which may hide the "
        f"memorization of {int(not atypical)}; 2 have one with another label"
    ]
    assert journal.worked == 1
    assert (facts["kind"], facts["spec"], facts["models"]) == ("duplicates", spec, MODELS)


def test_influence_is_the_same_in_blocks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    correct, near = world.right["correct_train"], np.eye(14, k=1, dtype=np.int64) + np.eye(14, k=-1, dtype=np.int64)
    whole = influence_among(world.mask, correct, csr_array(near))
    assert whole["duplicates_influence"].notna().sum() > 10
    monkeypatch.setattr("bat.scores.duplicates._PAIRS", 180)
    pd.testing.assert_frame_equal(influence_among(world.mask, correct, csr_array(near)), whole)


@pytest.mark.parametrize(("pairs", "widths"), [(1, [1, 1, 1]), (12, [2, 1]), (1_000, [3])])
def test_influence_among_three_samples_by_hand(pairs: int, widths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """0 and 1 are near-duplicates. Of equal influences, 1's and 2's on 0, the first is taken."""
    seen: list[int] = []

    def rates(mask: Any, right: Any, **counted: Any) -> Any:
        seen.append(right.shape[1])
        return influence_rates(mask, right, **counted)

    monkeypatch.setattr("bat.scores.duplicates._PAIRS", pairs)
    monkeypatch.setattr("bat.scores.duplicates.influence_rates", rates)
    mask = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]]
    # what a model says of its own samples counts for nothing
    correct = [[0, 0, 0], [1, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1]]
    near = csr_array(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    found = influence_among(np.array(mask, dtype=bool), np.array(correct, dtype=bool), near)
    expected = {
        "max_influence": [0.5, 1.0, 0.0],
        "max_influence_row": [1, 2, 1],
        "duplicates_influence": [0.5, -0.5, np.nan],
    }
    pd.testing.assert_frame_equal(found, pd.DataFrame(expected), check_exact=True)
    assert seen == widths


def test_a_sample_alone_in_its_class_has_no_influence_on_it() -> None:
    found = influence_among(np.array([[True], [False]]), np.array([[True], [False]]), csr_array(np.zeros((1, 1))))
    assert found["max_influence_row"].tolist() == [-1]
    assert found[["max_influence", "duplicates_influence"]].isna().all(axis=None)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(0, 2**32))
def test_copies_hide_memorization_and_their_joint_influence_shows_it(copies: int, seed: int) -> None:
    """Images 0 ... copies - 1 are equal, and right where the model has any of them, as if memorized; others always."""
    mask = subset_masks(40, 28, design="balanced", seed=seed, first=0, count=400)
    correct = np.ones_like(mask)
    correct[:, :copies] = mask[:, :copies].any(1)[:, None]
    pixels = np.arange(40) * 5
    pixels[:copies] = 0
    *_, near = neighbours(part(pixels[:, None], np.zeros(40, dtype=np.int64)), within=0)
    table = memorization_scores(mask, correct).join(influence_among(mask, correct, near))
    copied = np.arange(40) < copies
    # alone it is memorized for all to see; a copy takes 70 % of that away, and two take 91 %
    assert (table["memorization"] > 0.45).tolist() == [copies == 1 and number == 0 for number in range(40)]
    assert (table["duplicates_influence"] == 1).tolist() == (copied & (copies > 1)).tolist()
    # of three copies each also hides the influence of another
    assert copies != 3 or (table["max_influence"][copied] < 0.6).all()
