"""One method with one seed: trained, measured, and kept on the way."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from bat.config import Adversary, OwnMethod
from bat.config.specs import TrainSpec
from bat.data.dataset import DataSet, Part
from bat.models import Network, build
from bat.seeds import derive_seed
from bat.training.loop import Epoch, fit
from bat.training.losses import objective
from bat.training.measure import measure
from bat.training.records import packed


@dataclass(frozen=True)
class Progress:
    """What an unfinished run has done until the end of an epoch, for ``train`` to go on from.

    state: of ``Epoch.state``; rows: of ``Trained.records``; best_epoch, best_right, best: the best epoch, how many
    validation samples it has right, and its weights.
    """

    epoch: int
    state: dict[str, Tensor]
    rows: list[dict[str, float | bytes]]
    best_epoch: int
    best_right: int
    best: dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """A trained model: one row per epoch, and the weights of the best and the last epoch.

    records: what ``Epoch`` says, trained_samples, best, and each sample's values as ``records.packed`` packs them:
    wrong_probability and weight of the training samples, NaN for those left out, and what ``measure`` found.
    """

    records: pd.DataFrame
    best_epoch: int
    best: dict[str, Tensor]
    last: dict[str, Tensor]


def train_run(
    spec: TrainSpec,
    data: DataSet,
    watch: Callable[[Iterable[Epoch]], Iterable[Epoch]] = iter,
    *,
    chosen: Tensor | None = None,
    difficulty: Tensor | None = None,
    removed: Tensor | None = None,
    progress: Progress | None = None,
    keep: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train one method with one seed, and measure it on all splits after each ``spec.measure_every`` epochs.

    The records have nothing measured of other epochs. The best epoch is the first with the highest accuracy on the
    validation samples, under PGD where the method trains on adversarial examples and clean where it does not: test
    samples choose nothing. Training stops after ``spec.early_stop`` epochs without a better one, 0 for never.

    ``watch`` wraps the epochs, for a progress bar. chosen: (n,) bool, the training samples that the method takes for
    atypical, none by default; difficulty: (n,) in [0, 1], 0 by default; removed: (n,) bool, samples that are not
    trained on, but measured as all others. ``keep`` is given what is done after each epoch, and ``progress`` is that of
    an earlier run, which this one goes on with.
    """
    goal = objective(spec.method)
    own = f" ({spec.method.objective})" if isinstance(spec.method, OwnMethod) else ""
    model = build(spec.model, data.train, classes=data.classes, seed=derive_seed(spec.seed, "weights"))
    criterion = f"validation_{'pgd' if goal.inner else 'clean'}_correct"
    left = torch.arange(len(data.train), device=data.train.labels.device)
    if removed is not None:
        left = left[~removed]
    trained_on = data.train.take(left)
    epochs = fit(
        model,
        trained_on,
        objective=goal,
        recipe=spec.recipe,
        seed=spec.seed,
        what=f"method {spec.method.name}{own}, seed {spec.seed}",
        atypical=None if chosen is None else chosen[left],
        difficulty=None if difficulty is None else difficulty[left],
        adversary=Adversary(threat=spec.threat, attack=spec.attack, attack_bn=spec.attack_bn),
        compute=spec.compute,
        first=progress.epoch + 1 if progress else 1,
        state=progress.state if progress else None,
    )
    rows = list(progress.rows) if progress else []
    best_epoch, best_right, best = 0, -1, dict[str, Tensor]()
    if progress:
        best_epoch, best_right, best = progress.best_epoch, progress.best_right, progress.best
    for epoch in watch(epochs):
        row = {name: value for name, value in vars(epoch).items() if name not in ("samples", "state")}
        row["trained_samples"] = len(left)
        by_sample = {name: _of_all(values, left, data.train) for name, values in vars(epoch.samples).items()}
        measured = epoch.epoch % spec.measure_every == 0 or epoch.epoch == spec.recipe.epochs
        if measured:
            by_sample |= measure(model, data, threat=spec.threat, attack=spec.attack, seed=spec.seed)
            right = int(by_sample[criterion].sum())
            if right > best_right:
                best_epoch, best_right, best = epoch.epoch, right, _weights(model)
        rows.append(row | packed({name: values.cpu().numpy() for name, values in by_sample.items()}))
        keep(Progress(epoch.epoch, epoch.state(), list(rows), best_epoch, best_right, best))
        # only there, so that a stopped run's last epoch is measured too
        if measured and spec.early_stop and epoch.epoch - best_epoch >= spec.early_stop:
            break
    records = pd.DataFrame(rows)
    records = records.assign(best=records["epoch"] == best_epoch)
    return Trained(records, best_epoch, best, _weights(model))


def _of_all(values: Tensor, trained_on: Tensor, part: Part) -> Tensor:
    """Return values of the samples ``trained_on``, rows of ``part``, as values of all samples, NaN for the others."""
    return values.new_full((len(part),), torch.nan, dtype=torch.float32).index_copy(0, trained_on, values.float())


def _weights(model: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
