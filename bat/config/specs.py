"""What each stage depends on besides its input files, as the workflow hands it over (--spec)."""

from typing import Literal

from pydantic import model_validator
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
    check_factor,
    check_measured,
    check_resamples,
    check_steps,
)
from bat.config.ranges import (
    BatchSize,
    Bootstrap,
    Confidence,
    DiscoveryRate,
    Epochs,
    EpochsOrNone,
    FirstModel,
    Fraction,
    Margin,
    Models,
    Name,
    RunName,
    Seed,
    Shuffles,
    Subsample,
    Threshold,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSpec:
    """What the data set depends on, besides its source."""

    data: Data
    subsample: Subsample


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Adversary:
    """What makes training adversarial, and what correctness is recorded under."""

    threat: Threat
    attack: Pgd
    attack_bn: Literal["eval", "train"]

    @model_validator(mode="after")
    def _sensible(self) -> "Adversary":
        check_steps(self.threat, {"attack": self.attack})
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubsetsSpec:
    """What one shard of subset models depends on, besides the data."""

    model: Model
    subset_fraction: Fraction
    design: Literal["balanced", "independent"]
    seed: Seed
    recipe: Recipe
    compute: Compute
    first_model: FirstModel
    models: Models
    adversary: Adversary | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoresSpec:
    """What the scores depend on, besides the shards."""

    threshold: Threshold
    false_discovery_rate: DiscoveryRate
    confidence: Confidence


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NullPairsSpec:
    """What the count of pairs found by chance depends on, besides the shards and the scores."""

    threshold: Threshold
    false_discovery_rate: DiscoveryRate
    shuffles: Shuffles
    seed: Seed


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportScoresSpec:
    """What imported scores depend on, besides the file and the data."""

    format: ScoresFormat
    threshold: Threshold


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainSpec:
    """What one trained model depends on, besides the data and the scores that it reads."""

    model: Model
    threat: Threat
    recipe: Recipe
    compute: Compute
    attack: Pgd
    attack_bn: Literal["eval", "train"]
    measure_every: Epochs
    early_stop: EpochsOrNone
    method: Method
    without: Without | None
    seed: Seed

    @model_validator(mode="after")
    def _sensible(self) -> "TrainSpec":
        check_steps(self.threat, {"attack": self.attack})
        check_factor(self.threat, self.method)
        check_measured(self.recipe, self.measure_every, self.early_stop, "")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AttackSpec:
    """What the evaluation of a user's own model depends on, besides the model and the images."""

    threat: Threat
    seed: Seed
    batch_size: BatchSize
    pgd: EvaluationPgd
    ensemble: Ensemble

    @model_validator(mode="after")
    def _sensible(self) -> "AttackSpec":
        check_steps(self.threat, {"pgd": self.pgd})
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluateSpec(AttackSpec):
    """What one evaluation depends on, besides the data and the models."""

    model: Model


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SummarySpec:
    """What the summary depends on, besides its tables. questions: by name, pairs of runs that are compared."""

    seed: Seed
    confidence: Confidence
    bootstrap: Bootstrap
    questions: dict[str, tuple[tuple[RunName, RunName], ...]]

    @model_validator(mode="after")
    def _sensible(self) -> "SummarySpec":
        check_resamples(self.bootstrap, self.confidence, "")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HarmfulSpec:
    """What tells harmful from benign samples, besides the records of samples."""

    threshold: Threshold


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResultsSpec:
    """What the page of results depends on, besides the tables.

    methods, weighted: names of all methods, and of those with BAT's weights; retrained: the method trained without
    some samples, None for none.
    """

    experiment: Name
    data: str
    model: Model
    recipe: Recipe
    methods: tuple[RunName, ...]
    weighted: tuple[RunName, ...]
    baseline: RunName | None
    retrained: RunName | None
    margin: Margin
