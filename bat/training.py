"""The one training loop, for subset models and adversarial training alike."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bat.attacks.ball import near_start, random_start
from bat.attacks.pgd import pgd
from bat.awp import backward
from bat.config import OneCycle, Pgd, Recipe, Steps, Threat
from bat.data import DataSet, Part, augment
from bat.errors import BatError
from bat.evaluation import measure
from bat.losses import Batch, Objective, objective, wrong_probability
from bat.models import Network, build, for_attacks, mode, seeded
from bat.seeds import derive_seed, generator
from bat.specs import TrainSpec


@dataclass(frozen=True)
class Samples:
    """What one epoch of training saw of each training sample, in the order of the training set.

    wrong_probability: (n,), the highest probability of a wrong class at the point trained on where the sample was
    misclassified there, else 0. weight: (n,), its weight in the loss, 1 for methods without weights.
    """

    wrong_probability: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training saw. ``epoch`` counts from 1.

    loss, discrimination_loss: means over the epoch's samples, as trained on (adversarial, augmented).
    harmful: atypical samples misclassified when trained on; harmful_weight: their mean weight, NaN if there was none.
    """

    epoch: int
    learning_rate: float
    loss: float
    discrimination_loss: float
    harmful: int
    harmful_weight: float
    samples: Samples


@dataclass(frozen=True)
class Inner:
    """The inner problem of adversarial training: threat, attack, and the mode of batch normalisation under it."""

    threat: Threat
    attack: Pgd
    attack_bn: str


