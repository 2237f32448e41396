"""A tiny experiment on digits through each stage from data to summary, for tests of stale and of damaged files."""

from pathlib import Path
from typing import Any

from stages import (
    BAT,
    NATURAL,
    RECIPE,
    RESULTS,
    SCORES,
    SUBSETS,
    TRAIN,
    call,
    digits,
    evaluation,
    grouped,
    scores,
    summary,
)
from stages import training as training_flags

from bat.io.files import provenance
from bat.io.tables import read_table_with_facts, write_table

SHORT = RECIPE | {"epochs": 2}
FEW = SUBSETS | {"first_model": 0, "models": 4, "recipe": SHORT}
PLAN = TRAIN | {"recipe": SHORT, "method": BAT | {"score": "robust_memorization"}}
WITHOUT = {"what": "harmful", "fraction": None, "random": False}

# what each stage is called with
SHARD = {"spec": FEW, "data": "data.safetensors", "shard": "shard.parquet"}
NULL_PAIRS: dict[str, Any] = {
    "spec": {"threshold": SCORES["threshold"], "false_discovery_rate": 0.2, "shuffles": 1, "seed": 0},
    "data": "data.safetensors",
    "memorization": "memorization.parquet",
    "shards": ["shard.parquet"],
    "null_pairs": "null_pairs.parquet",
}
TRAINING = training_flags(spec=PLAN, robust_memorization="robust_memorization.parquet")
TRAINING_WITHOUT = TRAINING | {"spec": PLAN | {"without": WITHOUT}, "harmful": "harmful.parquet"}
# natural training, which the proxies are read from
NATURAL_RUN: dict[str, Any] = {
    "spec": PLAN | {"method": NATURAL},
    "data": "data.safetensors",
    **{name: f"natural_{name}.safetensors" for name in ("best", "last")},
    "records": "natural_records.parquet",
}
PROXIES: dict[str, Any] = {
    "spec": {"threshold": SCORES["threshold"], "confidence": 0.9, "bootstrap": 100, "seed": 0},
    "data": "data.safetensors",
    "memorization": "memorization.parquet",
    "records": ["natural_records.parquet"],
    "shards": ["shard.parquet"],
    "proxies": "proxies.parquet",
    "proxy_agreement": "proxy_agreement.parquet",
}
TRAINING_BY_PROXY = training_flags(spec=PLAN | {"method": BAT | {"score": "csl"}}, proxies="proxies.parquet")
HARMFUL: dict[str, Any] = {
    "spec": {"threshold": 0.5},
    "memorization": "memorization.parquet",
    "records": ["records.parquet"],
    "harmful": "harmful.parquet",
}
WITHOUT_HARDEST = {"what": "hardest", "fraction": 0.1, "random": True}
TRAINING_WITHOUT_HARDEST = TRAINING | {"spec": PLAN | {"without": WITHOUT_HARDEST}, "hardest": "hardest.parquet"}
HARDEST = {name: HARMFUL[name] for name in ("memorization", "records")} | {"hardest": "hardest.parquet"}
EVALUATION = evaluation(images="images.safetensors")
VERIFY = {name: f"{name}.safetensors" for name in ("best", "last", "images", "data")} | {"attacked": "attacked.parquet"}
PAGE: dict[str, Any] = {
    "spec": RESULTS,
    **{name: f"{name}.parquet" for name in ("summary", "comparisons", "runs", "memorization", "test_groups")},
    "null_pairs": "null_pairs.parquet",
    "flags": "all_flags.parquet",
    "histories": ["history.parquet"],
    "harmful": "harmful.parquet",
    "proxy_agreement": "proxy_agreement.parquet",
    "benchmarks": "benchmarks",
    "markdown": "summary.md",
    "latex": "summary.tex",
    "page": "results.md",
}
GALLERY = {
    "data": "data.safetensors",
    "memorization": "memorization.parquet",
    "train_influence": "train_influence.parquet",
    "out": ["gallery.svg"],
}


def without_kind(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a file's provenance says, to be written with other content."""
    return {key: value for key, value in facts.items() if key not in ("kind", "version")}


def make(folder: Path) -> None:
    """Call each stage in ``folder``; other_data.safetensors is another draw of the data set."""
    for name, seed in (("other_data", 1), ("data", 0)):
        call("data", folder, **digits(split_seed=seed), data=f"{name}.safetensors")
    call("subsets", folder, **SHARD)
    call("scores", folder, **scores("shard.parquet"))
    call("null-pairs", folder, **NULL_PAIRS)
    table, facts = read_table_with_facts(folder / "memorization.parquet", "memorization")
    robust = "robust_memorization"
    write_table(folder / f"{robust}.parquet", robust, table, provenance(robust, **without_kind(facts)))
    call("train", folder, **NATURAL_RUN)
    call("proxies", folder, **PROXIES)
    call("train", folder, **TRAINING)
    call("groups", folder, **grouped())
    call("harmful", folder, **HARMFUL)
    call("hardest", folder, **HARDEST)
    call("evaluate", folder, **EVALUATION)
    call("summary", folder, **summary("attacked.parquet"))
