"""Short forms of a configuration written out, and files put on top of one another: plain maps in, plain maps out."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from bat.config.model import model_record
from bat.config.ranges import SMALLEST_EPS, number
from bat.config.training import MOST_METHODS, KnownMethod
from bat.config.words import UNKNOWN, meant

Location = tuple[int | str, ...]
Problem = tuple[Location, str]

OBJECTIVES = tuple(record.objective for record in get_args(KnownMethod))
"""The methods there are, by their names."""

# a step where none is given, as a part of eps
_STEPS = ((("training", "attack"), 4.0), (("memorization", "robust", "attack"), 2.5), (("evaluation", "pgd"), 8.0))
# the keys that say which of several records a map is
_KINDS = ("name", "source")


def spelled_out(document: Any) -> Any:
    """Return what a file says with names in place of maps written as maps: of networks, and of attacks in a list."""
    document = copy.deepcopy(document)
    for parents in ((), ("memorization",)):
        if (place := _at(document, parents)) is not None and "model" in place:
            place["model"] = model_record(place["model"])
    evaluation = _at(document, ("evaluation",)) or {}
    if isinstance(ensemble := evaluation.get("ensemble"), list):
        evaluation["ensemble"] = [{"name": each} if isinstance(each, str) else each for each in ensemble]
    return document


def extended(config: Any, changes: Any) -> Any:
    """Return a configuration with the changes of a further file, both spelled out.

    Where eps changes, so do the steps that are given as lengths: they are not kept.
    """
    threat = _at(changes, ("threat",)) or {}
    if any(number(threat[key]) != number((_at(config, ("threat",)) or {}).get(key)) for key in threat):
        config = copy.deepcopy(config)
        for attack, _ in _attacks(config):
            attack.pop("step_size", None)
    return _merged(config, changes)


def completed(config: Any) -> tuple[Any, list[Problem]]:
    """Return a whole configuration with all methods and steps written out, and what is wrong with its methods."""
    config = spelled_out(config)
    problems: list[Problem] = []
    if isinstance(config, dict):
        for path, _ in _STEPS:
            place = config
            for key in path:
                place = place.setdefault(key, {}) if isinstance(place, dict) else {}
        eps = number((_at(config, ("threat",)) or {}).get("eps"))
        # a wrong eps is told elsewhere
        eps = eps if isinstance(eps, int | float) and not isinstance(eps, bool) and eps > 0 else SMALLEST_EPS
        for attack, part in _attacks(config):
            attack.setdefault("step_size", eps / part)
    stage = _at(config, ("training",)) or {}
    if "variants" in stage:
        problems.append((("training", "variants"), UNKNOWN))
    stage["variants"] = {}
    if isinstance(stage.get("methods"), list):
        entries: list[Any] = []
        known: dict[str, Any] = {}
        for index, entry in enumerate(stage["methods"][:MOST_METHODS]):
            try:
                entries.append(_method(entry, known, stage["variants"]))
            except ValueError as error:
                problems.append((("training", "methods", index), str(error)))
                # what is wrong is told, so that anything right will do in its place
                entries.append({"name": _name_of(entry) or f"entry_{index}", "objective": "natural"})
            known[_name_of(entries[-1])] = entries[-1]
        # that there are too many is told elsewhere
        spare = len(stage["methods"]) - len(entries)
        stage["methods"] = entries + [{"name": "natural", "objective": "natural"}] * spare
    return config, problems


def with_likes(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that was completed as a file may say it: variants are like their entries."""
    stage = config["training"]
    methods = [
        {"name": method["name"], "like": stage["variants"][method["name"]]}
        | {key: value for key, value in method.items() if key != "objective"}
        if method["name"] in stage["variants"]
        else method
        for method in stage["methods"]
    ]
    stage = {key: value for key, value in stage.items() if key != "variants"} | {"methods": methods}
    return config | {"training": stage}


def _method(entry: Any, known: Mapping[str, Any], variants: dict[str, str]) -> Any:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict) or ("objective" in entry and "like" not in entry):
        return entry
    name = _name_of(entry)
    like = str(entry.get("like", name))
    if "like" in entry and isinstance(base := known.get(like), dict):
        variants[name] = variants.get(like, like)
        _check_objective(entry, like, base.get("objective"))
        entry = {key: value for key, value in base.items() if key != "name"} | entry
        return {key: value for key, value in entry.items() if key != "like"}
    if not like:
        raise ValueError("has no name: add that of a method, as in {name: bat, alpha: 2}")
    if like not in OBJECTIVES:
        names = [*known, *OBJECTIVES] if "like" in entry else OBJECTIVES
        what = f"like is {like}, which is no earlier entry and" if "like" in entry else f"{name} is"
        more = "" if "like" in entry else ", or say what it is like, as in {name: mine, like: bat, alpha: 2}"
        raise ValueError(f"{what} no method: take one of {', '.join(dict.fromkeys(names))}{more}{meant(like, names)}")
    _check_objective(entry, like, like)
    return {key: value for key, value in entry.items() if key != "like"} | {"objective": like}


def _check_objective(entry: dict[str, Any], like: str, objective: Any) -> None:
    if entry.get("objective", objective) != objective:
        raise ValueError(f"is like {like}, whose objective it has: remove objective, or like")


def _name_of(entry: Any) -> str:
    return str(entry.get("name", "") if isinstance(entry, dict) else entry)


def _merged(value: Any, changes: Any) -> Any:
    """Return ``value`` with ``changes``: maps are merged to all depths, but for one of another kind; else replaced."""
    if not isinstance(value, Mapping) or not isinstance(changes, Mapping):
        return changes
    if any(key in changes and key in value and changes[key] != value[key] for key in _KINDS):
        return changes
    return {**value, **{key: _merged(value.get(key), changed) for key, changed in changes.items()}}


def _attacks(config: Any) -> Iterator[tuple[dict[str, Any], float]]:
    """Yield the attacks that have a step size, each with the part of eps that it is without one."""
    for path, part in _STEPS:
        if (attack := _at(config, path)) is not None:
            yield attack, part
    ensemble = (_at(config, ("evaluation",)) or {}).get("ensemble")
    for attack in ensemble if isinstance(ensemble, list) else ():
        if isinstance(attack, dict) and attack.get("name") == "pgd":
            yield attack, 8.0


def _at(value: Any, path: tuple[str, ...]) -> dict[str, Any] | None:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None
