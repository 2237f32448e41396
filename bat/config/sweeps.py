"""Sweeps: one key of a method over several values, each a method of its own."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError
from pydantic.dataclasses import dataclass

from bat.config.documents import short
from bat.config.ranges import Name, distinct
from bat.config.strict import STRICT
from bat.config.training import Method
from bat.config.words import meant, told

Value = bool | float | str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sweep:
    """One key of one method over several values."""

    method: Name = Field(description="Name of the method in methods that is varied.")
    key: str = Field(max_length=60, description="Key of that method that is varied.")
    values: Annotated[tuple[Value, ...], AfterValidator(distinct)] = Field(
        min_length=1, max_length=100, description="Its values; the one that the method itself has is left out."
    )


def expand(methods: Sequence[Method], sweeps: Sequence[Sweep]) -> tuple[Method, ...]:
    """Return ``methods`` and those of ``sweeps``.

    Method trades, key beta, value 0.5 is named trades_beta_0_5; a value of -2 ends a name in _minus_2.

    A value that the method itself has makes no further method: the method stands for it.

    Raises:
        ValueError: a method or key does not exist, a value is wrong for the key, or two methods have one name.
    """
    expanded = [*methods, *(method for sweep in sweeps for method in swept(methods, sweep))]
    seen: set[str] = set()
    for method in expanded:
        if method.name in seen:
            raise ValueError(f"training.methods has a name twice, sweeps included: {method.name}")
        seen.add(method.name)
    return tuple(expanded)


def swept(methods: Sequence[Method], sweep: Sweep) -> Iterator[Method]:
    """Yield the methods of one sweep. Raises as ``expand``."""
    where = f"training.sweeps: method {sweep.method}, key {sweep.key}"
    base = next((method for method in methods if method.name == sweep.method), None)
    if base is None:
        names = [method.name for method in methods]
        raise ValueError(f"{where}: no such method: take one of {', '.join(names)}{meant(sweep.method, names)}")
    keys = [field.name for field in fields(base) if field.name not in ("name", "objective")]
    if sweep.key not in keys:
        raise ValueError(f"{where}: no such key: {base.name} has {', '.join(keys) or 'none'}{meant(sweep.key, keys)}")
    for value in sweep.values:
        text = f"{value:g}" if isinstance(value, float) else str(value)
        suffix = re.sub(r"[^a-z0-9]+", "_", re.sub("^-", "minus_", text.lower()))
        name = f"{base.name}_{sweep.key}_{suffix}"
        try:
            changed: dict[str, Any] = {"name": name, sweep.key: value}
            varied = replace(base, **changed)
        except ValidationError as error:
            raise ValueError(f"{where}, value {short(text)}: {told(error.errors())}") from error
        if getattr(varied, sweep.key) != getattr(base, sweep.key):
            yield varied
