"""How long the parts of an experiment take on this machine, from a few timed steps."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch

from bat.attacks.ensemble import members
from bat.config import Adversary, Attack, Config, Method, Run, subset_size
from bat.config.specs import SubsetsSpec, TrainSpec
from bat.data.dataset import DataSet, Part
from bat.evaluation.under_attack import attack_samples
from bat.models import build
from bat.scores.stacked import MODELS, stackable, train_stacked
from bat.scores.subsets import answers, epochs_on, network, recorded, subset_masks
from bat.training import run as training
from bat.training.loop import fit
from bat.training.losses import objective

_T = TypeVar("_T")

BUDGET = 1.0
"""Seconds that a measurement should reach: long enough for a clock, short enough to wait for."""

STANDING = 0.5
"""Share of test samples that an attack works on, as a model may have it: attacks leave out samples that are broken.

Adversarially trained models keep 0.25 (CIFAR-100) to 0.8 (digits) standing under an attack and start from 0.55 to 0.98.
"""

_STEPS = 10
"""Steps or queries of an attack that are timed; all cost the same."""

_SMALLEST = 8
"""Samples of the first try."""

_GENTLE = 1e-6
"""A learning rate under which random labels do no harm."""

_LOOSE = 1e-6
"""An eps under which every sample stands, so that an attack works on all."""


def first_step(config: Config, data: DataSet) -> None:
    """Train one step, so that what happens once in a process has happened."""
    spec = replace(SubsetsSpec.of(config, first_model=0), model=config.subset_model, trainer=None)
    model = network(data.train, spec, classes=data.classes, seed=0)
    next(epochs_on(model, _first(data.train, min(_SMALLEST, len(data.train))), _gentle(spec), seed=0, what="plan"))


def subset_seconds(config: Config, data: DataSet, *, robust: bool) -> float:
    """Return the seconds that training and recording one subset model take; robust: adversarially, and under attack."""
    spec = SubsetsSpec.of(config, first_model=0, robust=robust)
    size = subset_size(len(data.train), spec.subset_fraction)
    if spec.trainer:

        def fitted(count: int) -> float:
            few = _share(data, count)
            return repeated(lambda: recorded(few, few.train, spec, seed=0, what="plan"))

        return seconds_for(size, fitted)
    gentle = _gentle(spec)
    start = now()
    model = network(_first(data.train, size), spec, classes=data.classes, seed=0)
    building = now() - start
    single = replace(gentle, recipe=replace(gentle.recipe, epochs=1))
    seeds = range(min(MODELS, spec.models))
    masks = subset_masks(len(data.train), size, design=spec.design, seed=0, first=0, count=len(seeds))
    together = stackable(data, masks, spec, seeds=seeds)

    def epoch(count: int) -> float:
        part = _first(data.train, count)
        if together:
            few, every = replace(data, train=part), np.ones((len(seeds), count), dtype=bool)
            return repeated(lambda: train_stacked(few, every, single, seeds=seeds)) / len(seeds)
        return typical_epoch(epochs_on(model, part, gentle, seed=0, what="plan"))

    def record(count: int) -> float:
        few = _share(data, count)
        return repeated(lambda: answers(model, few, spec, seed=0))

    return building + spec.recipe.epochs * seconds_for(size, epoch) + seconds_for(len(data.train), record)


def method_seconds(config: Config, data: DataSet, method: Method) -> float:
    """Return the seconds of training one method with one seed, with the measurements of accuracies."""
    stage = config.training
    run = Run(method=method, without=None, base=method.name, role="method")
    gentle = replace(stage.recipe, learning_rate=_GENTLE)
    spec = replace(TrainSpec.of(config, run, stage.seeds[0]), recipe=gentle, early_stop=0, measure_every=1)

    def measured_epoch(count: int) -> float:
        few = _share(data, count)
        seconds: list[float] = []
        training.train_run(
            spec,
            few,
            lambda epochs: timed(epochs, seconds),
            chosen=torch.arange(len(few.train), device=data.train.labels.device) % 20 == 0,
        )
        return settled(seconds)

    def bare_epoch(count: int) -> float:
        model = build(config.model, data.train, classes=data.classes, seed=0)
        part = _first(data.train, count)
        epochs = fit(
            model,
            part,
            objective=objective(method),
            recipe=gentle,
            seed=0,
            what="plan",
            atypical=torch.arange(len(part), device=part.labels.device) % 20 == 0,
            adversary=Adversary(threat=spec.threat, attack=spec.attack, attack_bn=spec.attack_bn),
            compute=spec.compute,
        )
        return typical_epoch(epochs)

    epochs = stage.recipe.epochs
    measured = seconds_for(len(data.train), measured_epoch)
    bare = measured if stage.measure_every == 1 else min(measured, seconds_for(len(data.train), bare_epoch))
    # the last epoch always is
    measurements = -(-epochs // stage.measure_every)
    return measurements * measured + (epochs - measurements) * bare


def evaluation_seconds(config: Config, data: DataSet) -> dict[str, float]:
    """Return the seconds of each attack on one checkpoint and all test samples, by name; ``clean`` is what is left.

    Of attacks that stop at broken samples this depends on the model: ``STANDING`` of all samples are taken to stand.
    """
    plan = config.evaluation
    model = build(config.model, data.train, classes=data.classes, seed=0).eval()
    one_step = replace(plan.pgd, steps=1, restarts=1)
    threat = replace(config.threat, eps=_LOOSE)
    most = min(plan.batch_size, len(data.test))

    def attacked(attacks: tuple[Attack, ...]) -> float:
        def batch(count: int) -> float:
            part = _first(data.test, count)
            with torch.no_grad():
                part = replace(part, labels=model(part.images()).argmax(1))
            rows = torch.arange(count, device=part.labels.device)
            return repeated(
                lambda: attack_samples(
                    model, part, rows, threat=threat, pgd_attack=one_step, ensemble=attacks, seed=plan.seed
                )
            )

        return seconds_for(most, batch) * len(data.test) / most

    clean = attacked(())
    seconds = {"clean": clean}
    for attack in (plan.pgd, *members(plan.ensemble)):
        few, times = shortened(attack, data.classes)
        name = "PGD" if attack is plan.pgd else attack.name
        seconds[name] = STANDING * times * max(0.0, attacked((few,)) - clean)
    return seconds


def shortened(attack: Attack, classes: int) -> tuple[Attack, float]:
    """Return an attack of one restart, one target and few steps, and how many times its cost the whole attack has."""
    changed: dict[str, Any] = {}
    times = 1.0
    for key, few in (("steps", _STEPS), ("queries", _STEPS), ("restarts", 1), ("targets", 1)):
        full = getattr(attack, key, None)
        if full is not None:
            changed[key] = min(few, full)
            times *= (min(full, classes - 1) if key == "targets" else full) / changed[key]
    return replace(attack, **changed), times


def now() -> float:
    """Return a clock's seconds: CPU time, which other processes do not disturb, where one CPU thread does the work."""
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def seconds_for(full: int, run: Callable[[int], float]) -> float:
    """Return the seconds of ``run`` for ``full`` samples, in proportion from as many as fit in ``BUDGET`` seconds."""
    count = min(_SMALLEST, full)
    while (seconds := run(count)) < BUDGET / 2 and count < full:
        count = min(4 * count, full)
    return seconds * full / count


