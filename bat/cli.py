"""The command line: one subcommand a stage. Each parses, loads, calls and saves; heavy imports are inside."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bat import __version__
from bat.errors import BatError
from bat.journal import Journal

if TYPE_CHECKING:
    import torch

    from bat.data import DataSet

EXAMPLES = """\
The workflow calls these stages in order, and each can be called alone. For example, to look at what the workflow calls:

  snakemake -n --printshellcmds results/digits/scores/memorization.parquet

Each stage takes its parameters as one JSON object (--spec), reads the files it names and writes each output whole or
not at all. An error that you can mend is one line, and the exit status is 2.
"""


def main(arguments: list[str] | None = None) -> None:
    """Run one stage. Exits with status 2 after an error that the user can mend."""
    options = vars(_parser().parse_args(arguments))
    stage, run = options.pop("stage"), options.pop("run")
    stage = " ".join([stage, options.pop("figure", "")]).strip()
    log, threads = options.pop("log", None), options.pop("threads", 1)
    # read by the libraries when they are first imported
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    try:
        if log:
            Path(log).parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(stage, log)
    except OSError as error:
        sys.exit(_complain(stage, f"{log}: cannot be written ({error}): choose another log"))
    try:
        run(journal, **options)
    except BatError as error:
        journal.failure(str(error))
        sys.exit(_complain(stage, str(error)) if log else 2)
    except Exception:
        journal.failure("stopped by an unexpected error; its traceback is on standard error")
        raise
    else:
        journal.finish()
    finally:
        journal.close()


def _complain(stage: str, message: str) -> int:
    print(f"bat {stage}: {message}", file=sys.stderr)  # noqa: T201
    return 2


def _data(journal: Journal, *, spec: str, out: str) -> None:
    from bat.config import Data, parse
    from bat.data import load_source
    from bat.files import provenance
    from bat.tensors import write_data

    data = load_source(parse(Data, spec, "--spec"))
    counts = ", ".join(f"{len(part)} {name}" for name, part in data.parts().items())
    journal.line(f"{counts} samples of {data.classes} classes")
    write_data(out, data, provenance("data", spec=json.loads(spec), digest=data.digest()))


def _subsets(journal: Journal, *, spec: str, data: str, out: str, device: str) -> None:
    import numpy as np
    import pandas as pd

    from bat.config import Natural, SubsetsSpec, parse, subset_size
    from bat.evaluation import correct
    from bat.files import provenance
    from bat.losses import objective
    from bat.memorization import subset_masks
    from bat.models import build
    from bat.seeds import derive_seed
    from bat.tables import pack, write_table
    from bat.training import fit

    plan = parse(SubsetsSpec, spec, "--spec")
    samples, digest = _read_data(data, device)
    size = subset_size(len(samples.train), plan.subset_fraction)
    masks = subset_masks(
        len(samples.train),
        size,
        design=plan.design,
        seed=plan.seed,
        first=plan.first_model,
        count=plan.models,
    )
    natural = objective(Natural(name="natural", objective="natural"))
    seeds, results = [], []
    with journal.work():
        for row, mask in enumerate(journal.bar(masks, len(masks), "models")):
            number = plan.first_model + row
            seed = derive_seed(plan.seed, "model", number)
            subset = samples.train.take(_tensor(np.flatnonzero(mask), samples))
            model = build(plan.model, subset, classes=samples.classes, seed=seed)
            for _ in fit(
                model,
                subset,
                objective=natural,
                recipe=plan.recipe,
                seed=seed,
                what=f"subset model {number} (seed {plan.seed})",
            ):
                pass
            seeds.append(seed)
            results.append([correct(model, part) for part in samples.parts().values()])
    train, validation, test = (np.stack(column) for column in zip(*results, strict=True))
    table = pd.DataFrame(
        {
            "model": plan.first_model + np.arange(plan.models),
            "seed": seeds,
            "in_subset": pack(masks),
            "correct_train": pack(train),
            "correct_validation": pack(validation),
            "correct_test": pack(test),
        }
    )
    write_table(out, "subsets", table, provenance("subsets", spec=json.loads(spec), data=digest))


def _scores(
    journal: Journal,
    *,
    spec: str,
    data: str,
    shards: list[str],
    memorization: str,
    influence: str,
    train_influence: str,
    test_groups: str,
    validation_groups: str,
) -> None:
    from bat.config import ScoresSpec, parse
    from bat.files import provenance
    from bat.memorization import group_table, influence_table, memorization_table
    from bat.tables import read_shards, unpack, write_table

    plan = parse(ScoresSpec, spec, "--spec")
    samples, digest = _read_data(data, "cpu")
    models, facts = read_shards(shards)
    if facts["data"] != digest:
        raise BatError(f"{shards[0]}: trained on other data than {data}: remove the shards and run stage subsets again")
    where = shards[0]
    parts = samples.parts()
    labels = {name: part.labels.numpy() for name, part in parts.items()}
    index = {name: part.index.numpy() for name, part in parts.items()}
    mask = unpack(models["in_subset"], len(samples.train), where)
    correct = {name: unpack(models[f"correct_{name}"], len(part), where) for name, part in parts.items()}
    about = {"spec": json.loads(spec) | {"shards": facts}, "data": digest, "models": len(models)}
    with journal.work():
        scores = memorization_table(
            mask,
            correct["train"],
            index["train"],
            labels["train"],
            threshold=plan.threshold,
            confidence=plan.confidence,
        )
        atypical = scores["atypical"].to_numpy()
        journal.line(
            f"{len(models)} models; {atypical.sum()} of {len(atypical)} training samples are atypical "
            f"(memorization over {plan.threshold}); {int(scores['memorization'].isna().sum())} have no score"
        )
        write_table(memorization, "memorization", scores, provenance("memorization", **about))
        for name, path, column in (
            ("test", test_groups, "test_index"),
            ("validation", validation_groups, "validation_index"),
        ):
            pairs = influence_table(
                mask[:, atypical],
                correct[name],
                train_index=index["train"][atypical],
                train_labels=labels["train"][atypical],
                target_index=index[name],
                target_labels=labels[name],
                false_discovery_rate=plan.false_discovery_rate,
            )
            groups = group_table(correct[name], index[name], labels[name], pairs, threshold=plan.threshold)
            found = int(groups["atypical"].sum())
            journal.line(f"{found} of {len(groups)} {name} samples are atypical, from {len(pairs)} pairs")
            if not found:
                journal.line(
                    f"no {name} sample is atypical, so no rate of that group can be reported: "
                    "raise memorization.subset_models, or lower memorization.threshold"
                )
            kind = f"{name}_groups"
            write_table(path, kind, groups.rename(columns={"target_index": column}), provenance(kind, **about))
            if name == "test":
                strong = pairs[pairs["influence"] > plan.threshold].rename(columns={"target_index": column})
                write_table(influence, "influence", strong, provenance("influence", **about))
        pairs = influence_table(
            mask,
            correct["train"][:, atypical],
            train_index=index["train"],
            train_labels=labels["train"],
            target_index=index["train"][atypical],
            target_labels=labels["train"][atypical],
            false_discovery_rate=plan.false_discovery_rate,
            counted=~mask[:, atypical],
        )
        strong = pairs[pairs["influence"] > plan.threshold].rename(columns={"target_index": "influenced_index"})
        write_table(train_influence, "train_influence", strong, provenance("train_influence", **about))


def _train(
    journal: Journal,
    *,
    spec: str,
    data: str,
    memorization: str,
    validation_groups: str,
    test_groups: str,
    best: str,
    last: str,
    history: str,
    device: str,
) -> None:
    from bat.config import TrainSpec, parse
    from bat.files import provenance
    from bat.tables import check_labels, read_table, write_table
    from bat.tensors import write_tensors
    from bat.training import train

    plan = parse(TrainSpec, spec, "--spec")
    samples, digest = _read_data(data, device)
    atypical = {}
    for name, path, column in (
        ("train", memorization, "train_index"),
        ("validation", validation_groups, "validation_index"),
        ("test", test_groups, "test_index"),
    ):
        table = read_table(path, "memorization" if name == "train" else f"{name}_groups")
        part = samples.parts()[name]
        check_labels(path, table, column, part.index.cpu().numpy(), part.labels.cpu().numpy())
        atypical[name] = _tensor(table["atypical"].to_numpy(), samples)
    with journal.work():
        trained = train(plan, samples, atypical, lambda epochs: journal.bar(epochs, plan.recipe.epochs, "epochs"))
    facts: dict[str, Any] = {"spec": json.loads(spec), "data": digest}
    table = trained.history.assign(method=plan.method.name, seed=plan.seed)
    journal.line(f"best epoch {trained.best_epoch} of {plan.recipe.epochs}")
    write_tensors(best, trained.best, provenance("model", **facts, epoch=trained.best_epoch))
    write_tensors(last, trained.last, provenance("model", **facts, epoch=plan.recipe.epochs))
    write_table(history, "history", table, provenance("history", **facts))


def _evaluate(
    journal: Journal,
    *,
    spec: str,
    data: str,
    test_groups: str,
    best: str,
    last: str,
    out: str,
    device: str,
) -> None:
    import pandas as pd

    from bat.config import EvaluateSpec, parse
    from bat.evaluation import evaluate
    from bat.files import provenance
    from bat.models import build
    from bat.tables import check_labels, read_table, write_table
    from bat.tensors import read_tensors

    plan = parse(EvaluateSpec, spec, "--spec")
    samples, digest = _read_data(data, device)
    groups = read_table(test_groups, "test_groups")
    test = samples.test
    check_labels(test_groups, groups, "test_index", test.index.cpu().numpy(), test.labels.cpu().numpy())
    tables = []
    for checkpoint, path in (("best", best), ("last", last)):
        tensors, facts = read_tensors(path, "model")
        model = build(plan.model, samples.train, classes=samples.classes, seed=0)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise BatError(f"{path}: not the weights of {plan.model.name} ({' '.join(str(error).split())})") from error
        with journal.work():
            batches = evaluate(
                model,
                test,
                threat=plan.threat,
                pgd_attack=plan.pgd,
                ensemble=plan.ensemble,
                seed=plan.seed,
                batch_size=plan.batch_size,
            )
            total = -(-len(test) // plan.batch_size)
            table = pd.concat(journal.bar(batches, total, f"batches of {checkpoint}"), ignore_index=True)
        trained = facts["spec"]
        tables.append(table.assign(method=trained["method"]["name"], seed=trained["seed"], checkpoint=checkpoint))
    result = pd.concat(tables, ignore_index=True).merge(groups[["test_index", "atypical"]], on="test_index", how="left")
    about = provenance("per_sample", spec=json.loads(spec), training=trained, data=digest)
    write_table(out, "per_sample", result, about)


def _summary(journal: Journal, *, spec: str, evaluations: list[str], by_seed: str, summary: str) -> None:
    import pandas as pd

    from bat import evaluation
    from bat.config import SummarySpec, parse
    from bat.files import provenance
    from bat.tables import read_table_with_facts, write_table

    plan = parse(SummarySpec, spec, "--spec")
    tables, specs = [], []
    for path in evaluations:
        table, facts = read_table_with_facts(path, "per_sample")
        tables.append(table)
        specs.append(facts["spec"])
        if facts["spec"] != specs[0]:
            raise BatError(f"{evaluations[0]} and {path} were evaluated by different specs: evaluate both again")
    samples = pd.concat(tables, ignore_index=True)
    with journal.work():
        seeds = evaluation.accuracies_by_seed(samples, confidence=plan.confidence)
        means = evaluation.summary(samples, confidence=plan.confidence, bootstrap=plan.bootstrap, seed=plan.seed)
    if not (means["group"] == "atypical").any():
        journal.line("no test sample is atypical: the summary has no rate of that group")
    about = {"spec": json.loads(spec), "evaluation": specs[0]}
    write_table(by_seed, "by_seed", seeds, provenance("by_seed", **about))
    write_table(summary, "summary", means, provenance("summary", **about))


def _schema(journal: Journal, *, out: str) -> None:
    import yaml

    from bat.config import schema
    from bat.files import replacing

    with replacing(out) as temporary:
        temporary.write_text(yaml.safe_dump(schema(), sort_keys=False, allow_unicode=True, width=110))


def _figure_memorization(journal: Journal, *, memorization: str, out: list[str]) -> None:
    from bat import figures
    from bat.tables import read_table_with_facts

    table, facts = read_table_with_facts(memorization, "memorization")
    with journal.work():
        figures.save(figures.memorization(table, threshold=facts["spec"]["threshold"], models=facts["models"]), out)


def _figure_gallery(journal: Journal, *, data: str, memorization: str, train_influence: str, out: list[str]) -> None:
    from bat import figures
    from bat.tables import read_table, read_table_with_facts
    from bat.tensors import read_data

    samples = read_data(data)
    table, facts = read_table_with_facts(memorization, "memorization")
    pairs = read_table(train_influence, "train_influence")
    with journal.work():
        figure = figures.gallery(samples.train.images().numpy(), table, pairs, models=facts["models"])
        figures.save(figure, out)


def _figure_curves(journal: Journal, *, histories: list[str], test_groups: str, out: list[str]) -> None:
    import pandas as pd

    from bat import figures
    from bat.tables import read_table, read_table_with_facts

    tables = [read_table_with_facts(path, "history") for path in histories]
    spec = tables[0][1]["spec"]
    groups = read_table(test_groups, "test_groups")
    with journal.work():
        figure = figures.curves(
            pd.concat([table for table, _ in tables], ignore_index=True),
            atypical=int(groups["atypical"].sum()),
            typical=int((~groups["atypical"]).sum()),
            attack=f"PGD-{spec['attack']['steps']}",
            threat=_threat(spec["threat"]),
        )
        figures.save(figure, out)


def _figure_tradeoff(journal: Journal, *, summary: str, by_seed: str, out: list[str]) -> None:
    from bat import figures
    from bat.tables import read_table, read_table_with_facts

    means, facts = read_table_with_facts(summary, "summary")
    spec = facts["evaluation"]
    with journal.work():
        figure = figures.tradeoff(
            means,
            read_table(by_seed, "by_seed"),
            tier=" + ".join(attack["name"] for attack in spec["ensemble"]),
            threat=_threat(spec["threat"]),
            confidence=facts["spec"]["confidence"],
        )
        figures.save(figure, out)


def _threat(threat: dict[str, Any]) -> str:
    return f"{ {'linf': 'L-inf', 'l2': 'L2'}[threat['norm']] } {threat['eps']:g}"


def _read_data(path: str, device: str) -> tuple["DataSet", str]:
    """Read a data set to ``device`` with its digest, and set torch's threads."""
    import torch

    from bat.tensors import read_data

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    samples = read_data(path)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return samples.to(torch.device(device)), samples.digest()


