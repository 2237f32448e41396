"""The checked configuration, the parameters of each stage, and the lists that wildcards run over."""

import hashlib
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import bat.config
import bat.config.specs
import bat.io.files
import bat.io.given
import bat.planning.resources
import bat.report.catalogue
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

# not workflow.basedir, which is another's where a workflow has this one as a module
PACKAGE = Path(str(workflow.current_basedir)).parents[1] / "bat"
RESULTS = f"results/{parsed.experiment}"
RUNS = {run.name: run for run in bat.config.runs_of(parsed)}
SEEDS = parsed.training.seeds
NATURAL = bat.config.natural_of(parsed)
TABLES = bat.config.tables_of(parsed)
FIGURES = bat.report.catalogue.figures_of(parsed)
PUBLISHED = isinstance(parsed.data, bat.config.Published)
IMPORTED = isinstance(parsed.scores, bat.config.FileScores)
SHARDS, ROBUST_SHARDS = (
    [f"{shard:03d}" for shard in range(count)] for count in bat.config.shards_of(parsed)
)
NEEDS = bat.planning.resources.needs(parsed)


def stage(name, spec="--spec {params.spec:q}"):
    """Return the shell line of a stage. Its flags are named as the rule's inputs and outputs."""
    return f"python -m bat {name} {spec} {{params.flags}} --log {{log:q}} --threads {{threads}}"


def flags(**more):
    """Return the function for a rule's ``params.flags``; more: flags that are no files. No change of them reruns a job."""

    def all_flags(wildcards, input, output):
        named = {**dict(input.items()), **dict(output.items()), **more}
        return " ".join(
            f"--{name.replace('_', '-')} {shlex.join([values] if isinstance(values, str) else map(str, values))}"
            for name, values in named.items()
        )

    return all_flags


def needs(rule, resource):
    """Return what a rule's job asks for, by ``bat.planning``: mem_mb or runtime; twice that at its second attempt."""
    return lambda wildcards, attempt: NEEDS[rule][resource] * attempt


def digest(*parts):
    """Return a hash of modules and folders of the package, so that an edit reruns the cheap last rules that run them.

    Rules that train or attack have none: a docstring must not retrain every model. After a bug was fixed, name the
    rule: --forcerun scores.
    """
    sources = [
        source
        for part in parts
        for source in (
            sorted(
                path
                for path in (PACKAGE / part).rglob("*.*")
                if path.suffix in (".py", ".html", ".css", ".js", ".rst")
            )
            if (PACKAGE / part).is_dir()
            else [PACKAGE / f"{part}.py"]
        )
    ]
    return hashlib.sha256(
        b"".join(source.read_bytes() for source in sources)
    ).hexdigest()


def spec(name, *arguments, **more):
    """Return, as JSON, all that a stage depends on besides its files."""
    return bat.config.specs.as_json(
        getattr(bat.config.specs, name).of(parsed, *arguments, **more)
    )


def optional(*names):
    """Return those of the named tables in scores/ that this experiment has, by name."""
    return {
        name: f"{RESULTS}/scores/{name}.parquet" for name in names if name in TABLES
    }


def shard_spec(robust):
    """Return the function for the spec of a shard; robust: of models trained adversarially."""
    size = parsed.memorization.models_per_shard
    return lambda wildcards: spec(
        "SubsetsSpec", first_model=int(wildcards.shard) * size, robust=robust
    )


def shards_of_models(models):
    """Return the shards of the first so many subset models."""
    shards = SHARDS[: models // parsed.memorization.models_per_shard]
    return expand(rules.subsets.output.shard, shard=shards)


def scored_shards(wildcards):
    """Return the shards of all rounds until there are models enough, by memorization.until; Snakemake asks again."""
    models, *more = bat.config.rounds_of(parsed) or [0]
    for after in more:
        told = checkpoints.enough.get(models=models).output.enough
        if json.loads(Path(told).read_text(encoding="utf-8"))["enough"]:
            break
        models = after
    return shards_of_models(models)


def source_of_data(wildcards):
    """Return the files that the data set is read from; a change of them makes it anew."""
    if PUBLISHED:
        return rules.download.output.receipt
    # of what is missing, stage data tells
    path = getattr(parsed.data, "path", None)
    return bat.io.given.watched(path) if path else []


def named_samples(wildcards):
    """Return the tables that say which samples a run leaves out, or takes for atypical: for most runs none."""
    run, tables = RUNS[wildcards.method], {}
    score = getattr(run.method, "score", None)
    if run.without or score not in (None, "robust_memorization"):
        tables["memorization"] = SCORES.memorization
    # which samples are harmful or hard is known when the method has been trained with all
    if run.without and run.without.what in ("harmful", "benign"):
        tables["harmful"] = rules.harmful.output.harmful
    if score in bat.config.PROXIES:
        tables["proxies"] = rules.proxies.output.proxies
    if run.without and run.without.what == "hardest":
        tables["hardest"] = rules.hardest.output.hardest
    if score == "robust_memorization":
        tables["robust_memorization"] = rules.robust_scores.output.robust_memorization
    return tables


def of_all(pattern, runs=RUNS):
    """Return a file of each run and seed."""
    return expand(pattern, method=runs, seed=SEEDS)


def keep_config():
    """Write the whole configuration, defaults included, beside the results; no rule reads it."""
    path, text = Path(f"{RESULTS}/config.yaml"), bat.config.as_yaml(parsed)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        with bat.io.files.replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
