"""One method with one seed: trained, measured, and kept on the way."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from bat.data import DataSet, Part
from bat.evaluation import measure
from bat.fitting import Epoch, Inner, fit
from bat.losses import objective
from bat.models import Network, build
from bat.seeds import derive_seed
from bat.specs import TrainSpec


@dataclass(frozen=True)
class Progress:
    """What an unfinished run has done until the end of an epoch, for ``train`` to go on from.

    state: of ``Epoch.state``; rows: of the history; samples: those of ``Trained``, in parts; best_row, best: of the
    best epoch.
    """

    epoch: int
    state: dict[str, Tensor]
    rows: list[dict[str, float]]
    samples: list[pd.DataFrame]
    best_row: dict[str, float]
    best: dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """A trained model: a row an epoch, and the weights of the best and the last epoch.

    samples: a row an epoch and atypical training sample, with columns epoch, train_index, label, wrong_probability
    and weight.
    """

    history: pd.DataFrame
    samples: pd.DataFrame
    best_epoch: int
    best: dict[str, Tensor]
    last: dict[str, Tensor]


def train(
    spec: TrainSpec,
    data: DataSet,
    atypical: Mapping[str, Tensor],
    watch: Callable[[Iterable[Epoch]], Iterable[Epoch]] = iter,
    *,
    chosen: Tensor | None = None,
    removed: Tensor | None = None,
    progress: Progress | None = None,
    keep: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train one method with one seed, and measure it on all splits after each ``spec.measure_every`` epochs.

    Accuracies of other epochs are NaN in the history. The best epoch is the first with the highest accuracy on the
    validation samples, under PGD where the method trains on adversarial examples and clean where it does not: test
    samples choose nothing. Training stops after ``spec.early_stop`` epochs without a better one, 0 for never.

    atypical: for each split (n,) bool. ``watch`` wraps the epochs, for a progress bar. chosen: (n,) bool, the training
    samples that the method takes for atypical, by default those of ``atypical``; removed: (n,) bool, samples that are
    not trained on, but measured as all others. ``keep`` is given what is done after each epoch, and ``progress`` is
    that of an earlier run, which this one goes on with.
    """
    goal = objective(spec.method)
    model = build(spec.model, data.train, classes=data.classes, seed=derive_seed(spec.seed, "weights"))
    criterion = f"validation_all_{'pgd' if goal.inner else 'clean'}_accuracy"
    if chosen is None:
        chosen = atypical["train"]
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
        what=f"method {spec.method.name}, seed {spec.seed}",
        atypical=chosen[left],
        inner=Inner(spec.threat, spec.attack, spec.attack_bn),
        compute=spec.compute,
        first=progress.epoch + 1 if progress else 1,
        state=progress.state if progress else None,
    )
    rare = atypical["train"][left]
    rows = list(progress.rows) if progress else []
    samples = list(progress.samples) if progress else []
    best_row, best = (progress.best_row, progress.best) if progress else ({criterion: -1.0}, {})
    for epoch in watch(epochs):
        row = {name: value for name, value in vars(epoch).items() if name not in ("samples", "state")}
        row["trained_samples"] = len(left)
        measured = epoch.epoch % spec.measure_every == 0 or epoch.epoch == spec.recipe.epochs
        if measured:
            row |= measure(model, data, atypical, threat=spec.threat, attack=spec.attack, seed=spec.seed)
        rows.append(row)
        samples.append(_rows(epoch, trained_on, rare))
        if row.get(criterion, -1.0) > best_row[criterion]:
            best_row, best = row, _weights(model)
        keep(Progress(epoch.epoch, epoch.state(), list(rows), list(samples), best_row, best))
        # only there, so that a stopped run's last epoch is measured too
        if measured and spec.early_stop and epoch.epoch - best_row["epoch"] >= spec.early_stop:
            break
    history = pd.DataFrame(rows)
    best_epoch = int(best_row["epoch"])
    history = history.assign(best=history["epoch"] == best_epoch)
    return Trained(history, pd.concat(samples, ignore_index=True), best_epoch, best, _weights(model))


def _rows(epoch: Epoch, part: Part, atypical: Tensor) -> pd.DataFrame:
    """Return what the epoch saw of the atypical samples of ``part``, trained on. atypical: (n,) bool."""
    columns = {
        "train_index": part.index[atypical],
        "label": part.labels[atypical],
        "wrong_probability": epoch.samples.wrong_probability[atypical].double(),
        "weight": epoch.samples.weight[atypical].double(),
    }
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    return table.assign(epoch=epoch.epoch)


def _weights(model: Network) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
