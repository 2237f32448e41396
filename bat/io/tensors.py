"""Tensors as safetensors files: data sets and weights. Nothing is ever unpickled."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bat.errors import BatError
from bat.io.files import KEY, check_kind, check_seal, replacing, seal, unsealed


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: str) -> None:
    """Write tensors as safetensors, with the provenance ``about`` and a checksum."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={KEY: unsealed(about)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(error) from error
        seal(temporary)


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the provenance of a safetensors file of ``kind``.

    Raises:
        BatError: the file is missing, damaged, or of another kind or version.
    """
    try:
        checksum = check_seal(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise BatError(f"{path}: no such file: run the stage that writes it") from error
    except (OSError, SafetensorError) as error:
        raise BatError(
            f"{path}: damaged, or no safetensors file ({error}): remove it and run its stage again"
        ) from error
    return tensors, check_kind(path, metadata.get(KEY), kind, checksum)


def kept(
    path: Path, about: str, make: Callable[[], dict[str, Tensor]], tell: Callable[[str], None]
) -> dict[str, Tensor]:
    """Return the tensors of a file that an earlier, unfinished run left, or make them and keep them there.

    A file that is missing, damaged, or made from anything but ``about`` is made anew; ``tell`` is told why.
    """
    if path.exists():
        try:
            tensors, facts = read_tensors(path, json.loads(about)["kind"])
            if facts == json.loads(about):
                return tensors
            tell(f"{path}: of another spec, or from other inputs: made anew")
        except BatError:
            tell(f"{path}: damaged, or of another version: made anew")
    tensors = make()
    write_tensors(path, tensors, about)
    return tensors
