"""A model and images that are in memory already, under attack."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bat.attacks.ensemble import members, tier
from bat.config import parse
from bat.config.ranges import SMALLEST_EPS
from bat.config.specs import AttackSpec
from bat.data.dataset import Part
from bat.errors import BatError, one_line
from bat.evaluation.flags import Probe, find_flags, probe
from bat.evaluation.own_model import WITHOUT_GRADIENTS, Judged, check_outputs
from bat.evaluation.under_attack import attack_samples, sample_table
from bat.io.npz import as_labels
from bat.models import Network
from bat.statistics import Bools


@dataclass(frozen=True)
class Attacked:
    """What attacks found of n images.

    clean_correct, robust_correct: (n,) bool, right on the image itself, and after the whole ensemble.
    x_adv: (n, c, h, w), the strongest images found. table: one row per image, which attack broke it, and the columns of
    attacked.parquet; flags: signs that the robust accuracy may be too high.
    """

    clean_correct: Bools = field(repr=False)
    robust_correct: Bools = field(repr=False)
    x_adv: Tensor = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    flags: pd.DataFrame = field(repr=False)


def attack_model(
    model: nn.Module,
    x: Tensor | NDArray[Any],
    y: Tensor | NDArray[Any],
    *,
    norm: str,
    eps: float,
    ensemble: str | Sequence[Mapping[str, Any]] = "fast",
    seed: int = 0,
    batch_size: int = 256,
) -> Attacked:
    """Attack a model on images, as ``bat attack`` does, on the device where the model is.

    model: from float32 images (n, c, h, w) in [0, 1] to logits (n, classes); left as it is found.
    x: (n, c, h, w), uint8 or floats in [0, 1]; y: (n,) integers. norm: linf or l2; eps: for pixels in [0, 1].
    ensemble: fast or standard, or a list of attacks as in a config. seed: of the attacks' random numbers.

    >>> import bat, torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
    >>> weights = model[1].weight.data.copy_(torch.eye(2))
    >>> x = torch.tensor([[0.9, 0.1], [0.6, 0.5]]).reshape(2, 1, 1, 2)
    >>> found = bat.attack(model, x, torch.tensor([0, 0]), norm="linf", eps=0.1)
    >>> found.clean_correct.tolist(), found.robust_correct.tolist()
    ([True, True], [True, False])
    >>> found.table["broken_by"].tolist()[1]
    'apgd_ce'

    Raises:
        BatError: an argument is out of its range, or the model fails or returns no such logits.
    """
    if not isinstance(model, nn.Module):
        raise BatError(f"bat.attack: model is a {type(model).__name__}: give a torch.nn.Module")
    check_threat("", norm, eps)
    # the caller may have turned gradients off with inference mode, which cannot be turned on by torch.enable_grad
    with torch.inference_mode(False):
        plan = attack_plan(norm, eps, ensemble, seed=seed, batch_size=batch_size, where="bat.attack")
        device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
        part = as_part(_array(x, "x"), _array(y, "y"), "bat.attack").to(device)
        check_threat("", norm, eps, part)
        judged = model if type(model) is Network else Judged(model, type(model).__name__)
        no_gradient = check_outputs(judged, part, plan.batch_size, type(model).__name__)
        if no_gradient:
            warnings.warn(f"{WITHOUT_GRADIENTS}: {no_gradient}", stacklevel=2)
        before = probe(judged, part, plan.batch_size)
        found = [
            attack_samples(
                judged,
                part,
                rows,
                threat=plan.threat,
                pgd_attack=plan.pgd,
                ensemble=members(plan.ensemble),
                seed=plan.seed,
            )
            for rows in torch.split(torch.arange(len(part), device=device), plan.batch_size)
        ]
        table, flags, x_adv = told_of(judged, part, plan, found, before)
    clean, robust = (table[f"{name}_correct"].to_numpy() for name in ("clean", "robust"))
    return Attacked(clean, robust, x_adv, table, flags)


def _array(values: Tensor | NDArray[Any], name: str) -> NDArray[Any]:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    if values.layout is not torch.strided:
        raise BatError(f"bat.attack: {name} is a tensor of layout {str(values.layout)[6:]}: give a dense one")
    values = values.detach().cpu()
    # numpy has no bfloat16
    array: NDArray[Any] = (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    return array


def attack_plan(norm: str, eps: float, ensemble: Any, *, seed: int, batch_size: int, where: str) -> AttackSpec:
    """Return the plan of an attack on a model of one's own: PGD-20 beside the ensemble, so that their gap is seen."""
    pgd = {"name": "pgd", "steps": 20, "step_size": eps / 8, "restarts": 1}
    spec = {"threat": {"norm": norm, "eps": eps}, "seed": seed, "batch_size": batch_size, "pgd": pgd}
    return parse(AttackSpec, spec | {"ensemble": ensemble}, where)


