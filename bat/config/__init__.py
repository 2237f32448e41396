"""The configuration as frozen records: the one place where keys, types, units and ranges are written down.

``workflow/schemas/config.schema.yaml`` is generated from these records (``bat schema``).
No key has a default here: an experimental choice lives in ``config/``.
"""

from bat.config.attacks import ApgdCe, ApgdT, Attack, Ensemble, EvaluationPgd, FabT, Pgd, Square, Threat, check_steps
from bat.config.compute import Compute
from bat.config.data import SOURCES, Cached, Data, ImageFolder, Npz, Packaged, Published, share, split_sizes
from bat.config.experiment import (
    Config,
    Evaluation,
    Memorization,
    RobustSubsets,
    Training,
    check_models,
    check_resamples,
    compared,
    subset_size,
)
from bat.config.model import FixedModel, LibraryModel, Model, SizedModel
from bat.config.reading import check_files, load, parse, schema
from bat.config.removal import Removal, Run, Without, removal_pairs, removal_runs
from bat.config.scores import FileScores, Scores, ScoresFormat, SubsetScores
from bat.config.strict import NAME, STRICT
from bat.config.sweeps import Sweep, expand
from bat.config.training import (
    Bat,
    BatMart,
    BatTrades,
    Gairat,
    Mart,
    Method,
    Natural,
    OneCycle,
    PgdAt,
    Recipe,
    Steps,
    Trades,
    check_factor,
    check_measured,
)

__all__ = [
    "NAME",
    "SOURCES",
    "STRICT",
    "ApgdCe",
    "ApgdT",
    "Attack",
    "Bat",
    "BatMart",
    "BatTrades",
    "Cached",
    "Compute",
    "Config",
    "Data",
    "Ensemble",
    "Evaluation",
    "EvaluationPgd",
    "FabT",
    "FileScores",
    "FixedModel",
    "Gairat",
    "ImageFolder",
    "LibraryModel",
    "Mart",
    "Memorization",
    "Method",
    "Model",
    "Natural",
    "Npz",
    "OneCycle",
    "Packaged",
    "Pgd",
    "PgdAt",
    "Published",
    "Recipe",
    "Removal",
    "RobustSubsets",
    "Run",
    "Scores",
    "ScoresFormat",
    "SizedModel",
    "Square",
    "Steps",
    "SubsetScores",
    "Sweep",
    "Threat",
    "Trades",
    "Training",
    "Without",
    "check_factor",
    "check_files",
    "check_measured",
    "check_models",
    "check_resamples",
    "check_steps",
    "compared",
    "expand",
    "load",
    "parse",
    "removal_pairs",
    "removal_runs",
    "schema",
    "share",
    "split_sizes",
    "subset_size",
]
