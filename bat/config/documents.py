"""YAML text to plain values, in one way: what YAML 1.1 and 1.2 read differently is refused, so is a key given twice."""

import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from bat.errors import BatError
from bat.io.given import located, open_file, reason

LARGEST_DOCUMENT = 100_000
"""Bytes: twenty times the default configuration, and at most a second to read."""

_DEEPEST = 30
_LONGEST_SHOWN = 80
_MOST = 20_000
_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?")
_POWER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]{1,4}")
# what YAML 1.2 (and whoever wrote it) takes for a number, but YAML 1.1 does not
_NUMBER_AFTER_ALL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|0o[0-7]+")


def read_document(path: str) -> dict[str, Any]:
    """Return what a configuration file says: a map of texts to plain values.

    Raises:
        BatError: naming the place and the line of the first thing that is no plain value, or is understood in two ways.
    """
    try:
        with open_file(located(path)) as file:
            content = file.read(LARGEST_DOCUMENT + 1)
    except (OSError, ValueError) as error:
        raise BatError(f"{path}: cannot be read ({reason(error)}): give a file of YAML") from error
    if len(content) > LARGEST_DOCUMENT:
        raise BatError(f"{path}: has more than {LARGEST_DOCUMENT:,} bytes, too many for a configuration: shorten it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BatError(f"{path}: cannot be read as YAML, since it is no UTF-8 text: save it as UTF-8") from error
    value = read_value(text, path)
    if not isinstance(value, dict):
        raise BatError(f"{path}: is {'empty' if value is None else 'no map'}: give KEY: VALUE lines")
    return value


def read_value(text: str, where: str) -> Any:
    """Return the value of a YAML text: maps, lists, texts, numbers, true, false, null. Anchors and merges are resolved.

    Infinity becomes "inf", as the keys that allow it call it.

    Raises:
        BatError: as ``read_document``, naming ``where``.
    """
    try:
        loader = _Nodes(text)
        node = loader.get_single_node()
        return None if node is None else _plain(node, (), iter(range(_MOST)))
    except _Refused as refused:
        raise BatError(f"{where}: {refused}") from refused
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BatError(f"{where}: cannot be read as YAML ({said}{at})") from error
    except yaml.YAMLError as error:
        raise BatError(f"{where}: cannot be read as YAML ({' '.join(str(error).split())})") from error


def short(part: object) -> str:
    """Return a key or value as a message shows it: not all of it where it is long."""
    text = str(part)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


class _Refused(Exception):
    """What is wrong, at a place."""


class _Nodes(yaml.SafeLoader):
    """PyYAML's nodes, each of the kind that its look says, to a limited depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # untyped in the stubs
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _Refused(f"has the tag {short(tag)}, and no tag is understood here: remove it{_line(event)}")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _Refused(f"is nested more than {_DEEPEST} levels deep: no key lies so deep{_line(event)}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _line(marked: Any) -> str:
    return f" (line {marked.start_mark.line + 1})"


def _refuse(place: tuple[str, ...], node: yaml.Node, message: str) -> NoReturn:
    raise _Refused(f"{'.'.join(map(short, place)) + ': ' if place else ''}{message}{_line(node)}")


def _plain(node: yaml.Node, place: tuple[str, ...], left: Iterator[int]) -> Any:
    # anchors: a list of a list of a list can hold more than there are atoms, or itself
    if next(left, None) is None or len(place) > _DEEPEST:
        message = f"grows too large with its anchors, past {_MOST:,} values or {_DEEPEST} deep: shorten it"
        _refuse(place[:3], node, message)
    if isinstance(node, yaml.MappingNode):
        return _map(node, place, left)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*place, str(index)), left) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, place)
    raise TypeError(f"{node} is no node of YAML")


def _map(node: yaml.MappingNode, place: tuple[str, ...], left: Iterator[int]) -> dict[str, Any]:
    lines: dict[str, int] = {}
    inherited: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for key, value in node.value:
        merge = key.tag == _TAG + "merge"
        name = key.value if merge else _key(key, place)
        line = key.start_mark.line + 1
        if name in lines:
            _refuse(place, key, f"{short(name)} is there twice, in line {lines[name]} also: keep one")
        lines[name] = line
        if not merge:
            found[name] = _plain(value, (*place, name), left)
            continue
        # of several, the first has the last word, as YAML's merge type says
        for map_ in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
            if not isinstance(map_, yaml.MappingNode):
                _refuse(place, value, "<< merges maps: give the alias of one")
            inherited |= _plain(map_, (*place, "<<"), left)
    return inherited | found


def _key(key: yaml.Node, place: tuple[str, ...]) -> str:
    if key.tag != _TAG + "str" or not isinstance(key, yaml.ScalarNode):
        shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or map"
        _refuse(place, key, f"{short(shown)} is a key but no text: fix it")
    return str(_text(key, place))


def _text(node: yaml.ScalarNode, place: tuple[str, ...]) -> str:
    try:
        node.value.encode()
    except UnicodeEncodeError:
        _refuse(place, node, "has a character that UTF-8 cannot hold: remove it")
    return str(node.value)


def _scalar(node: yaml.ScalarNode, place: tuple[str, ...]) -> Any:
    text, kind = _text(node, place), node.tag.removeprefix(_TAG)
    if len(text) > 100 and kind != "str":
        _refuse(place, node, f"has {len(text)} characters, too many for a number")
    if kind == "str":
        # in quotes it is text, whatever it looks like
        if node.style is None and _NUMBER_AFTER_ALL.fullmatch(text):
            # 1e-3 is text in YAML 1.1 alone, and nobody means text
            if _POWER.fullmatch(text) and math.isfinite(float(text)):
                return float(text)
            _refuse(place, node, f"{short(text)} is text in YAML 1.1 and a number in 1.2: {_number_hint(text)}")
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "bool":
        meant = "true" if text.lower() in ("yes", "on") else "false"
        _refuse(
            place,
            node,
            f'{text} is {meant} in YAML 1.1 and text in 1.2: write {meant}, or "{short(text)}" for the text',
        )
    if kind == "int" and _DECIMAL.fullmatch(text):
        return int(text)
    if kind == "float" and text.lower().lstrip("+") == ".inf":
        return "inf"
    if kind == "float" and _FLOAT.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if kind == "float" and text.lower().lstrip("+-") in (".nan", ".inf"):
        _refuse(place, node, f"{text} is no number to compute with: give a finite one")
    if kind == "timestamp":
        _refuse(place, node, f'{text} is a date in YAML: write "{text}" for the text')
    _refuse(
        place,
        node,
        f'{text} is read in several ways: write a number in decimal digits, or "{short(text)}" for the text',
    )


def _number_hint(text: str) -> str:
    if not set(text) <= set("+-0123456789o"):
        return "write a finite one"
    return f'write {int(text, 8) if text.startswith("0o") else int(text)}, or "{short(text)}" for the text'
