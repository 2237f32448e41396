"""A training that failed is told in one line, and one that worked is not: both sides of each limit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bat.config import SizedModel, load
from bat.data.dataset import Part
from bat.errors import BatError
from bat.models import build
from bat.statistics import majority_share
from bat.training.loop import fit
from bat.training.losses import objective
from bat.training.measure import judged
from bat.training.untrained import failed_subsets, failure

REMEDY = (
    "lower training.recipe.learning_rate or raise training.recipe.schedule.warmup; raise training.recipe.epochs where "
    "the loss still falls"
)
CONFIG = load(str(Path(__file__).parents[2] / "config/config.yaml"))
LABELS = np.repeat([0, 1], [6, 4])  # chance 60 %, near it up to 64 %


def test_the_most_frequent_class_is_chance():
    assert majority_share(LABELS) == 0.6
    assert majority_share(np.array([3])) == 1


@pytest.mark.parametrize(("accuracy", "failed"), [(0.6, True), (0.64, True), (0.65, False), (1.0, False)])
def test_an_accuracy_near_chance_is_a_failed_training(accuracy, failed):
    found = failure(accuracy, [3.0, 2.0, 1.0], LABELS, recipe="training.recipe")
    assert (found is not None) == failed
    if found:
        what = f"clean training accuracy {100 * accuracy:.1f} % is near chance (60.0 %)"
        assert found == f"{what}: the model did not train; {REMEDY}"
        still = failure(accuracy, [3.0, 2.0, 2.0, 2.0], LABELS, recipe="training.recipe")
        assert still == f"{what}, and the loss is 2 since epoch 2: the model did not train; {REMEDY}"


@pytest.mark.parametrize(
    ("losses", "since"),
    [
        ([3.0, 2.31, 2.31, 2.31], 2),
        ([3.0, 2.3151, 2.3151, 2.3149], 2),
        ([3.0, 0.0, 0.0, 0.0], 2),
        ([3.0, 2.312, 2.31, 2.308], None),  # each near the one before, and not near the last
        ([3.0, 300.0, 2.32, 2.31, 2.31, 2.31], 4),
        ([3.0, 2.0, 2.31, 2.31], None),  # two epochs are too few
        ([3.0, 2.5, 2.4, 2.31, 2.31, 2.31], 4),
        ([3.0, 2.5, 2.4, 2.3, 2.31, 2.31, 2.31], None),  # less than half of the training
        ([3.0, 2.3123, 2.31, 2.31], 2),  # to a thousandth
        ([3.0, 2.3124, 2.31, 2.31], None),
        ([2.31, 2.31, 2.31], 1),
        ([2.31, 2.31], None),
    ],
)
def test_a_loss_that_stands_still_is_told_unless_nothing_is_wrong_any_more(losses, since):
    found = failure(0.9, losses, LABELS, recipe="training.recipe")
    if since is None:
        assert found is None
    else:
        what = f"the loss is {losses[-1]:.3g} since epoch {since}, with clean training accuracy 90.0 %"
        assert found == f"{what}: training stood still; {REMEDY}"
    assert failure(1.0, losses, LABELS, recipe="training.recipe") is None


def test_subset_models_are_judged_on_their_own_samples():
    mask = np.array([[True] * 8 + [False] * 2, [False] * 2 + [True] * 8, [True] * 10])
    right = np.zeros((3, 10), dtype=bool)
    right[0, :8] = True  # all of its own
    right[1, :7] = True  # 5 of 8 of its own, 62.5 %: near chance
    right[2, :7] = True  # 70 %
    assert failed_subsets((mask & right).sum(1) / mask.sum(1), LABELS, recipe="training.recipe") == (
        "1 of 3 subset models are near chance on their own training samples (mean accuracy 62.5 %, chance 60.0 %): "
        f"they did not train, and scores from them mean nothing; {REMEDY}"
    )
    assert failed_subsets(np.array([1, 0.7]), LABELS, recipe="memorization.recipe") is None


def colour(n: int) -> Part:
    """Images of 3 x 32 x 32 of four classes, told by the place of a bright square on noise."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 4
    pixels = torch.randint(0, 120, (n, 3, 32, 32), generator=random)
    for row, label in enumerate(labels.tolist()):
        top, left = 16 * (label // 2) + 4, 16 * (label % 2) + 4
        pixels[row, :, top : top + 8, left : left + 8] += 120
    return Part(pixels.to(torch.uint8), labels, torch.arange(n), pixel_max=255)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_recipe_trains_small_cnn_on_colour_images(seed):
    part = colour(256)
    recipe = replace(CONFIG.training.recipe, epochs=8, batch_size=32)
    model = build(SizedModel(name="small_cnn", width=8), part, classes=4, seed=seed)
    natural = objective(CONFIG.training.methods[0])
    losses = [epoch.loss for epoch in fit(model, part, objective=natural, recipe=recipe, seed=seed, what="a run")]
    accuracy = judged(model, part).correct.numpy().mean()
    assert accuracy > 0.9
    assert failure(accuracy, losses, part.labels.numpy(), recipe="training.recipe") is None


def test_an_absurd_learning_rate_ends_in_one_line(monkeypatch):
    part = colour(64)
    monkeypatch.setattr("bat.training.loop.learning_rate_factor", lambda *_: 1e5)
    recipe = replace(CONFIG.training.recipe, epochs=4, batch_size=32)
    model = build(SizedModel(name="small_cnn", width=8), part, classes=4, seed=0)
    natural = objective(CONFIG.training.methods[0])
    try:
        losses = [epoch.loss for epoch in fit(model, part, objective=natural, recipe=recipe, seed=0, what="a run")]
        told = failure(
            judged(model, part).correct.numpy().mean(), losses, part.labels.numpy(), recipe="training.recipe"
        )
    except BatError as error:
        told = str(error)
    assert told is not None
    assert "learning" in told
    assert len(told.splitlines()) == 1
