"""A model of the user's: read, called, and told in one line where it is not what an attack needs."""

import hashlib
import io
import os
import tokenize
import warnings
import zipfile
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bat.attacks.gradient import ascent, cross_entropy
from bat.config import Model, own_function, parse, users_code
from bat.config.model import model_record
from bat.data.dataset import Part
from bat.errors import BatError, is_out_of_memory, one_line
from bat.models import build, mode
from bat.models.own import check_gradients

_NEEDED = "give a model from float32 images (n, c, h, w) in [0, 1], for any n, to logits (n, classes)"
_FORM = (
    "give module:function, a function without arguments that returns a torch.nn.Module from images in [0, 1] to logits"
)

WITHOUT_GRADIENTS = "attacked without gradients, so that only Square's result counts"
"""What to say, with the reason, where ``check_outputs`` returns one."""

_OPERATORS = {"aten", "prim", "quantized", "mkldnn", "mkldnn_prepacked", "prepacked", "onednn", "torchvision", "cuda"}
"""TorchScript's operators that compute and no more, but for ``_FORBIDDEN``; others may reach a file or the network."""

_FORBIDDEN = {"save", "from_file", "load", "open", "read_file", "write_file", "load_tensor", "rpc_async", "rpc_sync"}


class Judged(nn.Module):
    """A user's model whose every output is checked: float32 or float64 logits (n, classes), or a BatError.

    Its images are copies, and so are its outputs: it may change both in place. Integers count as logits without a
    gradient. differentiable: False for a model whose gradient cannot be computed, which then runs without one.
    """

    def __init__(self, inner: nn.Module, entry: str) -> None:
        super().__init__()
        self.inner, self.training = inner, inner.training
        self.entry, self.classes, self.differentiable = entry, 0, True
        self.kind: torch.dtype | None = None

    def train(self, mode: bool = True) -> "Judged":
        """Set the mode of the user's model, whose method may be anything."""
        with users_code(f"{self.entry}: its train({mode}) fails"):
            super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images x: (n, c, h, w) in [0, 1]."""
        doing = f"{self.entry}: fails on images {tuple(x.shape)} of {str(x.dtype)[6:]} on {x.device}"
        with users_code(doing, hint=_NEEDED), torch.set_grad_enabled(torch.is_grad_enabled() and self.differentiable):
            output = self.inner(x.clone())
        with users_code(doing, hint=_NEEDED):  # an output of a kind of its own may fail when it is looked at
            return self._logits(output, x)

    def _logits(self, output: Any, x: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise BatError(f"{self.entry}: returns {_described(output)}, not a tensor: {_NEEDED}")
        plain = output.layout is torch.strided and not (output.is_nested or output.is_quantized or output.is_complex())
        if not plain or output.device.type == "meta":
            raise BatError(f"{self.entry}: returns {_described(output)}: {_NEEDED}")
        if output.ndim != 2 or len(output) != len(x) or output.shape[1] < 2 or self.classes not in (0, output.shape[1]):
            wanted = self.classes or "classes"
            raise BatError(
                f"{self.entry}: outputs have shape {tuple(output.shape)} for {len(x)} images, not "
                f"({len(x)}, {wanted}): {_NEEDED}"
            )
        logits: Tensor = output.as_subclass(Tensor)
        wide = logits.dtype is torch.float64 or not logits.is_floating_point()
        # of one type at every call, as attacks put them together
        self.kind = self.kind or (torch.float64 if wide else torch.float32)
        return logits.to(x.device, self.kind).clone()


def read_own_model(entry: str, architecture: str | None, part: Part, device: torch.device) -> nn.Module:
    """Return the model that ``entry`` names, on ``device``.

    A network of this package is returned itself, any other as ``Judged``.

    Raises:
        BatError: it cannot be read or built.
    """
    if architecture is not None:
        return read_weights(entry, architecture, part).to(device)
    # not Path.is_file, which raises for a name that is too long
    if os.path.isdir(entry):  # noqa: PTH112
        raise BatError(f"{entry}: is a folder: give a file or module:function")
    if os.path.isfile(entry):  # noqa: PTH113
        if entry.endswith(".safetensors"):
            raise BatError(f"{entry}: holds weights alone: say of which network, with --architecture")
        network = _read_script(entry)
    else:
        network = _load(entry)
    with users_code(f"{entry}: cannot be used as a torch.nn.Module"):
        judged = Judged(network.to(device), entry)
        with mode(judged, training=False):
            list(judged.parameters())
    return judged


def check_outputs(model: nn.Module, part: Part, batch_size: int, entry: str) -> str | None:
    """Pass a few images through ``model``, and a gradient back; return why there is none, None where there is one.

    Raises:
        BatError: the model was made in inference mode or fails, or its outputs are no logits with a class for each
            label.
    """
    check_gradients(model, entry)
    with torch.no_grad(), mode(model, training=False):
        logits = model(part.images(slice(0, 2)))
        low, high = int(part.labels.min()), int(part.labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise BatError(
                f"{entry}: outputs have shape {tuple(logits.shape)} for labels {low} to {high}: "
                "need (n, classes) logits, a class for each label"
            )
        if not isinstance(model, Judged):
            return None
        model.classes = logits.shape[1]
        rows = slice(0, min(batch_size, len(part)))
        try:
            ascent(model, part.images(rows), part.labels[rows], cross_entropy)
        except BatError as error:
            model.differentiable = False
            model(part.images(rows))  # what fails without a gradient, too, is no matter of gradients
            return str(error)
    return None


def weights_digest(model: nn.Module, entry: str) -> str:
    """Return a hash of the names and bytes of a model's tensors."""
    digest = hashlib.sha256()
    with users_code(f"{entry}: its state_dict() fails"):
        for name, tensor in model.state_dict().items():
            digest.update(f"{name} ".encode(errors="backslashreplace"))
            if isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_quantized:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:  # no plain numbers: what the model says of the images tells it from others
                digest.update(type(tensor).__name__.encode())
    return digest.hexdigest()


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of {str(output.dtype)[6:]}, layout {str(output.layout)[6:]}, on {output.device.type}"
    if isinstance(output, dict):
        return f"a dict with keys {one_line(list(output), 100)}"
    return "None" if output is None else f"a {type(output).__name__}"


