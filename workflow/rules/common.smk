"""The checked configuration, the parameters of each stage, and the lists that wildcards run over."""

import hashlib
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import bat.config
import bat.io.given
from bat.errors import BatError


def configuration():
    """Return the checked configuration: config/config.yaml, --configfile and --config, read as ``bat plan`` does.

    Snakemake's own loader takes the second of two equal keys, and the values of --config for text; so it has no
    ``configfile:`` to load, and what it has read of other files is read again.
    """
    if (
        workflow.modifier.skip_configfile
    ):  # the workflow that has this one as a module gives the whole
        return bat.config.parse(bat.config.Config, config, "config")
    given, here = workflow.config_settings, Path.cwd()
    base = Path("config/config.yaml")
    if not base.exists():
        base = Path(workflow.basedir).parent / base
    files = [base, *given.configfiles]
    if given.replace_workflow_config and given.configfiles:
        files = files[1:]
    shown = [
        file.relative_to(here) if file.is_relative_to(here) else file for file in files
    ]
    return bat.config.load(*map(str, shown), settings=given.config_args or ())


try:
    parsed = configuration()
    bat.config.check_files(parsed)
except BatError as error:
    print(error, file=sys.stderr)
    sys.exit(2)

# numbers and keys as they are understood: no other way to write the same reruns anything
config = asdict(parsed)

RESULTS = f"results/{config['experiment']}"
if "cache" in config["data"]:
    CACHE = bat.io.given.located(config["data"]["cache"])
    # of all experiments with this cache
    RECEIPT = str(CACHE / f"{config['data']['name']}.json")
    SOURCE = [RECEIPT]
elif "path" in config["data"]:
    # a change of these makes the data anew; of what is missing, stage data tells
    SOURCE = bat.io.given.watched(config["data"]["path"])
else:
    SOURCE = []
expanded = bat.config.expand(parsed.training.methods, parsed.training.sweeps)
METHODS = [method.name for method in expanded]
# each with the method that it is a variant of, in a sweep
BASES = {
    name: next(
        (
            sweep.method
            for sweep in parsed.training.sweeps
            if name.startswith(f"{sweep.method}_{sweep.key}_")
        ),
        name,
    )
    for name in METHODS
}
# the methods, and retraining without some samples
RUNS = {
    run.name: asdict(run)
    for run in (
        *(bat.config.Run(method=method, without=None) for method in expanded),
        *bat.config.removal_runs(expanded, parsed.removal),
    )
}
COMPARED = bat.config.compared(expanded, parsed.evaluation, parsed.removal)
SEEDS = config["training"]["seeds"]
MODELS_PER_SHARD = config["memorization"]["models_per_shard"]
SHARDS, ROBUST_SHARDS = (
    [f"{shard:03d}" for shard in range(models // MODELS_PER_SHARD)]
    for models in (
        config["memorization"]["subset_models"],
        config["memorization"]["robust"]["subset_models"],
    )
)
# they need the subset models themselves
NULL_PAIRS = (
    config["scores"]["source"] == "subsets" and config["memorization"]["shuffles"]
)
FORMATS = ["pdf", "svg"]
HARMFUL = f"{RESULTS}/scores/harmful.parquet"


def spec(section, *keys, **more):
    """Return, as JSON, the named keys of a section of the config and ``more``: all that a stage depends on."""
    # sorted: the order of keys in a file must not rerun anything
    return json.dumps(
        {key: config[section][key] for key in keys} | more, sort_keys=True
    )


def digest(*modules):
    """Return a hash of modules (or folders of them) of the package, so that an edit reruns the cheap last rules that run them.

    Rules that train or attack have none, nor has what they depend on: a docstring must not retrain every model. After a
    mended bug, name the rule: --forcerun scores.
    """
    package = Path(workflow.basedir).parent / "bat"
    sources = [
        source
        for module in modules
        for source in sorted(package.glob(f"{module}.py"))
        + sorted(package.glob(f"{module}/*.py"))
    ]
    return hashlib.sha256(
        b"".join(source.read_bytes() for source in sources)
    ).hexdigest()


def grows(first):
    """Return a resource that is ``first`` at the first attempt, twice that at the second, and so on."""
    return lambda wildcards, attempt: first * attempt


def subsets_spec(shard, adversary):
    """Return, as JSON, what a shard of subset models depends on; adversary: None for training on clean images."""
    return spec(
        "memorization",
        "subset_fraction",
        "design",
        "seed",
        "recipe",
        model=asdict(parsed.subset_model),
        compute=config["compute"],
        first_model=int(shard) * MODELS_PER_SHARD,
        models=MODELS_PER_SHARD,
        adversary=adversary,
    )


def named_samples(run):
    """Return the tables that say which samples a run leaves out, or takes for atypical, by flag: for most runs none."""
    tables, score = {}, RUNS[run]["method"].get("score")
    without = (RUNS[run]["without"] or {}).get("what")
    if without or score not in (None, "robust_memorization"):
        tables["memorization"] = SCORES.memorization
    # which samples are harmful is known when the method has been trained with all
    if without in ("harmful", "benign"):
        tables["harmful"] = HARMFUL
    if score == "robust_memorization":
        tables["robust_memorization"] = rules.robust_scores.output.memorization
    return tables


def histories(runs):
    """Return the histories of runs, of all seeds."""
    return expand(HISTORY, method=runs, seed=SEEDS)


def tell():
    """Print what the page of results warns of, where there is one."""
    page = Path(f"{RESULTS}/results.md")
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    for line in lines:
        if line.startswith("> "):
            print(f"{page}: {line[2:]}", file=sys.stderr)


def flags(named):
    """Return flags of the command line: --NAME and its values, quoted."""
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.join([values] if isinstance(values, str) else values)}"
        for name, values in named.items()
    )
