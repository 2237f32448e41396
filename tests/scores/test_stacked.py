"""Subset models that are trained several at a time: the bits of one by one, and where one by one it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages import COMPUTE, RECIPE, SUBSETS, call
from torch import nn

from bat.config import parse
from bat.config.specs import SubsetsSpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import write_data
from bat.errors import BatError
from bat.io.files import provenance
from bat.models import Network
from bat.scores import stacked, stage
from bat.scores.stacked import stackable, train_stacked
from bat.scores.subsets import epochs_on, network, subset_masks, subset_of
from bat.statistics import Bools

torch.set_num_threads(1)

SEEDS = list(range(5, 16))


@pytest.fixture(scope="module")
def samples() -> DataSet:
    """Images by chance, so few that training takes no time."""
    random = np.random.default_rng(0)

    def part(first: int, last: int) -> Part:
        pixels, labels = random.integers(256, size=(last - first, 1, 4, 4)), random.integers(3, size=last - first)
        return Part(torch.tensor(pixels, dtype=torch.uint8), torch.tensor(labels), torch.arange(first, last), 255)

    return DataSet(part(0, 30), part(30, 40), part(40, 50), classes=3)


@pytest.fixture(scope="module")
def folder(samples: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacked")
    write_data(folder / "data.safetensors", samples, provenance("data"))
    return folder


@pytest.fixture(scope="module")
def masks(samples: DataSet) -> Bools:
    return subset_masks(len(samples.train), 21, design="balanced", seed=0, first=0, count=len(SEEDS))


def spec(**changed: Any) -> SubsetsSpec:
    return parse(SubsetsSpec, SUBSETS | {"first_model": 0} | changed, "spec")


@pytest.mark.parametrize("width", [16, 33])
@pytest.mark.parametrize("batch_size", [5, 21])
def test_weights_are_those_of_training_one_by_one(samples: DataSet, masks: Bools, width: int, batch_size: int) -> None:
    asked = spec(model={"name": "mlp", "width": width}, recipe=RECIPE | {"epochs": 4, "batch_size": batch_size})
    found = train_stacked(samples, masks, asked, seeds=SEEDS)
    exactly = stackable(samples, masks, asked, seeds=SEEDS)
    for model, mask, seed in zip(found, masks, SEEDS, strict=True):
        subset = samples.train.take(torch.from_numpy(np.flatnonzero(mask)))
        alone = network(subset, asked, classes=samples.classes, seed=seed)
        for _ in epochs_on(alone, subset, asked, seed=seed, what="alone"):
            pass
        assert model is not None
        for one, other in zip(model.state_dict().values(), alone.state_dict().values(), strict=True):
            # another processor may round stacked products otherwise, and then does without them
            torch.testing.assert_close(one, other, rtol=0 if exactly else 1e-3, atol=0 if exactly else 1e-3)


@pytest.mark.parametrize("models", [1, 7, 19])
def test_a_shard_has_the_bytes_of_training_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, models: int
) -> None:
    flags = {"spec": SUBSETS | {"first_model": 4, "models": models}, "data": "data.safetensors"}
    call("subsets", folder, **flags, shard="together.parquet")
    monkeypatch.setattr(stage, "stackable", lambda *_, **__: False)
    call("subsets", folder, **flags, shard="alone.parquet")
    assert (folder / "together.parquet").read_bytes() == (folder / "alone.parquet").read_bytes()


def test_models_of_missing_parts_are_trained_with_the_same_bytes(folder: Path, unfinished: pytest.MonkeyPatch) -> None:
    flags = {"spec": SUBSETS | {"first_model": 0, "models": 19}, "data": "data.safetensors", "shard": "shard.parquet"}
    call("subsets", folder, **flags)
    shard = folder / "shard.parquet"
    expected, parts = shard.read_bytes(), folder / "shard.parquet.parts"
    for missing in (0, 3, 4, 12, 18):
        (parts / f"{missing}.safetensors").unlink()
    shard.unlink()
    call("subsets", folder, **flags)
    assert shard.read_bytes() == expected


ADVERSARY = {
    "threat": {"norm": "linf", "eps": 0.05},
    "attack": {"steps": 1, "step_size": 0.03},
    "attack_bn": "eval",
}


@pytest.mark.parametrize(
    "changed",
    [
        {"model": {"name": "small_cnn", "width": 2}},
        {"model": {"name": "mlp", "width": 1024}},
        {"adversary": ADVERSARY},
        {"compute": COMPUTE | {"micro_batch": 8}},
        {"compute": COMPUTE | {"precision": "bfloat16"}},
        {"recipe": RECIPE | {"flip": True}},
        {"recipe": RECIPE | {"crop_padding": 1}},
        {"recipe": RECIPE | {"label_smoothing": 0.1}},
        {"recipe": RECIPE | {"ema_decay": 0.9}},
    ],
)
def test_what_a_stack_does_not_know_is_trained_one_by_one(
    samples: DataSet, masks: Bools, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    monkeypatch.setattr(stacked, "train_stacked", lambda *_, **__: pytest.fail("stacked"))
    assert not stackable(samples, masks, spec(**changed), seeds=SEEDS)


def test_one_model_and_models_on_several_threads_are_trained_one_by_one(
    samples: DataSet, masks: Bools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacked, "train_stacked", lambda *_, **__: pytest.fail("stacked"))
    assert not stackable(samples, masks[:1], spec(), seeds=SEEDS[:1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert not stackable(samples, masks, spec(), seeds=SEEDS)


def one_by_one(samples: DataSet, masks: Bools, asked: SubsetsSpec, *, seeds: list[int]) -> list[Network | None]:
    """Stand in for training at once, where it has the bits of one by one on any processor."""
    assert asked == spec(recipe=RECIPE | {"batch_size": 64, "epochs": 1})
    models: list[Network | None] = []
    for mask, seed in zip(masks, seeds, strict=True):
        subset = subset_of(samples, mask)
        models.append(network(subset, asked, classes=samples.classes, seed=seed))
        list(epochs_on(models[-1], subset, asked, seed=seed, what="alone"))
    return models


def test_models_of_the_same_bits_are_stacked_and_of_others_or_without_a_model_not(
    samples: DataSet, masks: Bools, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = one_by_one(samples, masks[:2], spec(recipe=RECIPE | {"batch_size": 64, "epochs": 1}), seeds=SEEDS[:2])
    last = models[1]
    assert last is not None
    monkeypatch.setattr(stacked, "train_stacked", one_by_one)
    assert stackable(samples, masks[:2], spec(), seeds=SEEDS[:2])
    monkeypatch.setattr(stacked, "train_stacked", lambda *_, **__: models)
    models[1] = None
    assert not stackable(samples, masks[:2], spec(), seeds=SEEDS[:2])
    models[1] = last
    last.head.bias.data[0] += 0.5
    assert not stackable(samples, masks[:2], spec(), seeds=SEEDS[:2])


def test_a_model_that_fails_by_itself_is_not_stacked(
    samples: DataSet, masks: Bools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise BatError("subset model: a loss that is not finite")

    monkeypatch.setattr(stacked, "train_stacked", lambda *_, **__: [None] * len(SEEDS))
    monkeypatch.setattr(stacked, "epochs_on", fails)
    assert not stackable(samples, masks, spec(), seeds=SEEDS)


def body(*layers: nn.Module) -> Network:
    return Network(nn.Sequential(*layers), nn.Linear(3, 2), torch.zeros(1), torch.ones(1))


def frozen(layer: nn.Linear) -> nn.Linear:
    layer.weight.requires_grad_(False)
    return layer


@pytest.mark.parametrize(
    ("layers", "linear"),
    [
        ([nn.Flatten(), nn.Linear(4, 3), nn.ReLU()], 2),
        ([nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Identity()], 2),
        ([nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU()], 3),
        ([nn.Flatten()], 1),
        ([nn.Flatten(), nn.Linear(4, 3)], None),
        ([nn.Flatten(), nn.Linear(4, 3), nn.Tanh()], None),
        ([nn.Linear(4, 3), nn.ReLU()], None),
        ([nn.Flatten(), nn.Linear(4, 3, bias=False), nn.ReLU()], None),
        ([nn.Flatten(), frozen(nn.Linear(4, 3)), nn.ReLU()], None),
    ],
)
def test_networks_of_linear_layers_alone_are_stacked(layers: list[nn.Module], linear: int | None) -> None:
    model = body(*layers)
    found = stacked._layers(model)
    assert (found and len(found)) == linear
    assert found is None or found[-1] is model.head
    model.head.bias = None  # type: ignore[assignment]
    assert stacked._layers(model) is None


def test_a_processor_that_rounds_stacked_products_otherwise_does_without(
    samples: DataSet, masks: Bools, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *factors: product(*factors).mul_(1 + 2**-23))
    assert not stackable(samples, masks, spec(), seeds=SEEDS)


def test_a_model_that_fails_takes_no_other_with_it(
    samples: DataSet, masks: Bools, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_stacked(samples, masks, spec(), seeds=SEEDS)

    def poisoned(*arguments: Any, seed: int, **named: Any) -> Network:
        model = network(*arguments, seed=seed, **named)
        if seed == SEEDS[3]:
            model.head.weight.data[0, 0] = torch.nan
        return model

    monkeypatch.setattr(stacked, "network", poisoned)
    found = train_stacked(samples, masks, spec(), seeds=SEEDS)
    assert [place for place, model in enumerate(found) if model is None] == [3]
    for one, other in zip(found, expected, strict=True):
        assert other is not None
        assert one is None or all(map(torch.equal, one.parameters(), other.parameters()))


def test_a_model_that_failed_in_a_stack_is_trained_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"spec": SUBSETS | {"first_model": 0, "models": 3}, "data": "data.safetensors"}
    call("subsets", folder, **flags, shard="whole.parquet")
    trained: list[str] = []
    monkeypatch.setattr(stage, "stackable", lambda *_, **__: True)
    monkeypatch.setattr(stage, "train_stacked", lambda *_, **__: [None, None, None])
    alone = stage.recorded
    monkeypatch.setattr(
        stage, "recorded", lambda *given, what, **named: trained.append(what) or alone(*given, what=what, **named)
    )
    call("subsets", folder, **flags, shard="failed.parquet")
    assert trained == [f"subset model {number} (seed 0)" for number in range(3)]
    assert (folder / "failed.parquet").read_bytes() == (folder / "whole.parquet").read_bytes()
