"""The stages of an experiment, and the whole of it."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from bat.config.attacks import Ensemble, EvaluationPgd, Pgd, Threat, check_eps, check_steps
from bat.config.compute import Compute
from bat.config.data import Data, check_classes, shape_of, split_sizes, subsampled
from bat.config.model import Model
from bat.config.own import Own
from bat.config.ranges import (
    BatchSize,
    Bootstrap,
    Confidence,
    DiscoveryRate,
    Epochs,
    EpochsOrNone,
    Fraction,
    Margin,
    Minutes,
    Models,
    ModelsOrNone,
    Name,
    NearDuplicate,
    RunName,
    Seed,
    Shuffles,
    StandardError,
    Subsample,
    Threshold,
    distinct,
)
from bat.config.removal import Removal, check_fractions, removal_pairs, removal_runs
from bat.config.scores import FileScores, Scores, SubsetScores
from bat.config.strict import OWN, STRICT
from bat.config.training import MOST_METHODS, PROXIES, Method, Natural, Recipe, check_factor, check_measured
from bat.config.words import meant

MOST_JOBS = 10_000
"""Of one kind: Snakemake plans so many in a minute or two, with half a GiB."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RobustSubsets:
    """The same subsets, trained adversarially: memorization and influence under attack."""

    subset_models: ModelsOrNone = Field(
        default=0, description="Models trained adversarially, of models_per_shard; 0 for none."
    )
    attack: Pgd = Field(description="The attack in their training, and the one under which they are recorded.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnTrainer(Own):
    """What trains subset models in place of this package."""

    name: str = Field(
        pattern=OWN, description="module:function of your own, which returns a predictor: see docs/own_parts.md."
    )

    @model_validator(mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Until:
    """How precise the scores of samples near the threshold must be, and how many subset models that may take."""

    standard_error: StandardError = Field(description="The standard error of memorization to reach.")
    quantile: Fraction = Field(
        default=0.9,
        description="Share of the training samples near the threshold that must have it: those within two standard "
        "errors of it.",
    )
    at_most: Models = Field(description="Models that are not exceeded: a multiple of models_per_shard.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Memorization:
    """Stage 1: models on random subsets, and the scores estimated from them."""

    subset_models: Models = Field(description="K, models trained on random subsets: a multiple of models_per_shard.")
    until: Until | None = Field(
        default=None,
        description="Train further rounds of subset_models models each until the scores are as precise as this says; "
        "null: one round.",
    )
    models_per_shard: Models = Field(default=50, description="Models that one job trains.")
    subset_fraction: Fraction = Field(default=0.7, description="r, the fraction of training samples in a subset.")
    design: Literal["balanced", "independent"] = Field(
        default="balanced",
        description="balanced (every sample is left out equally often, as far as it divides) or independent draws.",
    )
    seed: Seed = Field(default=0, description="Seed of subsets, initial weights and batch order.")
    model: Model | None = Field(
        default=None,
        description="The network of the subset models, those trained adversarially included; null: that of stage 2.",
    )
    recipe: Recipe = Field(description="How the subset models are trained (on clean images).")
    trainer: OwnTrainer | None = Field(
        default=None,
        description="module:function of your own that trains a subset model, in any framework, in place of model and "
        "recipe; null: this package. Models trained adversarially (robust) are always of this package.",
    )
    score: Literal["hard", "soft"] = Field(
        default="hard",
        description="Which memorization groups, methods, removals and figures go by: hard, of right or wrong (Feldman "
        "and Zhang), or soft, of the probability of the label, which needs fewer models for the same precision.",
    )
    threshold: Threshold = Field(
        default=0.15,
        description="t: a training sample is atypical if its memorization is over t; a value for the hard score means "
        "something else for the soft one. Methods have a threshold of their own.",
    )
    false_discovery_rate: DiscoveryRate = Field(
        default=0.05, description="Level of the Benjamini-Hochberg procedure over influence pairs."
    )
    confidence: Confidence = Field(default=0.95, description="Level of the confidence intervals of memorization.")
    shuffles: Shuffles = Field(
        default=20,
        description="Times that influence is estimated with the models' results shuffled among them, to count "
        "the pairs found by chance.",
    )
    near_duplicate: NearDuplicate | None = Field(
        default=0.05,
        description="Distance up to which two training images are near-duplicates, the root of the mean squared "
        "difference of pixel values in [0, 1]; 0 for exact repeats alone, null for no search.",
    )
    robust: RobustSubsets = Field(description="Subset models trained adversarially, recorded under attack.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training:
    """Stage 2: the methods, each trained once a seed."""

    seeds: Annotated[tuple[Seed, ...], AfterValidator(distinct)] = Field(
        default=(0, 1, 2),
        min_length=1,
        max_length=1000,
        description="Seeds, shared by all methods: same initial weights, order and random starts.",
    )
    recipe: Recipe = Field(description="How weights are optimised.")
    attack: Pgd = Field(description="The attack in training, and the one behind the history and the best epoch.")
    attack_bn: Literal["eval", "train"] = Field(
        default="eval", description="Mode of batch normalisation while training attacks run."
    )
    measure_every: Epochs = Field(
        default=1,
        description="Epochs from one measurement of accuracies to the next, at most all; the last epoch is always "
        "measured. Only a measured epoch can be the best.",
    )
    checkpoint_minutes: Minutes = Field(
        default=10,
        description="Minutes after which an epoch's end is kept on disk, so that a killed run goes on there; 0 for "
        "each epoch. Changes no result and reruns nothing.",
    )
    early_stop: EpochsOrNone = Field(
        default=0,
        description="Stop after so many epochs without a better validation accuracy, at most all; 0 for never.",
    )
    methods: tuple[Method, ...] = Field(
        min_length=1,
        max_length=MOST_METHODS,
        description="The methods to train. An entry is the name of a method, or a map: of its own name, what method it "
        "is (objective) or is like (like: an earlier entry, or a method), and the keys that differ.",
    )
    # names of methods, which are checked where they stand
    variants: dict[str, str] = Field(
        default_factory=dict, description="By name of a variant, the entry that it is like."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """Stage 3: every model on every test sample."""

    seed: Seed = Field(default=0, description="Seed of the attacks' random starts.")
    batch_size: BatchSize = Field(default=256, description="Images in one forward pass.")
    pgd: EvaluationPgd = Field(description="The attack of the PGD accuracy.")
    ensemble: Ensemble = Field(
        default="fast",
        description="The attacks behind the robust accuracy: fast (APGD-CE and APGD-T of AutoAttack), standard (all of "
        "AutoAttack), or a list of attacks, each run on the samples that are still classified correctly.",
    )
    images: bool = Field(
        default=False, description="Keep each sample's strongest adversarial image, which bat verify can check."
    )
    confidence: Confidence = Field(default=0.95, description="Level of the confidence intervals of accuracies.")
    bootstrap: Bootstrap = Field(
        default=2000,
        description="Resamples of seeds and test samples behind the intervals: at least 2 / (1 - confidence).",
    )
    baseline: RunName | None = Field(
        default=None, description="Name of the method that all others are compared with; null for none."
    )
    margin: Margin = Field(
        default=0.01,
        description="Gains of accuracy under this count as none: where an interval excludes it, the page of results "
        "says not shown, else too small to tell.",
    )
    pairs: tuple[tuple[RunName, RunName], ...] = Field(
        default=(),
        max_length=1000,
        description="Further comparisons: lists of two methods, the second of which is the one compared with; none "
        "that is there already, in either order or by baseline.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """One experiment."""

    experiment: Name = Field(description="Outputs go to results/{experiment}/.")
    data: Data = Field(description="Which images, and how they are split.")
    subsample: Subsample = Field(
        default=1.0, description="Fraction of each split that is used, a stratified draw: under 1 for a trial."
    )
    model: Model = Field(
        description="The network of stage 2, and of stage 1 where memorization.model is null: NAME or NAME:WIDTH, as "
        "in small_cnn:16, or a map of both."
    )
    threat: Threat = Field(description="What an adversary may change.")
    compute: Compute = Field(default=Compute(), description="How stage 1 and stage 2 compute.")
    scores: Scores = Field(default=SubsetScores(), description="Where the scores of stage 1 come from.")
    memorization: Memorization = Field(description="Stage 1: subset models and scores.")
    training: Training = Field(description="Stage 2: methods.")
    removal: Removal = Field(default=Removal(), description="Findings (a) and (b): retraining without some samples.")
    evaluation: Evaluation = Field(description="Stage 3: attacks on every model.")

    @property
    def subset_model(self) -> Model:
        """The network of the subset models."""
        return self.memorization.model or self.model

    @model_validator(mode="after")
    def _coherent(self) -> "Config":
        problems = []
        for check in (
            self._divides_into_shards,
            self._ends,
            self._has_samples_enough,
            self._measures,
            self._resamples,
            self._perturbs_sensibly,
            self._crops_leave_something,
            self._has_robust_scores,
            self._has_proxies,
            self._names_runs,
            self._compares_methods,
        ):
            try:
                check()
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _divides_into_shards(self) -> None:
        plan = self.memorization
        if plan.subset_models % plan.models_per_shard:
            raise ValueError(
                f"memorization.subset_models is {plan.subset_models}, no multiple of models_per_shard "
                f"({plan.models_per_shard}): choose one, so that a larger K later trains only the new models"
            )
        if plan.robust.subset_models % plan.models_per_shard:
            raise ValueError(
                f"memorization.robust.subset_models is {plan.robust.subset_models}, no multiple of models_per_shard "
                f"({plan.models_per_shard})"
            )

    def _ends(self) -> None:
        plan = self.memorization
        if plan.until is None:
            return
        if isinstance(self.scores, FileScores):
            raise ValueError(
                "memorization.until is given, but scores come from a file, for which no model is trained: "
                "remove one of the two"
            )
        most = f"memorization.until.at_most is {plan.until.at_most}"
        if plan.until.at_most < plan.subset_models:
            raise ValueError(f"{most}, below subset_models ({plan.subset_models}), the first round: raise it")
        if plan.until.at_most % plan.models_per_shard:
            raise ValueError(f"{most}, no multiple of models_per_shard ({plan.models_per_shard}): choose one")

    def _has_samples_enough(self) -> None:
        check_classes(self.data)
        plan, samples = self.memorization, self._training_samples()
        if samples is not None:  # else stages check it, when the data has been read
            check_models(plan.subset_models, samples, plan.subset_fraction)
            if self.removal.method is not None:
                check_fractions(self.removal.fractions, samples, "removal.fractions")
                check_fractions(self.removal.hardest, samples, "removal.hardest")

    def _measures(self) -> None:
        stage = self.training
        check_measured(stage.recipe, stage.measure_every, stage.early_stop, "training.")

    def _resamples(self) -> None:
        check_resamples(self.evaluation.bootstrap, self.evaluation.confidence, "evaluation.")

    def _has_robust_scores(self) -> None:
        for method in self.training.methods:
            if not self.memorization.robust.subset_models and getattr(method, "score", None) == "robust_memorization":
                raise ValueError(
                    f"method {method.name}: score is robust_memorization, but memorization.robust.subset_models is 0: "
                    "raise it, or choose another score"
                )

    def _has_proxies(self) -> None:
        methods = self.training.methods
        for method in methods:
            score = getattr(method, "score", None)
            if score in PROXIES and not any(isinstance(other, Natural) for other in methods):
                raise ValueError(
                    f"method {method.name}: score is {score}, which is read from natural training, but no method is "
                    "natural: add it, or choose another score"
                )

    def _names_runs(self) -> None:
        methods = self.training.methods
        runs = [method.name for method in methods] + [run.name for run in removal_runs(methods, self.removal)]
        _check_names(runs)
        self._has_a_number_of_jobs_to_live_with(len(runs))

    def _compares_methods(self) -> None:
        names = [method.name for method in self.training.methods]
        for name in (*[name for pair in self.evaluation.pairs for name in pair], self.evaluation.baseline):
            if name is not None and name not in names:
                raise ValueError(
                    f"evaluation compares with {name}, which is no method: take of {', '.join(names)}"
                    f"{meant(name, names)}"
                )
        compared = {frozenset((name, self.evaluation.baseline)) for name in names}  # by all methods with the baseline
        for pair in self.evaluation.pairs:
            if frozenset(pair) in compared or len(set(pair)) < 2:
                raise ValueError(
                    f"evaluation.pairs has [{', '.join(pair)}], a method with itself or two that are compared already, "
                    "in this order or the other (all methods are with evaluation.baseline), which would count twice in "
                    "the correction for their number: remove it"
                )
            compared.add(frozenset(pair))

    def _training_samples(self) -> int | None:
        sizes = split_sizes(self.data)
        wanted = sizes[0] if sizes else self.data.train_samples
        return None if wanted == "all" else subsampled(wanted, self.subsample)

    def _perturbs_sensibly(self) -> None:
        shape, evaluated = shape_of(self.data), self.evaluation
        check_eps(self.threat.norm, self.threat.eps, "threat.eps", shape)
        attacks: dict[str, Pgd | EvaluationPgd] = {
            "training.attack": self.training.attack,
            "memorization.robust.attack": self.memorization.robust.attack,
            "evaluation.pgd": evaluated.pgd,
        }
        for index, attack in enumerate(() if isinstance(evaluated.ensemble, str) else evaluated.ensemble):
            if isinstance(attack, EvaluationPgd):
                attacks[f"evaluation.ensemble.{index}"] = attack
        check_steps(self.threat, attacks)
        for method in self.training.methods:
            check_factor(self.threat, method, shape)

    def _crops_leave_something(self) -> None:
        shape = shape_of(self.data)
        for name, recipe in (("memorization", self.memorization.recipe), ("training", self.training.recipe)):
            if shape and recipe.crop_padding >= min(shape[1:]):
                raise ValueError(
                    f"{name}.recipe.crop_padding is {recipe.crop_padding}, so that a crop of {shape[1]} x {shape[2]} "
                    "pixels can show nothing of an image: lower it"
                )

    def _has_a_number_of_jobs_to_live_with(self, runs: int) -> None:
        plan = self.memorization
        most = plan.until.at_most if plan.until else plan.subset_models
        shards = (most + plan.robust.subset_models) // plan.models_per_shard
        for count, what, advice in (
            (shards, "shards of subset models", "raise memorization.models_per_shard, or lower subset_models"),
            (
                runs * len(self.training.seeds),
                "trained models",
                "take fewer methods, removal.fractions or seeds",
            ),
        ):
            if count > MOST_JOBS:
                raise ValueError(f"the config asks for {count:,} {what}, over {MOST_JOBS:,}: {advice}")


def _check_names(runs: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in runs:
        if name in seen:
            raise ValueError(f"two runs have one name, those of removal included: {name}; rename a method")
        seen.add(name)


def compared(methods: Sequence[Method], evaluation: Evaluation, removal: Removal) -> dict[str, list[tuple[str, str]]]:
    """Return which runs are compared with which, by question: methods with the baseline, further pairs, removal."""
    names = [method.name for method in methods]
    return {
        "methods": [(name, evaluation.baseline) for name in names if evaluation.baseline not in (None, name)],
        "pairs": list(evaluation.pairs),
        "removal": removal_pairs(removal),
    }


def check_resamples(bootstrap: int, confidence: float, where: str) -> None:
    """Check that a resample lies beyond either end of an interval; ``where`` stands before the keys' names.

    Raises:
        ValueError: there are too few for that; names the least number.
    """
    needed = math.ceil(2 / (1 - confidence) - 1e-6)  # 1 - 0.95 is a little more than 0.05
    if bootstrap < needed:
        raise ValueError(
            f"{where}bootstrap is {bootstrap}, too few resamples for {where}confidence ({confidence}): take at least "
            f"{needed:,}"
        )


def check_models(models: int, samples: int, fraction: float) -> None:
    """Check that so many subset models can have each training sample in a subset and left out of one.

    Raises:
        ValueError: they cannot; names the keys, and the least number of models.
    """
    size = subset_size(samples, fraction)
    rarest = min(size, samples - size)
    if rarest == 0:
        raise ValueError(
            f"memorization.subset_fraction is {fraction}, which leaves {size} of {samples} training samples in a "
            "subset: move it away from 0 and 1"
        )
    needed = math.ceil(samples / rarest)
    if models < needed:
        raise ValueError(
            f"memorization.subset_models is {models}, too small for subsets of {size} of {samples}: some sample would "
            f"never be left out, or never in; take at least {needed}"
        )


def subset_size(samples: int, fraction: float) -> int:
    """Return m = round(r * n), the samples in a subset."""
    return round(fraction * samples)