def check_threat(dashes: str, norm: str, eps: float, part: Part | None = None) -> None:
    """Raise BatError unless images in [0, 1], of ``part``, can be perturbed by eps; ``dashes`` of a flag or none."""
    if not isinstance(eps, Real):
        raise BatError(f"{dashes}eps {one_line(repr(eps), 60)}: give a number, for pixels in [0, 1]")
    if norm not in ("linf", "l2"):
        raise BatError(f"{dashes}norm {norm}: give linf or l2")
    largest = 1.0 if norm == "linf" else math.sqrt(part.pixels[0].numel()) if part else math.inf
    if not SMALLEST_EPS <= eps <= largest or math.isinf(eps):
        raise BatError(
            f"{dashes}eps {eps:g}: give a number from {SMALLEST_EPS:g} to {largest:g}, for pixels in [0, 1] and {norm}"
        )


def as_part(x: NDArray[Any], y: NDArray[Any], where: str) -> Part:
    """Return images x (n, c, h, w), uint8 or floating in [0, 1], and labels y (n,) as samples.

    Raises:
        BatError: they are something else; names ``where``.
    """
    if x.ndim != 4 or not x.size or y.shape != (len(x),) or y.dtype.kind not in "iu":
        found = f"x has shape {x.shape} and y {y.shape} of {y.dtype}"
        raise BatError(f"{where}: {found}: need (n, c, h, w) and (n,) integers, all at least 1")
    labels = torch.from_numpy(as_labels(y, len(x), f"{where}: y"))
    if x.dtype == np.uint8:
        if x.max() <= 1:
            raise BatError(f"{where}: x is uint8 from {x.min()} to {x.max()}: give 0 to 255, or floats in [0, 1]")
        return Part(torch.from_numpy(np.ascontiguousarray(x)), labels, torch.arange(len(x)), 255)
    # min and max of numbers with a NaN are NaN, which is in no range
    if x.dtype.kind != "f" or not (x.min() >= 0 and x.max() <= 1):
        found = f"x is {x.dtype}" + (f" from {x.min()} to {x.max()}" if x.dtype.kind in "iufb" else "")
        raise BatError(f"{where}: {found}: need uint8, or floats in [0, 1], none missing")
    return Part(torch.from_numpy(x.astype(np.float32, order="C")), labels, torch.arange(len(x)), 1)


def told_of(
    model: nn.Module, part: Part, spec: AttackSpec, found: Sequence[Mapping[str, Tensor]], before: Probe
) -> tuple[pd.DataFrame, pd.DataFrame, Tensor]:
    """Return the table of samples, the flags and the strongest images, from what each batch of attacks found."""
    joined = {name: torch.cat([tensors[name].cpu() for tensors in found]) for name in found[0]}
    ensemble = members(spec.ensemble)
    table = sample_table(part, joined, ensemble)
    nonfinite = int(joined["nonfinite"].sum())
    flagged = find_flags(
        model, part, table, ensemble=ensemble, batch_size=spec.batch_size, before=before, nonfinite=nonfinite
    )
    return table.assign(tier=tier(spec.ensemble)), flagged, joined["x_adv"]
