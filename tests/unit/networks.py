"""Small networks trained on digits for a second or two, for attacks to work on."""

from bat.config import Model, Natural, OneCycle, Packaged, Pgd, PgdAt, Recipe, Threat
from bat.data import Part, load_source
from bat.losses import objective
from bat.models import Network, build
from bat.training import Inner, fit

METHODS = {
    "natural": Natural(name="natural", objective="natural"),
    "pgd_at": PgdAt(name="pgd_at", objective="pgd_at"),
}


def trained(method: str, *, name: str, width: int, epochs: int) -> tuple[Network, Part]:
    """Return a network trained with one of ``METHODS``, and the digits' test samples."""
    data = load_source(Packaged(name="digits", train_samples=600, validation_samples=200, split_seed=0), subsample=1.0)
    model = build(Model(name=name, width=width), data.train, classes=10, seed=0)
    recipe = Recipe(
        epochs=epochs,
        batch_size=100,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule=OneCycle(name="one_cycle", warmup=0.3),
        crop_padding=0,
        flip=False,
    )
    inner = Inner(Threat(norm="linf", eps=0.1), Pgd(steps=3, step_size=0.05), "eval")
    goal = objective(METHODS[method])
    for _ in fit(model, data.train, objective=goal, recipe=recipe, seed=0, what="digits", inner=inner):
        pass
    return model, data.test
