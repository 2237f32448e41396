"""The subcommands, one a stage, with their flags."""

import argparse
from typing import Any, NoReturn

from bat import __version__
from bat.errors import one_line

EXAMPLES = """\
The workflow calls these stages in order, and each can be called alone. For example, to look at what the workflow calls:

  snakemake -n --printshellcmds results/digits/scores/memorization.parquet

Each stage takes its parameters as one JSON object (--spec), reads the files it names and writes each output whole or
not at all. An error that you can mend is one line, and the exit status is 2.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Write the error and exit with status 2."""
        self.exit(2, f"{self.prog}: {one_line(message)}: see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands: each sets ``run``, the module and function of its stage."""
    parser = _Parser(
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
        run: str,
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
    add(
        stages,
        "download",
        "data.stage:download",
        "Download a published data set to its cache, unless it is there.",
        spec | {"out": "a receipt, JSON"},
    )
    add(
        stages,
        "data",
        "data.stage:data",
        "Read a data set and split it.",
        spec | {"out": "the data set, safetensors", "files": "a row a sample: split, index, class, file; Parquet"},
    )
    subsets = add(
        stages,
        "subsets",
        "scores.stage:subsets",
        "Train models on random subsets and record what each classifies correctly.",
        spec | data | {"out": "the shard, Parquet"},
    )
    subsets.add_argument(
        "--all-models", type=int, help="K of all shards together, to be refused if some sample would have no score"
    )
    add(
        stages,
        "scores",
        "scores.stage:scores",
        "Estimate memorization and influence from all shards.",
        spec | data | scores | {"influence": "influence.parquet", "train-influence": "train_influence.parquet"},
        {"shards": "the shards of stage subsets"},
    )
    add(
        stages,
        "null-pairs",
        "scores.stage:null_pairs",
        "Count the influence pairs found where there are none, with the models' results shuffled.",
        spec | data | {"memorization": scores["memorization"], "out": "a row a shuffle, Parquet"},
        {"shards": "the shards of stage subsets"},
    )
    add(
        stages,
        "import-scores",
        "scores.importing:import_scores",
        "Write the tables of stage scores from a file of scores, without any subset model.",
        spec
        | data
        | {"file": "the scores: npz, Parquet or CSV"}
        | scores
        | {"influence": "influence.parquet", "train-influence": "train_influence.parquet"},
    )
    train = add(
        stages,
        "train",
        "training.stage:train",
        "Train one method with one seed.",
        spec | data | models | {"records": "a row an epoch, with packed values of each sample; Parquet"},
    )
    train.add_argument(
        "--checkpoint-minutes",
        type=int,
        default=10,
        help="minutes after which an epoch's end is kept, for a killed run to go on there (default: 10)",
    )
    train.add_argument(
        "--memorization", help="memorization.parquet, for methods that read a score, and runs without some samples"
    )
    train.add_argument("--harmful", help="harmful.parquet, for runs without harmful or benign samples")
    train.add_argument("--robust-memorization", help="robust_memorization.parquet, for methods that score by it")
    add(
        stages,
        "groups",
        "training.groups:groups",
        "Form groups of samples from the records of training: accuracies over epochs, and what atypical samples saw.",
        scores,
        {
            "records": "records.parquet of each run, from stage train",
            "histories": "history.parquet of each run: a row an epoch",
            "samples": "samples.parquet of each run: a row an epoch and atypical training sample",
        },
    )
    add(
        stages,
        "harmful",
        "scores.findings:harmful",
        "Divide the atypical training samples into harmful and benign ones.",
        spec | {"memorization": scores["memorization"], "out": "harmful.parquet"},
        {"records": "records.parquet of each seed of one method, from stage train"},
    )
    add(
        stages,
        "robust-scores",
        "scores.findings:robust_scores",
        "Estimate memorization and influence under attack, from subset models trained adversarially.",
        spec
        | data
        | {"memorization": scores["memorization"]}
        | groups
        | {
            "robust-memorization": "memorization of robust correctness, Parquet",
            "robust-influence": "influence on robust correctness, Parquet",
            "robust-effects": "effect of each atypical sample on typical test samples, Parquet",
        },
        {"shards": "the shards of stage subsets, trained adversarially"},
    )
    evaluate = add(
        stages,
        "evaluate",
        "evaluation.stage:evaluate",
        "Attack one model's best and last weights on each test sample.",
        spec | data | models | {"out": "attacked.parquet", "flags": "flags.parquet"},
    )
    add(
        stages,
        "summary",
        "evaluation.stage:summary",
        "Sum up the evaluations of all models: accuracies of groups with intervals.",
        spec
        | groups
        | {
            "per-sample": "a row a model and test sample",
            "by-seed": "a row a model and group",
            "summary": "a row a method and group, over seeds",
        }
        | {"comparisons": "a row two runs and a group, paired by seed and sample"}
        | {"all-flags": "the flags of all models, Parquet", "raised": "those that are raised, CSV"}
        | {"files": "a row a sample, from stage data"},
        {
            "evaluations": "attacked.parquet of each model",
            "flags": "flags.parquet of each model",
            "histories": "history.parquet of each model",
        },
    )
    verify = add(
        stages,
        "verify",
        "evaluation.verify:verify",
        "Recompute each result of evaluate from model and adversarial images.",
        data | models | {"images": "images that evaluate wrote", "samples": "attacked.parquet"},
    )
    attack = add(
        stages,
        "attack",
        "evaluation.attack:attack",
        "Attack a model of your own on images of your own.",
        {
            "model": "module:function, a function that returns a torch.nn.Module from images in [0, 1] to logits; "
            "or a TorchScript file; both are programs: run only what you trust. "
            "Or, with --architecture, a safetensors file of weights",
            "data": "npz file: x (n, c, h, w), uint8 or floats in [0, 1]; y (n,) integers",
            "norm": "linf or l2",
            "out": "results, a row an image, Parquet",
            "flags": "signs that the result may be too high, Parquet",
        },
    )
    attack.add_argument(
        "--architecture", help="a network of the config, as in resnet18 or small_cnn:16 (a width after the colon)"
    )
    attack.add_argument("--eps", type=float, required=True, help="largest perturbation, for pixels in [0, 1]")
    attack.add_argument("--ensemble", default="standard", help="fast or standard (default: AutoAttack's standard)")
    attack.add_argument("--batch-size", type=int, default=256, help="images in one forward pass (default: 256)")
    attack.add_argument("--seed", type=int, default=0, help="seed of the attacks' random numbers (default: 0)")
    plan = add(
        stages,
        "plan",
        "planning.stage:plan",
        "Say what an experiment will cost on this machine, from a few timed steps: jobs, hours, memory, disk.",
        {},
    )
    base = "config/config.yaml"
    plan.add_argument("--base", default=base, help=f"a complete configuration (default: {base})")
    plan.add_argument("--configfile", nargs="+", default=[], help="files that change it, as for snakemake")
    plan.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="further changes, as for snakemake")
    plan.add_argument("--standard-error", type=float, help="also say how many subset models this one takes")
    for stage in (evaluate, attack):
        stage.add_argument("--images", help="also write the strongest adversarial images found, safetensors")
    for stage in (subsets, train, evaluate, verify, attack, plan):
        stage.add_argument(
            "--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)"
        )
    figure = stages.add_parser("figure", help="Draw one figure.", description="Draw one figure.")
    figures = figure.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    out = {"out": "files to write; the ending chooses the format (.pdf, .svg, .png)"}
    add(
        figures,
        "memorization",
        "report.figures.stage:memorization",
        "Histogram of memorization.",
        {"memorization": scores["memorization"]},
        out,
    )
    add(
        figures,
        "gallery",
        "report.figures.stage:gallery",
        "The most memorized training samples beside those that influence them most.",
        data | {"memorization": scores["memorization"], "train-influence": "train_influence.parquet"},
        out,
    )
    add(
        figures,
        "curves",
        "report.figures.stage:curves",
        "Accuracy over epochs, typical and atypical samples apart.",
        groups,
        {"histories": "history.parquet of each model"} | out,
    )
    add(
        figures,
        "weights",
        "report.figures.stage:weights",
        "Weights that methods give to atypical training samples, over epochs.",
        {},
        {"samples": "samples.parquet of each model"} | out,
    )
    summary = {"summary": "summary.parquet"}
    methods = {"methods": "the methods to draw, each as NAME=BASE, the method that it is a variant of, or its own name"}
    add(
        figures,
        "tradeoff",
        "report.figures.stage:tradeoff",
        "Clean against robust accuracy, a point a method.",
        summary,
        methods | out,
    )
    add(
        figures,
        "influence",
        "report.figures.stage:influence",
        "Accuracy against the influence of atypical training samples.",
        {"per-sample": "per_sample.parquet"},
        {"methods": "the methods to draw"} | out,
    )
    add(
        figures,
        "overfitting",
        "report.figures.stage:overfitting",
        "Accuracy at the best and the last epoch of each method.",
        summary,
        methods | out,
    )
    add(
        figures,
        "finding_a",
        "report.figures.stage:finding_a",
        "What leaving out memorized samples does to test samples.",
        summary,
        {"histories": "history.parquet of each model, first one trained with all samples"} | out,
    )
    harmful = {"harmful": "harmful.parquet, from stage harmful"}
    finding_b = add(
        figures,
        "finding_b",
        "report.figures.stage:finding_b",
        "What leaving out harmful samples does to typical test samples.",
        {"comparisons": "comparisons.parquet"} | harmful,
        out,
    )
    finding_b.add_argument("--robust-effects", help="robust_effects.parquet, where there are robust subset models")
    add(
        figures,
        "harmful",
        "report.figures.stage:harmful",
        "The most harmful and the most benign atypical training samples.",
        data | harmful,
        out,
    )
    results = add(
        stages,
        "results",
        "report.stage:results",
        "Write accuracies as tables for papers, and a page that says what was found.",
        spec
        | {"summary": "summary.parquet", "comparisons": "comparisons.parquet", "flags": "flags of all models, Parquet"}
        | {"memorization": scores["memorization"]}
        | groups
        | {"benchmarks": "folder of Snakemake's records of jobs"}
        | {"markdown": "accuracies, Markdown", "latex": "accuracies, LaTeX", "out": "the page, Markdown"},
    )
    results.add_argument("--histories", nargs="+", required=True, help="history.parquet of all models")
    for name in ("null-pairs", "harmful", "robust-effects"):
        results.add_argument(f"--{name}", help=f"{name.replace('-', '_')}.parquet, where there is one")
    add(
        stages,
        "schema",
        "config.stage:schema",
        "Write the schema of configuration files.",
        {"out": "YAML file"},
    )
    return parser
