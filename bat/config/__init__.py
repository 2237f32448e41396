"""The configuration as frozen records: the one place where keys, types, units and ranges are written down.

``workflow/schemas/config.schema.yaml`` is generated from these records (``bat schema``).
No key has a default here: an experimental choice lives in ``config/``.
"""

from bat.config.attacks import ApgdCe, ApgdT, Attack, Ensemble, EvaluationPgd, FabT, Pgd, Square, Threat
from bat.config.data import Cached, Data, ImageFolder, Model, Npz, Packaged, Published, share
from bat.config.experiment import Config, Evaluation, Memorization, Training, subset_size
from bat.config.reading import load, parse, schema
from bat.config.strict import NAME, STRICT
from bat.config.training import Bat, Method, Natural, OneCycle, PgdAt, Recipe, Steps

__all__ = [
    "NAME",
    "STRICT",
    "ApgdCe",
    "ApgdT",
    "Attack",
    "Bat",
    "Cached",
    "Config",
    "Data",
    "Ensemble",
    "Evaluation",
    "EvaluationPgd",
    "FabT",
    "ImageFolder",
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
    "Square",
    "Steps",
    "Threat",
    "Training",
    "load",
    "parse",
    "schema",
    "share",
    "subset_size",
]