def _tensor(array: Any, samples: "DataSet") -> "torch.Tensor":
    """Copy a numpy array to a tensor on the device of the data."""
    import torch

    return torch.tensor(array, device=samples.train.labels.device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bat",
        description="Memorization in adversarial training: scores, benign adversarial training, evaluation, figures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")

    def add(
        to: Any,
        name: str,
        run: Callable[..., None],
        help: str,
        flags: dict[str, str],
        many: dict[str, str] | None = None,
    ) -> argparse.ArgumentParser:
        stage: argparse.ArgumentParser = to.add_parser(name, help=help, description=help)
        stage.set_defaults(run=run)
        for flag, text in flags.items():
            stage.add_argument(f"--{flag}", required=True, help=text)
        for flag, text in (many or {}).items():
            stage.add_argument(f"--{flag}", required=True, nargs="+", help=text)
        stage.add_argument("--log", help="file for the log; standard error without it")
        stage.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
        return stage

    spec = {"spec": "parameters of the stage, a JSON object"}
    data = {"data": "the data set, written by stage data"}
    groups = {"test-groups": "test_groups.parquet, from stage scores"}
    scores = {
        "memorization": "memorization.parquet, from stage scores",
        "validation-groups": "validation_groups.parquet, from stage scores",
        **groups,
    }
    models = {
        "best": "weights of the best epoch, safetensors",
        "last": "weights of the last epoch, safetensors",
    }
    add(stages, "data", _data, "Read a data set and split it.", spec | {"out": "the data set, safetensors"})
    subsets = add(
        stages,
        "subsets",
        _subsets,
        "Train models on random subsets and record what each classifies correctly.",
        spec | data | {"out": "the shard, Parquet"},
    )
    add(
        stages,
        "scores",
        _scores,
        "Estimate memorization and influence from all shards.",
        spec | data | scores | {"influence": "influence.parquet", "train-influence": "train_influence.parquet"},
        {"shards": "the shards of stage subsets"},
    )
    train = add(
        stages,
        "train",
        _train,
        "Train one method with one seed.",
        spec | data | scores | models | {"history": "a row an epoch, Parquet"},
    )
    evaluate = add(
        stages,
        "evaluate",
        _evaluate,
        "Attack one model's best and last weights on each test sample.",
        spec | data | groups | models | {"out": "per_sample.parquet"},
    )
    for stage in (subsets, train, evaluate):
        stage.add_argument(
            "--device",
            default="auto",
            help="cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)",
        )
    add(
        stages,
        "summary",
        _summary,
        "Sum up the evaluations of all models: accuracies of groups with intervals.",
        spec | {"by-seed": "a row a model and group", "summary": "a row a method and group, over seeds"},
        {"evaluations": "per_sample.parquet of each model"},
    )
    figure = stages.add_parser("figure", help="Draw one figure.", description="Draw one figure.")
    figures = figure.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    out = {"out": "files to write; the ending chooses the format (.pdf, .svg, .png)"}
    add(
        figures,
        "memorization",
        _figure_memorization,
        "Histogram of memorization.",
        {"memorization": scores["memorization"]},
        out,
    )
    add(
        figures,
        "gallery",
        _figure_gallery,
        "The most memorized training samples beside those that influence them most.",
        data | {"memorization": scores["memorization"], "train-influence": "train_influence.parquet"},
        out,
    )
    add(
        figures,
        "curves",
        _figure_curves,
        "Accuracy over epochs, typical and atypical samples apart.",
        groups,
        {"histories": "history.parquet of each model"} | out,
    )
    add(
        figures,
        "tradeoff",
        _figure_tradeoff,
        "Clean against robust accuracy, a point a method.",
        {"summary": "summary.parquet", "by-seed": "by_seed.parquet"},
        out,
    )
    add(
        stages,
        "schema",
        _schema,
        "Write the schema of configuration files.",
        {"out": "YAML file"},
    )
    return parser
