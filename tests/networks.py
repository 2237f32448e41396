"""Small networks trained on digits in seconds, for attacks to work on, and what attacks must leave as it is."""

import copy
from typing import Any, Literal

import numpy as np
import torch
from methods import BAT, NATURAL, PGD_AT
from torch import nn

from bat.config import Adversary, OneCycle, Packaged, Pgd, Recipe, SizedModel, Threat
from bat.data.dataset import Part, load_source
from bat.models import Network, build
from bat.training.loop import fit
from bat.training.losses import objective

METHODS = {"natural": NATURAL, "pgd_at": PGD_AT, "bat": BAT}


def trained(
    method: str, *, name: str, width: int, epochs: int, data: Literal["digits", "mnist5k"] = "digits"
) -> tuple[Network, Part]:
    """Return a network trained with one of ``METHODS``, and the test samples of the data set.

    BAT takes each tenth sample for atypical.
    """
    source = load_source(Packaged(name=data, train_samples=600, validation_samples=200, split_seed=0), subsample=1.0)
    model = build(SizedModel(name=name, width=width), source.train, classes=10, seed=0)
    recipe = Recipe(
        epochs=epochs,
        batch_size=100,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule=OneCycle(name="one_cycle", warmup=0.3),
        crop_padding=0,
        flip=False,
        label_smoothing=0.0,
        ema_decay=0.0,
    )
    adversary = Adversary(threat=Threat(norm="linf", eps=0.1), attack=Pgd(steps=3, step_size=0.05), attack_bn="eval")
    goal = objective(METHODS[method])
    atypical = torch.arange(len(source.train)) % 10 == 0
    for _ in fit(
        model, source.train, objective=goal, recipe=recipe, seed=0, what=data, atypical=atypical, adversary=adversary
    ):
        pass
    return model, source.test


def snapshot(model: nn.Module) -> list[Any]:
    """Return all of the model and of the process that an attack must leave as it found it."""
    hooks = [
        (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for module in model.modules()
    ]
    return [
        copy.deepcopy(model.state_dict()),
        [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        [module.training for module in model.modules()],
        hooks,
        torch.get_rng_state(),
        np.random.get_state()[1],  # noqa: NPY002
        torch.is_grad_enabled(),
    ]
