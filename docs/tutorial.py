# %% [markdown]
# # What a finished experiment is good for
#
# Scores, images, BAT in a training loop of your own, and an attack on your own model. Run the default experiment first
# (`make run`, 6 minutes), then this file: as a script, `python docs/tutorial.py`, or cell by cell in an editor that
# knows `# %%`.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import bat

experiment = bat.load("results/digits")
print(experiment.summary.query("checkpoint == 'last'")[["method", "group", "metric", "accuracy"]].to_string())

# %% [markdown]
# ## Scores
# Each table is a DataFrame. `experiment.scores` holds the same memorization by place in the source: NaN where an image
# is no training sample.

# %%
most = experiment.memorization.nlargest(8, "memorization")
print(most[["train_index", "label", "memorization", "ci_low", "ci_high", "atypical"]])
print(f"{experiment.memorization['atypical'].sum()} atypical of {len(experiment.memorization)} training samples")
assert experiment.scores[most["train_index"].iloc[0]] == most["memorization"].iloc[0]

# %% [markdown]
# ## Images
# Samples of a split are in the order of its tables: row i of `memorization` is image i of `data.train`.

# %%
train, test = experiment.data.train, experiment.data.test
images = train.images()  # (n, c, h, w), float32 in [0, 1]
figure, axes = plt.subplots(1, len(most), figsize=(12, 2))
for axis, row, label, score in zip(axes, most.index, most["label"], most["memorization"], strict=True):
    axis.imshow(images[row].permute(1, 2, 0).numpy(), cmap="gray")
    axis.set_title(f"{experiment.data.class_names[label]}: {score:.2f}")
    axis.axis("off")
figure.savefig("tutorial.png")

# %% [markdown]
# ## BAT in a loop of your own
# What BAT adds to adversarial training is a weight per sample: lower for atypical samples that the model gets wrong
# with high confidence at the adversarial point.

# %%
torch.manual_seed(0)
eps, steps, epochs = 0.1, 3, 10
atypical = torch.tensor(experiment.memorization["atypical"].to_numpy())
model = torch.nn.Sequential(
    torch.nn.Flatten(),
    torch.nn.Linear(images[0].numel(), 64),
    torch.nn.ReLU(),
    torch.nn.Linear(64, experiment.data.classes),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for _ in range(epochs):
    for rows in torch.randperm(len(train)).split(50):
        x, y = images[rows], train.labels[rows]
        x_adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
            x_adv = (x + (x_adv.detach() + eps / 2 * gradient.sign() - x).clamp(-eps, eps)).clamp(0, 1)
        logits = model(x_adv)
        weights = bat.bat_weights(logits, y, atypical[rows], alpha=1.0)
        loss = (weights * F.cross_entropy(logits, y, reduction="none")).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"loss after {epochs} epochs: {loss.item():.3f}")

# %% [markdown]
# ## An attack on your own model
# AutoAttack on any model from images in [0, 1] to logits. Rows of the result are in the order of the images, so that
# they go with the groups of test samples.

# %%
model.eval()
found = bat.attack(model, test.images(), test.labels, norm="linf", eps=eps, ensemble="fast")
groups = experiment.test_groups.assign(clean=found.clean_correct, robust=found.robust_correct)
print(groups.groupby("atypical")[["clean", "robust"]].agg(["mean", "size"]))
print(found.table["broken_by"].value_counts())
print(found.flags[found.flags["raised"]][["flag", "meaning"]])

# %% [markdown]
# ## Scores of your own models
# `bat.memorization` is the estimator behind the tables, for models that were trained elsewhere: which samples each was
# trained on, and which it gets right.

# %%
random = torch.Generator().manual_seed(0)
mask = (torch.rand(40, 5, generator=random) < 0.7).numpy()
correct = mask | (torch.rand(40, 5, generator=random) < 0.5).numpy()
print(bat.memorization(mask, correct)[["memorization", "standard_error", "ci_low", "ci_high"]])
