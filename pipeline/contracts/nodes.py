"""What a part of a JSON Schema accepts, as pydantic writes schemas: its alternatives, its bounds, its values."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import orjson

Node = dict[str, Any]

ANY = "anything"
#: Formats that nothing is validated by.
_MERE_FORMATS = ("binary", "password")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


def alternatives(node: Any, root: Node) -> list[Node]:
    """Return what a part of a schema consists of, each without references and of one JSON type or of given values."""
    node = resolved(node, root)
    branches = node.get("anyOf") or node.get("oneOf")
    if branches:
        rest = {key: value for key, value in node.items() if key not in ("anyOf", "oneOf")}
        return [each for branch in branches for each in alternatives({**rest, **resolved(branch, root)}, root)]
    if isinstance(node.get("type"), list):
        return [each for kind in node["type"] for each in alternatives({**node, "type": kind}, root)]
    return [node]


def resolved(node: Any, root: Node) -> Node:
    """Return a part of a schema with what it refers to."""
    if isinstance(node, bool) or node is None:
        return {} if node is not False else {"enum": []}
    while "$ref" in node or len(node.get("allOf", ())) == 1:
        rest = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
        inner = root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node["allOf"][0]
        node = {**inner, **rest}
    found: Node = node
    return found


def values(node: Node) -> list[Any] | None:
    """Return the only values of a part; None when it has any number of them."""
    if "const" in node:
        return [node["const"]]
    if "enum" in node:
        return list(node["enum"])
    simple: dict[str, list[Any]] = {"null": [None], "boolean": [False, True]}
    return simple.get(kind(node))


def kind(node: Node) -> str:
    """Return the JSON type of one alternative."""
    if "type" in node:
        return str(node["type"])
    if "const" in node or "enum" in node:
        kinds = {kind_of(value) for value in ([node["const"]] if "const" in node else node["enum"])}
        return kinds.pop() if len(kinds) == 1 else ANY
    return ANY


def kind_of(value: Any) -> str:
    """Return the JSON type of a value."""
    return _TYPES.get(type(value), "null")


def reads_kind(reader: str, written: str) -> bool:
    """Say whether a JSON type is read where another one is expected."""
    return reader in (ANY, written) or (reader, written) == ("number", "integer")


def format_of(node: Node) -> str | None:
    """Return what a text has to look like beside its pattern: a date, a UUID ..."""
    named = node.get("format") or node.get("contentMediaType")
    return None if named in _MERE_FORMATS else named


def lowest(node: Node) -> tuple[Fraction, int] | None:
    """Return the lower bound of numbers, to be compared with others: exclusive ones come just above; None for none."""
    found = _bounds(node, minimum=0, exclusiveMinimum=1)
    if not found:
        return None
    bound, after = max(found)
    if kind(node) == "integer":
        return (Fraction(math.floor(bound) + 1 if after else math.ceil(bound)), 0)
    return (bound, after)


def highest(node: Node) -> tuple[Fraction, int] | None:
    """Return the upper bound of numbers, likewise: exclusive ones come just below."""
    found = _bounds(node, maximum=0, exclusiveMaximum=-1)
    if not found:
        return None
    bound, after = min(found)
    if kind(node) == "integer":
        return (Fraction(math.ceil(bound) - 1 if after else math.floor(bound)), 0)
    return (bound, after)


def _bounds(node: Node, **keys: int) -> list[tuple[Fraction, int]]:
    return [(Fraction(str(node[key])), beside) for key, beside in keys.items() if key in node]


def is_multiple(written: Node, factor: Any) -> bool:
    """Say whether all numbers of a part are multiples of a factor."""
    own = Fraction(str(written["multipleOf"])) if "multipleOf" in written else None
    if own is None:
        own = Fraction(1) if kind(written) == "integer" else None
    return own is not None and (own / Fraction(str(factor))).denominator == 1


def same(one: Any, other: Any) -> bool:
    """Say whether two values are the same in JSON, where true is not 1."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def accepts(node: Node, value: Any) -> bool:
    """Say whether one alternative surely accepts a simple value."""
    if (only := values(node)) is not None:
        return any(same(value, one) for one in only)
    if not reads_kind(kind(node), kind_of(value)):
        return False
    if isinstance(value, str):
        fits = node.get("minLength", 0) <= len(value) <= node.get("maxLength", math.inf)
        return fits and format_of(node) is None and _matches(node.get("pattern"), value)
    if isinstance(value, (int, float)):
        own = {**node, "type": kind_of(value)}
        low, high, at = lowest(own), highest(own), (Fraction(str(value)), 0)
        fits = (low is None or low <= at) and (high is None or at <= high)
        return fits and ("multipleOf" not in node or (at[0] / Fraction(str(node["multipleOf"]))).denominator == 1)
    return kind(node) == ANY


def _matches(pattern: str | None, value: str) -> bool:
    try:
        return pattern is None or re.search(pattern, value) is not None
    except re.error:  # the validators' dialect is another one
        return False


def sent_names(node: Node, sent_as: str) -> dict[str, tuple[str, Node]]:
    """Return an object's properties by the name that they are sent under, each with its own name."""
    return {part.get(sent_as, name): (name, part) for name, part in node.get("properties", {}).items()}


def others(node: Node) -> Any:
    """Return the schema of the names that an object may have beside its properties; False when it has none."""
    if "patternProperties" in node:
        return {}
    return node.get("additionalProperties", False if "properties" in node else {})
