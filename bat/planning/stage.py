"""What an experiment will cost on this machine, before it is run."""

import json
import os
import resource
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from bat.config import Config, FileScores, Model, Run, check_files, load, rounds_of, runs_of
from bat.config.specs import DataSpec, as_json
from bat.data.dataset import DataSet
from bat.data.saved import device_named, read_data
from bat.errors import BatError
from bat.io.journal import Journal
from bat.io.tensors import read_tensors
from bat.models import build
from bat.planning.cost import Stage, bytes_text, data_path, disk, random_data, table
from bat.planning.jobs import jobs_of
from bat.planning.timing import STANDING, evaluation_seconds, first_step, method_seconds, subset_seconds
from bat.scores.precision import models_for, worst_standard_error


def plan(
    journal: Journal,
    *,
    base: str = "config/config.yaml",
    configfile: list[str] | None = None,
    config: list[str] | None = None,
    standard_error: float | None = None,
    device: str = "auto",
) -> None:
    """Print the jobs, hours, memory and disk of an experiment, and the standard error that its subset models give.

    base: a complete configuration
    configfile: files that change it, as for snakemake
    config: further changes, KEY=VALUE, as for snakemake
    standard_error: also say how many subset models this one takes

    Example:
        bat plan --configfile config/digits_full.yaml --config subsample=0.5
    """
    if standard_error is not None and not 1e-6 <= standard_error < 1:
        raise BatError(f"--standard-error is {standard_error}: give a number from 0.000001 to below 1")
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    experiment, where = load(base, *(configfile or ()), settings=config or ()), device_named(device)
    check_files(experiment)
    more = [*(["--configfile", *configfile] if configfile else []), *(["--config", *config] if config else [])]
    data, origin = _data(experiment, shlex.join(["snakemake", "--cores", "1", data_path(experiment), *more]))
    data = data.to(where)
    jobs, runs = jobs_of(experiment), runs_of(experiment)
    methods = [run.method for run in runs if run.without is None]
    seeds = len(experiment.training.seeds)
    with journal.work():
        first_step(experiment, data)
        # what this process took until here each job takes: start, imports, reading, the first use of torch
        start = time.process_time()
        seconds = dict.fromkeys(jobs, start)
        for rule in jobs.keys() & {"subsets", "robust_subsets"}:
            journal.line(f"timing {rule}")
            one = subset_seconds(experiment, data, robust=rule == "robust_subsets")
            seconds[rule] += experiment.memorization.models_per_shard * one
        trained = {
            method.name: method_seconds(experiment, data, method)
            for method in journal.bar(methods, len(methods), "methods")
        }
        journal.line("timing attacks")
        attacks = evaluation_seconds(experiment, data)
        seconds["evaluate"] += 2 * sum(attacks.values())
    stages = [
        stage
        for rule, count in jobs.items()
        for stage in (
            _trainings(runs, seeds, start, trained) if rule == "train" else [Stage(rule, count, seconds[rule])]
        )
    ]
    on_cpu = where.type == "cpu"
    network, weights = _network(experiment.model, data)
    trainer = experiment.memorization.trainer
    if trainer and not isinstance(experiment.scores, FileScores):
        network += f"; of stage 1 {trainer.name}"
    elif experiment.memorization.model and not isinstance(experiment.scores, FileScores):
        network += f"; of stage 1 {_network(experiment.subset_model, data)[0]}"
    stored = disk(experiment, data, runs=len(runs), weights=weights)
    lines = [
        _described(experiment, data, origin),
        f"{network}, on {where}, {threads} thread{'s'[: threads > 1]}",
        "",
        *table(stages, threads=threads if on_cpu else 1, unit="CPU" if on_cpu else "GPU"),
        "",
        f"rules not timed: start-up alone ({start:.1f} s a job)",
        f"evaluate: both checkpoints; {STANDING:.0%} of the test samples taken to stand under an attack; seconds: "
        + ", ".join(f"{name} {seconds:.3g}" for name, seconds in attacks.items()),
        f"peak memory of a job: {_memory(where)}",
        f"disk: {bytes_text(sum(stored.values()))} "
        f"({', '.join(f'{name} {bytes_text(count)}' for name, count in stored.items())})",
        *_precision(experiment, standard_error),
    ]
    print("\n".join(lines))  # noqa: T201


def _trainings(runs: Sequence[Run], seeds: int, start: float, trained: Mapping[str, float]) -> list[Stage]:
    """Return the jobs of each method, and of its runs without some samples, which cost as much."""
    stages = []
    for run in runs:
        if run.without is None:
            stages.append(Stage(f"train {run.name}", seeds, start + trained[run.name]))
            removed = sum(other.base == run.name and other.without is not None for other in runs)
            if removed:
                stages.append(Stage(f"  {run.name}_without_...", seeds * removed, start + trained[run.name]))
    return stages


def _data(config: Config, command: str) -> tuple[DataSet, str]:
    """Return the data set where the workflow has written it, else random images of its shape, and which it is.

    command: what reads it, for the error where its size is not known.
    """
    path = data_path(config)
    if Path(path).exists() and read_tensors(path, "data")[1]["spec"] == json.loads(as_json(DataSpec.of(config))):
        return read_data(path), path
    return random_data(config, command), "random images in its place"


def _network(model: Model, data: DataSet) -> tuple[str, int]:
    """Return a network's name and number of weights as text, and the bytes of its weights."""
    weights = build(model, data.train, classes=data.classes, seed=0).state_dict().values()
    return f"{model.name}, {sum(tensor.numel() for tensor in weights):,} weights", sum(w.nbytes for w in weights)


def _described(config: Config, data: DataSet, origin: str) -> str:
    channels, height, width = data.train.pixels.shape[1:]
    counts = ", ".join(f"{len(part):,} {name}" for name, part in data.parts().items())
    return (
        f"{config.experiment}: {config.data.name} ({origin}), {counts} images of {channels} x {height} x {width}, "
        f"{data.classes} classes"
    )


def _memory(where: torch.device) -> str:
    """Return the most that this process has held until here, as text."""
    text = bytes_text(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    if where.type == "cuda":
        text += f", of the GPU {bytes_text(torch.cuda.max_memory_allocated(where))}"
    return text


def _precision(config: Config, wanted: float | None) -> list[str]:
    if isinstance(config.scores, FileScores):
        return []
    plan = config.memorization
    models, fraction = max(rounds_of(config)), plan.subset_fraction
    lines = [
        f"subset models in rounds of {plan.subset_models:,}, all of them counted here: memorization.until may stop at "
        "fewer, and snakemake -n shows the first round"
    ] * (plan.until is not None)
    lines += [
        f"standard error of memorization and influence with {models:,} models: at most "
        f"{worst_standard_error(models, fraction):.3f}"
    ]
    if wanted is not None:
        needed = models_for(wanted, fraction)
        shards = -(-needed // plan.models_per_shard)
        lines.append(
            f"for a standard error of {wanted:g}: {needed:,} models, so memorization.subset_models: "
            f"{shards * plan.models_per_shard} ({shards} shards)"
        )
    return lines
