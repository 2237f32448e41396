"""Small training runs on made-up samples."""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from methods import PGD_AT
from torch import Tensor, nn

from bat.config import Adversary, Compute, Method, Pgd, Recipe, SizedModel, Steps, Threat
from bat.config.specs import TrainSpec
from bat.data.dataset import Part
from bat.io.schemas import SCHEMAS
from bat.models import Network, build
from bat.training.loop import Epoch, fit
from bat.training.losses import Batch, Objective, objective
from bat.training.records import history_table, samples_table
from bat.training.run import Trained

THREAT = Threat(norm="linf", eps=0.1)
ATTACK = Pgd(steps=2, step_size=0.05)
CONSTANT = Steps(name="steps", warmup=0.0, milestones=(), factor=0.1)
RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=5e-4,
    schedule=CONSTANT,
    crop_padding=0,
    flip=False,
    label_smoothing=0.0,
    ema_decay=0.0,
)
FLOAT32 = Compute(precision="float32", channels_last=False, compile=False, micro_batch=0)
SPEC = TrainSpec(
    model=SizedModel(name="mlp", width=8),
    threat=THREAT,
    recipe=replace(RECIPE, epochs=5),
    compute=FLOAT32,
    attack=ATTACK,
    attack_bn="eval",
    measure_every=1,
    early_stop=0,
    without=None,
    method=PGD_AT,
    seed=4,
)


@dataclass(frozen=True)
class Recorded(Part):
    """Samples that remember which rows were asked for."""

    asked: list[Tensor] = field(default_factory=list)

    def images(self, rows: Tensor | slice = slice(None)) -> Tensor:
        if isinstance(rows, Tensor):
            self.asked.append(rows.clone())
        return super().images(rows)


def samples(n: int, seed: int = 0) -> Recorded:
    """Three classes that differ in brightness, not so much that a network is always right."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pixels = torch.randint(0, 11, (n, 1, 4, 4), generator=random) + 3 * labels[:, None, None, None]
    return Recorded(pixels.to(torch.uint8), labels, torch.arange(n) + 1000 * seed, pixel_max=16)


def network(part: Part, name: str = "mlp", seed: int = 0) -> Network:
    return build(SizedModel(name=name, width=4), part, classes=3, seed=seed)  # type: ignore[arg-type]


def run(
    part: Part,
    method: Method | Objective = PGD_AT,
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    model: Network | None = None,
    name: str = "mlp",
    attack: Pgd = ATTACK,
    attack_bn: str = "eval",
    atypical: Tensor | None = None,
    difficulty: Tensor | None = None,
) -> tuple[Network, list[Epoch]]:
    model = network(part, name) if model is None else model
    goal = method if isinstance(method, Objective) else objective(method)
    adversary = Adversary(threat=THREAT, attack=attack, attack_bn=attack_bn)
    epochs = fit(
        model,
        part,
        objective=goal,
        recipe=recipe,
        seed=seed,
        what="a run",
        atypical=atypical,
        difficulty=difficulty,
        adversary=adversary,
    )
    return model, list(epochs)


def right(accuracy: float) -> Tensor:
    """Ten samples, so many of them right."""
    return torch.arange(10) < round(10 * accuracy)


def history(trained: Trained, groups: dict[str, Tensor]) -> pd.DataFrame:
    records = trained.records.assign(method="m", seed=0)
    table = history_table(records, {name: rare.numpy() for name, rare in groups.items()}, "a run")
    return table[SCHEMAS["history"].names]


def recorded(trained: Trained, part: Part, atypical: Tensor) -> pd.DataFrame:
    columns = {
        "train_index": part.index,
        "label": part.labels,
        "memorization": part.index.double() / 7,
        "atypical": atypical,
    }
    scores = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    return samples_table(trained.records.assign(method="m", seed=0), scores, "a run")


def batch_of(x: Tensor, labels: Tensor, atypical: Tensor | None = None, **changes: Any) -> Batch:
    """A batch whose adversarial examples are ``x``, by default those of the same images."""
    values: dict[str, Any] = {
        "clean": x,
        "right": x.new_zeros(len(x)),
        "difficulty": x.new_zeros(len(x)),
        "progress": 1.0,
        "label_smoothing": 0.0,
    }
    rare = torch.zeros(len(labels), dtype=torch.bool) if atypical is None else atypical
    return Batch(**values | {"x": x, "labels": labels, "atypical": rare} | changes)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
