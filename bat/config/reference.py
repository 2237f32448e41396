"""All keys of a configuration, from the records: as tables for readers, as a schema for editors, and by place."""

import copy
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from bat.config.experiment import Config
from bat.config.strict import OWN

Node = dict[str, Any]

_KINDS = ("objective", "source", "name")
"""The keys that say which of several records a map is."""

_WRITTEN_OUT = {"step_size", "attack", "robust", "evaluation", "pgd"}
"""Keys that a record has, but a file need not say."""

_LIKE = "The earlier entry, or the method, that this one is like but for the keys that differ."


@cache
def schema_of(record: Any) -> Node:
    """Return the JSON schema of a record."""
    return dict(TypeAdapter(record).json_schema())


def keys_at(record: Any, value: Any, place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the map at a place of ``value``, which should be of ``record``, may have."""
    root = schema_of(record)
    node = _member(root, root, value)
    for part in place:
        inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        value = value[part]
        node = _member(inner or {}, root, value)
    return [key for key in node.get("properties", {}) if key != "variants"]


def editor_schema() -> Node:
    """Return the JSON schema of a configuration file, short forms included."""
    root: Node = copy.deepcopy(schema_of(Config))
    definitions = root["$defs"]
    del definitions["Training"]["properties"]["variants"]
    for record in (root, *definitions.values()):
        record["required"] = [key for key in record.get("required", ()) if key not in _WRITTEN_OUT]
    text = {"type": "string"}
    for record in (root, definitions["Memorization"]):
        record["properties"]["model"] = {"anyOf": [text, record["properties"]["model"]]}
    methods = definitions["Training"]["properties"]["methods"]
    found: dict[str, list[Node]] = {"like": [text | {"description": _LIKE}]}
    for record in _flat(methods["items"], root):
        for key, about in record["properties"].items():
            # the same key may take other values in another method
            if all(_allowed(about) != _allowed(each) for each in found.setdefault(key, [])):
                found[key].append(about)
    entry = {key: {"anyOf": each} if len(each) > 1 else each[0] for key, each in found.items() if key != "objective"}
    named = {"type": "object", "required": ["name"], "additionalProperties": False, "properties": entry}
    methods["items"] = {"anyOf": [text, named, methods["items"]]}
    for option in definitions["Evaluation"]["properties"]["ensemble"]["oneOf"]:
        if "items" in option:
            option["items"] = {"anyOf": [text, option["items"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_as_written(root)}


def _allowed(about: Node) -> Node:
    return {key: each for key, each in about.items() if key not in ("description", "default")}


def tables() -> str:
    """Return all keys as Markdown, one table per section."""
    lines: list[str] = []
    rows = list(_rows(schema_of(Config), ""))
    sections = dict.fromkeys(path.split(".")[0] for path, *_ in rows)
    single = [name for name in sections if not any(path.startswith(f"{name}.") for path, *_ in rows)]
    for title, names in (("experiment", single), *((name, [name]) for name in sections if name not in single)):
        lines += [f"## {title.capitalize()}", "", "| key | value | default | meaning |", "|---|---|---|---|"]
        for (path, value, default, about), kinds in _collapsed(rows, names).items():
            told = f" ({', '.join(kinds)})" if all(kinds) else ""
            lines.append(f"| `{path}`{told} | {value} | {default} | {about} |")
        lines.append("")
    return "\n".join(lines)


Row = tuple[str, str, str, str]


def _collapsed(rows: list[tuple[str, str, str, str, str]], names: list[str]) -> dict[Row, list[str]]:
    """Return the rows of some sections, each once, with the kinds of record that have it; none where all have it."""
    found: dict[Row, list[str]] = {}
    kinds: dict[str, list[str]] = {}
    for path, kind, *row in rows:
        if path.split(".")[0] in names:
            of = kinds.setdefault(path.rpartition(".")[0], [])
            of.extend([] if kind in of else [kind])
            value, default, about = row
            found.setdefault((path, value, default, about), []).append(kind)
    return {row: [""] if len(of) == len(kinds[row[0].rpartition(".")[0]]) else of for row, of in found.items()}


def _rows(root: Node, path: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield path, kind of record, value, default and meaning of each key."""
    seen: dict[tuple[str, ...], str] = {}

    def inside(node: Node, path: str, kind: str) -> Iterator[tuple[str, str, str, str, str]]:
        for key, about in node["properties"].items():
            place = f"{path}{key}"
            if place == "training.variants":
                continue
            options = list(_records(about, root))
            default = "" if "default" not in about else _shown(about["default"])
            if "const" in about:
                default = ""
            titles, value = tuple(title for title, _ in options), _value(about, root)
            if titles in seen:
                yield place, kind, f"as `{seen[titles]}`", default, about["description"]
                continue
            if value or len(options) > 1:
                yield place, kind, value or "map", default, about["description"]
            many = "[]" if any("items" in each for each in _flat(about, root)) else ""
            if options:
                seen[titles] = place + many
            if place == "training.methods":
                yield f"{place}[].like", "", "name", "", _LIKE
            for _, record in options:
                yield from inside(record, f"{place}{many}.", _kind(record) if len(options) > 1 else "")

    yield from inside(root, path, "")


def _records(node: Node, root: Node) -> Iterator[tuple[str, Node]]:
    for each in _flat(node, root):
        if "properties" in each:
            yield each["title"], each
        elif isinstance(each.get("items"), dict):
            yield from _records(each["items"], root)


def _kind(record: Node) -> str:
    about = next(record["properties"][key] for key in _KINDS if _choices(record["properties"].get(key, {})))
    if "pattern" in about:
        return "of a library" if "torchvision" in about["pattern"] else "own"
    return ", ".join(map(str, _choices(about)))


def _choices(about: Node) -> list[Any]:
    if "const" in about:
        return [about["const"]]
    # module:function, or torchvision:NAME
    return about.get("enum") or ([""] if ":" in about.get("pattern", "") else [])


def _value(about: Node, root: Node) -> str:
    """Return in words what values a key takes; nothing for a map of keys of its own."""
    words = []
    for each in _flat(about, root):
        choices, items = _choices(each), each.get("items")
        if choices and choices != [""]:
            words.append(", ".join(f"`{choice}`" for choice in choices))
        elif each.get("type") in ("integer", "number"):
            words.append({"integer": "whole number", "number": "number"}[each["type"]] + _range(each))
        elif each.get("type") == "array" and isinstance(items, dict):
            words.append(f"list of {_value(items, root) or 'maps'}".replace("number", "numbers"))
        elif each.get("type") == "array":
            words.append("pairs of names")
        elif "additionalProperties" in each and "properties" not in each:
            words.append("map")
        elif each.get("type") in ("boolean", "string", "null"):
            pattern = each.get("pattern", "")
            name = "name: a-z, 0-9, _" if pattern.startswith("^[a-z0-9]") else "text"
            name = "`module:function`" if pattern == OWN else name
            words.append({"boolean": "`true`, `false`", "string": name, "null": "`null`"}[each["type"]])
    return ", ".join(dict.fromkeys(words))


_SIGNS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("exclusiveMaximum", "<"), ("maximum", "≤"))


