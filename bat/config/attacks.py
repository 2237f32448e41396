"""Threats, and the attacks of training and of evaluation."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic.dataclasses import dataclass

from bat.config.own import Own
from bat.config.ranges import (
    LARGEST_L2,
    SMALLEST_EPS,
    Eps,
    Fraction,
    Overshoot,
    Restarts,
    StepCount,
    StepSize,
    Subsample,
    Targets,
)
from bat.config.strict import OWN, STRICT, names_own


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Threat:
    """What an adversary may change."""

    norm: Literal["linf", "l2"] = Field(default="linf", description="Norm of the perturbation: linf or l2.")
    eps: Eps = Field(
        description="Largest norm of the perturbation, for pixels in [0, 1], as in 8/255: at most 1 for linf, for l2 "
        "at most the norm of an image whose pixels are all 1, where the shape of images is known."
    )

    @model_validator(mode="after")
    def _inside(self) -> "Threat":
        check_eps(self.norm, self.eps, "eps", None)
        return self


def check_eps(norm: str, eps: float, what: str, shape: tuple[int, int, int] | None) -> None:
    """Check that eps, called ``what``, is one that pixels in [0, 1] can be perturbed by.

    It is at least what float32 tells apart, and at most the norm of images of ``shape`` (None: any) whose pixels are
    all 1.

    Raises:
        ValueError: it is not; names the bound.
    """
    if eps < SMALLEST_EPS:
        raise ValueError(f"{what} is {eps:.6g}, under {SMALLEST_EPS:g}, which float32 pixels hardly show: raise it")
    largest = 1.0 if norm == "linf" else math.sqrt(math.prod(shape)) if shape else LARGEST_L2
    if eps > largest:
        images = f" of images of {' x '.join(map(str, shape))}" if shape else ""
        raise ValueError(f"{what} is {eps:.6g}, over {largest:.6g}, the largest {norm} norm{images}: lower it")


def check_steps(threat: Threat, attacks: Mapping[str, "Pgd | EvaluationPgd"]) -> None:
    """Check that steps of attacks, by name, are at most twice eps: no two points of the ball are further apart.

    Raises:
        ValueError: a step is longer; names it.
    """
    for name, attack in attacks.items():
        # 1e-9: rounded decimals of fractions such as 8/255
        if attack.step_size > 2 * threat.eps * (1 + 1e-9):
            raise ValueError(
                f"{name}.step_size is {attack.step_size}, over twice threat.eps ({threat.eps}), the width of the ball: "
                "lower it"
            )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pgd:
    """Projected gradient descent in training."""

    steps: StepCount = Field(default=10, description="Steps of PGD from a random start.")
    step_size: StepSize = Field(
        description="Length of a step in the threat's norm, for pixels in [0, 1]. Without one, eps / 4 in training, "
        "eps / 2.5 for robust subset models."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EvaluationPgd:
    """PGD in the evaluation."""

    name: Literal["pgd"] = Field(default="pgd", description="PGD on the cross-entropy.")
    steps: StepCount = Field(default=20, description="Steps of a restart.")
    step_size: StepSize = Field(
        description="Length of a step in the threat's norm, for pixels in [0, 1]. Without one, eps / 8."
    )
    restarts: Restarts = Field(default=1, description="Random starts; a sample must stand under all.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ApgdCe:
    """Auto-PGD on the cross-entropy (Croce and Hein 2020), with the constants of AutoAttack."""

    name: Literal["apgd_ce"] = Field(description="Auto-PGD on the cross-entropy: no step size to choose.")
    steps: StepCount = Field(default=100, description="Steps of a restart.")
    restarts: Restarts = Field(default=1, description="Random starts; a sample must stand under all.")
    rho: Fraction = Field(default=0.75, description="Share of improving steps under which the step size is halved.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ApgdT:
    """Targeted Auto-PGD (Croce and Hein 2020), with the constants of AutoAttack."""

    name: Literal["apgd_t"] = Field(
        description="Auto-PGD on the targeted DLR loss, on the targeted margin for fewer than 4 classes."
    )
    steps: StepCount = Field(default=100, description="Steps of a restart and target.")
    restarts: Restarts = Field(default=1, description="Random starts; a sample must stand under all.")
    rho: Fraction = Field(default=0.75, description="Share of improving steps under which the step size is halved.")
    targets: Targets = Field(
        default=9, description="Most likely wrong classes to aim at; classes - 1 if there are fewer."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FabT:
    """Targeted fast adaptive boundary attack (Croce and Hein 2020), with the constants of AutoAttack."""

    name: Literal["fab_t"] = Field(description="Targeted FAB: steps to the boundary of least distance.")
    steps: StepCount = Field(default=100, description="Steps of a restart and target.")
    restarts: Restarts = Field(default=1, description="Starts, the first at the image; a sample must stand under all.")
    targets: Targets = Field(
        default=9, description="Most likely wrong classes to aim at; classes - 1 if there are fewer."
    )
    alpha_max: Fraction = Field(default=0.1, description="Largest weight of the step from the image itself.")
    eta: Overshoot = Field(default=1.05, description="Overshoot beyond the boundary.")
    beta: Fraction = Field(default=0.9, description="How far to go back to the image after a success.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Square:
    """Square attack (Andriushchenko et al. 2020), with the constants of AutoAttack."""

    name: Literal["square"] = Field(description="Random search on square windows: no gradients, so no masking.")
    queries: int = Field(default=5000, ge=1, le=10**6, description="Forward passes of a restart.")
    restarts: Restarts = Field(default=1, description="Restarts; a sample must stand under all.")
    p_init: Subsample = Field(default=0.8, description="Share of pixels in the first windows.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnAttack(Own):
    """An attack of the user's own."""

    name: str = Field(
        pattern=OWN, description="module:function of your own, which returns perturbed images: see docs/own_parts.md."
    )
    restarts: Restarts = Field(default=1, description="Calls with other random numbers; a sample must stand under all.")


Attack = Annotated[
    Annotated[
        Annotated[EvaluationPgd | ApgdCe | ApgdT | FabT | Square, Field(discriminator="name")],
        Tag("known"),
    ]
    | Annotated[OwnAttack, Tag("own")],
    Discriminator(names_own("name")),
]


def _once(attacks: tuple[Attack, ...]) -> tuple[Attack, ...]:
    names = [attack.name for attack in attacks]
    if len(set(names)) < len(names):
        raise ValueError(f"has an attack twice: {', '.join(names)}; give it more restarts")
    return attacks


Ensemble = Annotated[
    Annotated[Literal["fast", "standard"], Tag("tier")]
    | Annotated[tuple[Attack, ...], Field(min_length=1, max_length=10), AfterValidator(_once), Tag("attacks")],
    # so that an error speaks of the form that was meant
    Discriminator(lambda value: "tier" if isinstance(value, str) else "attacks"),
]


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
