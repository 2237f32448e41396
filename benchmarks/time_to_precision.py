"""Core-seconds to precise scores: this project against a plain JAX script of the same training.

    pip install -e '.[benchmark]'
    python benchmarks/time_to_precision.py --folder /tmp/time_to_precision [--models 200] [--rounds 3]

The training is that of Feldman and Zhang's example on 2,500 of the 5,000 MNIST images: 784-512-256-10, 10 epochs,
batches of 128, learning rate 0.1, momentum 0.9, on random 70 % of the samples. In each round both train --models models
in turns, each as its users would: this project as one process per core with one thread each, JAX as one process that
takes all cores. A command counts as a whole, with its start, its imports and JAX's compilation; cores times its seconds
are core-seconds.

A score's standard error falls with the root of the number of models. From the median over atypical samples (hard
memorization over 0.15) with --models models follow the models that 0.05 takes, hard and soft, and their core-seconds.
JAX records right and wrong, as the example does: its models count for the hard score. Printed too is what the products
of a model's training alone take at the speed of a large float32 product: no float32 training on a CPU takes less.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

TARGET = 0.05
_EPOCHS, _BATCH, _RATE, _MOMENTUM = 10, 128, 0.1, 0.9
_LAYERS = (784, 512, 256, 10)


def main() -> None:
    """Train in turns and print core-seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", type=int, default=200, help="in each round, a multiple of the cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--jax", type=Path, metavar="MASKS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.jax:
        _train_with_jax(given.folder, given.jax)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process, which reads the results
    given.folder.mkdir(parents=True, exist_ok=True)
    data, masks = _prepared(given.folder, given.models)
    seconds: dict[str, list[float]] = {"bat": [], "JAX": []}
    for number in range(given.rounds):
        shards = [given.folder / f"{number}-{core}.parquet" for core in range(given.cores)]
        for name, commands in (
            ("bat", [_subsets(data, shard, given, core) for core, shard in enumerate(shards)]),
            ("JAX", [[__file__, "--folder", str(given.folder), "--jax", str(masks)]]),
        ):
            start = time.perf_counter()
            environment = dict(os.environ, PYTHONPATH=f"{Path(__file__).parent}")
            environment.pop("OMP_NUM_THREADS", None)  # each command sets its threads
            runs = [subprocess.Popen([sys.executable, *words], env=environment) for words in commands]
            codes = [run.wait() for run in runs]
            if any(codes):
                sys.exit(f"{name} failed")
            seconds[name].append(given.cores * (time.perf_counter() - start))
    _compare(data, shards, given.folder, seconds, given.models)


def network(*, shape: tuple[int, int, int], classes: int) -> object:
    """Return the network of the example, for the config of this project."""
    from torch import nn

    first, second, third, last = _LAYERS
    return nn.Sequential(
        nn.Flatten(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, third), nn.ReLU(), nn.Linear(third, last)
    )


def _config() -> object:
    from bat.config import load

    return load(
        "config/config.yaml",
        settings=[
            "data={name: mnist5k, train_samples: 2500, validation_samples: 500}",
            "model=time_to_precision:network",
            f"memorization.recipe.epochs={_EPOCHS}",
            f"memorization.recipe.batch_size={_BATCH}",
            f"memorization.recipe.learning_rate={_RATE}",
            f"memorization.recipe.momentum={_MOMENTUM}",
            "memorization.recipe.weight_decay=0",
            # as good as none
            "memorization.recipe.schedule={name: steps, milestones: [0.999999], factor: 0.999999}",
        ],
    )


def _prepared(folder: Path, models: int) -> tuple[Path, Path]:
    """Write the data and the subsets for both."""
    from bat.config.specs import SubsetsSpec
    from bat.data.dataset import load_source
    from bat.data.saved import write_data
    from bat.io.files import provenance
    from bat.scores.subsets import subset_masks

    config = _config()
    samples = load_source(config.data, subsample=1.0)
    data, masks = folder / "data.safetensors", folder / "masks.npz"
    write_data(data, samples, provenance("data"))
    parts = {
        name: array
        for split in ("train", "test")
        for name, array in (
            (f"{split}_x", getattr(samples, split).images().flatten(1).numpy()),
            (f"{split}_y", getattr(samples, split).labels.numpy()),
        )
    }
    size = round(SubsetsSpec.of(config, first_model=0).subset_fraction * len(samples.train))
    mask = subset_masks(len(samples.train), size, design="balanced", seed=0, first=0, count=models)
    np.savez(masks, mask=mask, **parts)
    return data, masks


def _subsets(data: Path, shard: Path, given: argparse.Namespace, core: int) -> list[str]:
    """Return the command that trains one core's share of the models with this project."""
    from bat.config.specs import SubsetsSpec, as_json

    each = given.models // given.cores
    spec = json.loads(as_json(SubsetsSpec.of(_config(), first_model=core * each))) | {"models": each}
    return [
        "-m",
        "bat",
        "subsets",
        "--spec",
        json.dumps(spec),
        "--data",
        f"{data}",
        "--shard",
        f"{shard}",
        "--threads=1",
    ]


