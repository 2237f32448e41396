"""Models on random subsets: the subsets, the training of one model, and what it says of each sample."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from bat.config import Natural, PgdAt
from bat.config.specs import SubsetsSpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import tensor
from bat.errors import BatError
from bat.models import Network, build
from bat.scores.own import own_answers
from bat.scores.shards import said_columns
from bat.seeds import derive_seed
from bat.statistics import Bools
from bat.training.loop import Epoch, fit
from bat.training.losses import objective
from bat.training.measure import judged, judged_under_attack

NATURAL = Natural(name="natural", objective="natural")
ROBUST = PgdAt(name="pgd_at", objective="pgd_at", eps_factor=1.0, awp=0.0)
"""How subset models are trained, without and with an adversary."""

ANSWERS_FORMAT = 2
"""Of what ``answers`` returns, as an unfinished shard keeps it. Raise it when names, shapes or meaning change, or how a
subset model is trained by the same spec: models of another format are trained anew."""


def subset_of(samples: DataSet, mask: Bools) -> Part:
    """Return the training samples of a model. mask: (n,) of them."""
    return samples.train.take(tensor(np.flatnonzero(mask), samples))


def subset_masks(samples: int, size: int, *, design: str, seed: int, first: int, count: int) -> Bools:
    """Return the subsets of models first ... first + count - 1: (count, samples) bool, True where in the subset.

    Row k depends on (seed, k) alone, with exactly ``size`` samples. ``independent`` draws each row on its own.
    ``balanced`` cuts the left-out samples of models 0, 1, 2, ... one after the other from a sequence of random
    orders of all samples, so that after any number of models each sample has been left out equally often, give or
    take one.
    """
    out = samples - size
    masks = np.ones((count, samples), dtype=bool)
    if design == "independent":
        for row in range(count):
            random = np.random.default_rng(derive_seed(seed, "subset", first + row))
            masks[row, random.permutation(samples)[:out]] = False
        return masks
    order = np.empty(0, dtype=np.int64)
    number = 0
    for model in range(first + count):
        if len(order) < out:
            random = np.random.default_rng(derive_seed(seed, "order", number))
            fresh = random.permutation(samples)
            # a model that takes the end of one order and the start of the next must not meet a sample twice
            taken = np.isin(fresh, order)
            head = fresh[~taken][: out - len(order)]
            order = np.concatenate([order, head, fresh[~np.isin(fresh, head)]])
            number += 1
        if model >= first:
            masks[model - first, order[:out]] = False
        order = order[out:]
    return masks


def epochs_on(model: Network, subset: Part, spec: SubsetsSpec, *, seed: int, what: str) -> Iterator[Epoch]:
    """Train a model on its subset, in place, and yield after each epoch. what: names the model in errors."""
    return fit(
        model,
        subset,
        objective=objective(ROBUST if spec.adversary else NATURAL),
        recipe=spec.recipe,
        seed=seed,
        what=what,
        adversary=spec.adversary,
        compute=spec.compute,
    )


def answers(model: Network, samples: DataSet, spec: SubsetsSpec, *, seed: int) -> dict[str, Tensor]:
    """Return what a model says of the samples of each split, with an adversary also under its attack.

    Names are those of the columns of a shard, values (n,): correct_train, ..., bool, is it right; p_train, ...,
    float16, the probability of the label; class_train, ..., the predicted class (no class is the number of classes);
    robust_train, robust_p_train, robust_class_train, ..., the same under attack.
    """
    found: dict[str, Tensor] = {}
    for name, part in samples.parts().items():
        if spec.adversary is None:
            found |= said_columns(name, *judged(model, part), samples.classes)
            continue
        threat, attack = spec.adversary.threat, spec.adversary.attack
        clean, attacked = judged_under_attack(model, part, threat=threat, attack=attack, seed=seed)
        found |= said_columns(name, *clean, samples.classes)
        found |= said_columns(name, *attacked, samples.classes, under_attack=True)
    return found


def recorded(samples: DataSet, subset: Part, spec: SubsetsSpec, *, seed: int, what: str) -> dict[str, Tensor]:
    """Train a model on its subset, this package's or the user's, and return what it says, as ``answers``."""
    if spec.trainer:
        return own_answers(spec.trainer, subset, samples, seed=seed)
    model = network(subset, spec, classes=samples.classes, seed=seed)
    for _ in epochs_on(model, subset, spec, seed=seed, what=what):
        pass
    return answers(model, samples, spec, seed=seed)


def network(subset: Part, spec: SubsetsSpec, *, classes: int, seed: int) -> Network:
    """Build an untrained subset model of this package."""
    if spec.model is None:
        raise BatError("spec: model is null, and so is trainer: give one")
    return build(spec.model, subset, classes=classes, seed=seed)
