"""How weights are optimised, and the methods."""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic.dataclasses import dataclass

from bat.config.attacks import Threat, check_eps
from bat.config.own import Own
from bat.config.ranges import (
    LARGEST_SIDE,
    Awp,
    Bias,
    BurnIn,
    DifficultSmoothing,
    EmaDecay,
    Epochs,
    EpsFactor,
    Factor,
    Fraction,
    LabelSmoothing,
    LearningRate,
    Momentum,
    Offset,
    RunName,
    Slope,
    Temperature,
    Threshold,
    Warmup,
    WeightDecay,
    distinct,
)
from bat.config.strict import INNER, OWN, STRICT, names_own


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Steps:
    """Learning rate that may rise linearly from 0 first, and is divided at given fractions of training."""

    name: Literal["steps"] = Field(description="The learning rate falls at given moments.")
    warmup: Warmup = Field(
        default=0.0, description="Fraction of training over which the learning rate rises linearly; 0 for none."
    )
    milestones: Annotated[tuple[Fraction, ...], AfterValidator(distinct)] = Field(
        default=(0.5, 0.75),
        max_length=100,
        description="Fractions of the whole training at which the learning rate is multiplied by factor.",
    )
    factor: Fraction = Field(default=0.1, description="What the learning rate is multiplied by at each milestone.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OneCycle:
    """Learning rate that rises linearly from 0 and falls linearly to 0."""

    name: Literal["one_cycle"] = Field(description="The learning rate rises linearly, then falls linearly to 0.")
    warmup: Fraction = Field(default=0.3, description="Fraction of training over which the learning rate rises.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """How weights are optimised: SGD with momentum on shuffled batches.

    The defaults are the usual recipe of adversarial training (Rice et al. 2020), without its crops and mirrored images.
    """

    epochs: Epochs = Field(description="Passes over the training samples.")
    batch_size: int = Field(
        default=128, ge=2, le=10**6, description="Largest batch; batches of an epoch differ in size by at most 1."
    )
    learning_rate: LearningRate = Field(default=0.1, description="Highest learning rate of SGD.")
    momentum: Momentum = Field(default=0.9, description="Momentum of SGD.")
    weight_decay: WeightDecay = Field(
        default=5e-4,
        description="L2 penalty on all weights; times learning_rate, the share of them that a step takes away: "
        "under 1.",
    )
    schedule: Annotated[Steps | OneCycle, Field(discriminator="name")] = Field(
        default=Steps(name="steps"), description="How the learning rate moves, step by step."
    )
    crop_padding: int = Field(
        default=0, ge=0, le=LARGEST_SIDE, description="Random crop after zero padding by so many pixels; 0 for none."
    )
    flip: bool = Field(default=False, description="Mirror each image left to right with probability 1/2.")
    label_smoothing: LabelSmoothing = Field(
        default=0.0, description="Share of each cross-entropy's target that is spread over all classes; 0 for none."
    )
    ema_decay: EmaDecay = Field(
        default=0.0, description="Decay a step of the moving average of weights that is measured and saved; 0 for none."
    )

    @model_validator(mode="after")
    def _leaves_weights(self) -> "Recipe":
        taken = self.learning_rate * self.weight_decay
        if taken >= 1:
            raise ValueError(
                f"learning_rate times weight_decay is {taken:.6g}, so that a step takes all of the weights away: "
                "lower one to keep it under 1"
            )
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Named:
    """What every method has."""

    name: RunName = Field(description="Name of the method in paths, tables and figures.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Adversarial(_Named):
    """What every method on adversarial examples has."""

    eps_factor: EpsFactor = Field(
        default=1.0, description="Trains at so many times the threat's eps and the attack's step_size."
    )
    awp: Awp = Field(
        default=0.0, description="gamma of adversarial weight perturbation, relative to each tensor's norm; 0 for none."
    )


Proxy = Literal["csl", "lt_iqr", "forgetting", "first_learned", "early_loss", "el2n", "final_loss"]
_Estimated = Literal["memorization", "shuffled", "consistency", "robust_memorization"]
Score = Literal[_Estimated, Proxy]

PROXIES: tuple[str, ...] = get_args(Proxy)
"""Scores that natural training leaves in its records: columns of scores/proxies.parquet."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Benign(_Adversarial):
    """The two parts of BAT."""

    score: Score = Field(
        default="memorization",
        description="What makes a sample atypical for this method: its memorization; as a control, memorization "
        "shuffled among the samples; 1 - consistency, the share of models without it that get it wrong (C-score); or "
        "robust_memorization, that of the subset models trained adversarially (memorization.robust); or a proxy of one "
        "training run, such as csl, by which as many samples are atypical as by memorization (docs/scores.md).",
    )
    threshold: Threshold = Field(
        default=0.15, description="A sample is atypical for this method if its score is over this (t of BAT's authors)."
    )
    reweighting: bool = Field(default=True, description="Give harmful atypical samples a lower weight.")
    alpha: Factor | Literal["inf"] = Field(
        default=1.0,
        description="Weight of a harmful sample is exp(-alpha * its highest wrong probability); inf leaves it out.",
    )
    discrimination: bool = Field(default=True, description="Add the discrimination loss.")
    beta: Factor = Field(default=0.2, description="Factor of the discrimination loss.")
    temperature: Temperature = Field(default=0.1, description="Temperature of the discrimination loss.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Natural(_Named):
    """Training on clean images."""

    objective: Literal["natural"] = Field(default="natural", description="Cross-entropy on clean images.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PgdAt(_Adversarial):
    """Adversarial training (Madry et al. 2018)."""

    objective: Literal["pgd_at"] = Field(default="pgd_at", description="Cross-entropy on PGD adversarial examples.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Trades(_Adversarial):
    """TRADES (Zhang et al. 2019)."""

    objective: Literal["trades"] = Field(
        default="trades", description="Clean cross-entropy plus the divergence of clean from adversarial predictions."
    )
    beta: Factor = Field(
        default=6.0, description="Factor of the divergence: beta of TRADES, which its authors set to 6 on CIFAR-10."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mart(_Adversarial):
    """MART (Wang et al. 2020)."""

    objective: Literal["mart"] = Field(
        default="mart", description="Boosted adversarial cross-entropy plus the divergence, weighted by clean error."
    )
    factor: Factor = Field(
        default=5.0, description="Factor of the weighted divergence: lambda of MART, 5 in its authors' code."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gairat(_Adversarial):
    """Geometry-aware instance-reweighted adversarial training (Zhang et al. 2021)."""

    objective: Literal["gairat"] = Field(
        default="gairat", description="Adversarial cross-entropy, weighted by how few PGD steps break a sample."
    )
    offset: Offset = Field(default=-1.0, description="Lambda of GAIRAT: lower for weights that differ more.")
    burn_in: BurnIn = Field(default=0.5, description="Fraction of training with equal weights, at its start.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Margins(_Adversarial):
    """What MAIL has on each of its bases."""

    factor: Factor | Literal["mean_1"] = Field(
        default="mean_1",
        description="What the weights are multiplied by: 3 in the code of MAIL's authors; mean_1: what makes their "
        "mean 1 in each batch, so that a step is as long as that of equal weights.",
    )
    burn_in: BurnIn = Field(
        default=0.63,
        description="Fraction of training with equal weights, at its start: 75 of 120 epochs in the authors' code.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Mail(_Margins):
    """Margin-aware instance reweighting (Wang et al. 2021) of PGD adversarial training."""

    objective: Literal["mail"] = Field(
        default="mail", description="Adversarial cross-entropy, weighted by how wrong a sample is under attack."
    )
    slope: Slope = Field(default=10.0, description="Slope of the weights' sigmoid: 0 for equal weights.")
    bias: Bias = Field(default=-0.5, description="What is added to the margin inside the weights' sigmoid.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MailTrades(_Margins):
    """Margin-aware instance reweighting (Wang et al. 2021) of TRADES."""

    objective: Literal["mail_trades"] = Field(
        default="mail_trades", description="TRADES with its divergence weighted by how wrong a sample is under attack."
    )
    trades_beta: Factor = Field(default=6.0, description="Factor of the divergence (beta of TRADES).")
    slope: Slope = Field(default=2.0, description="Slope of the weights' sigmoid: 0 for equal weights.")
    bias: Bias = Field(default=0.0, description="What is added to the margin inside the weights' sigmoid.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dpls(_Adversarial):
    """Difficulty-proportional label smoothing, after Lee et al. 2025, of PGD adversarial training."""

    objective: Literal["dpls"] = Field(
        default="dpls",
        description="Adversarial cross-entropy, each label smoothed in proportion to its sample's difficulty.",
    )
    score: _Estimated = Field(
        default="memorization",
        description="What difficulty is, clipped to [0, 1]: as BAT's score. A sample without a score has none.",
    )
    smoothing: DifficultSmoothing = Field(
        default=0.5,
        description="Share of the target that is spread over all classes at a difficulty of 1 (s_max); recipe's "
        "label_smoothing comes on top. At 0.5 every label keeps more than half.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bat(_Benign):
    """Benign adversarial training (Xu et al. 2021)."""

    objective: Literal["bat"] = Field(
        default="bat", description="Reweighted cross-entropy plus a discrimination loss, under PGD."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BatTrades(_Benign):
    """Benign adversarial training on top of TRADES."""

    objective: Literal["bat_trades"] = Field(
        default="bat_trades", description="BAT with the sample losses and the attack of TRADES."
    )
    trades_beta: Factor = Field(
        default=6.0, description="Factor of the divergence in the sample losses (beta of TRADES)."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BatMart(_Benign):
    """Benign adversarial training on top of MART."""

    objective: Literal["bat_mart"] = Field(default="bat_mart", description="BAT with the sample losses of MART.")
    mart_factor: Factor = Field(
        default=5.0, description="Factor of the divergence in the sample losses (lambda of MART)."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnMethod(_Named, Own):
    """A method of the user's own."""

    entries: ClassVar[tuple[str, ...]] = ("objective", "inner")

    objective: str = Field(
        pattern=OWN, description="module:function of your own, which returns the losses: see docs/own_parts.md."
    )
    inner: str | None = Field(
        default="cross_entropy",
        pattern=INNER,
        description="What the training attack maximises: cross_entropy; kl, the divergence from the clean prediction, "
        "from a start beside the image, as in TRADES; module:function of your own; null: no attack, clean images.",
    )
    eps_factor: EpsFactor = Field(
        default=1.0, description="Trains at so many times the threat's eps and the attack's step_size."
    )
    awp: Awp = Field(
        default=0.0, description="gamma of adversarial weight perturbation, relative to each tensor's norm; 0 for none."
    )
    score: Score | None = Field(
        default=None, description="By which score the function is told what is atypical; null: it is told of none."
    )
    threshold: Threshold = Field(
        default=0.15, description="A sample is atypical for this method if its score is over this."
    )


KnownMethod = Natural | PgdAt | Trades | Mart | Gairat | Mail | MailTrades | Dpls | Bat | BatTrades | BatMart
Method = Annotated[
    Annotated[Annotated[KnownMethod, Field(discriminator="objective")], Tag("known")]
    | Annotated[OwnMethod, Tag("own")],
    Discriminator(names_own("objective")),
]

MOST_METHODS = 200


def check_measured(recipe: Recipe, measure_every: int, early_stop: int, where: str) -> None:
    """Check that training is as long as what is counted in its epochs; ``where`` stands before the keys' names.

    Raises:
        ValueError: it is not; names the key and the number of epochs.
    """
    for key, epochs in (("measure_every", measure_every), ("early_stop", early_stop)):
        if epochs > recipe.epochs:
            raise ValueError(
                f"{where}{key} is {epochs}, over the {recipe.epochs} epochs of {where}recipe: lower it, or raise epochs"
            )


def check_factor(threat: Threat, method: Method, shape: tuple[int, int, int] | None = None) -> None:
    """Check that a method's own eps is one that a threat could have, for images of ``shape`` (None: any).

    Raises:
        ValueError: it is not; names the method and the bound.
    """
    factor = getattr(method, "eps_factor", 1.0)
    check_eps(threat.norm, factor * threat.eps, f"method {method.name}: eps_factor times threat.eps", shape)
