"""Whether every path of training and attacks that a GPU takes works, and how many samples per second they do.

    python benchmarks/gpu.py [--device cuda] [--quick]

Made for a data-centre GPU, for which checks and timings are sized to under ten minutes. It has not been run on a GPU
yet: where it was written there was none. With --device cpu --quick it shows its own code working, on few samples and a
narrow network, in two minutes; those numbers mean nothing.

Images are made up: 3 x 32 x 32, ten classes. Checks, each a line that says ok or FAILED with what was found:

- equal runs: two trainings with one seed give the same weights to the bit;
- host memory: so does a training whose pixels stay in host memory;
- resume: so does one that goes on from the state after its first epoch;
- channels_last, compile, bfloat16, float16: the loss is that of plain float32 up to rounding;
- attacks: PGD and all of AutoAttack say of nearly all samples what they say on the CPU.

Then samples per second: training of PreActResNet-18 (natural, PGD-AT with ten steps) and of a subset model (resnet9),
and AutoAttack. An exit code of 1 says that a check failed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from bat.attacks.ensemble import STANDARD
from bat.config import (
    Adversary,
    Attack,
    Compute,
    EvaluationPgd,
    Method,
    Natural,
    OneCycle,
    Pgd,
    PgdAt,
    Recipe,
    ResidualModel,
    Threat,
)
from bat.data.dataset import Part
from bat.data.saved import device_named
from bat.evaluation.under_attack import attack_samples
from bat.models import Network, build
from bat.planning.timing import shortened
from bat.training.loop import Epoch, fit
from bat.training.losses import objective

CLASSES = 10
THREAT = Threat(norm="linf", eps=8 / 255)
NATURAL, PGD_AT = Natural(name="natural"), PgdAt(name="pgd_at")
FLOAT32 = Compute()
FAST = Compute(precision="bfloat16", channels_last=True)


@dataclass(frozen=True)
class Size:
    """Samples, width of the network and steps of attacks: of checks, and of what is timed."""

    checked: int
    timed: int
    attacked: int
    width: int
    subset_width: int
    batch: int
    steps: int
    whole_attacks: bool


FULL = Size(checked=1024, timed=8192, attacked=256, width=64, subset_width=64, batch=128, steps=10, whole_attacks=True)
QUICK = Size(checked=32, timed=32, attacked=16, width=8, subset_width=8, batch=16, steps=2, whole_attacks=False)


@dataclass(frozen=True)
class Trained:
    """A network, its epochs, and the state after each."""

    model: Network
    epochs: list[Epoch]
    states: Sequence[Mapping[str, Tensor]]

    @property
    def loss(self) -> float:
        """The loss of the last epoch."""
        return self.epochs[-1].loss


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few samples and a narrow network: to see the code work")
    options = parser.parse_args()
    # as a job of the workflow takes it: without TF32, and with deterministic convolutions
    device, size = device_named(options.device), QUICK if options.quick else FULL
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}; torch {torch.__version__}; PreActResNet-18 of width {size.width}", flush=True)
    start = time.perf_counter()
    failed = checks(device, size)
    timings(device, size)
    print(f"{time.perf_counter() - start:.0f} s in all")
    sys.exit(f"{failed} checks failed" if failed else 0)


def checks(device: torch.device, size: Size) -> int:
    """Run all checks and return how many failed."""
    data = samples(size.checked).to(device)
    plain = trained(data, PGD_AT, size)

    def equal_runs() -> str:
        return same_weights(plain, trained(data, PGD_AT, size))

    def host_memory() -> str:
        return same_weights(plain, trained(samples(size.checked).to(device, with_pixels=False), PGD_AT, size))

    def resume() -> str:
        return same_weights(plain, trained(data, PGD_AT, size, first=2, state=plain.states[0]))

    def near(compute: Compute, tolerance: float) -> Callable[[], str]:
        def check() -> str:
            loss = trained(data, PGD_AT, size, compute=compute).loss
            said = f"loss {loss:.4f}, in plain float32 {plain.loss:.4f}"
            if not abs(loss - plain.loss) <= tolerance * plain.loss:
                raise ValueError(f"{said}: more than {tolerance:.0%} apart")
            return said

        return check

    def attacks() -> str:
        here, on_cpu = (attacked(plain.model, some, size) for some in (data, samples(size.checked)))
        differ = [float((here[name].cpu() != on_cpu[name]).float().mean()) for name in ("pgd_correct", "broken_by")]
        said = f"PGD differs on {differ[0]:.1%}, AutoAttack on {differ[1]:.1%} of {size.attacked} samples"
        if max(differ) > 0.02:
            raise ValueError(f"{said}: over 2 %")
        return said

    found = {
        "equal runs": equal_runs,
        "host memory": host_memory,
        "resume": resume,
        "channels_last": near(replace(FLOAT32, channels_last=True), 0.02),
        "compile": near(replace(FLOAT32, compile=True), 0.02),
        "bfloat16": near(replace(FLOAT32, precision="bfloat16"), 0.1),
        "float16": near(replace(FLOAT32, precision="float16"), 0.1),
        "bfloat16, channels_last": near(FAST, 0.1),
        "attacks": attacks,
    }
    failed = 0
    for name, check in found.items():
        start = time.perf_counter()
        try:
            verdict, said = "ok", check()
        except Exception as error:  # of whatever kind: the others are still checked
            verdict, said = "FAILED", f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            failed += 1
        print(f"{verdict:7}{name:24}{said} ({time.perf_counter() - start:.1f} s)", flush=True)
    return failed


def timings(device: torch.device, size: Size) -> None:
    """Print samples per second of training and of attacks."""
    data = samples(size.timed).to(device)
    subset = ResidualModel(name="resnet9", width=size.subset_width)
    model = ResidualModel(name="preact_resnet18", width=size.width)
    for compute in (FLOAT32, FAST):
        about = f"{compute.precision}{', channels_last' * compute.channels_last}"
        for name, method, network, batch in (
            ("natural", NATURAL, model, size.batch),
            (f"PGD-AT, {size.steps} steps", PGD_AT, model, size.batch),
            ("subset model, resnet9", NATURAL, subset, 4 * size.batch),
        ):
            rate = training_rate(data, method, size, network=network, compute=compute, batch=batch)
            print(f"{name:24}{about:24}{rate:10.1f} samples per second", flush=True)
    robust = trained(data, PGD_AT, size, compute=FAST).model
    clean = seconds(device, lambda: attacked(robust, data, size, ()))
    for attack in STANDARD:
        # on a CPU the seconds are those of a short one, times what it is shorter
        act, times = (attack, 1.0) if size.whole_attacks else shortened(attack, CLASSES)
        spent = seconds(device, partial(attacked, robust, data, size, (act,))) - clean
        rate = size.attacked / max(times * spent, 1e-9)
        print(f"AutoAttack, {attack.name:12}{'float32':24}{rate:10.1f} samples per second", flush=True)


def samples(count: int) -> Part:
    """Return made-up images on the CPU: noise around a mean of each class."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    means = (
        torch.randint(100, 156, (CLASSES, 3, 4, 4), generator=random).repeat_interleave(8, 2).repeat_interleave(8, 3)
    )
    pixels = means[labels] + torch.randint(-40, 41, (count, 3, 32, 32), generator=random)
    return Part(pixels.clamp(0, 255).to(torch.uint8), labels, torch.arange(count), 255)


