"""Subset models that a function of the user's own trains, in any framework."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bat.config import OwnTrainer, own_function, users_code
from bat.data.dataset import DataSet, Part
from bat.errors import BatError
from bat.statistics import Bools

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


def own_answers(trainer: OwnTrainer, subset: Part, samples: DataSet, *, seed: int) -> dict[str, Bools]:
    """Train a model on a subset by the user's function; return which samples of each split it classifies correctly.

    Raises:
        BatError: the function fails, or what it returns gives no label for each sample.
    """
    where = f"trainer {trainer.name}"
    fit: FitFunction = own_function(trainer.name, _FORM, taken=2, keywords=("seed", "classes"), part=trainer)
    # seeds of numpy and scikit-learn have 32 bits
    predict = fit(_images(subset), subset.labels.cpu().numpy(), seed=seed % 2**32, classes=samples.classes)
    if not callable(predict):
        raise BatError(f"{where}: returned a {type(predict).__name__}: {_FORM}")
    found = {}
    for name, part in samples.parts().items():
        with users_code(f"{where}: its predictor fails", _FORM):
            said = np.asarray(predict(_images(part)))
        labels = part.labels.cpu().numpy()
        if said.shape == (len(part), samples.classes) and said.dtype.kind == "f":
            if not np.isfinite(said).all():
                raise BatError(f"{where}: its predictor returned NaN or infinity for {name} samples: {_FORM}")
            said = said.argmax(1)
        if said.shape != (len(part),) or said.dtype.kind not in "iu":
            raise BatError(
                f"{where}: its predictor returned {said.dtype} of shape {said.shape} for {len(part)} {name} samples of "
                f"{samples.classes} classes: {_FORM}"
            )
        found[f"correct_{name}"] = said == labels
    return found


def _images(part: Part) -> NDArray[np.float32]:
    images: NDArray[np.float32] = part.images().cpu().numpy()
    return images
