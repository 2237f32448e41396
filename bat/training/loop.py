"""The one training loop, for subset models and adversarial training alike."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bat.attacks.ball import near_start, random_start
from bat.attacks.gradient import predictions
from bat.attacks.pgd import pgd
from bat.config import Adversary, Compute, OneCycle, Recipe, Steps
from bat.data.dataset import Part, augment
from bat.errors import BatError
from bat.models import Network, for_attacks, lowered, mode, seeded
from bat.seeds import derive_seed, generator
from bat.training.awp import backward
from bat.training.learner import Learner
from bat.training.losses import Batch, Objective, wrong_probability


@dataclass(frozen=True)
class EpochSamples:
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
    state: gives, until the next epoch, copies of all that the rest of the training depends on.
    """

    epoch: int
    learning_rate: float
    loss: float
    discrimination_loss: float
    harmful: int
    harmful_weight: float
    samples: EpochSamples
    state: Callable[[], dict[str, Tensor]] = field(repr=False)


def fit(
    model: Network,
    train: Part,
    *,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    what: str,
    atypical: Tensor | None = None,
    difficulty: Tensor | None = None,
    adversary: Adversary | None = None,
    compute: Compute | None = None,
    first: int = 1,
    state: Mapping[str, Tensor] | None = None,
) -> Iterator[Epoch]:
    """Train ``model`` in place and yield after each epoch.

    All randomness of epoch e (order, augmentation, random starts) depends on (seed, e) alone, and is the same for
    every objective. ``what`` names the run in errors. atypical: (n,) bool, none by default; difficulty: (n,) in
    [0, 1], 0 by default. ``adversary`` is needed where the objective has an inner loss. compute: float32 and whole
    batches by default. To go on with an unfinished run, give its next epoch as ``first`` and ``state`` as
    ``Epoch.state`` gave it: the rest is the same to the bit.

    Raises:
        BatError: the loss was not finite; names ``what``, epoch and batch. Or the weights are not after an epoch, as
            its last step can leave them.
        ValueError: the objective has an inner loss and ``adversary`` is None.
    """
    if objective.inner and adversary is None:
        raise ValueError("this objective trains on adversarial examples: give adversary")
    device = train.labels.device
    if atypical is None:
        atypical = torch.zeros(len(train), dtype=torch.bool, device=device)
    if difficulty is None:
        difficulty = torch.zeros(len(train), device=device)
    learner = Learner(model, recipe, compute)
    if state:
        learner.load(state)
    batches = -(-len(train) // recipe.batch_size)
    total = recipe.epochs * batches
    for epoch in range(first, recipe.epochs + 1):
        # a generator a purpose: objectives that need no random starts meet the same augmented images
        order_random, augment_random, start_random = (
            generator(seed, purpose, epoch, device=device) for purpose in ("order", "augment", "start")
        )
        done = (epoch - 1) * batches
        seen, logits, weight = [], [], []
        with (
            mode(learner.network, training=True),
            lowered(learner.network, learner.precision),
            seeded(derive_seed(seed, "layers", epoch), device),
        ):
            order = torch.randperm(len(train), generator=order_random, device=device)
            splits = order.tensor_split(batches)
            for number, rows in enumerate(splits):
                x = train.images(rows)
                if recipe.crop_padding or recipe.flip:
                    x = augment(x, crop_padding=recipe.crop_padding, flip=recipe.flip, random=augment_random)
                if compute and compute.channels_last:
                    x = x.contiguous(memory_format=torch.channels_last)
                learner.zero_gradients()
                sums = torch.zeros(4, device=device)
                size = compute.micro_batch if compute and compute.micro_batch else len(rows)
                for some, images in zip(torch.split(rows, size), torch.split(x, size), strict=True):
                    batch = Batch(
                        clean=images,
                        x=images,
                        labels=train.labels[some],
                        atypical=atypical[some],
                        difficulty=difficulty[some],
                        right=x.new_empty(0),
                        progress=(done + number) / total,
                        label_smoothing=recipe.label_smoothing,
                    )
                    if objective.inner and adversary:
                        batch = _attacked(learner.network, batch, objective, adversary, start_random)
                    share = len(some) / len(rows)
                    terms = backward(learner.network, batch, objective, scale=partial(_scaled, learner, share))
                    loss, discrimination, *counted = (term.detach().float() for term in terms[:4])
                    sums += torch.stack([loss * share, discrimination * share, *counted])
                    logits.append(terms.logits)
                    weight.append(terms.weight)
                learner.step(recipe.learning_rate * learning_rate_factor(recipe.schedule, done + number, total))
                # read once an epoch: a GPU never waits
                seen.append(sums)
        samples = _samples(order, train.labels, torch.cat(logits), torch.cat(weight))
        counts = torch.tensor([len(rows) for rows in splits])
        learning_rate = recipe.learning_rate * learning_rate_factor(recipe.schedule, done, total)
        ended = _epoch(epoch, learning_rate, torch.stack(seen).double().cpu(), counts, samples, learner.state, what)
        if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
            raise BatError(f"{what}: weights are NaN or infinite after epoch {epoch}: lower the learning rate")
        yield ended


def _scaled(learner: Learner, share: float, loss: Tensor) -> Tensor:
    """Return what is differentiated: the loss of a share of a batch, scaled up for float16."""
    scaled: Tensor = learner.scaler.scale(loss * share)
    return scaled


def learning_rate_factor(schedule: Steps | OneCycle, done: int, total: int) -> float:
    """Return what the learning rate is multiplied by for the step after ``done`` of ``total`` steps."""
    peak = schedule.warmup * total
    # the first step is not wasted at a rate of 0
    rise = (done + 1) / (peak + 1) if done < peak else 1.0
    if isinstance(schedule, Steps):
        # 0.07 * 100 is a little more than 7, but 7 / 100 is what 0.07 is
        return rise * schedule.factor ** int(sum(done / total >= milestone for milestone in schedule.milestones))
    # the last step is still above 0
    return rise if done < peak else (total - done) / (total - peak)


def _attacked(
    model: Network, batch: Batch, objective: Objective, adversary: Adversary, random: torch.Generator
) -> Batch:
    """Return the batch with adversarial examples of its images, and the share of steps at which each was right."""
    if objective.inner is None:
        raise ValueError("this objective has no inner loss: there is nothing to attack")
    threat, attack, x = adversary.threat, adversary.attack, batch.clean
    eps = objective.eps_factor * threat.eps
    # drawn alike for all objectives, so that their starts go together
    uniform = torch.rand(x.shape, generator=random, device=x.device)
    right = torch.zeros(len(x), device=x.device)
    with mode(model, training=adversary.attack_bn == "train"):
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
            watch=lambda logits: right.add_(predictions(logits) == batch.labels),
        )
    return replace(batch, x=x_adv, right=right / attack.steps)


def _samples(order: Tensor, labels: Tensor, logits: Tensor, weight: Tensor) -> EpochSamples:
    """Put an epoch's values, which are in the order of training, in that of the training set."""
    place = order.argsort()
    return EpochSamples(wrong_probability(logits, labels[order])[place], weight[place])


def _epoch(
    epoch: int,
    learning_rate: float,
    seen: Tensor,
    counts: Tensor,
    samples: EpochSamples,
    state: Callable[[], dict[str, Tensor]],
    what: str,
) -> Epoch:
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
        state=state,
    )
