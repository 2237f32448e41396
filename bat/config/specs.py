"""What each stage depends on besides its input files, as the workflow hands it over (--spec)."""

import json
from dataclasses import asdict, fields
from typing import Any, Literal, TypeVar

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from bat.config import (
    STRICT,
    Adversary,
    Cached,
    Compute,
    Config,
    Data,
    Ensemble,
    EvaluationPgd,
    FileScores,
    Method,
    Model,
    OwnTrainer,
    Pgd,
    Published,
    Recipe,
    Run,
    ScoresFormat,
    Threat,
    Without,
    check_factor,
    check_measured,
    check_resamples,
    check_steps,
    questions,
    runs_of,
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
    NearDuplicate,
    RunName,
    Seed,
    Shuffles,
    StandardError,
    Subsample,
    Threshold,
)

_T = TypeVar("_T")


def _filled(spec: type[_T], *sections: object, **given: object) -> _T:
    """Return a spec with what is given, and all else from the first of some sections of a config that has its name.

    So a key that a spec learns later is handed on where its section has it.
    """
    names = [field.name for field in fields(spec) if field.name not in given]  # type: ignore[arg-type]  # a dataclass
    named = {name: next(getattr(each, name) for each in sections if hasattr(each, name)) for name in names}
    return spec(**named, **given)


def as_json(spec: Any) -> str:
    """Return a spec as the command line takes it; the order of keys in a file makes no difference."""
    return json.dumps(asdict(spec), sort_keys=True)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DownloadSpec(Cached):
    """What a download depends on."""

    @classmethod
    def of(cls, config: Config) -> "DownloadSpec":
        """Return that of an experiment on a published data set."""
        if not isinstance(config.data, Published):
            raise ValueError(f"data set {config.data.name} is not downloaded")
        return cls(name=config.data.name, cache=config.data.cache)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataSpec:
    """What the data set depends on, besides its source."""

    data: Data
    subsample: Subsample

    @classmethod
    def of(cls, config: Config) -> "DataSpec":
        """Return that of an experiment."""
        return _filled(cls, config)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubsetsSpec:
    """What one shard of subset models depends on, besides the data."""

    model: Model | None
    subset_fraction: Fraction
    design: Literal["balanced", "independent"]
    seed: Seed
    recipe: Recipe
    compute: Compute
    first_model: FirstModel
    models: Models
    adversary: Adversary | None
    trainer: OwnTrainer | None

    @classmethod
    def of(cls, config: Config, *, first_model: int, robust: bool = False) -> "SubsetsSpec":
        """Return that of the shard that starts with a model; robust: of those trained adversarially."""
        stage, bn = config.memorization, config.training.attack_bn
        trainer = None if robust else stage.trainer
        return _filled(
            cls,
            stage,
            config,
            # an edit of a network that is not trained reruns nothing
            model=None if trainer else config.subset_model,
            trainer=trainer,
            first_model=first_model,
            models=stage.models_per_shard,
            adversary=Adversary(threat=config.threat, attack=stage.robust.attack, attack_bn=bn) if robust else None,
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScoresSpec:
    """What the scores depend on, besides the shards."""

    score: Literal["hard", "soft"]
    threshold: Threshold
    false_discovery_rate: DiscoveryRate
    confidence: Confidence

    @classmethod
    def of(cls, config: Config) -> "ScoresSpec":
        """Return that of an experiment."""
        return _filled(cls, config.memorization)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EnoughSpec:
    """What says whether there are subset models enough, besides the shards."""

    score: Literal["hard", "soft"]
    threshold: Threshold
    standard_error: StandardError
    quantile: Fraction

    @classmethod
    def of(cls, config: Config) -> "EnoughSpec":
        """Return that of an experiment that trains subset models until there are enough."""
        return _filled(cls, config.memorization.until, config.memorization)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DuplicatesSpec:
    """What the table of duplicates depends on, besides the data, the shards and the scores."""

    near_duplicate: NearDuplicate
    threshold: Threshold

    @classmethod
    def of(cls, config: Config) -> "DuplicatesSpec":
        """Return that of an experiment that looks for duplicates."""
        return _filled(cls, config.memorization)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NullPairsSpec:
    """What the count of pairs found by chance depends on, besides the shards and the scores."""

    threshold: Threshold
    false_discovery_rate: DiscoveryRate
    shuffles: Shuffles
    seed: Seed

    @classmethod
    def of(cls, config: Config) -> "NullPairsSpec":
        """Return that of an experiment."""
        return _filled(cls, config.memorization)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProxiesSpec:
    """What the agreement of proxies depends on, besides the records and the scores."""

    threshold: Threshold
    confidence: Confidence
    bootstrap: Bootstrap
    seed: Seed

    @model_validator(mode="after")
    def _sensible(self) -> "ProxiesSpec":
        check_resamples(self.bootstrap, self.confidence, "")
        return self

    @classmethod
    def of(cls, config: Config) -> "ProxiesSpec":
        """Return that of an experiment."""
        return _filled(cls, config.evaluation, config.memorization)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImportScoresSpec:
    """What imported scores depend on, besides the file and the data."""

    format: ScoresFormat
    threshold: Threshold

    @classmethod
    def of(cls, config: Config) -> "ImportScoresSpec":
        """Return that of an experiment whose scores come from a file."""
        if not isinstance(config.scores, FileScores):
            raise ValueError("the scores of this experiment come from subset models")
        return cls(format=config.scores.format, threshold=config.memorization.threshold)


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

    @classmethod
    def of(cls, config: Config, run: Run, seed: int) -> "TrainSpec":
        """Return that of one run with one seed."""
        return _filled(cls, run, config.training, config, seed=seed)


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

    @classmethod
    def of(cls, config: Config) -> "EvaluateSpec":
        """Return that of an experiment, the same for all runs."""
        return _filled(cls, config.evaluation, config)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SummarySpec:
    """What the summary depends on, besides its tables.

    runs: what was trained; questions: by name, pairs of runs that are compared.
    """

    seed: Seed
    confidence: Confidence
    bootstrap: Bootstrap
    runs: tuple[Run, ...]
    questions: dict[str, tuple[tuple[RunName, RunName], ...]]

    @model_validator(mode="after")
    def _sensible(self) -> "SummarySpec":
        check_resamples(self.bootstrap, self.confidence, "")
        return self

    @classmethod
    def of(cls, config: Config) -> "SummarySpec":
        """Return that of an experiment."""
        asked = {name: tuple(pairs) for name, pairs in questions(config).items()}
        return _filled(cls, config.evaluation, runs=runs_of(config), questions=asked)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HarmfulSpec:
    """What tells harmful from benign samples, besides the records of samples."""

    threshold: Threshold

    @classmethod
    def of(cls, config: Config) -> "HarmfulSpec":
        """Return that of an experiment."""
        return cls(threshold=config.removal.harmful_threshold)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ResultsSpec:
    """What the page of results depends on, besides the tables."""

    experiment: Name
    data: str
    model: Model
    recipe: Recipe
    margin: Margin

    @classmethod
    def of(cls, config: Config) -> "ResultsSpec":
        """Return that of an experiment."""
        return _filled(cls, config.evaluation, config, data=config.data.name, recipe=config.training.recipe)
