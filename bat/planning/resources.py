"""What a job of each rule asks a cluster for: memory and time, from the sizes of data, subsets and network alone.

Estimates on the safe side, made without torch or the data: a job that needs more is tried again with twice as much.
Times are of one thread of a CPU also where a profile gives the job a GPU, of which the rules know nothing.
``bat plan`` measures on one machine what these guess.
"""

import math
from dataclasses import dataclass

from bat.config import (
    Config,
    Model,
    ResidualModel,
    SizedModel,
    WideModel,
    is_weighted,
    pictured,
    rounds_of,
    runs_of,
    split_sizes,
    subsampled,
)
from bat.config.data import SOURCES, drawn_sizes, shape_of
from bat.data.counting import counted

_PROCESS = 900
"""MB of a process that has imported torch and pandas."""

_SPEED = 4e9
"""Multiply-adds per second of one thread of a CPU."""

_START = 20
"""Minutes that every job may take besides."""

_MOST = 7 * 24 * 60
"""Minutes: what no cluster gives more of."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of samples of the splits, the shape (c, h, w) of an image, and classes."""

    train: int
    validation: int
    test: int
    shape: tuple[int, int, int]
    classes: int

    @property
    def samples(self) -> int:
        """All samples."""
        return self.train + self.validation + self.test

    @property
    def megabytes(self) -> float:
        """MB of all pixels."""
        return self.samples * math.prod(self.shape) / 1e6


def sizes_of(config: Config) -> Sizes:
    """Return the sizes of a data set; those of a user's own are counted where it is there, or guessed."""
    data, shape, classes = config.data, shape_of(config.data) or (3, 64, 64), 10
    splits = split_sizes(data)
    if data.name in SOURCES:
        known = SOURCES[data.name]
        classes = known.classes
        if data.classes is not None:  # classes about as large as one another
            kept = data.classes if isinstance(data.classes, int) else len(data.classes)
            pool, test = known.pool * kept // known.classes, known.test and known.test * kept // known.classes
            splits, classes = drawn_sizes(data, pool, test), kept
    elif (found := counted(data)) is not None:
        splits, shape, classes = found
    train, validation, test = (subsampled(count, config.subsample) for count in splits or (50_000, 5_000, 10_000))
    return Sizes(train, validation, test, shape, classes)


def needs(config: Config) -> dict[str, dict[str, int]]:
    """Return by rule what a job asks for: mem_mb, megabytes, and runtime, minutes."""
    return {
        rule: {"mem_mb": 100 * math.ceil(megabytes / 100), "runtime": min(math.ceil(minutes), _MOST)}
        for rule, (megabytes, minutes) in _estimates(config).items()
    }


