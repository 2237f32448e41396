"""A user's own model under attack on the user's own images."""

import hashlib
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from bat.attacks.ball import random_start
from bat.attacks.gradient import ascent, cross_entropy
from bat.config.ranges import BatchSize, Seed
from bat.config.specs import AttackSpec
from bat.data.dataset import Part
from bat.data.saved import device_named
from bat.errors import BatError
from bat.evaluation.direct import as_part, attack_plan, check_threat
from bat.evaluation.flags import is_random, probe
from bat.evaluation.own_model import WITHOUT_GRADIENTS, check_outputs, read_own_model, weights_digest
from bat.evaluation.stage import attack_all
from bat.io.files import provenance
from bat.io.journal import Journal
from bat.io.npz import open_npz, read_array
from bat.io.outputs import Parquet, Safetensors
from bat.io.tables import write_table
from bat.io.tensors import read_tensors, write_tensors
from bat.models import attackable
from bat.seeds import derive_seed, uniform


def attack(
    journal: Journal,
    *,
    model: Path | str,
    architecture: str | None = None,
    data: Path,
    norm: str,
    eps: float,
    ensemble: str = "standard",
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    out: Parquet,
    flags: Parquet,
    images: Safetensors | None = None,
    device: str = "auto",
) -> None:
    """Attack a model of the user's on the images of an npz file; write per-sample results and flags.

    model: module:function, a function that returns a torch.nn.Module from images in [0, 1] to logits; or a TorchScript
        file; both are programs: run only what you trust. Or, with --architecture, a safetensors file of weights
    architecture: a network of the config, as in resnet18 or small_cnn:16 (a width after the colon)
    data: npz file: x (n, c, h, w), uint8 or floats in [0, 1]; y (n,) integers
    norm: linf or l2
    eps: largest perturbation, for pixels in [0, 1], as in 8/255
    ensemble: fast or standard (default: AutoAttack's standard)
    batch_size: images in one forward pass (default: 256)
    seed: seed of the attacks' random numbers (default: 0)
    out: results, one row per image, as attacked.parquet of stage evaluate
    flags: signs that the result may be too high
    images: also write the strongest adversarial images found

    Example:
        bat attack --model my_package.models:load --data images.npz --norm linf --eps 8/255 \\
            --out results.parquet --flags flags.parquet
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    where = device_named(device)
    # the user's code may change the folder
    out, flags, images = out.absolute(), flags.absolute(), images and images.absolute()
    model = str(model)
    check_threat("--", norm, eps)
    plan = attack_plan(norm, eps, ensemble, seed=seed, batch_size=batch_size, where="command line")
    part = _read_images(data).to(where)
    check_threat("--", norm, eps, part)
    folder = Path(f"{out}.parts")
    _check_folder(folder)
    network = read_own_model(model, architecture, part, where)
    no_gradient = check_outputs(network, part, batch_size, model)
    if no_gradient:
        journal.line(f"{WITHOUT_GRADIENTS}: {no_gradient}")
    about = {"spec": asdict(plan), "model": model, "weights": weights_digest(network, model), "data": _digest(part)}
    before = probe(network, part, batch_size)
    said = {"clean": before.logits} | _said(network, part, plan)
    if folder.exists() and (is_random(before.random) or not _is_same(folder / _SAID, said)):
        journal.line(f"{folder}: left by another model, or by a random one: starts anew")
        shutil.rmtree(folder)
    write_tensors(folder / _SAID, said, provenance("said", **about))
    table, flagged, strongest = attack_all(journal, network, part, plan, folder, about, before)
    about["logits"] = hashlib.sha256(before.logits.cpu().numpy().tobytes()).hexdigest()
    this = {"method": model, "seed": None, "checkpoint": None}
    if images:
        write_tensors(images, {"x_adv": strongest}, provenance("images", **about))
    write_table(flags, "flags", flagged.assign(**this), provenance("flags", **about))
    write_table(out, "attacked", table.assign(**this), provenance("attacked", **about))
    shutil.rmtree(folder)
    clean, pgd_right, robust = (100 * table[f"{name}_correct"].mean() for name in ("clean", "pgd", "robust"))
    journal.line(
        f"{len(table)} images, {norm} {eps:g}: clean {clean:.2f} %, PGD-20 {pgd_right:.2f} %, "
        f"{table['tier'].iloc[0]} {robust:.2f} %"
    )


_SAID = "said.safetensors"
"""What the model said, beside the finished batches of an unfinished run."""


def _said(model: nn.Module, part: Part, plan: AttackSpec) -> dict[str, Tensor]:
    """Return the logits at random points of the eps ball, and the gradients of the first batch there.

    Weights and a name are not all of a model: its code may be edited, also where clean images do not show it.
    """
    threat, gradient = plan.threat, torch.empty(0)
    logits: list[Tensor] = []
    with attackable(model):
        for rows in torch.split(torch.arange(len(part), device=part.labels.device), plan.batch_size):
            x = part.images(rows)
            random = uniform(derive_seed(0, "said"), part.index[rows], tuple(x.shape[1:]))
            start = random_start(x, random, norm=threat.norm, eps=threat.eps)
            if not logits:
                _, said, gradient = ascent(model, start, part.labels[rows], cross_entropy)
            else:
                with torch.no_grad():
                    said = model(start)
            logits.append(said)
    return {"perturbed": torch.cat(logits), "gradient": gradient}


def _is_same(path: Path, said: dict[str, Tensor]) -> bool:
    """Return whether an unfinished run's model said the same, to rounding."""
    try:
        kept, _ = read_tensors(path, "said")
    except BatError:
        return False
    return kept.keys() == said.keys() and all(_agree(kept[name], tensor.cpu()) for name, tensor in said.items())


def _agree(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    rounding = 1e-5 * float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 0
    return torch.allclose(one, other, rtol=0, atol=rounding, equal_nan=True)


def _check_folder(folder: Path) -> None:
    """Refuse a folder of parts that holds anything else: it is removed at the end."""
    if folder.exists() and not folder.is_dir():
        raise BatError(f"{folder}: is a file, where finished batches are to be kept: choose another --out")
    for path in folder.glob("*"):
        if not re.fullmatch(rf"\.?(\d+\.safetensors|{re.escape(_SAID)})(\..*tmp.*)?", path.name):
            raise BatError(f"{path}: not of an unfinished attack: choose another --out, or remove it")


def _read_images(path: Path) -> Part:
    """Read x (n, c, h, w), uint8 or floating in [0, 1], and y (n,) from an npz file."""
    with open_npz(path) as arrays:
        x, y = (read_array(arrays, name) for name in ("x", "y"))
    return as_part(x, y, str(path))


def _digest(part: Part) -> str:
    digest = hashlib.sha256(f"{part.pixels.dtype} {tuple(part.pixels.shape)}".encode())
    digest.update(part.pixels.cpu().numpy().tobytes() + part.labels.cpu().numpy().tobytes())
    return digest.hexdigest()