def _train_with_jax(folder: Path, masks: Path) -> None:
    """Train a model on each subset, one after another, and write which samples each has right."""
    import jax
    import jax.numpy as jnp

    given = np.load(masks, allow_pickle=False)
    train_x, train_y, test_x, test_y = (given[name] for name in ("train_x", "train_y", "test_x", "test_y"))
    mean, std = train_x.mean(), train_x.std()
    train_x, test_x = (train_x - mean) / std, (test_x - mean) / std

    def forward(weights, x):
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w + b)
        w, b = weights[-1]
        return x @ w + b

    def loss(weights, x, y):
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(weights, x)), y[:, None], axis=1).mean()

    @jax.jit
    def step(weights, velocity, x, y):
        gradient = jax.grad(loss)(weights, x, y)
        velocity = jax.tree.map(lambda v, g: _MOMENTUM * v + g, velocity, gradient)
        return jax.tree.map(lambda w, v: w - _RATE * v, weights, velocity), velocity

    @jax.jit
    def right(weights, x, y):
        return forward(weights, x).argmax(1) == y

    def initial(random):
        shapes = pairwise(_LAYERS)
        return [(jnp.asarray(random.normal(0, (2 / i) ** 0.5, (i, o)), jnp.float32), jnp.zeros(o)) for i, o in shapes]

    found: dict[str, list[NDArray[np.bool_]]] = {"train": [], "test": []}
    for number, mask in enumerate(given["mask"]):
        random = np.random.default_rng(number)
        rows = np.flatnonzero(mask)
        weights = initial(random)
        velocity = jax.tree.map(jnp.zeros_like, weights)
        for _ in range(_EPOCHS):
            random.shuffle(rows)
            # what is left over of the last batch is left out, so that one step is compiled
            for first in range(0, len(rows) - _BATCH + 1, _BATCH):
                batch = rows[first : first + _BATCH]
                weights, velocity = step(weights, velocity, train_x[batch], train_y[batch])
        found["train"].append(np.asarray(right(weights, train_x, train_y)))
        found["test"].append(np.asarray(right(weights, test_x, test_y)))
    np.savez(folder / "jax.npz", **{name: np.stack(rows) for name, rows in found.items()})


def _compare(data: Path, shards: list[Path], folder: Path, seconds: dict[str, list[float]], models: int) -> None:
    from bat.data.saved import load_data
    from bat.scores.estimators import memorization_scores, memorization_table
    from bat.scores.shards import class_by_class, open_shards

    samples, digest = load_data(data, "cpu")
    tables = [
        memorization_table(
            *(one.columns[name] for name in ("in_subset", "correct_train", "p_train")), confidence=0.95
        ).assign(train_index=one.index["train"])
        for one in class_by_class(open_shards(shards, data, samples, digest), samples, ("correct", "p"))
    ]
    mask, jax = (np.load(folder / name, allow_pickle=False) for name in ("masks.npz", "jax.npz"))
    theirs = memorization_scores(mask["mask"], jax["train"])
    atypical = [table[table["memorization"] > 0.15] for table in tables]
    errors = {
        "bat, hard": np.concatenate([table["standard_error"] for table in atypical]),
        "bat, soft": np.concatenate([table["soft_standard_error"] for table in atypical]),
        "JAX, hard": theirs.loc[theirs["memorization"] > 0.15, "standard_error"].to_numpy(),
    }
    needed = {name: models * (float(np.median(error)) / TARGET) ** 2 for name, error in errors.items()}
    print(f"{len(seconds['bat'])} rounds of {models} models; models for a median standard error of {TARGET}:")
    for name, error in errors.items():
        each = median(seconds[name.split(",")[0]]) / models
        print(
            f"{name}: {len(error)} atypical, {needed[name]:.0f} models, {each:.2f} core-seconds for each, "
            f"{needed[name] * each:.0f} in all"
        )
    print(f"the products of one model at full speed: {_least_seconds(int(mask['mask'][0].sum())):.2f} core-seconds")
    ratios = [ours / other for ours, other in zip(seconds["bat"], seconds["JAX"], strict=True)]
    for name in ("bat, hard", "bat, soft"):
        factor = needed[name] / needed["JAX, hard"]
        spread = f"{factor * min(ratios):.2f} to {factor * max(ratios):.2f}"
        print(f"{name} over JAX: {factor * median(ratios):.2f} of the core-seconds (range {spread})")


def _least_seconds(samples: int) -> float:
    """Return the seconds that the products of one training take one core at the speed of a large product."""
    from threadpoolctl import threadpool_limits

    side, seconds = 2048, []
    square = np.random.default_rng(0).random((side, side), dtype=np.float32)
    with threadpool_limits(1):
        for _ in range(5):
            start = time.perf_counter()
            square @ square
            seconds.append(time.perf_counter() - start)
    # forward, the gradient of the weights, and of the inputs but for the first layer
    operations = 2 * samples * _EPOCHS * (3 * sum(i * o for i, o in pairwise(_LAYERS)) - _LAYERS[0] * _LAYERS[1])
    return operations / (2 * side**3 / min(seconds))


if __name__ == "__main__":
    main()