def _range(about: Node) -> str:
    parts = [f"{sign} {Decimal(repr(about[key])).normalize():,f}" for key, sign in _SIGNS if key in about]
    return (" " + ", ".join(parts)).rstrip().replace(f"≤ {2**63 - 1:,}", "< 2^63")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        kind = next((value[key] for key in _KINDS if key in value), None)
        return f"`{kind}`" if kind else "see below"
    return f"`{json.dumps(value) if not isinstance(value, str) else value}`"


def _flat(node: Node, root: Node) -> Iterator[Node]:
    """Yield what a node may be."""
    node = _deref(node, root)
    options = node.get("oneOf") or node.get("anyOf")
    if not options:
        yield node
    for option in options or ():
        yield from _flat(option, root)


def _deref(node: Node, root: Node) -> Node:
    found: Node = root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return found


def _member(node: Node, root: Node, value: Any) -> Node:
    """Return which of several records a value should be: the one whose kind it names."""
    options = list(_flat(node, root))
    if isinstance(value, list):
        return next((each for each in options if each.get("type") == "array"), {})
    for record in (each for each in options if "properties" in each):
        about = record["properties"]
        if isinstance(value, dict) and all(
            value[key] in _choices(about[key]) or re.fullmatch(about[key].get("pattern", "$^"), str(value[key]))
            for key in _KINDS
            if key in value and _choices(about.get(key, {}))
        ):
            return record
    return {}


def _as_written(node: Any) -> Any:
    """Return a schema in which numbers may be fractions, as in 8/255, and a value may fit two members of a union.

    A network of a library has a name that one of the user's own could have.
    """
    if isinstance(node, list):
        return [_as_written(each) for each in node]
    if not isinstance(node, dict):
        return node
    found = {"anyOf" if key == "oneOf" else key: _as_written(each) for key, each in node.items()}
    if found.get("type") == "number":
        about = {key: found.pop(key) for key in ("description", "default", "title") if key in found}
        return about | {"anyOf": [found, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?/ ?[0-9]+(\.[0-9]+)?$"}]}
    return found
