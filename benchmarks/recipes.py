"""Whether the default network and recipe of stage 2 train on images of other sizes and kinds than digits.

    python benchmarks/recipes.py CACHE [--data digits mnist ...] [--train 1000] [--epochs 20] [--seeds 5]

Prints one row per data set and method: accuracies in percent of the seeds on their own training samples and on test
samples after the last epoch, each with median and minimum, beside chance (the share of the most frequent class of the
training samples) and the CPU time. An exit code of 1 says that a run ended near chance.

CACHE holds MNIST and CIFAR-100 as data.cache does, and for tiny_imagenet a folder tiny_imagenet_20 with train/ and
test/, one folder per class. Of CIFAR-100 and Tiny ImageNet the first ten classes are taken.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from bat.config import Adversary, Config, ImageFolder, Method, Natural, Packaged, Pgd, PgdAt, Published, Threat, load
from bat.data.dataset import DataSet, split
from bat.data.sources import Samples, Source, open_source
from bat.models import build
from bat.seeds import derive_seed, generator
from bat.statistics import majority_share, near_chance
from bat.training.loop import fit
from bat.training.losses import objective
from bat.training.measure import judged

EPS = {"digits": 0.15, "mnist": 0.1, "colour_mnist": 0.1, "cifar100": 8 / 255, "tiny_imagenet": 8 / 255}
"""Of adversarial training, for pixels in [0, 1], by data set."""

METHODS: tuple[Method, ...] = (
    Natural(name="natural", objective="natural"),
    PgdAt(name="pgd_at", objective="pgd_at", eps_factor=1.0, awp=0.0),
)


def main() -> None:
    """Train each method on each data set with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--config", default="config/config.yaml")
    parser.add_argument("--data", nargs="+", choices=EPS, default=list(EPS))
    parser.add_argument("--train", type=int, default=1000, help="training samples; digits has 1,000 at most")
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--epochs", type=int, help="those of the config by default")
    parser.add_argument("--width", type=int, help="that of the config by default")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load(options.config)
    if options.epochs:
        recipe = replace(config.training.recipe, epochs=options.epochs)
        config = replace(config, training=replace(config.training, recipe=recipe))
    if options.width:
        config = replace(config, model=replace(config.model, width=options.width))
    print(f"{config.model}, {config.training.recipe}, {options.train} training samples")
    print(f"{'data':14}{'method':9}{'chance':>7}  {'training: seeds':29}{'median':>7}{'min':>6}  test: seeds")
    failed = 0
    for name in options.data:
        data = dataset(name, options.cache, train=options.train, test=options.test)
        chance = majority_share(data.train.labels.numpy())
        for method in METHODS:
            start = time.process_time()
            rows = [accuracies(config, data, method, eps=EPS[name], seed=seed) for seed in range(options.seeds)]
            on_train, on_test = zip(*rows, strict=True)
            failed += sum(near_chance(value, chance) for value in on_train)
            print(
                f"{name:14}{method.name:9}{100 * chance:7.1f}  {columns(on_train)}  {columns(on_test)}"
                f"  {time.process_time() - start:.0f} s",
                flush=True,
            )
    raise SystemExit(f"{failed} runs ended near chance" if failed else 0)


def accuracies(config: Config, data: DataSet, method: Method, *, eps: float, seed: int) -> tuple[float, float]:
    """Train one model and return its clean accuracy on training and on test samples."""
    attack = Pgd(steps=config.training.attack.steps, step_size=eps / 4)
    model = build(config.model, data.train, classes=data.classes, seed=derive_seed(seed, "weights"))
    for _ in fit(
        model,
        data.train,
        objective=objective(method),
        recipe=config.training.recipe,
        seed=seed,
        what=f"{method.name}, seed {seed}",
        adversary=Adversary(threat=Threat(norm="linf", eps=eps), attack=attack, attack_bn=config.training.attack_bn),
    ):
        pass
    return tuple(float(judged(model, part).correct.float().mean()) for part in (data.train, data.test))


def columns(values: tuple[float, ...]) -> str:
    """Return the values, their median and the least of them, in percent."""
    each = " ".join(f"{100 * value:5.1f}" for value in values)
    return f"{each:29}{100 * median(values):7.1f}{100 * min(values):6.1f}"


def dataset(name: str, cache: Path, *, train: int, test: int) -> DataSet:
    """Read a data set and draw its splits, the same ones always."""
    if name == "digits":
        of_pool = Packaged(name="digits", train_samples=min(train, 1000), validation_samples=200, split_seed=0)
        return split(open_source(of_pool), of_pool, subsample=1.0)
    drawn = {"train_samples": train, "validation_samples": 500, "split_seed": 0}
    data: Published | ImageFolder
    if name == "tiny_imagenet":
        folder = str(cache / "tiny_imagenet_20")
        data = ImageFolder(name="image_folder", path=folder, size=None, colour="rgb", **drawn)
    else:
        data = Published(name=name.removeprefix("colour_"), cache=str(cache), **drawn)
    source = open_source(data)
    source = coloured(source) if name == "colour_mnist" else first_classes(source, 10)
    found = split(source, data, subsample=1.0)
    return replace(found, test=found.test.take(torch.arange(min(test, len(found.test)))))


def first_classes(source: Source, classes: int) -> Source:
    """Return the samples of the first classes alone."""

    def some(samples: Samples) -> Samples:
        kept = (samples.labels < classes).nonzero().flatten()
        return Samples(samples.labels[kept], lambda rows: samples.pixels(kept[rows]))

    return changed(source, some, source.class_names[:classes])


def coloured(source: Source) -> Source:
    """Return grey images in a colour of their own each, with a black edge of two pixels: (3, 32, 32)."""

    def some(samples: Samples) -> Samples:
        colours = torch.rand(len(samples.labels), 3, 1, 1, generator=generator("colours"))

        def pixels(rows: Tensor) -> Tensor:
            grey = F.pad(samples.pixels(rows), [2, 2, 2, 2])
            return (grey * (0.5 + 0.5 * colours[rows])).round().to(torch.uint8)

        return Samples(samples.labels, pixels)

    return changed(source, some, source.class_names)


def changed(source: Source, change: Callable[[Samples], Samples], class_names: tuple[str, ...]) -> Source:
    """Return the source with both its parts changed."""
    test = None if source.test is None else change(source.test)
    return Source(change(source.train), test, class_names, source.pixel_max)


if __name__ == "__main__":
    main()
