"""What an experiment will cost and what precision it will buy, before it is run: jobs, hours, disk, standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bat.config import SOURCES, Config, rounds_of
from bat.data.counting import counted
from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.planning.resources import sizes_of
from bat.seeds import generator


@dataclass(frozen=True)
class Stage:
    """Jobs of one kind. seconds: of one job, start-up included."""

    name: str
    jobs: int
    seconds: float

    @property
    def hours(self) -> float:
        """Hours of all jobs, one after the other."""
        return self.jobs * self.seconds / 3600


def random_data(config: Config, command: str) -> DataSet:
    """Return random images and labels in the numbers and the shape of a data set that was not read yet.

    command: what reads it, for the error.

    Raises:
        BatError: how many images it has is known only after it was read.
    """
    if config.data.name not in SOURCES and counted(config.data) is None:
        raise BatError(
            f"data set {config.data.name}: how many images it has is known only after it was read: first run {command}"
        )
    sizes, random = sizes_of(config), generator("plan")

    def part(count: int) -> Part:
        pixels = torch.randint(256, (count, *sizes.shape), dtype=torch.uint8, generator=random)
        labels = torch.randint(sizes.classes, (count,), generator=random)
        return Part(pixels, labels, torch.arange(count), pixel_max=255)

    return DataSet(part(sizes.train), part(sizes.validation), part(sizes.test), sizes.classes)


def data_path(config: Config) -> str:
    """Return where the workflow writes the data set."""
    return f"results/{config.experiment}/data/data.safetensors"


def disk(config: Config, data: DataSet, *, runs: int, weights: int) -> dict[str, int]:
    """Return the bytes of what an experiment leaves on disk, by kind. runs: each once a seed; weights: bytes of one."""
    models = runs * len(config.training.seeds)
    samples = {name: len(part) for name, part in data.parts().items()}
    everything, subsets = sum(samples.values()), config.memorization
    # of a sample: a bit for right or wrong, two bytes for its probability, one or two for a class
    said = everything // 8 + (2 + 1 + (data.classes >= 2**8)) * everything
    robust, clean = subsets.robust.subset_models, max(rounds_of(config), default=0)
    epochs = config.training.recipe.epochs
    measured = -(-epochs // config.training.measure_every)
    # two losses in 16 bits and two bits a sample; in training also an error in 16 bits, and each epoch a probability,
    # mostly 0, and a weight, mostly 1
    records = measured * (17 * everything // 4 + 2 * samples["train"]) + epochs * 4 * samples["train"]
    # as measured on digits: a row of attacked.parquet and of per_sample.parquet 8 bytes, of history.parquet 500, of
    # samples.parquet 20, the schemas of a model's files 30 thousand; a fifth of the training samples atypical, as in
    # CIFAR-100
    rows = 2 * 2 * samples["test"] * 8 + epochs * 500 + 20 * epochs * samples["train"] // 5 + 30_000
    images = 2 * models * 4 * data.test.pixels.numel() if config.evaluation.images else 0
    return {
        "data": sum(part.pixels.numel() + 16 * len(part) for part in data.parts().values()),
        "subsets": (clean + robust) * (samples["train"] // 8 + said) + robust * said,
        "weights": 2 * models * weights,
        "records of training": models * records,
        "tables": models * rows + 90 * everything,
        "adversarial images": images,
    }


def table(stages: Sequence[Stage], *, threads: int, unit: str) -> list[str]:
    """Return the lines of a table of stages with a total. Hours of ``unit`` count each thread of a CPU."""
    rows = [f"{'stage':<24}{'jobs':>7}{'minutes a job':>16}{unit + ' hours':>14}"]
    for stage in stages:
        rows.append(f"{stage.name:<24}{stage.jobs:>7}{stage.seconds / 60:>16.2f}{threads * stage.hours:>14.3f}")
    jobs, hours = sum(stage.jobs for stage in stages), threads * sum(stage.hours for stage in stages)
    return [*rows, f"{'total':<24}{jobs:>7}{'':>16}{hours:>14.3f}"]


def bytes_text(count: float) -> str:
    """Return a number of bytes as a text with three digits: 512 B, 10.2 KiB, 1.46 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
