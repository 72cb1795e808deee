"""The mapping front end, and the dialects of the CloudEvents Subscriptions API 1.0, which are mappings too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from .cesql.expression import parse_sql
from .conditions import condition
from .jsonpath.query import parse_query
from .operators import OPERATORS
from .paths import attribute_path, path_of, split
from .text import parse_relation, typed
from .tree import Inverse, Node, as_data, both, check_depth, either, negated, too_deep
from .values import MOST_DEPTH, MOST_MAPPING, unknown, wrong

#: The names of the dialects; a mapping whose one key is such a name is one.
DIALECTS = ("exact", "prefix", "suffix", "all", "any", "not", "sql")
_LOGIC = ("$and", "$or", "$not")
_OPTION = "$case_sensitive"


def parse_mapping(mapping: Mapping[str, Any], *, case_sensitive: bool = False) -> Node:
    """Return the tree of a mapping filter; raise InvalidFilter with the place in it."""
    node = check_depth(_condition(mapping, "", case_sensitive, 0))
    if len(orjson.dumps(as_data(node))) > MOST_MAPPING:
        raise wrong(f"a filter of more than {MOST_MAPPING:,} bytes of JSON is too large; split it into several")
    return node


def _condition(mapping: Any, place: str, case_sensitive: bool, depth: int) -> Node:
    """Return the tree of what a whole filter may be, or a part of `$and`, `$or`, `$not`."""
    _check(mapping, place, depth)
    if dialect := next((name for name in mapping if name in DIALECTS), None):
        if len(mapping) > 1:
            raise wrong(
                f"{dialect!r} is a CloudEvents dialect, and stands alone; for the payload's field write "
                f"'payload.{dialect}', for several dialects a list",
                place,
            )
        return _DIALECTS[dialect](mapping[dialect], _inner(place, dialect), depth + 1)
    case_sensitive = _option(mapping, place, case_sensitive)
    parts: list[Node] = []
    for key, value in mapping.items():
        at = _inner(place, key)
        if key == _OPTION:
            continue
        if key in _LOGIC:
            parts.append(_logic(key, value, at, lambda each, there: _condition(each, there, case_sensitive, depth + 1)))
        elif key == "$expr":
            parts.append(parse_relation(_text(value, at), case_sensitive=case_sensitive))
        elif key == "$jsonpath":
            parts.append(parse_query(_text(value, at), at))
        elif key.startswith("$"):
            if key in OPERATORS:
                raise wrong(f"{key} looks at a field; write {{'payload.field': {{'{key}': ...}}}}", at)
            raise unknown("operator", key, dict.fromkeys((*OPERATORS, *_LOGIC, "$expr", "$jsonpath")), place)
        else:
            parts.append(_field(split(key, at), value, at, case_sensitive, depth + 1))
    return _joined(parts, place)


def _field(steps: list[str], value: Any, place: str, case_sensitive: bool, depth: int) -> Node:
    """Return what is asked of one field, or of those within it."""
    if not isinstance(value, Mapping):
        several = isinstance(value, (list, tuple))
        if several:
            return condition(path_of(steps, place), "$in", value, case_sensitive=case_sensitive, place=place)
        return typed(path_of(steps, place), "$eq", value, case_sensitive, place)
    _check(value, place, depth)
    case_sensitive = _option(value, place, case_sensitive)
    parts: list[Node] = []
    for key, inner in value.items():
        at = _inner(place, key)
        if key == _OPTION:
            continue
        if key in _LOGIC:
            parts.append(
                _logic(key, inner, at, lambda each, there: _operators(steps, each, there, case_sensitive, depth + 1))
            )
        elif key in ("$eq", "$ne"):
            parts.append(typed(path_of(steps, place), key, inner, case_sensitive, at))
        elif key in OPERATORS:
            parts.append(condition(path_of(steps, place), key, inner, case_sensitive=case_sensitive, place=at))
        elif key.startswith("$"):
            raise unknown("operator", key, dict.fromkeys((*OPERATORS, *_LOGIC)), place)
        else:
            parts.append(_field([*steps, *map(str, split(key, at))], inner, at, case_sensitive, depth + 1))
    return _joined(parts, place)


def _operators(steps: list[str], value: Any, place: str, case_sensitive: bool, depth: int) -> Node:
    """Return what `$and`, `$or` or `$not` behind a field hold: operators, not values."""
    if not isinstance(value, Mapping):
        raise wrong(f"operators are expected here, such as {{'$gt': 5}}, not {value!r:.60}", place)
    return _field(steps, value, place, case_sensitive, depth)


def _logic(key: str, value: Any, place: str, parse: Callable[[Any, str], Node]) -> Node:
    if key == "$not":
        return negated(parse(value, place))
    if not isinstance(value, (list, tuple)) or not value:
        raise wrong(f"{key} takes a list of conditions, one at least", place)
    parts = [parse(each, f"{place}[{number}]") for number, each in enumerate(value)]
    return both(parts) if key == "$and" else either(parts)


def _joined(parts: list[Node], place: str) -> Node:
    if not parts:
        raise wrong("an empty mapping says nothing; leave the filter out to get every event", place)
    return both(parts)


def _option(mapping: Mapping[str, Any], place: str, case_sensitive: bool) -> bool:
    value = mapping.get(_OPTION, case_sensitive)
    if not isinstance(value, bool):
        raise wrong(f"{_OPTION} takes true or false, not {value!r:.60}", place)
    return value


def _check(mapping: Any, place: str, depth: int) -> None:
    if depth > 4 * MOST_DEPTH:  # how deep conditions are, the tree says; this is for what never becomes one
        raise too_deep(place)
    if not isinstance(mapping, Mapping):
        raise wrong(f"a mapping of fields to conditions is expected, not {mapping!r:.60}", place)
    if odd := [key for key in mapping if not isinstance(key, str)]:
        raise wrong(f"the key {odd[0]!r:.60} is no text", place)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise wrong(f"a text is expected here, not {value!r:.60}", place)
    return value


def _inner(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


# -- the dialects, which look at attributes alone, and tell upper from lower case


def _attributes(op: str) -> Callable[[Any, str, int], Node]:
    def parse(given: Any, place: str, depth: int) -> Node:
        _check(given, place, depth)
        if not given:
            raise wrong("one attribute at least is expected, with its text", place)
        parts: list[Node] = []
        for name, value in given.items():
            at = _inner(place, name)
            if not isinstance(value, str) or not value:
                raise wrong(f"a text of one character at least is expected, not {value!r:.60}", at)
            parts.append(_compared(name, value, op, at))
        return both(parts)

    return parse


def _compared(name: str, value: str, op: str, place: str) -> Node:
    path = attribute_path(name, place)
    if op == "$eq" and path.attribute is int:  # attributes are compared as texts there
        if not value.isascii() or not value.isdecimal():
            raise wrong(f"{path} is a number, never {value!r:.60}", place)
        return condition(path, op, int(value), place=place)
    if op == "$eq" and path.attribute is datetime:
        return condition(path, op, value, place=place)
    return condition(path, op, value, case_sensitive=True, place=place)


def _several(join: Callable[[list[Node]], Node]) -> Callable[[Any, str, int], Node]:
    def parse(given: Any, place: str, depth: int) -> Node:
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise wrong("a list of filters is expected, one at least", place)
        return join([_dialect(each, f"{place}[{number}]", depth) for number, each in enumerate(given)])

    return parse


def _dialect(given: Any, place: str, depth: int) -> Node:
    _check(given, place, depth)
    if len(given) != 1 or next(iter(given)) not in DIALECTS:
        name = next((name for name in given if name not in DIALECTS), "")
        raise unknown("dialect", name, dict.fromkeys(DIALECTS), place)
    ((name, value),) = given.items()
    return _DIALECTS[name](value, _inner(place, name), depth + 1)


_DIALECTS: Mapping[str, Callable[[Any, str, int], Node]] = {
    "exact": _attributes("$eq"),
    "prefix": _attributes("$prefix"),
    "suffix": _attributes("$suffix"),
    "all": _several(both),
    "any": _several(either),
    "not": lambda given, place, depth: Inverse(_dialect(given, place, depth)),
    "sql": lambda given, place, depth: parse_sql(_text(given, place), place),
}
