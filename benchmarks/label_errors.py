"""How well label errors are found: planted ones, by what models that left a sample out take it for.

    python benchmarks/label_errors.py [--data digits] [--train 600] [--models 60] [--share 0.05] [--seeds 0 1 2]
    python benchmarks/label_errors.py --data mnist --cache CACHE
    python benchmarks/label_errors.py --data cifar100 --cache CACHE --classes bear leopard lion tiger wolf
        --config model=resnet9:12 memorization.recipe.epochs=20
    python benchmarks/label_errors.py --config memorization.recipe.epochs=4

Gives a share of the training samples a wrong label, each other class with equal chance, trains --models subset models
on them as the default config with the changes of --config says, and ranks all training samples by the score of
scores/label_errors.parquet. Printed for each seed, of the planted labels and of the models: the AUC for planted
samples, and the precision at n, the share of planted ones among the n first, where n is their number, both with 95 %
bootstrap intervals over samples; the same by memorization; of the rows that the table would have, how many are planted;
and how often models are right of samples that they were trained on, all and planted, and of those they left out.

CACHE holds MNIST or CIFAR-100 as data.cache does. All samples are taken for right that were not planted, so that errors
that are there already count as false. One process, one thread.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from bat.config import Config, check_models, load, subset_size
from bat.config.specs import SubsetsSpec
from bat.data.dataset import DataSet, load_source
from bat.scores.agreement import Interval, auc, precision
from bat.scores.estimators import memorization_table, taken_for
from bat.scores.label_errors import label_error_score, label_errors_table
from bat.scores.subsets import recorded, subset_masks
from bat.seeds import derive_seed
from bat.statistics import Bools

_MODEL = {"digits": "small_cnn:16", "mnist": "small_cnn:16", "cifar100": "resnet9:32"}


def main() -> None:
    """Plant errors, train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=_MODEL, default="digits")
    parser.add_argument("--cache", help="folder of the files of mnist or cifar100")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="of the data set; all by default")
    parser.add_argument("--train", type=int, default=600, help="training samples")
    parser.add_argument("--models", type=int, default=60, help="subset models, K")
    parser.add_argument("--share", type=float, default=0.05, help="of training samples with a wrong label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the default config")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.data != "digits" and not given.cache:
        parser.error(f"--data {given.data} needs --cache")
    settings = [f"model={_MODEL[given.data]}", f"memorization.models_per_shard={given.models}"]
    settings += [f"memorization.subset_models={given.models}"]
    data = f"name: {given.data}, train_samples: {given.train}, validation_samples: 200"
    data += f", cache: {given.cache}" if given.cache else ""
    data += f", classes: [{', '.join(given.classes)}]" if given.classes else ""
    settings += [f"data={{{data}}}"]
    config = load("config/config.yaml", settings=[*settings, *given.config])
    clean = load_source(config.data, subsample=1.0)
    check_models(given.models, len(clean.train), config.memorization.subset_fraction)
    for seed in given.seeds:
        start = time.process_time()
        samples, planted = with_errors(clean, share=given.share, seed=seed)
        table = scored(config, samples, seed=seed)
        resampling = {"confidence": 0.95, "resamples": 2000, "seed": seed}
        score, memorized = label_error_score(table), table["memorization"].to_numpy()
        listed = label_errors_table(table, samples.class_names)
        hits = int(planted[listed["train_index"]].sum())
        print(
            f"{given.data}, {len(planted)} samples, K = {given.models}, seed {seed}: n = {planted.sum()} planted; "
            f"AUC {_text(auc(score, planted, **resampling))}, "
            f"precision at n {_text(precision(score, planted, **resampling))}; "
            f"by memorization {_text(auc(memorized, planted, **resampling))}, "
            f"{_text(precision(memorized, planted, **resampling))}; "
            f"{hits} of the {len(listed)} rows of the table are planted; "
            f"p_in {table['p_in'].mean():.2f}, planted {table['p_in'][planted].mean():.2f}, "
            f"p_out {table['p_out'].mean():.2f}; {time.process_time() - start:.0f} s of CPU",
            flush=True,
        )


def with_errors(data: DataSet, *, share: float, seed: int) -> tuple[DataSet, Bools]:
    """Return the data set with wrong labels of a share of its training samples, and which these are: (n,)."""
    random = np.random.default_rng(derive_seed(seed, "planted"))
    labels = data.train.labels.numpy().copy()
    planted = np.zeros(len(labels), dtype=bool)
    planted[random.permutation(len(labels))[: round(share * len(labels))]] = True
    # every class but its own with equal chance
    shifts = random.integers(1, data.classes, size=int(planted.sum()))
    labels[planted] = (labels[planted] + shifts) % data.classes
    return replace(data, train=replace(data.train, labels=torch.from_numpy(labels))), planted


def scored(config: Config, samples: DataSet, *, seed: int) -> pd.DataFrame:
    """Train subset models and return one row per training sample, with train_index its place in the split."""
    spec = replace(SubsetsSpec.of(config, first_model=0), seed=seed)
    count, train = len(samples.train), samples.train
    size = subset_size(count, spec.subset_fraction)
    masks = subset_masks(count, size, design=spec.design, seed=seed, first=0, count=spec.models)
    # what models say of validation and test samples is of no use here
    little = torch.arange(1)
    asked = replace(samples, validation=samples.validation.take(little), test=samples.test.take(little))
    said = [
        recorded(
            asked,
            train.take(torch.from_numpy(np.flatnonzero(mask))),
            spec,
            seed=derive_seed(seed, "model", number),
            what=f"subset model {number}",
        )
        for number, mask in enumerate(masks)
    ]
    correct, probability, predicted = (
        np.stack([each[f"{kind}_train"].numpy() for each in said]) for kind in ("correct", "p", "class")
    )
    table = memorization_table(masks, correct, probability, confidence=0.95)
    table = pd.concat([table, taken_for(predicted, ~masks, samples.classes)], axis=1)
    return table.assign(train_index=np.arange(count), label=train.labels.numpy())


def _text(found: Interval) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
