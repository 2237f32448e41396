"""Subset models that a function of the user's own trains, in any framework."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bat.config import OwnTrainer, own_function, users_code
from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.scores.shards import said_columns

_FORM = (
    "give def fit(images, labels, *, seed, classes), which returns a function from images (n, c, h, w), float32 numpy "
    "in [0, 1], to probabilities (n, classes) or labels (n,)"
)


class FitFunction(Protocol):
    """What trains a user's subset model: from images (n, c, h, w) and labels (n,) to a predictor of others."""

    def __call__(
        self, images: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int, classes: int
    ) -> Callable[[NDArray[np.float32]], Any]:
        """Return the predictor."""


def own_answers(trainer: OwnTrainer, subset: Part, samples: DataSet, *, seed: int) -> dict[str, Tensor]:
    """Train a model on a subset by the user's function; return what it says of the samples of each split.

    As ``answers``; the probability of a predictor that gives labels alone is 1 for the one it gives, and else 0.

    Raises:
        BatError: the function fails, or what it returns gives no label for each sample.
    """
    where = f"trainer {trainer.name}"
    fit: FitFunction = own_function(trainer.name, _FORM, taken=2, keywords=("seed", "classes"), part=trainer)
    # seeds of numpy and scikit-learn have 32 bits
    predict = fit(_images(subset), subset.labels.cpu().numpy(), seed=seed % 2**32, classes=samples.classes)
    if not callable(predict):
        raise BatError(f"{where}: returned a {type(predict).__name__}: {_FORM}")
    found: dict[str, Tensor] = {}
    for name, part in samples.parts().items():
        with users_code(f"{where}: its predictor fails", _FORM):
            said = np.asarray(predict(_images(part)))
        labels = part.labels.cpu().numpy()
        if said.shape == (len(part), samples.classes) and said.dtype.kind == "f":
            if not np.isfinite(said).all():
                raise BatError(f"{where}: its predictor returned NaN or infinity for {name} samples: {_FORM}")
            # as loose as sums of probabilities in bfloat16
            if said.min() < 0 or not np.allclose(said.sum(1, dtype=np.float64), 1, rtol=0, atol=1e-2):
                raise BatError(
                    f"{where}: its predictor returned {said.min():g} to {said.max():g} for {name} samples, rows that "
                    "do not add up to 1: give probabilities (a softmax of logits), or labels"
                )
            probability, said = said[np.arange(len(part)), labels], said.argmax(1)
        else:
            probability = said == labels if said.shape == labels.shape else said
        if said.shape != (len(part),) or said.dtype.kind not in "iu":
            raise BatError(
                f"{where}: its predictor returned {said.dtype} of shape {said.shape} for {len(part)} {name} samples of "
                f"{samples.classes} classes: {_FORM}"
            )
        if said.min() < 0 or said.max() >= samples.classes:
            raise BatError(f"{where}: its predictor returned labels from {said.min()} to {said.max()}: {_FORM}")
        right, p, predicted = (torch.from_numpy(values) for values in (said == labels, probability, said))
        found |= said_columns(name, right, p, predicted, samples.classes)
    return found


def _images(part: Part) -> NDArray[np.float32]:
    images: NDArray[np.float32] = part.images().cpu().numpy()
    return images
