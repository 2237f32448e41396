"""Findings (a) and (b): which training samples a method is trained without, to see what they did."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from bat.config.ranges import Fraction, Name, RunName, Threshold, distinct
from bat.config.strict import STRICT
from bat.config.training import Method
from bat.config.words import meant


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Removal:
    """Retraining without some training samples, and without as many random ones."""

    method: Name | None = Field(
        default=None,
        description="Name of the method in training.methods that is retrained without some training samples; null for "
        "none. Each case has a twin without as many random ones of the others, of the same classes.",
    )
    fractions: Annotated[tuple[Fraction, ...], AfterValidator(distinct)] = Field(
        default=(0.05, 0.1),
        max_length=100,
        description="Shares of the training samples that are removed, most memorized first, beside all atypical ones.",
    )
    hardest: Annotated[tuple[Fraction, ...], AfterValidator(distinct)] = Field(
        default=(),
        max_length=100,
        description="Shares of the training samples that are removed, hardest under attack first: by the loss under "
        "training.attack, the mean over seeds and the measured epochs of the last half (Liu et al. 2024).",
    )
    harmful_threshold: Threshold = Field(
        default=0.5,
        description="An atypical sample is harmful if its wrong probability under attack, the mean over seeds and the "
        "last half of epochs (0 where it is right), is over this; else benign.",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Without:
    """One case of removal.

    what: atypical samples, the most memorized ``fraction``, harmful or benign atypical samples, or the hardest
    ``fraction`` under attack. random: instead of these as many others of the same classes.
    """

    what: Literal["atypical", "top", "harmful", "benign", "hardest"]
    fraction: Fraction | None
    random: bool

    @property
    def name(self) -> str:
        """What is left out, as paths and tables name it, for example random_top_0_05."""
        share = "" if self.fraction is None else "_" + f"{Decimal(repr(self.fraction)):f}".replace(".", "_")
        return f"{'random_' if self.random else ''}{self.what}{share}"


Role = Literal["method", "variant", "control", "removal", "random"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Run:
    """A method, trained with all samples or without some.

    base: the method that it is a variant of, or whose samples are removed; its own name for neither.
    role: method (of training.methods), variant (an entry that is like another), control (reads a score that is no
    memorization), removal, or random (without as many random samples as its twin).
    """

    method: Method
    without: Without | None
    base: RunName
    role: Role

    @property
    def name(self) -> str:
        """Name of the run in paths, tables and figures: the method's, or {method}_without_{case}."""
        return self.method.name


def removal_runs(methods: Sequence[Method], removal: Removal) -> tuple[Run, ...]:
    """Return the runs that ``removal`` asks for beside those with all samples.

    Raises:
        ValueError: there is no such method.
    """
    if removal.method is None:
        return ()
    base = next((method for method in methods if method.name == removal.method), None)
    if base is None:
        names = [method.name for method in methods]
        raise ValueError(
            f"removal.method is {removal.method}, which is no method: take one of {', '.join(names)}, or null"
            f"{meant(removal.method, names)}"
        )
    runs = {f"{base.name}_without_{without.name}": without for without in _cases(removal)}
    return tuple(
        Run(
            method=replace(base, name=name),
            without=without,
            base=base.name,
            role="random" if without.random else "removal",
        )
        for name, without in runs.items()
    )


def check_fractions(fractions: Sequence[float], samples: int, where: str) -> None:
    """Check that each fraction of so many training samples is at least one of them, and leaves at least two.

    where: the key in errors.

    Raises:
        ValueError: one is not; names it.
    """
    for fraction in fractions:
        # of the decimal as written, as in ``bat.training.selection``
        count = round(Decimal(str(fraction)) * samples)
        if not 1 <= count <= samples - 2:
            raise ValueError(
                f"{where}: {fraction} of {samples} training samples are {count}, and at least 1 must be "
                "removed and 2 be left: change it"
            )


def removal_pairs(removal: Removal) -> list[tuple[str, str]]:
    """Return the runs of ``removal`` to be compared: each with the full run, and each case with its random twin."""
    if removal.method is None:
        return []
    pairs = []
    for without in _cases(removal):
        name = f"{removal.method}_without_{without.name}"
        pairs.append((name, removal.method))
        if not without.random:
            pairs.append((name, f"{removal.method}_without_random_{without.name}"))
    return pairs


def _cases(removal: Removal) -> Iterator[Without]:
    for random in (False, True):
        yield Without(what="atypical", fraction=None, random=random)
        for fraction in removal.fractions:
            yield Without(what="top", fraction=fraction, random=random)
        yield Without(what="harmful", fraction=None, random=random)
        yield Without(what="benign", fraction=None, random=random)
        for fraction in removal.hardest:
            yield Without(what="hardest", fraction=fraction, random=random)
