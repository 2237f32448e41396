"""A user's own model under attack on the user's own images."""

import hashlib
import importlib
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from bat.config import Model, parse
from bat.data import Part
from bat.errors import BatError
from bat.files import provenance
from bat.journal import Journal
from bat.models import build, mode
from bat.npz import as_labels, open_npz, read_array
from bat.specs import AttackSpec
from bat.stages.evaluation import attacked
from bat.stages.inputs import device_named
from bat.tables import write_table
from bat.tensors import write_tensors


def attack(
    journal: Journal,
    *,
    model: str,
    architecture: str | None,
    data: str,
    norm: str,
    eps: float,
    ensemble: str,
    batch_size: int,
    seed: int,
    out: str,
    flags: str,
    images: str | None,
    device: str,
) -> None:
    """Attack a model of the user's on the images of an npz file; write per-sample results and flags."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    # PGD-20 stands beside the ensemble, so that the gap between them is seen
    pgd = {"name": "pgd", "steps": 20, "step_size": eps / 8, "restarts": 1}
    threat = {"norm": norm, "eps": eps}
    spec = {"threat": threat, "seed": seed, "batch_size": batch_size, "pgd": pgd, "ensemble": ensemble}
    plan = parse(AttackSpec, spec, "command line")
    where = device_named(device)
    part = _read_images(data).to(where)
    if architecture is not None:
        network = _read_weights(model, architecture, part)
    else:
        network = _read_script(model) if Path(model).is_file() else _load(model)
    network = network.to(where)
    _check_outputs(model, network, part)
    weights = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        weights.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    about = {"spec": spec, "model": model, "weights": weights.hexdigest(), "data": _digest(part)}
    folder = Path(f"{out}.parts")
    table, flagged, strongest = attacked(journal, network, part, plan, folder, about)
    this = {"method": model, "seed": None, "checkpoint": None}
    if images:
        write_tensors(images, {"x_adv": strongest}, provenance("images", **about))
    write_table(flags, "flags", flagged.assign(**this), provenance("flags", **about))
    rows = table.assign(**this, atypical=None, max_influence=None, memorization=None)
    write_table(out, "per_sample", rows, provenance("per_sample", **about))
    shutil.rmtree(folder)
    clean, pgd_right, robust = (100 * table[f"{name}_correct"].mean() for name in ("clean", "pgd", "robust"))
    journal.line(
        f"{len(table)} images, {norm} {eps:g}: clean {clean:.2f} %, PGD-20 {pgd_right:.2f} %, "
        f"{table['tier'].iloc[0]} {robust:.2f} %"
    )


def _read_script(path: str) -> nn.Module:
    """Read a TorchScript file. Its code runs in TorchScript's own interpreter: no Python, and nothing is unpickled."""
    try:
        with warnings.catch_warnings():
            # torch would rather have torch.export's files, which are unpickled when they are read
            warnings.simplefilter("ignore", FutureWarning)
            network: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BatError(
            f"{path}: no TorchScript file ({reason}): write one with torch.jit.save, give safetensors weights with "
            "--architecture, or give module:function (also for torch.export, whose files are unpickled)"
        ) from error
    return network


def _load(entry: str) -> nn.Module:
    """Call the Python entry point ``module:function``, which returns a module."""
    module_name, _, function_name = entry.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        model = getattr(importlib.import_module(module_name), function_name)()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise BatError(
            f"{entry}: cannot be loaded ({type(error).__name__}: {error}): give module:function, a function without "
            "arguments that returns a torch.nn.Module from images in [0, 1] to logits"
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(model, nn.Module):
        raise BatError(f"{entry}: returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _read_weights(path: str, architecture: str, part: Part) -> nn.Module:
    """Build a network of this package, NAME:WIDTH, for the images of ``part`` and read its weights.

    The file may be any safetensors file with the network's tensors, pixel statistics ``mean`` and ``std`` among them.
    """
    record: dict[str, Any] = {"name": architecture}
    name, _, width = architecture.partition(":")
    if name not in ("torchvision", "timm"):  # whose names hold a colon
        record = {"name": name} | ({"width": int(width) if width.isdecimal() else width} if width else {})
    plan: Model = parse(Model, record, "--architecture NAME or NAME:WIDTH")  # type: ignore[arg-type]  # a union
    try:
        weights = load_file(path)
        classes = len(weights["head.bias"])
        # the file holds the pixel statistics of its own training images
        shape = replace(part.take(torch.arange(1)), pixels=part.pixels[:1].byte())
        network = build(plan, shape, classes=classes, seed=0)
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BatError(
            f"{path}: not the weights of {architecture} for images {tuple(part.pixels.shape[1:])} ({reason})"
        ) from error
    return network.eval()


def _read_images(path: str) -> Part:
    """Read x (n, c, h, w), uint8 or floating in [0, 1], and y (n,) from an npz file."""
    with open_npz(path) as arrays:
        x, y = (read_array(arrays, name) for name in ("x", "y"))
    if x.ndim != 4 or not x.size or y.shape != (len(x),) or y.dtype.kind not in "iu":
        found = f"x has shape {x.shape} and y {y.shape} of {y.dtype}"
        raise BatError(f"{path}: {found}: need (n, c, h, w) and (n,) integers, all at least 1")
    labels = torch.from_numpy(as_labels(y, len(x), f"{path}: y"))
    if x.dtype == np.uint8:
        if x.max() <= 1:
            raise BatError(f"{path}: x is uint8 from {x.min()} to {x.max()}: give 0 to 255, or floats in [0, 1]")
        return Part(torch.from_numpy(np.ascontiguousarray(x)), labels, torch.arange(len(x)), 255)
    # min and max of numbers with a NaN are NaN, which is in no range
    if x.dtype.kind != "f" or not (x.min() >= 0 and x.max() <= 1):
        found = f"x is {x.dtype}" + (f" from {x.min()} to {x.max()}" if x.dtype.kind in "iufb" else "")
        raise BatError(f"{path}: {found}: need uint8, or floats in [0, 1], none missing")
    return Part(torch.from_numpy(x.astype(np.float32, order="C")), labels, torch.arange(len(x)), 1)


def _check_outputs(entry: str, network: nn.Module, part: Part) -> None:
    with torch.no_grad(), mode(network, training=False):
        logits = network(part.images(slice(0, 2)))
    low, high = int(part.labels.min()), int(part.labels.max())
    if logits.ndim != 2 or logits.shape[1] < 2 or low < 0 or high >= logits.shape[1]:
        raise BatError(
            f"{entry}: outputs have shape {tuple(logits.shape)} for labels {low} to {high}: need (n, classes) logits, "
            "a class for each label"
        )


def _digest(part: Part) -> str:
    return hashlib.sha256(part.pixels.cpu().numpy().tobytes() + part.labels.cpu().numpy().tobytes()).hexdigest()
