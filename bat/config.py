"""The configuration as frozen records: the one place where keys, types, units and ranges are written down.

``workflow/schemas/config.schema.yaml`` is generated from these records (``bat schema``).
No key has a default here: an experimental choice lives in ``config/``.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from bat.errors import BatError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

_LARGEST = 2**63 - 1  # what a table holds

NAME = r"^[a-z0-9]+(_[a-z0-9]+)*$"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which images, and how they are split."""

    name: Literal["digits"] = Field(description="Data set: digits (scikit-learn's 1,797 real 8 x 8 digits).")
    train_samples: int = Field(ge=2, description="Training samples, a stratified draw; scores are of these.")
    validation_samples: int = Field(
        ge=2, description="Samples held out of training to choose the best epoch. The rest is the test set."
    )
    split_seed: int = Field(ge=0, le=_LARGEST, description="Seed of the split.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The network."""

    name: Literal["small_cnn", "mlp"] = Field(
        description="small_cnn (three convolutions with batch normalisation) or mlp (two hidden layers)."
    )
    width: int = Field(ge=1, description="Channels of the first convolution, or units of a hidden layer.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Steps:
    """Learning rate divided at given fractions of training."""

    name: Literal["steps"] = Field(description="The learning rate falls at given moments.")
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        description="Fractions of training at which the learning rate is multiplied by factor."
    )
    factor: float = Field(gt=0, lt=1, description="What the learning rate is multiplied by at each milestone.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OneCycle:
    """Learning rate that rises linearly from 0 and falls linearly to 0."""

    name: Literal["one_cycle"] = Field(description="The learning rate rises linearly, then falls linearly to 0.")
    warmup: float = Field(gt=0, lt=1, description="Fraction of training over which the learning rate rises.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """How weights are optimised: SGD with momentum on shuffled batches."""

    epochs: int = Field(ge=1, description="Passes over the training samples.")
    batch_size: int = Field(ge=2, description="Largest batch; batches of an epoch differ in size by at most 1.")
    learning_rate: float = Field(gt=0, description="Highest learning rate of SGD.")
    momentum: float = Field(ge=0, lt=1, description="Momentum of SGD.")
    weight_decay: float = Field(ge=0, description="L2 penalty on all weights.")
    schedule: Annotated[Steps | OneCycle, Field(discriminator="name")] = Field(
        description="How the learning rate moves, step by step."
    )
    crop_padding: int = Field(ge=0, description="Random crop after zero padding by so many pixels; 0 for none.")
    flip: bool = Field(description="Mirror each image left to right with probability 1/2.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Threat:
    """What an adversary may change."""

    norm: Literal["linf", "l2"] = Field(description="Norm of the perturbation: linf or l2.")
    eps: float = Field(gt=0, description="Largest norm of the perturbation, for pixels in [0, 1].")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Memorization:
    """Stage 1: models on random subsets, and the scores estimated from them."""

    subset_models: int = Field(ge=1, description="K, models trained on random subsets: a multiple of models_per_shard.")
    models_per_shard: int = Field(ge=1, description="Models that one job trains.")
    subset_fraction: float = Field(gt=0, lt=1, description="r, the fraction of training samples in a subset.")
    design: Literal["balanced", "independent"] = Field(
        description="balanced (every sample is left out equally often, as far as it divides) or independent draws."
    )
    seed: int = Field(ge=0, le=_LARGEST, description="Seed of subsets, initial weights and batch order.")
    recipe: Recipe = Field(description="How the subset models are trained (on clean images).")
    threshold: float = Field(ge=0, lt=1, description="t: a training sample is atypical if its memorization is over t.")
    false_discovery_rate: float = Field(
        gt=0, lt=1, description="Level of the Benjamini-Hochberg procedure over influence pairs."
    )
    confidence: float = Field(gt=0, lt=1, description="Level of the confidence intervals of memorization.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pgd:
    """Projected gradient descent in training."""

    steps: int = Field(ge=1, description="Steps of PGD from a random start.")
    step_size: float = Field(gt=0, description="Length of a step in the threat's norm, for pixels in [0, 1].")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Natural:
    """Training on clean images."""

    name: str = Field(pattern=NAME, description="Name of the method in paths, tables and figures.")
    objective: Literal["natural"] = Field(description="Cross-entropy on clean images.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PgdAt:
    """Adversarial training (Madry et al. 2018)."""

    name: str = Field(pattern=NAME, description="Name of the method in paths, tables and figures.")
    objective: Literal["pgd_at"] = Field(description="Cross-entropy on PGD adversarial examples.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bat:
    """Benign adversarial training (Xu et al. 2021)."""

    name: str = Field(pattern=NAME, description="Name of the method in paths, tables and figures.")
    objective: Literal["bat"] = Field(description="Reweighted cross-entropy plus a discrimination loss, under PGD.")
    reweighting: bool = Field(description="Give harmful atypical samples a lower weight.")
    alpha: float = Field(ge=0, description="Weight of a harmful sample is exp(-alpha * its highest wrong probability).")
    discrimination: bool = Field(description="Add the discrimination loss.")
    beta: float = Field(ge=0, description="Factor of the discrimination loss.")
    temperature: float = Field(gt=0, description="Temperature of the discrimination loss.")


Method = Annotated[Natural | PgdAt | Bat, Field(discriminator="objective")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training:
    """Stage 2: the methods, each trained once a seed."""

    seeds: tuple[Annotated[int, Field(ge=0, le=_LARGEST)], ...] = Field(
        min_length=1,
        description="Seeds, shared by all methods: same initial weights, order and random starts.",
    )
    recipe: Recipe = Field(description="How weights are optimised.")
    attack: Pgd = Field(description="The attack in training, and the one behind the history and the best epoch.")
    attack_bn: Literal["eval", "train"] = Field(description="Mode of batch normalisation while training attacks run.")
    methods: tuple[Method, ...] = Field(min_length=1, description="The methods to train.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationPgd:
    """PGD in the evaluation."""

    name: Literal["pgd"] = Field(description="PGD on the cross-entropy.")
    steps: int = Field(ge=1, description="Steps of a restart.")
    step_size: float = Field(gt=0, description="Length of a step in the threat's norm, for pixels in [0, 1].")
    restarts: int = Field(ge=1, description="Random starts; a sample must stand under all.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ApgdCe:
    """Auto-PGD on the cross-entropy (Croce and Hein 2020)."""

    name: Literal["apgd_ce"] = Field(description="Auto-PGD on the cross-entropy: no step size to choose.")
    steps: int = Field(ge=1, description="Steps of a restart.")
    restarts: int = Field(ge=1, description="Random starts; a sample must stand under all.")
    rho: float = Field(gt=0, lt=1, description="Share of improving steps under which the step size is halved.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ApgdT:
    """Targeted Auto-PGD (Croce and Hein 2020)."""

    name: Literal["apgd_t"] = Field(
        description="Auto-PGD on the targeted DLR loss, on the targeted margin for fewer than 4 classes."
    )
    steps: int = Field(ge=1, description="Steps of a restart and target.")
    restarts: int = Field(ge=1, description="Random starts; a sample must stand under all.")
    rho: float = Field(gt=0, lt=1, description="Share of improving steps under which the step size is halved.")
    targets: int = Field(ge=1, description="Most likely wrong classes to aim at; classes - 1 if there are fewer.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FabT:
    """Targeted fast adaptive boundary attack (Croce and Hein 2020)."""

    name: Literal["fab_t"] = Field(description="Targeted FAB: steps to the boundary of least distance.")
    steps: int = Field(ge=1, description="Steps of a restart and target.")
    restarts: int = Field(ge=1, description="Starts, the first at the image; a sample must stand under all.")
    targets: int = Field(ge=1, description="Most likely wrong classes to aim at; classes - 1 if there are fewer.")
    alpha_max: float = Field(gt=0, lt=1, description="Largest weight of the step from the image itself.")
    eta: float = Field(ge=1, description="Overshoot beyond the boundary.")
    beta: float = Field(gt=0, lt=1, description="How far to go back to the image after a success.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Square:
    """Square attack (Andriushchenko et al. 2020)."""

    name: Literal["square"] = Field(description="Random search on square windows: no gradients, so no masking.")
    queries: int = Field(ge=1, description="Forward passes of a restart.")
    restarts: int = Field(ge=1, description="Restarts; a sample must stand under all.")
    p_init: float = Field(gt=0, le=1, description="Share of pixels in the first windows.")


Attack = Annotated[EvaluationPgd | ApgdCe | ApgdT | FabT | Square, Field(discriminator="name")]
Ensemble = Annotated[
    Annotated[Literal["fast", "standard"], Tag("tier")]
    | Annotated[tuple[Attack, ...], Field(min_length=1), Tag("attacks")],
    # so that an error speaks of the form that was meant
    Discriminator(lambda value: "tier" if isinstance(value, str) else "attacks"),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """Stage 3: every model on every test sample."""

    seed: int = Field(ge=0, le=_LARGEST, description="Seed of the attacks' random starts.")
    batch_size: int = Field(ge=1, description="Images in one forward pass.")
    pgd: EvaluationPgd = Field(description="The attack of the PGD accuracy.")
    ensemble: Ensemble = Field(
        description="The attacks behind the robust accuracy: fast (APGD-CE and APGD-T of AutoAttack), standard (all of "
        "AutoAttack), or a list of attacks, each run on the samples that still stand."
    )
    confidence: float = Field(gt=0, lt=1, description="Level of the confidence intervals of accuracies.")
    bootstrap: int = Field(ge=100, description="Resamples of seeds and test samples behind the intervals.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """One experiment."""

    experiment: str = Field(pattern=NAME, description="Outputs go to results/{experiment}/.")
    data: Data = Field(description="Which images, and how they are split.")
    model: Model = Field(description="The network, for stage 1 and stage 2 alike.")
    threat: Threat = Field(description="What an adversary may change.")
    memorization: Memorization = Field(description="Stage 1: subset models and scores.")
    training: Training = Field(description="Stage 2: methods.")
    evaluation: Evaluation = Field(description="Stage 3: attacks on every model.")

    @model_validator(mode="after")
    def _coherent(self) -> "Config":
        plan = self.memorization
        if plan.subset_models % plan.models_per_shard:
            raise ValueError(
                f"memorization.subset_models is {plan.subset_models}, no multiple of models_per_shard "
                f"({plan.models_per_shard}): choose one, so that a larger K later trains only the new models"
            )
        size = subset_size(self.data.train_samples, plan.subset_fraction)
        rarest = min(size, self.data.train_samples - size)
        if rarest == 0:
            raise ValueError(
                f"memorization.subset_fraction is {plan.subset_fraction}, which leaves {size} of "
                f"{self.data.train_samples} training samples in a subset: move it away from 0 and 1"
            )
        needed = math.ceil(self.data.train_samples / rarest)
        if plan.subset_models < needed:
            raise ValueError(
                f"memorization.subset_models is {plan.subset_models}, too small for subsets of {size} of "
                f"{self.data.train_samples}: some sample would never be left out, or never in; take at least {needed}"
            )
        names = [method.name for method in self.training.methods]
        if len(set(names)) < len(names):
            raise ValueError(f"training.methods has a name twice: {', '.join(names)}")
        ensemble = self.evaluation.ensemble
        attacks = [] if isinstance(ensemble, str) else [attack.name for attack in ensemble]
        if len(set(attacks)) < len(attacks):
            raise ValueError(f"evaluation.ensemble has an attack twice: {', '.join(attacks)}; give it more restarts")
        if len(set(self.training.seeds)) < len(self.training.seeds):
            raise ValueError(f"training.seeds has a seed twice: {self.training.seeds}")
        return self


def subset_size(samples: int, fraction: float) -> int:
    """Return m = round(r * n), the samples in a subset."""
    return round(fraction * samples)


def parse(record: type[T], value: Mapping[str, Any] | str, where: str) -> T:
    """Build ``record`` from a mapping or a JSON text.

    Raises:
        BatError: naming ``where`` and the place of the first key that is unknown, missing or wrong.
    """
    try:
        text = value if isinstance(value, str) else json.dumps(value)
        plain = json.loads(text)
    except (TypeError, ValueError) as error:
        raise BatError(f"{where}: not JSON ({error})") from error
    try:
        return TypeAdapter(record).validate_json(text)
    except ValidationError as error:
        raise BatError(f"{where}: {_first_line(error, plain)}") from error


def load(path: str) -> Config:
    """Read and check a complete configuration file (YAML)."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            value = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BatError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    return parse(Config, value, path)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | TypeAdapter(Config).json_schema()


def _first_line(error: ValidationError, value: Any) -> str:
    problems = error.errors()
    unknown = "unexpected_keyword_argument"
    # a misspelt key is missing, too: its wrong spelling says more
    first = next((problem for problem in problems if problem["type"] == unknown), problems[0])
    place = _place(first["loc"], value)
    message = first["msg"].removeprefix("Value error, ")
    hints = {
        unknown: "unknown key: remove it or mend its spelling",
        "missing": "missing key: add it",
    }
    text = hints.get(first["type"], message[:1].lower() + message[1:])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place + ': ' if place else ''}{text}{more}"


def _place(location: tuple[int | str, ...], value: Any) -> str:
    """Join a location, without the tags that pydantic puts in for the members of a union."""
    path = []
    for position, part in enumerate(location):
        known = part in value if isinstance(value, dict) else isinstance(part, int)
        if known:
            value = value[part]
        if known or (position == len(location) - 1 and isinstance(value, dict)):
            path.append(str(part))
    return ".".join(path)