def typical_epoch(epochs: Iterable[Any]) -> float:
    """Go through ``epochs`` until ``BUDGET`` is spent and return the seconds of one."""
    seconds: list[float] = []
    for _ in timed(epochs, seconds):
        pass
    return settled(seconds)


def timed(epochs: Iterable[_T], seconds: list[float]) -> Iterator[_T]:
    """Pass ``epochs`` on until ``BUDGET`` is spent; append the seconds of each, with what its receiver does with it.

    The first, which also warms up, comes free up to ten times the budget.
    """
    last = now()
    for epoch in epochs:
        yield epoch
        done = now()
        seconds.append(done - last)
        last = done
        if sum(seconds[1:]) > BUDGET or seconds[0] > 10 * BUDGET:
            return


def settled(seconds: list[float]) -> float:
    """Return the median without the first, where there are others."""
    return median(seconds[1:] or seconds)


def repeated(act: Callable[[], object]) -> float:
    """Return the median seconds of ``act`` after a first time."""
    seconds: list[float] = []
    for _ in timed((act() for _ in range(8)), seconds):
        pass
    return settled(seconds)


def _gentle(spec: SubsetsSpec) -> SubsetsSpec:
    """Return the same training, but gentle: nothing here depends on what is learnt."""
    return replace(spec, recipe=replace(spec.recipe, learning_rate=_GENTLE))


def _share(data: DataSet, count: int) -> DataSet:
    """Return ``count`` training samples, and of the other splits as large a share."""
    share = count / len(data.train)
    parts = {name: _first(part, max(1, round(share * len(part)))) for name, part in data.parts().items()}
    return DataSet(parts["train"], parts["validation"], parts["test"], data.classes)


def _first(part: Part, count: int) -> Part:
    """Return ``count`` samples of a part, evenly spread."""
    rows = np.linspace(0, len(part), count, endpoint=False).astype(np.int64)
    return part.take(torch.tensor(rows, device=part.labels.device))
