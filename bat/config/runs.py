"""The runs of an experiment: what is trained, once per seed, what each is for, and what it is compared with."""

from collections.abc import Callable, Mapping

from bat.config.experiment import Config, compared
from bat.config.removal import Role, Run, removal_runs
from bat.config.scores import FileScores
from bat.config.training import Method, Natural


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
    """Return the numbers of shards of subset models, trained on clean images, at most, and adversarially."""
    stage = config.memorization
    clean = max(rounds_of(config), default=0)
    return clean // stage.models_per_shard, stage.robust.subset_models // stage.models_per_shard


def rounds_of(config: Config) -> tuple[int, ...]:
    """Return how many subset models there are after each round: one number without memorization.until."""
    stage = config.memorization
    if isinstance(config.scores, FileScores):
        return ()
    if stage.until is None:
        return (stage.subset_models,)
    return (*range(stage.subset_models, stage.until.at_most, stage.subset_models), stage.until.at_most)


def natural_of(config: Config) -> str | None:
    """Return the name of the method whose records give the proxies, the first one that is natural; None for none."""
    return next((method.name for method in config.training.methods if isinstance(method, Natural)), None)


def tables_of(config: Config) -> tuple[str, ...]:
    """Return which of OPTIONAL_TABLES an experiment has."""
    return tuple(name for name, is_of in OPTIONAL_TABLES.items() if is_of(config))


def pictured(config: Config) -> tuple[str, ...]:
    """Return the methods whose adversarial images are drawn: of each kind the first, none where they are not kept."""
    if not config.evaluation.images:
        return ()
    methods, baseline = config.training.methods, config.evaluation.baseline
    kinds = (
        [method.name for method in methods if method.objective == "natural"],
        [method.name for method in methods if method.name == baseline],
        [method.name for method in methods if method.objective.startswith("bat")],
    )
    return tuple(dict.fromkeys(names[0] for names in kinds if names)) or (methods[0].name,)


def is_weighted(method: Method) -> bool:
    """Return whether a method tells atypical samples from others, as BAT does to weigh them."""
    return getattr(method, "score", None) is not None and hasattr(method, "threshold")


def _is_trained_naturally(config: Config) -> bool:
    return natural_of(config) is not None


def _has_removal(config: Config) -> bool:
    return config.removal.method is not None


def _has_robust_models(config: Config) -> bool:
    return config.memorization.robust.subset_models > 0


OPTIONAL_TABLES: Mapping[str, Callable[[Config], bool]] = {
    # a file of scores does not say what models take a sample for
    "label_errors": lambda config: not isinstance(config.scores, FileScores),
    "null_pairs": lambda config: config.memorization.shuffles > 0 and not isinstance(config.scores, FileScores),
    "duplicates": lambda config: config.memorization.near_duplicate is not None,
    "proxies": _is_trained_naturally,
    "proxy_agreement": _is_trained_naturally,
    "harmful": _has_removal,
    "robust_memorization": _has_robust_models,
    "robust_influence": _has_robust_models,
    "robust_effects": _has_robust_models,
}
"""Tables in scores/ that not each experiment has, and whether a config asks for them."""


def _role(method: Method, bases: dict[str, str]) -> Role:
    if getattr(method, "score", None) in ("shuffled", "consistency"):
        return "control"
    return "variant" if method.name in bases else "method"
