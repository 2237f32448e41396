"""Stages, methods and attacks give the results of a CPU on a simulated GPU, which refuses what a true one would."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from chain import VERIFY, make
from methods import BAT_TRADES, METHODS, PGD_AT, but
from runs import ATTACK, RECIPE, THREAT, samples
from simulated_gpu import OnGpu, simulated_gpu
from stages import call

import bat
from bat.attacks.ensemble import STANDARD
from bat.config import Adversary, Compute, SizedModel
from bat.data.dataset import Part
from bat.models import build
from bat.planning.timing import shortened
from bat.scores.duplicates import neighbours
from bat.training.loop import fit
from bat.training.losses import objective


def test_the_simulated_gpu_refuses_what_a_gpu_would():
    x = torch.arange(6.0).reshape(2, 3)
    with simulated_gpu():
        here = x.to("cuda")
        assert isinstance(here, OnGpu)
        for refused in (
            lambda: here + x,
            lambda: x @ here.T,
            lambda: x[here > 1],
            lambda: here.index_put((torch.tensor([0]),), torch.ones(1, 3)),
            lambda: torch.cat([here, x]),
            lambda: here.numpy(),
            lambda: here.pin_memory(),
            lambda: torch.rand(3, generator=torch.Generator(), device="cuda"),
            lambda: torch.rand(3, generator=torch.Generator("cuda")),
            lambda: torch.nn.Linear(3, 1)(here),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                refused()


def test_the_simulated_gpu_takes_what_a_gpu_takes():
    x = torch.arange(6.0).reshape(2, 3)
    with simulated_gpu():
        here = x.to("cuda", torch.float64)
        for made in (here, 2 * here, torch.tensor(1.0) + here, torch.zeros(2, device="cuda"), torch.ones_like(here)):
            assert made.device.type == "cuda"
        assert here[torch.tensor([0])].cpu().tolist() == [[0.0, 1.0, 2.0]]
        here[1] += 1
        assert here.cpu().numpy().tolist() == [[0.0, 1.0, 2.0], [4.0, 5.0, 6.0]]
        layer = torch.nn.Linear(3, 1).to("cuda")
        start = x.requires_grad_().to("cuda")
        layer(start).sum().backward()
        assert layer.weight.grad.device.type == "cuda"
    assert x.grad.shape == x.shape
    assert type(x.grad) is torch.Tensor
    assert x.device.type == "cpu"


def test_each_stage_gives_what_it_gives_on_a_cpu(made, tmp_path):
    with simulated_gpu():
        make(tmp_path)
        call("verify", tmp_path, **VERIFY)
    names = sorted(path.name for path in made.glob("*.parquet"))
    assert len(names) > 10
    for name in names:
        same(pd.read_parquet(tmp_path / name), pd.read_parquet(made / name))


BFLOAT16 = Compute(precision="bfloat16", channels_last=True, micro_batch=4)
TRAININGS = [(method, Compute()) for method in METHODS] + [(but(PGD_AT, awp=0.01), Compute())]
TRAININGS += [(BAT_TRADES, BFLOAT16), (BAT_TRADES, Compute(precision="float16"))]


@pytest.mark.parametrize(
    ("method", "compute"), TRAININGS, ids=[f"{method.name}-{compute.precision}" for method, compute in TRAININGS]
)
def test_each_method_trains_as_on_a_cpu(method, compute):
    weights = []
    with simulated_gpu():
        for part in (samples(24), on_gpu(samples(24)), on_gpu(samples(24), with_pixels=False)):
            network = build(SizedModel(name="small_cnn", width=4), part, classes=3, seed=0)
            device = part.labels.device
            for _ in fit(
                network,
                part,
                objective=objective(method),
                recipe=replace(RECIPE, crop_padding=1, flip=True, label_smoothing=0.1, ema_decay=0.9),
                seed=0,
                what="a run",
                atypical=torch.arange(24, device=device) % 3 == 0,
                difficulty=torch.rand(24, device=device, generator=torch.Generator(device).manual_seed(0)),
                adversary=Adversary(threat=THREAT, attack=ATTACK, attack_bn="eval"),
                compute=compute,
            ):
                pass
            assert {each.device.type for each in network.state_dict().values()} == {device.type}
            weights.append([each.cpu() for each in network.state_dict().values()])
    torch.testing.assert_close(weights[1], weights[0])
    torch.testing.assert_close(weights[2], weights[0])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_each_attack_finds_what_it_finds_on_a_cpu(norm, eps):
    part = samples(24)
    ensemble = [vars(shortened(attack, 3)[0]) for attack in STANDARD]
    model = build(SizedModel(name="small_cnn", width=4), part, classes=3, seed=0).eval()
    given = {"x": part.images(), "y": part.labels, "norm": norm, "eps": eps, "ensemble": ensemble, "batch_size": 10}
    on_cpu = bat.attack(model, **given)
    with simulated_gpu():
        found = bat.attack(model.to("cuda"), **given)
    assert 0 < on_cpu.robust_correct.sum() < on_cpu.clean_correct.sum()
    same(found.table, on_cpu.table)
    same(found.flags, on_cpu.flags)


def test_near_duplicates_are_those_of_a_cpu():
    part = samples(60)
    with simulated_gpu():
        found = neighbours(on_gpu(part, with_pixels=False), within=0.2)
    expected = neighbours(part, within=0.2)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))
    assert expected[2].nnz == found[2].nnz > 0
    assert (found[2] != expected[2]).nnz == 0


def on_gpu(part: Part, *, with_pixels: bool = True) -> Part:
    return part.to(torch.device("cuda"), with_pixels=with_pixels)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-6)
