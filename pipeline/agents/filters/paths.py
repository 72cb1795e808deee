"""Where in an event a condition looks: dotted paths into the envelope, the payload and the metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import orjson

from ...core.limits.limit import text_of
from .values import MISSING, Trouble, as_text, check_characters, kind_of, unknown, wrong

EVENT, PAYLOAD, METADATA = "event", "payload", "metadata"
#: The attributes that the bus knows, and what their values are.
ATTRIBUTES: Mapping[str, type] = {
    "specversion": str, "id": str, "type": str, "source": str, "subject": str, "time": datetime,
    "datacontenttype": str, "dataschema": str, "correlationid": str, "causationid": str, "schemaversion": str,
    "priority": int, "targets": str, "hops": int, "traceparent": str, "tracestate": str,
}  # fmt: skip
#: The names that they have in Python.
ALIASES: Mapping[str, str] = {
    "correlation_id": "correlationid", "causation_id": "causationid", "schema_version": "schemaversion",
}  # fmt: skip
#: Names that a condition's place shows, at most.
MOST_FIELDS = 50

_ROOTS = {"event": EVENT, "payload": PAYLOAD, "data": PAYLOAD, "metadata": METADATA}
_STEP = re.compile(r"`(?P<quoted>(?:[^`]|``)+)`|(?P<plain>[^.`]+)")
_PLAIN = re.compile(r"\w+")
_EXTENSION = re.compile(r"[a-z0-9]{1,255}")

Get = Callable[[Mapping[str, Any]], Any]


class Several(list[Any]):
    """What a path finds in an array of objects: a value of each, or MISSING."""


@dataclass(frozen=True)
class Path:
    """A way into an event.

    Attributes:
        root: where it starts: `event` (the envelope), `payload` or `metadata`.
        names: the names of fields, or numbers of an array's elements (from 0), from there.

    """

    root: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the path as it is written, with its root."""
        return ".".join((self.root, *map(_quoted, self.names)))

    @property
    def attribute(self) -> type | None:
        """What the value of a known attribute of the envelope is: a text, an integer or a datetime."""
        return ATTRIBUTES.get(self.names[0]) if self.root == EVENT else None

    def getter(self) -> Get:
        """Return the function that finds the value in an event, MISSING, or Several."""
        if self.root == EVENT:
            return _attribute(self.names[0])
        return _field(_metadata if self.root == METADATA else _data, self.names)

    def value(self, event: Mapping[str, Any]) -> Any:
        """Return the value in an event as people are shown it: JSON, and None for what is missing."""
        found = self.getter()(event)
        if isinstance(found, Several):
            return [each for each in found if each is not MISSING]
        return as_text(found) if isinstance(found, datetime) else None if found is MISSING else found

    def around(self, event: Mapping[str, Any]) -> list[str]:
        """Return the names that exist where the path ends, or where it stops to exist; at most MOST_FIELDS."""
        if self.root == EVENT:
            return sorted(name for name in event if name != "data")[:MOST_FIELDS]
        try:
            place = _metadata(event) if self.root == METADATA else _data(event)
        except Trouble:
            return []
        for name in self.names[:-1]:
            inner = _step(place, name)
            if inner is MISSING or not isinstance(inner, (Mapping, list, Several)):
                break
            place = inner
        names: set[str] = set()
        for each in place if isinstance(place, list) else (place,):
            if isinstance(each, Mapping):
                names.update(map(str, each))
        return sorted(names)[:MOST_FIELDS]


class _InBackticks(str):
    """A name that is a field's, also where it is spelled like a root or an attribute."""

    __slots__ = ()


#: The event's type, whose `order.*` is every type that begins so.
TYPE = Path(EVENT, ("type",))


def parse_path(text: str, place: str = "") -> Path:
    """Return the path that a dotted text stands for; raise InvalidFilter."""
    return path_of(split(text, place), place)


