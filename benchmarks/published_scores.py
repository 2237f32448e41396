"""Compare an experiment's memorization with published scores of the same images.

    python benchmarks/published_scores.py results/cifar100_animals [--cscores FILE.npz] [--npz FILE.npz]
        [--feldman-zhang FILE.csv] [--figure disagreements.png]

The experiment is of CIFAR-100, whole or some of its classes; only its stage scores need have run. Published are
C-scores (Jiang et al. 2021; 1 - score stands for memorization), any npz of layout ``npz`` (docs/scores.md), and values
of Feldman and Zhang (2020) as a table with columns train_index and memorization, for some of the images. Each is read
in the order of CIFAR-100's training file.

Printed, for hard and soft memorization, and for the share of models without a sample that are wrong (1 - p_out), which
is what memorization is where every model fits what it was trained on: Spearman's correlation, and the precision at n
for the n samples over the threshold by the published score (0.15; for C-scores, whose scale is another, as many as are
over it here), with 95 % bootstrap intervals over samples. Split halves say what is possible: one half of the subset
models against the other, and from it the highest correlation to be expected of all models with any other score.
The figure shows the images on which ranks by ours and by the first published score differ most.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from bat.data.dataset import DataSet
from bat.data.saved import read_data
from bat.io.tables import read_table_with_facts
from bat.scores.agreement import Interval, precision, spearman
from bat.scores.estimators import fit_text, score_column
from bat.scores.proxies import half_scores
from bat.scores.released import read_released
from bat.scores.shards import open_shards
from bat.statistics import Bools, Floats

KINDS = ("hard", "soft")
RESAMPLING = {"confidence": 0.95, "resamples": 2000, "seed": 0}


def main() -> None:
    """Print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--cscores", type=Path)
    parser.add_argument("--npz", type=Path)
    parser.add_argument("--feldman-zhang", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    file = options.experiment / "data/data.safetensors"
    data = read_data(file)
    scores, facts = read_table_with_facts(options.experiment / "scores/memorization.parquet", "memorization")
    threshold = facts["spec"]["threshold"]
    ours = {kind: scores[score_column(kind)].to_numpy(np.float64) for kind in KINDS}
    hard = ours["hard"]
    print(f"{len(scores)} training samples, {scores['atypical'].sum()} atypical ({scores['atypical'].mean():.1%})")
    print(f"{facts['models']} models: {fit_text(scores)}")
    print(f"{'':34}{'n':>6}  {'Spearman':24}{'precision':24}at n")
    print(row("hard against soft", hard, ours["soft"], hard > threshold))
    shards = open_shards(sorted(options.experiment.glob("subsets/shard-*.parquet")), file, data, data.digest())
    for kind, (one, other) in half_scores(shards, data).items():
        print(row(f"{kind}: half the models, the other", one, other, other > threshold))
        agreement = spearman(one, other, **RESAMPLING).value
        # Spearman and Brown: twice the models
        reliability = 2 * agreement / (1 + agreement)
        print(f"{kind}: of all models {reliability:.2f} is reliable, so at most {reliability**0.5:.2f} can be expected")
    published = read_published(options, scores["train_index"].to_numpy())
    for name, theirs in published.items():
        known = ~np.isnan(theirs)
        for kind, mine in (ours | {"1 - p_out": 1 - scores["p_out"].to_numpy()}).items():
            chosen = theirs > threshold
            if name == "C-scores":
                chosen = np.argsort(np.argsort(-theirs)) < (hard > threshold).sum()
            print(row(f"{kind} against {name}", mine[known], theirs[known], chosen[known]))
    names = list(published)
    for first, second in pairwise(names):
        one, other = published[first], published[second]
        known = ~(np.isnan(one) | np.isnan(other))
        print(row(f"{first} against {second}", one[known], other[known], other[known] > threshold))
    if options.figure:
        draw(options.figure, data, scores["train_index"].to_numpy(), hard, names[0], published[names[0]])


def row(what: str, score: Floats, reference: Floats, chosen: Bools) -> str:
    """Return a line of the table."""
    found = (spearman(score, reference, **RESAMPLING), precision(score, chosen, **RESAMPLING))
    return f"{what:34}{len(score):6}  {''.join(f'{written(each):24}' for each in found)}{chosen.sum()}"


def written(each: Interval) -> str:
    """Return a value with its interval."""
    return f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]"


def read_published(options: argparse.Namespace, index: np.ndarray) -> dict[str, Floats]:
    """Return by name the published scores of the samples of these places in the training file, NaN for none."""
    found: dict[str, Floats] = {}
    for name, path, layout in (("published", options.npz, "npz"), ("C-scores", options.cscores, "cscores")):
        if path:
            found[name] = read_released(str(path), layout).memorization[index]
    if options.feldman_zhang:
        table = pd.read_csv(options.feldman_zhang).set_index("train_index")["memorization"]
        found["Feldman and Zhang"] = table.reindex(index).to_numpy(np.float64)
    return found


def draw(path: Path, data: DataSet, index: np.ndarray, ours: Floats, name: str, theirs: Floats) -> None:
    """Draw the ten images that rank highest here but not there, and the ten of the reverse."""
    from matplotlib.figure import Figure

    ranks = [pd.Series(values).rank(pct=True).to_numpy() for values in (ours, theirs)]
    order = np.argsort(ranks[0] - ranks[1])
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(2, 10)
    pixels = data.train.pixels.numpy()
    for line, (chosen, title) in enumerate(((order[::-1][:10], "memorized here alone"), (order[:10], f"{name} alone"))):
        for place, sample in zip(axes[line], chosen, strict=True):
            place.imshow(pixels[sample].transpose(1, 2, 0))
            place.set(xticks=[], yticks=[])
            label = data.class_names[int(data.train.labels[sample])]
            place.set_title(f"{label} {index[sample]}\n{ours[sample]:.2f} / {theirs[sample]:.2f}", fontsize=7)
        axes[line][0].set_ylabel(title, fontsize=8)
    figure.suptitle(f"Largest differences of rank: memorization here / {name}", fontsize=10)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
