"""Where the scores come from."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bat.config.ranges import FilePath
from bat.config.strict import STRICT

ScoresFormat = Literal["feldman_zhang", "cscores", "npz", "table"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubsetScores:
    """Scores estimated from models on random subsets."""

    source: Literal["subsets"] = Field(
        default="subsets", description="Estimate the scores: train subset models as memorization says."
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FileScores:
    """Scores that others have released, or of one's own; no subset model is trained."""

    source: Literal["file"] = Field(description="Read the scores from a file: no subset model is trained.")
    path: FilePath = Field(description="The file, from the folder in which snakemake is called.")
    format: ScoresFormat = Field(
        description="Layout of the file: feldman_zhang (npz with blocks of influence), cscores (npz), npz "
        "(memorization, influence), or table (Parquet, CSV)."
    )


Scores = Annotated[SubsetScores | FileScores, Field(discriminator="source")]