def path_of(steps: Sequence[str], place: str = "") -> Path:
    """Return the path of some steps; raise InvalidFilter where there can be none."""
    first, names = steps[0], tuple(map(str, steps[1:]))
    root = None if isinstance(first, _InBackticks) else _ROOTS.get(first)
    if root == EVENT and not names:
        raise wrong("'event' is the whole envelope; name one of its attributes, such as event.type", place)
    if root == EVENT and names[0] in _ROOTS and names[0] != EVENT:
        root, names = _ROOTS[names[0]], names[1:]
    if root is None:
        known = first in ATTRIBUTES or first in ALIASES
        root, names = EVENT if known and not isinstance(first, _InBackticks) else PAYLOAD, (str(first), *names)
    if root != EVENT:
        return Path(root, names)
    name = ALIASES.get(names[0], names[0])
    if len(names) > 1:
        raise wrong(
            f"event.{name} is one value without fields; write payload.{'.'.join(names)} for the payload's", place
        )
    if not _EXTENSION.fullmatch(name):
        raise unknown("attribute of the envelope", name, {**ATTRIBUTES, **ALIASES}, place)
    return Path(EVENT, (name,))


def attribute_path(name: Any, place: str = "") -> Path:
    """Return the path of an attribute, as the CloudEvents dialects name it; raise InvalidFilter."""
    if not isinstance(name, str) or not _EXTENSION.fullmatch(name) or name == "data":
        raise wrong(f"{name!r} is no CloudEvents attribute; use lower-case letters and digits, such as 'type'", place)
    return Path(EVENT, (name,))


def split(text: str, place: str = "") -> list[str]:
    """Return the names that are joined by dots in a text; raise InvalidFilter when it is no path."""
    check_characters(text, place)
    if "`" not in text and all(names := text.split(".")):
        return names
    steps: list[str] = []
    position = -1
    while position < len(text):
        found = _STEP.match(text, position + 1)
        if found is None or (position >= 0 and text[position] != "."):
            raise wrong(f"{text!r} is no path; write names joined by dots, and odd ones in backticks", place)
        quoted = found["quoted"]
        steps.append(found["plain"] if quoted is None else _InBackticks(quoted.replace("``", "`")))
        position = found.end()
    return steps


def _quoted(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else "`" + name.replace("`", "``") + "`"


def _data(event: Mapping[str, Any]) -> Any:
    value = event.get("data")
    return MISSING if value is None else value


def _metadata(event: Mapping[str, Any]) -> Any:
    value = event.get("metadata")
    if value is None:
        return MISSING
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except ValueError:
            raise Trouble("the attribute metadata is no JSON") from None
    if not isinstance(value, Mapping):
        raise Trouble(f"the attribute metadata is {kind_of(value)}, not an object")
    return value


def _attribute(name: str) -> Get:
    def get(event: Mapping[str, Any]) -> Any:
        value = event.get(name)
        return MISSING if value is None else value

    return get


def _field(root: Get, names: tuple[str, ...]) -> Get:
    if not names:
        return root

    def get(event: Mapping[str, Any]) -> Any:
        value = root(event)
        for name in names:
            if type(value) is not dict:
                return _walk(event, root, names)
            value = value.get(name, MISSING)
            if value is MISSING:
                return MISSING
        return value

    return get


def _walk(event: Mapping[str, Any], root: Get, names: tuple[str, ...]) -> Any:
    """Find a value where there are arrays on the way."""
    value = root(event)
    for name in names:
        value = _step(value, name)
        if value is MISSING:
            break
    return value


def _step(value: Any, name: str) -> Any:
    """Go one step further; in an array to an element, or into each of its objects."""
    if isinstance(value, Mapping):
        return value.get(name, MISSING)
    if not isinstance(value, (list, tuple)):
        return MISSING
    if name.isdecimal() and not isinstance(value, Several):
        return value[int(name)] if len(name) < 10 and int(name) < len(value) else MISSING
    found = Several()
    for item in value:
        inner = _step(item, name)
        if isinstance(inner, (list, tuple)):
            found.extend(inner)
        else:
            found.append(inner)
    return found if any(each is not MISSING for each in found) else MISSING


def text_at(path: str, said: Mapping[str, Any]) -> str | None:
    """Return what an event with these attributes says at a path, as the text that keys are; None for nothing."""
    try:
        value = _getter(path)(said)
    except Trouble:
        return None
    return None if value is MISSING or value is None else text_of(value)


@lru_cache(maxsize=256)
def _getter(path: str) -> Get:
    return parse_path(path).getter()
