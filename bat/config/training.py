"""How weights are optimised, and the methods."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bat.config.strict import NAME, STRICT


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
