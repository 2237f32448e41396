"""Types with ranges that several records have, those of ``bat.config.specs`` included: each range is written once.

Bounds are no limits of the methods: a number beyond one is a slip, found before it fills memory or time, or changes
nothing without a word. Where a method has a limit (no warm-up, a factor of 0), the limit is in the range.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from bat.config.strict import LARGEST, NAME
from bat.errors import BatError
from bat.io.given import located

_T = TypeVar("_T", bound=Sequence[object])


def distinct(values: _T) -> _T:
    """Return ``values``.

    Raises:
        ValueError: one is there twice.
    """
    seen: set[tuple[type, object]] = set()
    for value in values:
        # 1 and true are equal to Python
        kind = (type(value), value)
        if kind in seen:
            raise ValueError(f"{value} is there twice: keep one")
        seen.add(kind)
    return values


def number(value: Any) -> Any:
    """Return the number that a fraction, as in 8/255, or 1e-3 as text stands for; what is neither, itself."""
    if isinstance(value, str) and (found := _FRACTION.fullmatch(value)) and float(found[2]):
        return float(found[1]) / float(found[2])
    return float(value) if isinstance(value, str) and _POWER.fullmatch(value) else value


_FRACTION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?/ ?([0-9]{1,9}(?:\.[0-9]{1,9})?)")
# a number to YAML 1.2, and text to Snakemake
_POWER = re.compile(r"[-+]?[0-9]{1,20}(\.[0-9]{0,20})?[eE][-+]?[0-9]{1,3}")


def _usable(path: str) -> str:
    if not path.isprintable() or path != path.strip() or set(path) & set("{}"):
        raise ValueError(
            "no path that the workflow can use: take one without braces, line breaks, other control characters, and "
            "spaces at its ends"
        )
    try:
        parts = located(path).parts
    except BatError as error:
        raise ValueError(str(error)) from error
    if any(len(part.encode()) > _LONGEST_PART for part in parts):
        raise ValueError(f"a name in it has more than {_LONGEST_PART} bytes, which no file can have: fix it")
    return path


_LONGEST_PART = 255

LARGEST_L2 = 1000.0
"""Over the L2 norm of all pixels of a colour image of 577 x 577."""

LONGEST_NAME = 200
"""Letters of a run's name, which makes the name of a file, of 255 bytes at most."""

LARGEST_SIDE = 4096
"""Pixels of an image's height or width."""

SMALLEST_EPS = 1e-6
"""Pixels in float32 hardly tell less apart."""

NUMBER = BeforeValidator(number)
"""What stands after the range of a key whose value may be a fraction."""

Seed = Annotated[int, Field(ge=0, le=LARGEST)]
# of samples, pixels or steps: there are not a million times more of them
Fraction = Annotated[float, Field(ge=1e-6, le=0.999999), NUMBER]
Subsample = Annotated[float, Field(ge=1e-6, le=1), NUMBER]
# over a tenth most images have something so near
NearDuplicate = Annotated[float, Field(ge=0, le=0.5), NUMBER]
Threshold = Annotated[float, Field(ge=0, lt=1), NUMBER]
# under a half an interval leaves out what it is about; over 0.9999 its ends are those of Bootstrap's furthest resamples
Confidence = Annotated[float, Field(ge=0.5, le=0.9999), NUMBER]
# over a half most of what is found may be chance
DiscoveryRate = Annotated[float, Field(ge=1e-6, le=0.5), NUMBER]
# over 1 none is: a difference of two shares
StandardError = Annotated[float, Field(ge=1e-6, le=0.999999), NUMBER]
Margin = Annotated[float, Field(ge=1e-6, le=0.5), NUMBER]
# under it float32 weights do not move; linear classifiers are trained at up to 30
LearningRate = Annotated[float, Field(ge=1e-8, le=100), NUMBER]
# over these a step is a sum over more than 1,000 (100,000) steps before
Momentum = Annotated[float, Field(ge=0, le=0.999), NUMBER]
EmaDecay = Annotated[float, Field(ge=0, le=0.99999), NUMBER]
WeightDecay = Annotated[float, Field(ge=0, le=1), NUMBER]
Warmup = Annotated[float, Field(ge=0, le=0.9), NUMBER]
# at 1 nothing of the label would be left
DifficultSmoothing = Annotated[float, Field(ge=0, lt=1), NUMBER]
LabelSmoothing = Annotated[float, Field(ge=0, le=0.9), NUMBER]
Factor = Annotated[float, Field(ge=0, le=10_000), NUMBER]
EpsFactor = Annotated[float, Field(ge=0.001, le=1000), NUMBER]
Temperature = Annotated[float, Field(ge=0.001, le=1000), NUMBER]
SampleCount = Annotated[int, Field(ge=2, le=10**9)]
Models = Annotated[int, Field(ge=1, le=10**6)]
ModelsOrNone = Annotated[int, Field(ge=0, le=10**6)]
FirstModel = Annotated[int, Field(ge=0, lt=10**6)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
EpochsOrNone = Annotated[int, Field(ge=0, le=100_000)]
Eps = Annotated[float, Field(ge=SMALLEST_EPS, le=LARGEST_L2), NUMBER]
Awp = Annotated[float, Field(ge=0, le=1), NUMBER]
Offset = Annotated[float, Field(ge=-100, le=100), NUMBER]
# a margin is at least -1 and at most 1: further away all samples weigh alike
Bias = Annotated[float, Field(ge=-10, le=10), NUMBER]
# below 0 easy samples would weigh more; over 1000 a weight is 0 or the largest
Slope = Annotated[float, Field(ge=0, le=1000), NUMBER]
BurnIn = Annotated[float, Field(ge=0, le=1), NUMBER]
Overshoot = Annotated[float, Field(ge=1, le=10), NUMBER]
StepCount = Annotated[int, Field(ge=1, le=100_000)]
# an eighth of the least eps is a step of bat attack
StepSize = Annotated[float, Field(ge=SMALLEST_EPS / 10, le=2 * LARGEST_L2), NUMBER]
Restarts = Annotated[int, Field(ge=1, le=1000)]
Targets = Annotated[int, Field(ge=1, le=10_000)]
Minutes = Annotated[int, Field(ge=0, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=10**6)]
Shuffles = Annotated[int, Field(ge=0, le=10_000)]
Bootstrap = Annotated[int, Field(ge=100, le=100_000)]
FilePath = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_usable)]
RunName = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
Name = Annotated[str, Field(pattern=NAME, max_length=60)]