def fit(
    model: Network,
    train: Part,
    *,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    what: str,
    atypical: Tensor | None = None,
    inner: Inner | None = None,
) -> Iterator[Epoch]:
    """Train ``model`` in place and yield after each epoch.

    All randomness of epoch e (order, augmentation, random starts) depends on (seed, e) alone, and is the same for
    every objective. ``what`` names the run in errors. atypical: (n,) bool, none by default. ``inner`` is needed
    where the objective has an inner loss.

    Raises:
        BatError: the loss was not finite; names ``what``, epoch and batch.
        ValueError: the objective has an inner loss and ``inner`` is None.
    """
    if objective.inner and inner is None:
        raise ValueError("this objective trains on adversarial examples: give inner")
    device = train.labels.device
    if atypical is None:
        atypical = torch.zeros(len(train), dtype=torch.bool, device=device)
    learner, average = model, None
    if recipe.ema_decay:
        lerp = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        # a copy learns, and the caller's network is the average
        learner, average = copy.deepcopy(model), AveragedModel(model, multi_avg_fn=lerp, use_buffers=True)
        average.module = model
    batches = -(-len(train) // recipe.batch_size)
    optimizer = torch.optim.SGD(
        learner.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    total = recipe.epochs * batches
    scheduler = LambdaLR(optimizer, lambda done: learning_rate_factor(recipe.schedule, done, total))
    for epoch in range(1, recipe.epochs + 1):
        # a generator a purpose: objectives that need no random starts meet the same augmented images
        order_random, augment_random, start_random = (
            generator(seed, purpose, epoch, device=device) for purpose in ("order", "augment", "start")
        )
        learning_rate = float(scheduler.get_last_lr()[0])
        seen, logits, weight = [], [], []
        with mode(learner, training=True), seeded(derive_seed(seed, "layers", epoch), device):
            order = torch.randperm(len(train), generator=order_random, device=device)
            splits = order.tensor_split(batches)
            for number, rows in enumerate(splits):
                x, labels = train.images(rows), train.labels[rows]
                if recipe.crop_padding or recipe.flip:
                    x = augment(x, crop_padding=recipe.crop_padding, flip=recipe.flip, random=augment_random)
                batch = Batch(
                    clean=x,
                    x=x,
                    labels=labels,
                    atypical=atypical[rows],
                    right=x.new_empty(0),
                    progress=((epoch - 1) * batches + number) / total,
                    label_smoothing=recipe.label_smoothing,
                )
                if objective.inner and inner:
                    batch = _attacked(learner, batch, objective, inner, start_random)
                optimizer.zero_grad()
                terms = backward(learner, batch, objective)
                optimizer.step()
                scheduler.step()
                if average:
                    average.update_parameters(learner)
                # read once an epoch: a GPU never waits
                seen.append(torch.stack([term.detach().float() for term in terms[:4]]))
                logits.append(terms.logits)
                weight.append(terms.weight)
        samples = _samples(order, train.labels, torch.cat(logits), torch.cat(weight))
        counts = torch.tensor([len(rows) for rows in splits])
        yield _epoch(epoch, learning_rate, torch.stack(seen).double().cpu(), counts, samples, what)


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
) -> Trained:
    """Train one method with one seed, and measure it on all splits after each ``spec.measure_every`` epochs.

    Accuracies of other epochs are NaN in the history. The best epoch is the first with the highest accuracy on the
    validation samples, under PGD where the method trains on adversarial examples and clean where it does not: test
    samples choose nothing. Training stops after ``spec.early_stop`` epochs without a better one, 0 for never.

    atypical: for each split (n,) bool. ``watch`` wraps the epochs, for a progress bar. chosen: (n,) bool, the training
    samples that the method takes for atypical, by default those of ``atypical``; removed: (n,) bool, samples that are
    not trained on, but measured as all others.
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
    )
    rows: list[dict[str, float]] = []
    samples: list[pd.DataFrame] = []
    rare = atypical["train"][left]
    best_row: dict[str, float] = {criterion: -1.0}
    best: dict[str, Tensor] = {}
    for epoch in watch(epochs):
        row = {name: value for name, value in vars(epoch).items() if name != "samples"}
        row["trained_samples"] = len(left)
        measured = epoch.epoch % spec.measure_every == 0 or epoch.epoch == spec.recipe.epochs
        if measured:
            row |= measure(model, data, atypical, threat=spec.threat, attack=spec.attack, seed=spec.seed)
        rows.append(row)
        samples.append(_rows(epoch, trained_on, rare))
        if row.get(criterion, -1.0) > best_row[criterion]:
            best_row, best = row, _weights(model)
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


def learning_rate_factor(schedule: Steps | OneCycle, done: int, total: int) -> float:
    """Return what the learning rate is multiplied by for the step after ``done`` of ``total`` steps."""
    if isinstance(schedule, Steps):
        # 0.07 * 100 is a little more than 7
        return schedule.factor ** int(sum(done >= milestone * total - 1e-9 for milestone in schedule.milestones))
    peak = schedule.warmup * total
    # the first step is not wasted at a rate of 0, and the last one is still above it
    return (done + 1) / (peak + 1) if done < peak else (total - done) / (total - peak)


def _attacked(model: Network, batch: Batch, objective: Objective, inner: Inner, random: torch.Generator) -> Batch:
    """Return the batch with adversarial examples of its images, and the share of steps at which each was right."""
    if objective.inner is None:
        raise ValueError("this objective has no inner loss: there is nothing to attack")
    threat, attack, x = inner.threat, inner.attack, batch.clean
    eps = objective.eps_factor * threat.eps
    # drawn alike for all objectives, so that their starts go together
    uniform = torch.rand(x.shape, generator=random, device=x.device)
    right = torch.zeros(len(x), device=x.device)
    with mode(model, training=inner.attack_bn == "train"):
        fast = for_attacks(model)
        if objective.from_clean:
            start = near_start(x, uniform)
            with torch.no_grad():
                target = F.log_softmax(fast(x), dim=1)
        else:
            start, target = random_start(x, uniform, norm=threat.norm, eps=eps), batch.labels
        x_adv = pgd(
            fast,
            x,
            target,
            loss=objective.inner,
            norm=threat.norm,
            eps=eps,
            step_size=objective.eps_factor * attack.step_size,
            steps=attack.steps,
            start=start,
            watch=lambda logits: right.add_(logits.argmax(1) == batch.labels),
        )
    return replace(batch, x=x_adv, right=right / attack.steps)


def _samples(order: Tensor, labels: Tensor, logits: Tensor, weight: Tensor) -> Samples:
    """Put an epoch's values, which are in the order of training, in that of the training set."""
    place = order.argsort()
    return Samples(wrong_probability(logits, labels[order])[place], weight[place])


def _epoch(epoch: int, learning_rate: float, seen: Tensor, counts: Tensor, samples: Samples, what: str) -> Epoch:
    """Sum up an epoch. seen: (batches, 4), the terms of each batch."""
    loss, discrimination, harmful, weight = seen.unbind(1)
    if not loss.isfinite().all():
        batch = int((~loss.isfinite()).nonzero()[0]) + 1
        raise BatError(
            f"{what}: the loss is {loss[batch - 1].item()} in epoch {epoch}, batch {batch}: "
            "lower the learning rate, or look for damaged images"
        )
    share = counts / counts.sum()
    number = int(harmful.sum())
    return Epoch(
        epoch=epoch,
        learning_rate=learning_rate,
        loss=float((loss * share).sum()),
        discrimination_loss=float((discrimination * share).sum()),
        harmful=number,
        harmful_weight=float(weight.sum()) / number if number else float("nan"),
        samples=samples,
    )
