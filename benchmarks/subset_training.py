"""Speed of subset training against a bare loop of forward, backward and step on the same network and batch.

    python benchmarks/subset_training.py [--rounds 5] [--model mlp:128] [--data mnist5k]

Both run in this process on one thread, in turns; the last lines are ratios of samples per second: bat over bare, and
where several models are trained at once (bat/scores/stacked.py) stacked over one by one.
"""

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F

from bat.config import Natural, load
from bat.config.specs import SubsetsSpec
from bat.data.dataset import load_source
from bat.models import build
from bat.scores.stacked import MODELS, stackable, train_stacked
from bat.scores.subsets import subset_masks
from bat.training.loop import fit
from bat.training.losses import objective


def main() -> None:
    """Time both loops in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config/config.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="another network, such as mlp:128")
    parser.add_argument("--data", help="another data set that needs no download: mnist5k")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = [f"model={options.model}"] if options.model else []
    settings += [f"data={{name: {options.data}, train_samples: 2500, validation_samples: 500}}"] if options.data else []
    config = load(options.config, settings=settings)
    spec = SubsetsSpec.of(config, first_model=0)
    recipe = spec.recipe
    data = load_source(config.data, subsample=1.0)
    size = round(config.memorization.subset_fraction * len(data.train))
    subset = data.train.take(torch.arange(size))
    natural = objective(Natural(name="natural", objective="natural"))
    steps = -(-size // recipe.batch_size) * recipe.epochs
    seeds = range(MODELS)
    masks = subset_masks(len(data.train), size, design="balanced", seed=0, first=0, count=MODELS)
    exactly = stackable(data, masks, spec, seeds=seeds)

    def ours() -> None:
        for seed in seeds:
            model = build(config.subset_model, subset, classes=data.classes, seed=seed)
            for _ in fit(model, subset, objective=natural, recipe=recipe, seed=seed, what="benchmark"):
                pass

    def bare() -> None:
        batch = next(iter(torch.arange(size).tensor_split(steps // recipe.epochs)))
        x, labels = subset.images(batch), subset.labels[batch]
        for seed in seeds:
            model = build(config.subset_model, subset, classes=data.classes, seed=seed).train()
            optimizer = torch.optim.SGD(
                model.parameters(),
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                fused=True,
            )
            for _ in range(steps):
                optimizer.zero_grad()
                F.cross_entropy(model(x), labels).backward()
                optimizer.step()

    runs = {"bat": ours, "bare": bare}
    if exactly:
        runs["stacked"] = lambda: train_stacked(data, masks, spec, seeds=seeds)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    seen = MODELS * recipe.epochs * size
    for name, values in seconds.items():
        print(f"{name:7} {seen / median(values):9,.0f} samples/s  ({median(values) / MODELS:.3f} CPU s per model)")
    for name, other in [("bat", "bare"), *([("stacked", "bat")] if exactly else [])]:
        ratios = [slow / fast for fast, slow in zip(seconds[name], seconds[other], strict=True)]
        spread = f"range {min(ratios):.2f} to {max(ratios):.2f}, {options.rounds} rounds"
        print(f"ratio {name} / {other}: {median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
