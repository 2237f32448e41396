"""Whether subset models of convolutions train faster with channels last, and several at once as grouped convolutions.

    python benchmarks/convolutions.py [--rounds 5] [--cache cache]

One thread, in turns, CPU time; the lines are ratios, over 1 where the change is faster. channels_last is measured on
training a subset model with the default recipe on digits and on 2,500 images of MNIST, and with that of
config/cifar100_animals.yaml where --cache has CIFAR-100. A stack is measured on forward and backward passes of the
layers alone: what training in a stack could gain at most.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from torch import nn

from bat.config import Compute, Natural, load
from bat.config.specs import SubsetsSpec
from bat.data.dataset import load_source
from bat.models import build
from bat.training.loop import fit
from bat.training.losses import objective

MODELS = (2, 4, 8)
"""In a stack."""


def main() -> None:
    """Print the ratios of each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", help="folder with torchvision's cifar-100-python: measure on its animals too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mnist5k = "data={name: mnist5k, train_samples: 2500, validation_samples: 500}"
    cases: dict[str, tuple[str, list[str], int]] = {
        "digits": ("config/config.yaml", [], 8),
        "mnist5k": ("config/config.yaml", [mnist5k], 1),
    }
    if options.cache:
        cases["cifar100 animals"] = ("config/cifar100_animals.yaml", [f"data.cache={options.cache}"], 1)
    for name, (path, settings, epochs) in cases.items():
        training = _training(path, settings, epochs=epochs)
        (ratio,) = _ratios([partial(training, False), partial(training, True)], options.rounds)
        print(f"{name}: channels last {ratio}", flush=True)
    for name, (channels, width, size, batch) in {
        "digits": (1, 16, 8, 64),
        "mnist5k": (1, 16, 28, 64),
        "cifar100 animals": (3, 12, 32, 48),
    }.items():
        for last in (False, True):
            runs = [_passes(models, channels, width, size, batch, last=last) for models in (1, *MODELS)]
            order = "last" if last else "first"
            for models, ratio in zip(MODELS, _ratios(runs, options.rounds), strict=True):
                print(f"{name}, channels {order}: {models} models in a stack {ratio}", flush=True)


def _training(path: str, settings: list[str], *, epochs: int) -> Callable[[bool], None]:
    """Return what trains a subset model for some epochs, with channels last or not."""
    config = load(path, settings=settings)
    spec = SubsetsSpec.of(config, first_model=0)
    data = load_source(config.data, subsample=1.0)
    subset = data.train.take(torch.arange(round(config.memorization.subset_fraction * len(data.train))))
    natural = objective(Natural(name="natural", objective="natural"))
    recipe = replace(spec.recipe, epochs=epochs)

    def train(channels_last: bool) -> None:
        compute = Compute(channels_last=channels_last)
        model = build(config.subset_model, subset, classes=data.classes, seed=0)
        for _ in fit(model, subset, objective=natural, recipe=recipe, seed=0, what="benchmark", compute=compute):
            pass

    return train


def _passes(models: int, channels: int, width: int, size: int, batch: int, *, last: bool) -> Callable[[], None]:
    """Return sixteen steps of one model like small_cnn, shared among ``models`` of them, as one network."""
    layers: list[nn.Module] = []
    widths = [channels, width, 2 * width, 4 * width]
    for stride, inputs, outputs in zip((1, 2, 2), widths[:-1], widths[1:], strict=True):
        convolution = nn.Conv2d(
            models * inputs, models * outputs, 3, stride=stride, padding=1, groups=models, bias=False
        )
        layers += [convolution, nn.BatchNorm2d(models * outputs), nn.ReLU(inplace=True)]
    order = torch.channels_last if last else torch.contiguous_format
    network = nn.Sequential(*layers).to(memory_format=order)
    images = torch.rand(batch, models * channels, size, size).to(memory_format=order)

    def run() -> None:
        for _ in range(16 // models):
            network(images).square().mean().backward()

    return run


def _ratios(runs: Sequence[Callable[[], None]], rounds: int) -> list[str]:
    """Return how much faster than the first run each other is: median, and range over rounds, after one to warm up."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds + 1):
        for run, times in zip(runs, seconds, strict=True):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
    texts = []
    for times in seconds[1:]:
        ratios = [first / this for first, this in zip(seconds[0][1:], times[1:], strict=True)]
        texts.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {rounds} rounds)")
    return texts


if __name__ == "__main__":
    main()
