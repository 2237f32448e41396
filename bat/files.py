"""Reading and writing whole files: atomic, with their provenance, and never unpickled."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bat import __version__
from bat.data import DataSet, Part
from bat.errors import BatError

KEY = "bat"
"""The metadata key under which each file carries the JSON of its provenance."""


def provenance(kind: str, **facts: Any) -> str:
    """Return the JSON that a file of ``kind`` carries: the package version and ``facts`` such as the stage's spec."""
    return json.dumps({"kind": kind, "version": __version__} | facts, sort_keys=True)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` and rename it to ``path`` when all went well.

    Raises:
        BatError: the file cannot be written (a full disk, a missing right); an existing file stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise BatError(f"{path}: cannot be written ({error}): make room or choose another folder") from error
    finally:
        with suppress(OSError):  # a folder that is none must not hide the error above
            temporary.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: str) -> None:
    """Write tensors as safetensors, with the provenance ``about``."""
    with replacing(path) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={KEY: about})


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the provenance of a safetensors file of ``kind``.

    Raises:
        BatError: the file is missing, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise BatError(f"{path}: no such file: run the stage that writes it") from error
    except (OSError, SafetensorError) as error:
        raise BatError(
            f"{path}: damaged, or no safetensors file ({error}): remove it and run its stage again"
        ) from error
    return tensors, check_kind(path, metadata.get(KEY), kind)


def check_kind(path: str | Path, about: str | None, kind: str) -> dict[str, Any]:
    """Return the provenance of a file, or raise BatError when it is not of ``kind``."""
    facts: dict[str, Any] = json.loads(about) if about else {}
    if facts.get("kind") != kind:
        raise BatError(f"{path}: holds {facts.get('kind', 'nothing of this package')}, not {kind}: give another file")
    return facts


def write_data(path: str | Path, data: DataSet, about: str) -> None:
    """Write a data set as one safetensors file."""
    tensors = {
        "classes": torch.tensor(data.classes),
        "pixel_max": torch.tensor(data.train.pixel_max),
    }
    for name, part in data.parts().items():
        tensors |= {f"{name}_pixels": part.pixels, f"{name}_labels": part.labels, f"{name}_index": part.index}
    write_tensors(path, tensors, about)


def read_data(path: str | Path) -> DataSet:
    """Read a data set that ``write_data`` wrote.

    Raises:
        BatError: the file is missing, damaged, or of another kind.
    """
    tensors, _ = read_tensors(path, "data")
    pixel_max = int(tensors["pixel_max"])
    train, validation, test = (
        Part(tensors[f"{name}_pixels"], tensors[f"{name}_labels"], tensors[f"{name}_index"], pixel_max)
        for name in ("train", "validation", "test")
    )
    return DataSet(train, validation, test, int(tensors["classes"]))
