"""Several subset models trained at once: small networks of linear layers, with the bits of training them one by one.

A step of a small network is hundreds of operations that take longer to start than to compute. Here the weights of
several networks are stacked, (models, out, in), and each operation is of all of them. Each model keeps its own
subset, seed, order of samples and normalisation, so that it depends on its seed alone, not on the others.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bat.config import Compute, OwnModel, Recipe, SizedModel
from bat.config.specs import SubsetsSpec
from bat.data.dataset import DataSet, Part
from bat.data.saved import tensor
from bat.errors import BatError
from bat.models import Network
from bat.scores.subsets import epochs_on, network, subset_of
from bat.seeds import generator
from bat.statistics import Bools
from bat.training.learner import set_learning_rate, sgd
from bat.training.loop import learning_rate_factor

MODELS = 8
"""Models at once; 16 were no faster."""

_PARAMETERS = 1_000_000
"""Of the largest network that is stacked: of larger ones the products take the time, and a stack saves none of it."""

_VECTOR = 64
"""Numbers: the fused step rounds otherwise where a tensor does not end with a vector, so that ends must stay ends."""


def train_stacked(samples: DataSet, masks: Bools, spec: SubsetsSpec, *, seeds: Sequence[int]) -> list[Network | None]:
    """Train the models of some subsets and return them.

    masks: (models, n); seeds: that of each model. None stands for a model whose training failed: trained by itself,
    it says what is wrong.
    """
    models = [
        network(subset_of(samples, mask), spec, classes=samples.classes, seed=seed)
        for mask, seed in zip(masks, seeds, strict=True)
    ]
    rows = tensor(np.stack([np.flatnonzero(mask) for mask in masks]), samples)
    finite = _fit(models, samples.train, rows, recipe=spec.recipe, seeds=seeds)
    return [model if fine else None for model, fine in zip(models, finite.tolist(), strict=True)]


def stackable(samples: DataSet, masks: Bools, spec: SubsetsSpec, *, seeds: Sequence[int]) -> bool:
    """Return whether ``train_stacked`` trains such models, and to the bits of one by one, tried on one epoch here.

    Torch promises no such bits, and they are others for some sizes (widths that are no multiple of 16) and CPUs.
    """
    recipe, model = spec.recipe, spec.model
    plain = not (recipe.crop_padding or recipe.flip or recipe.label_smoothing or recipe.ema_decay)
    natural = spec.adversary is None and spec.trainer is None and spec.compute == Compute()
    one_thread = samples.train.labels.device.type == "cpu" and torch.get_num_threads() == 1
    linear = isinstance(model, OwnModel) or (isinstance(model, SizedModel) and model.name == "mlp")
    if not (plain and natural and one_thread and linear and len(masks) > 1):
        return False
    first = network(samples.train, spec, classes=samples.classes, seed=0)
    if _layers(first) is None or sum(weights.numel() for weights in first.parameters()) > _PARAMETERS:
        return False
    short = replace(spec, recipe=replace(recipe, epochs=1))
    for mask, seed, stacked in zip(masks, seeds, train_stacked(samples, masks, short, seeds=seeds), strict=True):
        mine = subset_of(samples, mask)
        alone = network(mine, short, classes=samples.classes, seed=seed)
        try:
            for _ in epochs_on(alone, mine, short, seed=seed, what="subset model"):
                pass
        except BatError:
            return False
        if stacked is None or not all(map(torch.equal, alone.parameters(), stacked.parameters())):
            return False
    return True


def _layers(model: Network) -> list[nn.Linear] | None:
    """Return the linear layers of a network that is just these, with rectifiers between them; None of another."""
    if type(model.body) is not nn.Sequential:
        return None
    # a user's network has an identity where its head was
    inner = [layer for layer in model.body if type(layer) is not nn.Identity]
    linear = [layer for layer in inner if isinstance(layer, nn.Linear)]
    known = [type(layer) for layer in inner] == [nn.Flatten, *[nn.Linear, nn.ReLU] * len(linear)]
    whole = all(layer.bias is not None and layer.weight.requires_grad for layer in (*linear, model.head))
    return [*linear, model.head] if known and whole else None


@torch.no_grad()
def _fit(models: Sequence[Network], train: Part, rows: Tensor, *, recipe: Recipe, seeds: Sequence[int]) -> Tensor:
    """Train models in place as ``fit`` does, each on its ``rows`` (models, m) of ``train``; return which stayed finite.

    The products are those that torch's own gradients of a linear layer are made of: others round otherwise.
    """
    layers = list(zip(*(_layers(model) or [] for model in models), strict=True))
    weights = [torch.stack([layer.weight for layer in stack]) for stack in layers]
    biases = [torch.stack([layer.bias for layer in stack]) for stack in layers]
    of_weights, of_biases = ([torch.empty_like(values) for values in some] for some in (weights, biases))
    parameters = []
    for values, gradient in zip((*weights, *biases), (*of_weights, *of_biases), strict=True):
        whole = values[0].numel() % _VECTOR == 0
        for value, its in [(values, gradient)] if whole else zip(values, gradient, strict=True):
            parameters.append(nn.Parameter(value))
            parameters[-1].grad = its
    optimizer = sgd(parameters, recipe)
    mean, std = (torch.stack([getattr(model, name) for model in models])[:, None] for name in ("mean", "std"))
    lost = torch.zeros(len(models))
    batches = -(-rows.shape[1] // recipe.batch_size)
    total = recipe.epochs * batches
    for epoch in range(recipe.epochs):
        orders = [torch.randperm(rows.shape[1], generator=generator(seed, "order", epoch + 1)) for seed in seeds]
        order = rows.gather(1, torch.stack(orders))
        for number, batch in enumerate(order.tensor_split(batches, dim=1), start=epoch * batches):
            x = train.images(batch.flatten())
            x = x.view(*batch.shape, *x.shape[1:])
            inputs = [x.sub_(mean).div_(std).flatten(2)]
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                inputs.append(torch.baddbmm(bias[:, None], inputs[-1], weight.mT).relu_())
            logits = torch.baddbmm(biases[-1][:, None], inputs[-1], weights[-1].mT)
            losses, gradient = _loss(logits, train.labels[batch])
            lost += losses.sum(1)
            for place in reversed(range(len(layers))):
                torch.bmm(gradient.mT, inputs[place], out=of_weights[place])
                torch.sum(gradient, 1, out=of_biases[place])
                if place:
                    gradient = torch.ops.aten.threshold_backward(torch.bmm(gradient, weights[place]), inputs[place], 0)
            set_learning_rate(optimizer, recipe.learning_rate * learning_rate_factor(recipe.schedule, number, total))
            optimizer.step()
    for stack, weight, bias in zip(layers, weights, biases, strict=True):
        for layer, its_weight, its_bias in zip(stack, weight, bias, strict=True):
            layer.weight.copy_(its_weight)
            layer.bias.copy_(its_bias)
    return torch.stack([lost, *(values.flatten(1).sum(1) for values in (*weights, *biases))]).isfinite().all(0)


def _loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each sample's cross-entropy (models, n), and the gradient of each model's mean of them."""
    with torch.enable_grad():
        leaf = logits.requires_grad_()
        losses = F.cross_entropy(leaf.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    (gradient,) = torch.autograd.grad(losses, leaf, torch.full_like(losses, 1 / labels.shape[1]))
    return losses.detach(), gradient
