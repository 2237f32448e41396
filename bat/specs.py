"""What each stage depends on besides its input files, as the workflow hands it over (--spec)."""

from typing import Literal

from pydantic.dataclasses import dataclass

from bat.config import (
    STRICT,
    Compute,
    Data,
    Ensemble,
    EvaluationPgd,
    Method,
    Model,
    Pgd,
    Recipe,
    ScoresFormat,
    Threat,
    Without,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSpec:
    """What the data set depends on, besides its source."""

    data: Data
    subsample: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Adversary:
    """What makes training adversarial, and what correctness is recorded under."""

    threat: Threat
    attack: Pgd
    attack_bn: Literal["eval", "train"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubsetsSpec:
    """What one shard of subset models depends on, besides the data."""

    model: Model
    subset_fraction: float
    design: Literal["balanced", "independent"]
    seed: int
    recipe: Recipe
    compute: Compute
    first_model: int
    models: int
    adversary: Adversary | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoresSpec:
    """What the scores depend on, besides the shards."""

    threshold: float
    false_discovery_rate: float
    confidence: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NullPairsSpec:
    """What the count of pairs found by chance depends on, besides the shards and the scores."""

    threshold: float
    false_discovery_rate: float
    shuffles: int
    seed: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportScoresSpec:
    """What imported scores depend on, besides the file and the data."""

    format: ScoresFormat
    threshold: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSpec:
    """What one trained model depends on, besides the data and the scores that it reads."""

    model: Model
    threat: Threat
    recipe: Recipe
    compute: Compute
    attack: Pgd
    attack_bn: Literal["eval", "train"]
    measure_every: int
    early_stop: int
    method: Method
    without: Without | None
    seed: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AttackSpec:
    """What the evaluation of a user's own model depends on, besides the model and the images."""

    threat: Threat
    seed: int
    batch_size: int
    pgd: EvaluationPgd
    ensemble: Ensemble


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSpec(AttackSpec):
    """What one evaluation depends on, besides the data and the models."""

    model: Model


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SummarySpec:
    """What the summary depends on, besides its tables. questions: by name, pairs of runs that are compared."""

    seed: int
    confidence: float
    bootstrap: int
    questions: dict[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HarmfulSpec:
    """What tells harmful from benign samples, besides the records of samples."""

    threshold: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResultsSpec:
    """What the page of results depends on, besides the tables.

    methods, weighted: names of all methods, and of those with BAT's weights; retrained: the method trained without
    some samples, None for none.
    """

    experiment: str
    data: str
    model: Model
    recipe: Recipe
    methods: tuple[str, ...]
    weighted: tuple[str, ...]
    baseline: str | None
    retrained: str | None
    margin: float
