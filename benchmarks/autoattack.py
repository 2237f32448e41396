"""AutoAttack of this package against pyautoattack, the authors' code: robust accuracies, broken points and CPU time.

    python benchmarks/autoattack.py [--images 500] [--attacks apgd_ce apgd_t fab_t square] [--methods natural bat]

Trains one model per method on digits, then runs both on the same images in this process, on one thread. For each attack
list: samples that stand after it, by either; share of images on which they differ; CPU seconds and their ratio.

Either draws its own random starts, so that on a sample that some starts break and others do not they differ by chance.
With --seeds 20 both run with 20 seeds on the same model: mean, least and most of the samples that stand show how far
one run of either is from its next.

With --trained results/EXPERIMENT/models/METHOD/seed-0/last.safetensors that model is attacked instead, on the first
test images of its experiment under its threat; `fast` is --attacks apgd_ce apgd_t. The experiment's PGD then also runs,
beside a plain loop of the same steps written here.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pyautoattack import AutoAttack
from torch.nn import functional as F

from bat.attacks.ensemble import STANDARD
from bat.config import Adversary, Attack, EvaluationPgd, Method, Threat, load
from bat.data.dataset import DataSet, Part, load_source
from bat.data.saved import read_data
from bat.evaluation.under_attack import attack_samples
from bat.models import Network, build
from bat.models.saved import read_model
from bat.seeds import derive_seed
from bat.training.loop import fit
from bat.training.losses import objective

NAMES = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
THREATS = {
    "digits": [Threat(norm="linf", eps=0.1), Threat(norm="linf", eps=0.15), Threat(norm="l2", eps=0.5)],
    "mnist5k": [Threat(norm="linf", eps=0.15), Threat(norm="l2", eps=1.5)],
}
METHODS: dict[str, Method] = {method.name: method for method in load("config/config.yaml").training.methods}


def trained(method: Method, data: DataSet, width: int, epochs: int) -> Network:
    """Train a model by the default config, for fewer epochs; BAT takes a tenth of the samples for atypical."""
    config = load("config/config.yaml")
    model = build(replace(config.model, width=width), data.train, classes=data.classes, seed=derive_seed(0, "weights"))
    recipe = replace(config.training.recipe, epochs=epochs)
    for _ in fit(
        model,
        data.train,
        objective=objective(method),
        recipe=recipe,
        seed=0,
        what=method.name,
        atypical=torch.arange(len(data.train)) % 10 == 0,
        adversary=Adversary(threat=config.threat, attack=config.training.attack, attack_bn=config.training.attack_bn),
    ):
        pass
    return model.eval()


def ours(model: Network, part: Part, threat: Threat, attack: Attack, batch_size: int, seed: int) -> np.ndarray:
    """Return which samples stand after one attack of this package."""
    # one step, one restart: the least that evaluate() can do beside the ensemble
    pgd = EvaluationPgd(name="pgd", steps=1, step_size=threat.eps, restarts=1)
    found = [
        attack_samples(model, part, rows, threat=threat, pgd_attack=pgd, ensemble=(attack,), seed=seed)["margin"] > 0
        for rows in torch.split(torch.arange(len(part)), batch_size)
    ]
    return torch.cat(found).numpy()


def theirs(model: Network, part: Part, threat: Threat, attack: Attack, batch_size: int, seed: int) -> np.ndarray:
    """Return which samples stand after one attack of pyautoattack with the standard's settings."""
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    adversary = AutoAttack(model, norm=norm, eps=threat.eps, seed=seed, version="standard")
    adversary.attacks_to_run = [NAMES[attack.name]]
    x, labels = part.images(), part.labels
    x_adv = adversary.run_standard_evaluation(x, labels, batch_size=batch_size)
    x_adv = x_adv[0] if isinstance(x_adv, tuple) else x_adv
    with torch.no_grad():
        return (model(x_adv).argmax(1) == labels).numpy()


def plain_pgd(model: Network, part: Part, threat: Threat, attack: EvaluationPgd) -> np.ndarray:
    """Return which samples stand after L-inf PGD from random starts, written as in the textbook."""
    x, labels = part.images(), part.labels
    stands = torch.ones(len(x), dtype=torch.bool)
    for restart in range(attack.restarts):
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(restart))
        x_adv = (x + threat.eps * (2 * noise - 1)).clamp(0, 1)
        for _ in range(attack.steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), labels, reduction="sum"), x_adv)
            x_adv = x_adv.detach() + attack.step_size * gradient.sign()
            x_adv = x_adv.clamp(x - threat.eps, x + threat.eps).clamp(0, 1)
        with torch.no_grad():
            stands &= model(x_adv).argmax(1) == labels
    with torch.no_grad():
        return (stands & (model(x).argmax(1) == labels)).numpy()