def _load(entry: str) -> nn.Module:
    """Call the Python entry point ``module:function``, which returns a module."""
    model = own_function(entry, _FORM)()
    if not isinstance(model, nn.Module):
        raise BatError(f"{entry}: returned {type(model).__name__}, not a torch.nn.Module: {_FORM}")
    return model


def _read_script(path: str) -> nn.Module:
    """Read a TorchScript file, after a look at its operators: its code may run already while it is read."""
    try:
        _check_operators(path)
        with warnings.catch_warnings():
            # torch would rather have torch.export's files, which are unpickled when they are read
            warnings.simplefilter("ignore", FutureWarning)
            network: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        if is_out_of_memory(error):
            raise
        raise BatError(
            f"{path}: no TorchScript file ({one_line(error, 200)}): write one with torch.jit.save, give safetensors "
            "weights with --architecture, or give module:function (also for torch.export, whose files are unpickled)"
        ) from error
    return network


def _check_operators(path: str) -> None:
    """Refuse a TorchScript file whose code names operators that reach beyond its tensors."""
    with zipfile.ZipFile(path) as archive:
        sources = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}
    for name, source in sources.items():
        try:
            tokens = [token.string for token in tokenize.tokenize(io.BytesIO(source).readline) if token.string.strip()]
        except (tokenize.TokenError, SyntaxError) as error:
            raise BatError(f"{path}: its code {name} cannot be read, so that it is not run ({error})") from error
        for place, token in enumerate(tokens):
            after = tokens[place + 2] if tokens[place + 1 : place + 2] == ["."] else ""
            outside = token == "ops" and after and after not in _OPERATORS
            classes = token == "classes" and after and after not in ("quantized", "mkldnn", "xnnpack")
            if token in _FORBIDDEN or outside or classes:
                found = f"{token}.{after}" if after else token
                raise BatError(
                    f"{path}: its code calls {found}, which may read or write files or the network: not run; "
                    "give module:function if you trust it"
                )


def read_weights(path: str, architecture: str, part: Part) -> nn.Module:
    """Build a network of this package, NAME:WIDTH, for the images of ``part`` and read its weights.

    The file may be any safetensors file with the network's tensors, pixel statistics ``mean`` and ``std`` among them.
    """
    plan: Model = parse(Model, model_record(architecture), "--architecture NAME or NAME:WIDTH")  # type: ignore[arg-type]  # a union
    try:
        weights = load_file(path)
        bias = weights["head.bias"]
        if bias.ndim != 1 or len(bias) < 2:
            raise ValueError(f"head.bias has shape {tuple(bias.shape)}")
        # the file holds the pixel statistics of its own training images
        shape = replace(part.take(torch.arange(1)), pixels=part.pixels[:1].byte())
        network = build(plan, shape, classes=len(bias), seed=0)
        for key, tensor in network.state_dict().items():
            given = weights.get(key, tensor)
            if given.is_floating_point() != tensor.is_floating_point():
                raise ValueError(f"{key} is {str(given.dtype)[6:]}, not {str(tensor.dtype)[6:]}")
            if not bool(given.isfinite().all()):
                raise ValueError(f"{key} holds NaN or infinity")
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        images = tuple(part.pixels.shape[1:])
        raise BatError(
            f"{path}: not the weights of {architecture} for images {images} ({one_line(error, 400)})"
        ) from error
    return network.eval()
