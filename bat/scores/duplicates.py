"""Training samples that others repeat, which hides that they are memorized (arXiv 2506.20481)."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from torch import Tensor

from bat.config.specs import DuplicatesSpec
from bat.data.dataset import Part
from bat.data.saved import device_named, load_data
from bat.errors import BatError
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.outputs import Parquet
from bat.io.tables import check_labels, check_one_data_set, read_scores, write_table
from bat.scores.estimators import Rates, influence_rates
from bat.scores.shards import class_by_class, in_order, open_shards
from bat.statistics import ROUNDING, Bools, Counts, Floats

_PAIRS = 1_000_000
"""Pairs whose counts are in memory at once."""

_MOST = 20_000_000
"""Pairs of near-duplicates that are kept: more are no near-duplicates, but a distance that is too large."""

_Blocks = tuple[int, int]


class Nearest(NamedTuple):
    """The nearest other sample of each sample.

    row: (n,), -1 for none; distance: (n,), NaN for none; near: (n,), whether it is a near-duplicate.
    """

    row: Counts
    distance: Floats
    near: Bools


def neighbours(
    part: Part, *, within: float, block: int = 1024, watch: Callable[[Sequence[_Blocks]], Iterable[_Blocks]] = iter
) -> tuple[Nearest, Nearest, csr_array]:
    """Return for each sample the nearest other one of its own class, that of another class, and all near-duplicates.

    The distance is the root of the mean squared difference of pixel values in [0, 1]. Of equally near samples the first
    is taken. Near-duplicates are at most ``within`` apart; those of one class are the ones of an (n, n) matrix.

    Squared distances come from products of blocks of images in float64. They are exact, since pixels are whole numbers,
    and so the same on each type of CPU and GPU. In memory are two blocks of images and some block x block numbers.
    ``watch`` wraps the pairs of blocks, for a progress bar.

    Raises:
        BatError: far too many samples are so near.
    """
    n, device, values, scale = len(part), part.labels.device, part.pixels[0].numel(), part.pixel_max
    limit = math.floor((within * scale) ** 2 * values + ROUNDING)
    far = torch.iinfo(torch.int64).max // n - 1
    # squared distance times n, plus the row: the smallest is the nearest, and of equal ones the first
    best = torch.full((2, n), far * n, device=device)
    numbers, pairs, count = torch.arange(n, device=device), list[Tensor](), 0

    def images(rows: slice) -> Tensor:
        return part.take(numbers[rows]).pixels.to(device).flatten(1).double()

    blocks = [(first, second) for first in range(0, n, block) for second in range(first, n, block)]
    for first, second in watch(blocks):
        rows, columns = slice(first, first + block), slice(second, second + block)
        other = images(columns)
        if second == first:
            one = other
        squares = one.square().sum(1)[:, None] + other.square().sum(1)
        squared = (squares - 2 * one @ other.T).long()
        if second == first:
            squared.fill_diagonal_(far)
        same = part.labels[rows, None] == part.labels[columns]
        for smallest, wanted in zip(best, (same, ~same), strict=True):
            found = torch.where(wanted, squared, far) * n
            smallest[rows] = torch.minimum(smallest[rows], (found + numbers[columns]).amin(1))
            smallest[columns] = torch.minimum(smallest[columns], (found + numbers[rows, None]).amin(0))
        pairs.append(((squared <= limit) & same).nonzero().cpu() + torch.tensor([first, second]))
        count += len(pairs[-1])
        if count > _MOST:
            raise BatError(
                f"over {_MOST:,} pairs of training samples are at most {within:g} apart, which says nothing: lower "
                "memorization.near_duplicate, or give null for no search"
            )
    answers = []
    for smallest in best.cpu().numpy():
        none, squared_distance = smallest >= far * n, smallest // n
        distance = np.where(none, np.nan, np.sqrt(squared_distance / values) / scale)
        answers.append(Nearest(np.where(none, -1, smallest % n), distance, ~none & (squared_distance <= limit)))
    source, target = torch.cat(pairs).numpy().T
    near = csr_array((np.ones(len(source), dtype=np.int64), (source, target)), shape=(n, n))
    return answers[0], answers[1], near.maximum(near.T).tocsr()


def influence_among(mask: Bools, correct: Bools, near: csr_array) -> pd.DataFrame:
    """Return what training samples of a class do for each other: one row per sample, of the models that left it out.

    mask, correct: (models, n); near: (n, n), 1 for near-duplicates. max_influence: the largest influence of another
    sample; max_influence_row: of which, of equal ones the first. duplicates_influence: that of the near-duplicates
    together, the share of models that are right with at least one of them in their subset, minus that of models with
    none. One alone would be hidden by the others. Values are NaN, and rows -1, where there is nothing to tell by.
    """
    n, tables = mask.shape[1], []
    step = max(1, _PAIRS // max(n, len(mask)))
    for first in range(0, n, step):
        some = slice(first, first + step)
        right, out = correct[:, some], ~mask[:, some]
        influence = influence_rates(mask, right, counted=out).difference
        targets = np.arange(influence.shape[1])
        influence[first + targets, targets] = np.nan
        known = np.where(np.isnan(influence), -np.inf, influence)
        most = known.argmax(0)
        largest = known[most, targets]
        # a product of the transposed, since near is symmetric: which models have a near-duplicate of which sample
        with_one = (near[some] @ mask.T.astype(np.int64)).T > 0
        inside, outside = out & with_one, out & ~with_one
        together = Rates(*(count.sum(0) for count in (right & inside, inside, right & outside, outside))).difference
        tables.append(
            pd.DataFrame(
                {
                    "max_influence": np.where(largest > -np.inf, largest, np.nan),
                    "max_influence_row": np.where(largest > -np.inf, most, -1),
                    "duplicates_influence": together,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def duplicates(
    journal: Journal,
    *,
    spec: DuplicatesSpec,
    data: Path,
    memorization: Path,
    shards: list[Path] | None = None,
    duplicates: Parquet,
    device: str = "auto",
) -> None:
    """Find the nearest other sample of each training sample, and mark those whose memorization it may hide.

    shards: those that memorization was estimated from, for the influence of training samples on one another
    duplicates: one row per training sample
    """
    samples, digest = load_data(data, "cpu")
    train, (scores, scored) = samples.train, read_scores(memorization)
    check_one_data_set(memorization, data=(data, digest))
    check_labels(memorization, scores, "train_index", train.index.numpy(), train.labels.numpy())
    table = scores[["train_index", "label", "memorization", "atypical"]]
    with journal.work():
        own, other, near = neighbours(
            train.to(device_named(device), with_pixels=False),
            within=spec.near_duplicate,
            watch=lambda blocks: journal.bar(blocks, len(blocks), "blocks"),
        )
        names = ["max_influence", "max_influence_row", "duplicates_influence"]
        influence = pd.DataFrame(np.nan, table.index, names)
        if shards:
            models = open_shards(shards, data, samples, digest)
            models.check_scores(memorization, scored)
            tables = []
            for one in class_by_class(models, samples, ("correct",)):
                rows = np.flatnonzero(train.labels.numpy() == one.label)
                mask, correct = one.columns["in_subset"], one.columns["correct_train"]
                found = influence_among(mask, correct, near[rows][:, rows])
                most = found["max_influence_row"].to_numpy()
                found = found.assign(index=one.index["train"], max_influence_row=np.where(most < 0, -1, rows[most]))
                tables.append(found)
            influence = in_order(tables, train)
    table = table.assign(
        # NaN, not known, is not over the threshold
        hidden=~table["atypical"] & (influence["duplicates_influence"] > spec.threshold),
        nearest_index=_index(train, own.row),
        nearest_distance=own.distance,
        near_duplicates=near.sum(0),
        duplicates_influence=influence["duplicates_influence"],
        max_influence=influence["max_influence"],
        max_influence_train_index=_index(train, influence["max_influence_row"].fillna(-1).to_numpy(np.int64)),
        other_index=_index(train, other.row),
        other_label=pd.Series(train.labels.numpy()[other.row], dtype="Int64").mask(other.row < 0),
        other_distance=other.distance,
        other_near_duplicate=other.near,
    )
    exact = (own.distance == 0) | (other.distance == 0)
    journal.line(
        f"{exact.sum()} of {len(table)} training samples are repeated exactly; {own.near.sum()} have a near-duplicate "
        f"of their class, which may hide the memorization of {table['hidden'].sum()}; {other.near.sum()} have one with "
        "another label"
    )
    about = {"spec": asdict(spec), "data": digest, "models": scored["models"]}
    write_table(duplicates, "duplicates", table, provenance("duplicates", **about))


def _index(part: Part, row: Counts) -> "pd.Series[int]":
    """Return the places in the source of some rows of a split, missing for -1."""
    return pd.Series(part.index.numpy()[row], dtype="Int64").mask(row < 0)