def _estimates(config: Config) -> dict[str, tuple[float, float]]:
    """Return by rule the MB and minutes of a job."""
    sizes, stage, training = sizes_of(config), config.memorization, config.training
    runs, epochs = runs_of(config), training.recipe.epochs
    models = len(runs) * len(training.seeds)
    samples, shard = sizes.samples, stage.models_per_shard
    most = max(rounds_of(config), default=stage.subset_models)
    answers, robust = most * samples, stage.robust.subset_models * samples
    weighted = any(is_weighted(run.method) for run in runs)
    # in forward passes: a step with its gradients, and an image in training: start, attack, step, and BAT's second loss
    step, trained = 3, 3 * (training.attack.steps + 3 + weighted)
    measured = math.ceil(epochs / training.measure_every) * (2 + training.attack.steps) * samples
    recorded = step * (stage.robust.attack.steps + 1) * stage.recipe.epochs + 2 * stage.robust.attack.steps
    with_data, rows = _PROCESS + sizes.megabytes, 2 * models * sizes.test
    subset_mb = with_data + sizes.megabytes + _batch_mb(config.subset_model, sizes, stage.recipe.batch_size)
    train_mb = with_data + sizes.megabytes + _batch_mb(config.model, sizes, training.recipe.batch_size)
    # images that are drawn, and both checkpoints of the file that is read
    pictures = 4 * (len(pictured(config)) + 1) * config.evaluation.images * sizes.test * math.prod(sizes.shape) / 1e6
    evaluate_mb = with_data + sizes.megabytes + _batch_mb(config.model, sizes, config.evaluation.batch_size)

    return {
        "download": (4_000, 240),
        "data": (with_data + 3 * sizes.megabytes, _START + samples / 10_000),
        "subsets": (
            subset_mb,
            _minutes(config.subset_model, sizes, shard * (step * stage.recipe.epochs + 1) * samples),
        ),
        "robust_subsets": (subset_mb, _minutes(config.subset_model, sizes, shard * recorded * samples)),
        "scores": (with_data + _scores_mb(answers, sizes), _START + answers / 1e7),
        "enough": (with_data + min(12 * answers / 1e6, 620), _START + answers / 1e8),
        "null_pairs": (with_data + _scores_mb(answers, sizes), _START + (1 + stage.shuffles) * answers / 1e8),
        "duplicates": (
            # two blocks of 1,024 images in float64, a dozen numbers per pair of them, holes that these leave in memory
            # (measured: at most 1.4 GB with 50,000 images), and what the estimators read
            with_data
            + 2 * 8 * 1024 * math.prod(sizes.shape) / 1e6
            + 150
            + min(0.028 * sizes.train, 1_400)
            + _scores_mb(answers, sizes),
            # in float64, twice as slow; influence within classes
            _START + sizes.train**2 * (math.prod(sizes.shape) + 2 * most / sizes.classes) / _SPEED / 60,
        ),
        "import_scores": (with_data + _scores_mb(0, sizes) + 4_000, 2 * _START),
        "robust_scores": (with_data + _scores_mb(robust, sizes), _START + robust / 1e7),
        "train": (
            train_mb + epochs * samples * 9 / 1e6,
            _minutes(config.model, sizes, trained * epochs * sizes.train + measured),
        ),
        "proxies": (
            with_data + 12 * answers / 1e6 + epochs * sizes.train * 40 / 1e6,
            _START + answers / 1e8 + config.evaluation.bootstrap * sizes.train / 1e7,
        ),
        "groups": (_PROCESS + epochs * samples * 40 / 1e6, _START + models),
        "harmful": (_PROCESS + len(training.seeds) * epochs * sizes.train * 40 / 1e6, _START),
        "hardest": (_PROCESS + len(training.seeds) * epochs * sizes.train * 40 / 1e6, _START),
        "evaluate": (
            evaluate_mb + 8 * sizes.test * math.prod(sizes.shape) / 1e6,
            # both checkpoints; standard AutoAttack: 100 steps, twice 9 targets of 100, and 5,000 queries
            _minutes(config.model, sizes, 2 * step * 7_000 * sizes.test),
        ),
        "summary": (_PROCESS + rows * 800 / 1e6, _START + models),
        "figures": (with_data + pictures + rows * 400 / 1e6 + models * epochs / 1e3, _START + models / 10),
        "results": (_PROCESS + rows * 100 / 1e6 + models * epochs / 1e3, _START),
        "page": (_PROCESS, _START),
        "explorer": (with_data + (rows + 5 * samples) * 400 / 1e6, _START + samples / 10_000),
    }


def _batch_mb(model: Model, sizes: Sizes, batch: int) -> float:
    """Return MB of a batch's activations in training, gradients and an attack's copies included."""
    _, height, width = sizes.shape
    pixels = math.prod(sizes.shape) * 8
    if isinstance(model, SizedModel):
        floats: float = 4 * model.width if model.name == "mlp" else 8 * height * width * model.width
    else:
        floats = height * width * _channels(model) * _relative(model)
    return 2 * 4 * batch * (floats + pixels) / 1e6


def _channels(model: Model) -> int:
    """Return how many channels of the size of the image a network's activations amount to, all layers together."""
    return {"resnet9": 1_000, "resnet18": 2_500, "preact_resnet18": 2_500}.get(model.name, 9_000)


def _relative(model: Model) -> float:
    """Return a network's width as a share of the published one."""
    if isinstance(model, ResidualModel):
        return model.width / 64
    return model.width / 16 if isinstance(model, WideModel) else 1


def _minutes(model: Model, sizes: Sizes, passes: float) -> float:
    """Return minutes on one thread of a CPU for forward passes of so many images, three times what is expected."""
    channels, height, width = sizes.shape
    if isinstance(model, SizedModel):
        mlp = math.prod(sizes.shape) * model.width + model.width**2
        work: float = mlp if model.name == "mlp" else height * width * 9 * model.width * (channels + model.width)
    else:
        # multiply-adds per pixel: 0.56e9 of resnet18 at 32 x 32
        per_pixel = {"resnet9": 2.5e5, "resnet18": 5.5e5, "preact_resnet18": 5.5e5, "resnet50": 1.3e6}
        work = height * width * per_pixel.get(model.name, 6e6) * _relative(model) ** 2
    return _START + 3 * passes * work / _SPEED / 60


def _scores_mb(answers: float, sizes: Sizes) -> float:
    """Return MB of the estimators, which read a block of answers at a time and compare a block of pairs at a time.

    Measured with 4,000 models on CIFAR-100's numbers: 620 MB of answers. 170 bytes for a pair while it is compared; 3
    in 100 pairs of a class become rows by chance where models are few; a third of the samples are atypical.
    """
    pairs = sizes.train * (sizes.train + sizes.test) / sizes.classes / 3
    return min(12 * answers / 1e6, 620) + 170 * min(pairs / sizes.classes, 4e6) / 1e6 + 0.03 * 200 * pairs / 1e6
