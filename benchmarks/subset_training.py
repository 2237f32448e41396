"""Speed of subset training against a bare loop of forward, backward and step on the same network and batch.

    python benchmarks/subset_training.py [--rounds 5]

Both run in this process on one thread, in turns; the last line is the ratio of samples per second, bat over bare.
"""

import argparse
import time
from statistics import median

import torch
import torch.nn.functional as F

from bat.config import Natural, load
from bat.data.dataset import load_source
from bat.models import build
from bat.training.loop import fit
from bat.training.losses import objective

MODELS = 3


def main() -> None:
    """Time both loops in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config/config.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load(options.config)
    recipe = config.memorization.recipe
    data = load_source(config.data, subsample=1.0)
    size = round(config.memorization.subset_fraction * len(data.train))
    subset = data.train.take(torch.arange(size))
    natural = objective(Natural(name="natural", objective="natural"))
    steps = -(-size // recipe.batch_size) * recipe.epochs

    def ours() -> None:
        for seed in range(MODELS):
            model = build(config.subset_model, subset, classes=data.classes, seed=seed)
            for _ in fit(model, subset, objective=natural, recipe=recipe, seed=seed, what="benchmark"):
                pass

    def bare() -> None:
        batch = next(iter(torch.arange(size).tensor_split(steps // recipe.epochs)))
        x, labels = subset.images(batch), subset.labels[batch]
        for seed in range(MODELS):
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

    seconds: dict[str, list[float]] = {"bat": [], "bare": []}
    for _ in range(options.rounds):
        for name, run in (("bat", ours), ("bare", bare)):
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    seen = MODELS * recipe.epochs * size
    for name, values in seconds.items():
        print(f"{name:5} {seen / median(values):9,.0f} samples/s  ({median(values) / MODELS:.3f} CPU s a model)")
    ratios = [bare_s / ours_s for ours_s, bare_s in zip(seconds["bat"], seconds["bare"], strict=True)]
    spread = f"range {min(ratios):.2f} to {max(ratios):.2f}, {options.rounds} rounds"
    print(f"ratio bat / bare: {median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
