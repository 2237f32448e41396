"""A simulated GPU: tensors in host memory that say they lie on cuda, and refuse what CUDA would.

Refused are operations of tensors on two devices, numpy's reading of a tensor of the GPU, and a generator of another
device than the numbers it draws. Numbers are a CPU's to the bit, so that a stage gives what it gives there. Nothing is
said of a GPU's rounding, memory or speed, nor of torch.compile.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
_READS_HOST_INDICES = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)


class OnGpu(Tensor):
    """A tensor that says it lies on the GPU; ``held`` is where its values are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made: OnGpu = Tensor._make_wrapper_subclass(cls, held.shape, device="cpu", **layout)
        made.held = held.detach()
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    def __repr__(self) -> str:
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_dispatch__(cls, called: Any, types: Any, args: Any = (), named: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        strangers = [each for each in tensors if not isinstance(each, OnGpu) and each.dim() > 0]
        if called in _READS_HOST_INDICES and isinstance(args[0], OnGpu):
            strangers = [each for each in strangers if any(each is value for value in args[2:])]
        if strangers and called is not torch.ops.aten.copy_.default:
            raise RuntimeError(f"tensors of two devices, cuda:0 and cpu: {called}")
        found = called(*tree_map(_held, args), **tree_map(_held, named or {}))
        # what was changed in place is the same tensor as before
        known = {id(_held(each)): each for each in tensors}
        return tree_map(lambda leaf: known.get(id(leaf), _on_gpu(leaf)), found)


class _Generator(torch.Generator):
    """A generator of the CPU that knows for which device it is."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        made = super().__new__(cls, "cpu")
        made.type = torch.device(device).type
        return made


class _Mode(TorchFunctionMode):
    """What is asked of tensors above the operations: their device, moves between devices, new ones on the GPU."""

    def __torch_function__(self, called: Any, types: Any, args: Any = (), named: Any = None) -> Any:
        named, name = dict(named or {}), getattr(called, "__name__", "")
        first = args[0] if args else None
        if called == Tensor.device.__get__ and isinstance(first, OnGpu):
            return CUDA
        if called == Tensor.is_cuda.__get__:
            return isinstance(first, OnGpu)
        if name in ("numpy", "__array__", "pin_memory") and isinstance(first, OnGpu):
            raise TypeError(f"{name}: not of a tensor on cuda:0")
        if name == "pin_memory":
            return first
        if name in ("to", "cpu") and isinstance(first, Tensor):
            return _moved(name, *args, **named)
        asked = torch.device(named.get("device") or (CUDA if isinstance(first, OnGpu) else "cpu")).type
        if "generator" in named and getattr(named["generator"], "type", asked) != asked:
            raise RuntimeError(f"{name}: a generator of {named['generator'].type} for numbers on {asked}")
        if name == "one_hot" and isinstance(first, OnGpu):  # asks for a device below the operations
            return OnGpu(called(first.held, *args[1:], **named))
        if named.get("device") is not None and asked == "cuda":
            return tree_map(_on_gpu, called(*args, **named | {"device": "cpu"}))
        return called(*args, **named)


class _Copied(torch.autograd.Function):
    """A copy on the other device, which gradients go back through."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.held.clone() if isinstance(x, OnGpu) else OnGpu(x.clone())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient.held.clone() if isinstance(gradient, OnGpu) else OnGpu(gradient.clone())


def _moved(name: str, x: Tensor, *args: Any, dtype: Any = None, device: Any = None, **named: Any) -> Tensor:
    device = "cpu" if name == "cpu" else device
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, Tensor):
            dtype, device = value.dtype, CUDA if isinstance(value, OnGpu) else "cpu"
        elif not isinstance(value, bool):
            device = device if value is None else value
    if device is not None and (torch.device(device).type == "cuda") != isinstance(x, OnGpu):
        x = _Copied.apply(x.detach() if isinstance(x, torch.nn.Parameter) else x)
    named.pop("non_blocking", None)
    with torch._C.DisableTorchFunction():
        return x.to(dtype or x.dtype, **named)


def _held(leaf: Any) -> Any:
    return leaf.held if isinstance(leaf, OnGpu) else leaf


def _on_gpu(leaf: Any) -> Any:
    return OnGpu(leaf) if isinstance(leaf, Tensor) and not isinstance(leaf, OnGpu) else leaf


@contextmanager
def simulated_gpu() -> Iterator[None]:
    """Let torch find one GPU, whose tensors are simulated."""
    autocast, scaler = torch.autocast, torch.amp.GradScaler
    cuda: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda device=None: "a simulated GPU",
        "mem_get_info": lambda device=None: (1 << 36, 1 << 37),
        "device": lambda device: nullcontext(),
        "manual_seed": lambda seed: None,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "synchronize": lambda device=None: None,
    }
    with ExitStack() as stack:
        for name, stub in cuda.items():
            stack.enter_context(patch.object(torch.cuda, name, stub))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(
            patch.object(torch, "autocast", lambda device_type, *args, **named: autocast("cpu", *args, **named))
        )
        stack.enter_context(patch.object(torch.amp, "GradScaler", lambda device, **named: scaler("cpu", **named)))
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, before)
        stack.enter_context(_Mode())
        yield
