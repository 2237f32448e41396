"""Methods of the user's own: what their functions return, checked at every batch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bat.attacks.gradient import InnerLoss
from bat.config import OwnMethod, own_function
from bat.errors import BatError

_FORM = (
    "give def method(model, batch), which returns (losses, logits), or (losses, logits, weights): losses of the "
    "samples (n,) or their mean, logits (n, classes) of batch.x, weights (n,)"
)
_INNER = "give def inner(logits, labels), which returns the loss of each sample (n,), which the attack raises"


MethodFunction = Callable[[nn.Module, Any], tuple[Any, ...]]
"""What a user's method is: from a network and a ``Batch`` to what ``Losses`` describes, that or a plain tuple.

Its inner problem is an ``InnerLoss``, as those of this package.
"""


def own_losses(method: OwnMethod) -> MethodFunction:
    """Return the user's function from a network and a batch to losses, logits, weights and discrimination."""
    where = f"method {method.name}, {method.objective}"
    function: MethodFunction = own_function(method.objective, _FORM, taken=2, part=method)

    def losses(model: nn.Module, batch: Any) -> tuple[Tensor | None, ...]:
        found = function(model, batch)
        n = len(batch.labels)
        if not isinstance(found, tuple) or not 2 <= len(found) <= 4:
            raise BatError(f"{where}: returned {_described(found)}: {_FORM}")
        names = ("losses", "logits", "weights", "discrimination")
        for name, value in zip(names, found, strict=False):
            if value is None and name in names[2:]:
                continue
            shapes: dict[str, list[tuple[int, ...]]]
            shapes = {"losses": [(), (n,)], "weights": [(n,)], "discrimination": [()]}
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise BatError(f"{where}: {name} is {_described(value)}: {_FORM}")
            if value.shape not in shapes[name] if name in shapes else value.ndim != 2 or len(value) != n:
                raise BatError(f"{where}: {name} has shape {tuple(value.shape)} for {n} samples: {_FORM}")
        if not found[0].requires_grad:
            raise BatError(f"{where}: the losses have no gradient: compute them from what the model returns")
        return found

    return losses


def own_inner(method: OwnMethod, entry: str) -> InnerLoss:
    """Return the user's function from logits and labels to what an attack maximises."""
    function = own_function(entry, _INNER, taken=2)

    def inner(logits: Tensor, labels: Tensor) -> Tensor:
        found = function(logits, labels)
        if not isinstance(found, Tensor) or found.shape != labels.shape or not found.is_floating_point():
            raise BatError(
                f"method {method.name}, {entry}: returned {_described(found)} for {len(labels)} samples: {_INNER}"
            )
        return found

    return inner


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype)[6:]} of shape {tuple(value.shape)}"
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
