"""The runs of an experiment: what is trained, once per seed, what each is for, and what it is compared with."""

from bat.config.experiment import Config, compared
from bat.config.removal import Role, Run, removal_runs
from bat.config.scores import FileScores
from bat.config.training import Method


def runs_of(config: Config) -> tuple[Run, ...]:
    """Return all runs: methods, their variants, then those without some samples."""
    methods, bases = config.training.methods, config.training.variants
    return (
        *(
            Run(method=method, without=None, base=bases.get(method.name, method.name), role=_role(method, bases))
            for method in methods
        ),
        *removal_runs(methods, config.removal),
    )


def questions(config: Config) -> dict[str, list[tuple[str, str]]]:
    """Return which runs are compared with which, by question."""
    return compared(config.training.methods, config.evaluation, config.removal)


def shards_of(config: Config) -> tuple[int, int]:
    """Return the numbers of shards of subset models, trained on clean images and adversarially."""
    stage = config.memorization
    clean = 0 if isinstance(config.scores, FileScores) else stage.subset_models
    return clean // stage.models_per_shard, stage.robust.subset_models // stage.models_per_shard


def figures_of(config: Config) -> tuple[str, ...]:
    """Return the names of the figures of an experiment."""
    names = ["memorization", "gallery", "curves", "tradeoff", "overfitting", "influence"]
    if any(is_weighted(method) for method in config.training.methods):
        names.append("weights")
    if config.removal.method is not None:
        names += ["finding_a", "finding_b", "harmful"]
    return tuple(names)


def is_weighted(method: Method) -> bool:
    """Return whether a method tells atypical samples from others, as BAT does to weigh them."""
    return getattr(method, "score", None) is not None and hasattr(method, "threshold")


def _role(method: Method, bases: dict[str, str]) -> Role:
    if getattr(method, "score", "memorization") in ("shuffled", "consistency"):
        return "control"
    return "variant" if method.name in bases else "method"
