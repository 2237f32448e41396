"""What learns: a network with its optimizer, moving average and loss scaling, whose whole state can be kept."""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bat.config import Compute, Recipe
from bat.models import Network

_PRECISION = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def sgd(parameters: Iterable[Tensor], recipe: Recipe, *, fused: bool = True) -> torch.optim.SGD:
    """Return the optimizer of a recipe; ``fused``: in one operation, which must not be told to skip its first step."""
    return torch.optim.SGD(
        parameters,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.SGD, learning_rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


class Learner:
    """A network under stochastic gradient descent with momentum.

    network: the one that learns; with a moving average of weights it is a copy, and the caller's network the average.
    precision: of its body in training, None for float32.
    """

    def __init__(self, model: Network, recipe: Recipe, compute: Compute | None) -> None:
        self.network, self._model, self._average = model, model, None
        self.precision = _PRECISION[compute.precision] if compute else None
        if recipe.ema_decay:
            lerp = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
            self.network, self._average = (
                copy.deepcopy(model),
                AveragedModel(model, multi_avg_fn=lerp, use_buffers=True),
            )
            self._average.module = model
        if compute and compute.channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compute and compute.compile:
            self.network.body.compile()
        scaling = self.precision is torch.float16
        # loss scaling skips steps whose gradients overflow, often the first, after which the momentum of a fused
        # optimizer is memory that nothing was written to
        self._optimizer = sgd(self.network.parameters(), recipe, fused=not scaling)
        self.scaler = torch.amp.GradScaler(model.mean.device.type, enabled=scaling)

    def zero_gradients(self) -> None:
        """Forget the gradients of the last step."""
        self._optimizer.zero_grad()

    def step(self, learning_rate: float) -> None:
        """Move the weights by their gradients, and their average after them."""
        set_learning_rate(self._optimizer, learning_rate)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        if self._average:
            self._average.update_parameters(self.network)

    def state(self) -> dict[str, Tensor]:
        """Return copies of all that the next step depends on."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, slots in self._optimizer.state_dict()["state"].items():
            tensors[f"momentum.{number}"] = slots["momentum_buffer"]
        if self._average:
            tensors |= {f"average.{name}": tensor for name, tensor in self._model.state_dict().items()}
            tensors["averaged"] = self._average.n_averaged
        if self.scaler.is_enabled():
            scaling = self.scaler.state_dict()
            tensors["scale"] = torch.tensor(scaling["scale"], dtype=torch.float64)
            tensors["growth"] = torch.tensor(scaling["_growth_tracker"])
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned for the same recipe."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}

        self.network.load_state_dict(part("network"))
        # in the layout of the weights, which files do not keep: fused SGD walks through both as they lie in memory
        weights = list(self.network.parameters())
        momentum = {int(number): tensor for number, tensor in part("momentum").items()}
        slots = {
            number: {"momentum_buffer": torch.empty_like(weights[number], requires_grad=False).copy_(tensor)}
            for number, tensor in momentum.items()
        }
        self._optimizer.load_state_dict({"state": slots, "param_groups": self._optimizer.state_dict()["param_groups"]})
        if self._average:
            self._model.load_state_dict(part("average"))
            self._average.n_averaged.copy_(state["averaged"])
        if self.scaler.is_enabled():
            scaling = self.scaler.state_dict()
            scaling |= {"scale": float(state["scale"]), "_growth_tracker": int(state["growth"])}
            self.scaler.load_state_dict(scaling)