def trained(
    data: Part,
    method: Method,
    size: Size,
    *,
    compute: Compute = FLOAT32,
    first: int = 1,
    state: Mapping[str, Tensor] | None = None,
) -> Trained:
    """Train for two epochs with two steps of PGD, augmented, from ``first`` and ``state`` on."""
    model = network_for(ResidualModel(name="preact_resnet18", width=size.width), data)
    epochs, states = [], []
    recipe = recipe_of(size.batch, epochs=2)
    adversary = Adversary(threat=THREAT, attack=Pgd(steps=2, step_size=THREAT.eps / 2), attack_bn="eval")
    for epoch in fit(
        model,
        data,
        objective=objective(method),
        recipe=recipe,
        seed=0,
        what="gpu",
        adversary=adversary,
        compute=compute,
        first=first,
        state=state,
    ):
        epochs.append(epoch)
        states.append(epoch.state())
    return Trained(model, epochs, states)


def recipe_of(batch: int, *, epochs: int) -> Recipe:
    """Return the recipe of all trainings here."""
    schedule = OneCycle(name="one_cycle", warmup=0.3)
    return Recipe(epochs=epochs, batch_size=batch, learning_rate=0.05, schedule=schedule, crop_padding=4, flip=True)


def network_for(network: ResidualModel, data: Part) -> Network:
    """Build a network on the device of the data."""
    return build(network, data, classes=CLASSES, seed=0).to(data.labels.device)


def same_weights(one: Trained, other: Trained) -> str:
    """Say that two trainings ended with the same weights.

    Raises:
        ValueError: they did not.
    """
    pairs = [(a.float(), other.model.state_dict()[name].float()) for name, a in one.model.state_dict().items()]
    furthest = max(float((a - b).abs().max()) for a, b in pairs)
    if furthest > 0:
        raise ValueError(f"weights differ by up to {furthest:.2g}")
    return "the same weights to the bit"


def attacked(model: Network, data: Part, size: Size, ensemble: tuple[Attack, ...] | None = None) -> dict[str, Tensor]:
    """Attack the first samples, on the device of the data; by default with short forms of AutoAttack's attacks."""
    model = model.to(data.labels.device).eval()
    if ensemble is None:
        ensemble = tuple(shortened(attack, CLASSES)[0] for attack in STANDARD)
    rows = torch.arange(size.attacked, device=data.labels.device)
    pgd = EvaluationPgd(name="pgd", steps=size.steps if ensemble else 1, step_size=THREAT.eps / 4, restarts=1)
    return attack_samples(model, data, rows, threat=THREAT, pgd_attack=pgd, ensemble=ensemble, seed=0)


def training_rate(
    data: Part, method: Method, size: Size, *, network: ResidualModel, compute: Compute, batch: int
) -> float:
    """Return samples per second of the second epoch of a training."""
    adversary = Adversary(threat=THREAT, attack=Pgd(steps=size.steps, step_size=THREAT.eps / 4), attack_bn="eval")
    epochs = fit(
        network_for(network, data),
        data,
        objective=objective(method),
        recipe=recipe_of(batch, epochs=2),
        seed=0,
        what="gpu",
        adversary=adversary,
        compute=compute,
    )
    next(epochs)
    return len(data) / seconds(data.labels.device, lambda: next(epochs))


def seconds(device: torch.device, act: Callable[[], object]) -> float:
    """Return the wall seconds of ``act``, with what it left for the GPU to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