def check_trained(path: Path, images: int, attacks: list[Attack], batch_size: int) -> None:
    """Attack a model of an experiment: PGD beside the plain loop, then the ensemble beside pyautoattack."""
    folder = path.parents[3]
    config, data_file = load(str(folder / "config.yaml")), folder / "data" / "data.safetensors"
    data = read_data(data_file)
    model, _ = read_model(path, config.model, data, (data_file, data.digest()))
    part, threat, attack = data.test.take(torch.arange(images)), config.threat, config.evaluation.pgd
    print(f"{path}, {threat.norm} {threat.eps:g}, {images} test images")
    found = attack_samples(
        model, part, torch.arange(images), threat=threat, pgd_attack=attack, ensemble=(), seed=config.evaluation.seed
    )
    pgd, plain = found["pgd_correct"].numpy(), plain_pgd(model, part, threat, attack)
    print(f"pgd with {attack.steps} steps: ours {pgd.sum()}, plain {plain.sum()}, {(pgd != plain).sum()} differ")
    compare(model, part, threat, attacks, batch_size)


def compare(
    model: Network, images: Part, threat: Threat, attacks: list[Attack], batch_size: int, seeds: int = 1
) -> None:
    """Print a row for each attack, on the samples that stood after those before it, and one for all of them."""
    print(f"{'after':10}{'ours':>17}{'theirs':>17}{'differ':>9}{'ours s':>9}{'theirs s':>10}{'ratio':>8}")
    standing = {run: np.ones((seeds, len(images)), dtype=bool) for run in (ours, theirs)}
    total = dict.fromkeys(standing, 0.0)
    for attack in attacks:
        seconds = {}
        for run, stands in standing.items():
            start = time.process_time()
            for seed in range(seeds):
                rows = torch.tensor(np.flatnonzero(stands[seed]))
                if len(rows):
                    stands[seed, rows] = run(model, images.take(rows), threat, attack, batch_size, seed)
            seconds[run] = (time.process_time() - start) / seeds
            total[run] += seconds[run]
        line(attack.name, standing, seconds)
    line("all", standing, total)


def main() -> None:
    """Compare attack by attack, each on the points that stood after those before it, by its own account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--data", default="digits", choices=["digits", "mnist5k"])
    parser.add_argument("--width", type=int, default=16, help="channels of small_cnn's first convolution")
    parser.add_argument("--batch-size", type=int, default=250, help="images in one pass, for both")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=1, help="runs of both with starts of their own, on one model")
    parser.add_argument("--attacks", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--trained", type=Path, help="weights of an experiment's model, attacked instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    attacks = [attack for attack in STANDARD if attack.name in options.attacks]
    if options.trained:
        check_trained(options.trained, options.images, attacks, options.batch_size)
        return
    data = load_source(replace(load("config/config.yaml").data, name=options.data), subsample=1.0)
    images = data.test.take(torch.arange(options.images))
    for name in options.methods:
        model = trained(METHODS[name], data, options.width, options.epochs)
        for threat in THREATS[options.data]:
            print(f"\n{options.data}, {name}, {threat.norm} {threat.eps:g}, {len(images)} images")
            compare(model, images, threat, attacks, options.batch_size, options.seeds)


def line(name: str, standing: dict, seconds: dict) -> None:
    """Print one row: means over seeds, and the range of the samples that stand if there are several seeds."""
    differ = float((standing[ours] != standing[theirs]).mean())
    print(
        f"{name:10}{count(standing[ours]):>17}{count(standing[theirs]):>17}{differ:9.2%}{seconds[ours]:9.2f}"
        f"{seconds[theirs]:10.2f}{seconds[ours] / max(seconds[theirs], 1e-9):8.2f}",
        flush=True,
    )


def count(stands: np.ndarray) -> str:
    """Return how many samples stand: with several seeds mean, least and most. stands: (seeds, samples)."""
    found = stands.sum(1)
    return f"{found[0]}" if len(found) == 1 else f"{found.mean():.1f} ({found.min()} to {found.max()})"


if __name__ == "__main__":
    main()
