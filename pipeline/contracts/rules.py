"""Rules of compatibility: whether one version of a schema reads what the other one writes.

A change is looked at twice, with the new version as the reader and with the old one. Where a part of a schema has
several alternatives, each of the writer's has to fit into one of the reader's: nothing that breaks is missed, and a
range that only two alternatives together would cover counts as a break.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import orjson

from . import nodes
from .nodes import ANY, Node
from .schemas import READ_AS, SENT_AS, Schema

Reader = Literal["old reader", "new reader"]
OLD: Reader = "old reader"
NEW: Reader = "new reader"

#: What each rule finds, in words for the documentation, with "it" for the reader whom the change breaks.
RULES = {
    "type": "data of a JSON type that it does not take",
    "null": "null, where it takes none",
    "value": "a value that is none of its own (`Literal`, `Enum`)",
    "alternatives": "data that fits none of the alternatives of its union as a whole",
    "format": "texts without the form that it asks for (date, UUID ...)",
    "pattern": "texts that its pattern may not match",
    "length": "shorter or longer texts than it takes",
    "range": "smaller or larger numbers than it takes",
    "multiple": "numbers that are no multiples of its own",
    "size": "fewer or more items, or entries, than it takes",
    "unique": "items twice, where it takes each once",
    "field-required": "data without a field that it needs",
    "field-unknown": 'a field that it refuses (`extra="forbid"`)',
    "field-name": "names of entries that it does not take",
    "upcaster-missing": "data of an older major version that no chain of upcasters makes its own",
    "newer-major": "data of a newer major version, which waits for a worker that reads it",
    "version-lowered": "data of a newer version than all that are left",
    "type-removed": "data of a type that no class is left for",
}


@dataclass(frozen=True)
class Finding:
    """One change that breaks readers.

    Attributes:
        rule: the id of a rule.
        path: where in the data: names of fields, `[]` for items, `*` for entries of any name; empty for the whole.
        before: what the old version has there.
        after: what the new version has there.
        breaks: who no longer reads what the other side writes.

    """

    rule: str
    path: str
    before: Any
    after: Any
    breaks: Reader

    def as_data(self) -> dict[str, Any]:
        """Return the finding as JSON data."""
        return {
            "rule": self.rule, "path": self.path, "before": self.before, "after": self.after, "breaks": self.breaks,
        }  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Something that is written and not read: what the writer has there, and what the reader."""

    rule: str
    path: str
    written: Any
    read: Any


def differences(before: Schema, after: Schema) -> list[Finding]:
    """Return what of a change breaks readers of the new version, and then what breaks those of the old one."""
    backward = [Finding(p.rule, p.path, p.written, p.read, NEW) for p in unread(before, after)]
    return backward + [Finding(p.rule, p.path, p.read, p.written, OLD) for p in unread(after, before)]


def unread(writer: Schema, reader: Schema) -> list[Problem]:
    """Return what the writer's schema allows and the reader's does not; nothing when all of it is read."""
    return list(dict.fromkeys(_Reading(writer, reader).compare(writer, reader, "")))


class _Reading:
    """One schema read by another one."""

    def __init__(self, writer: Schema, reader: Schema) -> None:
        self._writer, self._reader = writer, reader
        #: Pairs that are being compared: one that comes again within itself is as good as the rest of it.
        self._open: set[tuple[bytes, bytes]] = set()

    def compare(self, written: Any, read: Any, path: str) -> list[Problem]:
        """Return what one part of the writer's schema allows and a part of the reader's does not."""
        readers = nodes.alternatives(read, self._reader)
        if any(nodes.kind(each) == ANY and nodes.values(each) is None for each in readers):
            return []
        found: list[Problem] = []
        for each in nodes.alternatives(written, self._writer):
            values = nodes.values(each)
            if values is None:
                found += self._best(each, readers, path)
            else:
                found += self._values(values, readers, path)
        return found

    def _values(self, values: list[Any], readers: list[Node], path: str) -> Iterator[Problem]:
        refused = [value for value in values if not any(nodes.accepts(each, value) for each in readers)]
        if None in refused:
            yield Problem("null", path, "null", _shown(readers))
        for kind, some in _by_kind([value for value in refused if value is not None]).items():
            if any(nodes.reads_kind(nodes.kind(each), kind) for each in readers):
                yield Problem("value", path, _text(some), _shown(readers))
            else:
                yield Problem("type", path, kind, _shown(readers))

    def _best(self, written: Node, readers: list[Node], path: str) -> list[Problem]:
        """Return nothing when one alternative of the reader's reads it, else what comes nearest."""
        near = [each for each in readers if nodes.reads_kind(nodes.kind(each), nodes.kind(written))]
        tried = []
        for each in near:
            problems = self._alternative(written, each, path)
            if not problems:
                return []
            tried.append(problems)
        if not tried:
            return [Problem("type", path, nodes.kind(written), _shown(readers))]
        return tried[0] if len(tried) == 1 else [Problem("alternatives", path, _shown([written]), _shown(near))]

    def _alternative(self, written: Node, read: Node, path: str) -> list[Problem]:
        if nodes.values(read) is not None:
            return [Problem("value", path, nodes.kind(written), _shown([read]))]
        pair = orjson.dumps(written), orjson.dumps(read)
        if pair in self._open:
            return []
        self._open.add(pair)
        try:
            compare = {
                "string": _texts,
                "integer": _numbers,
                "number": _numbers,
                "array": self._arrays,
                "object": self._objects,
            }[nodes.kind(written)]
            return list(compare(written, read, path))
        finally:
            self._open.discard(pair)

    def _arrays(self, written: Node, read: Node, path: str) -> Iterator[Problem]:
        yield from _sizes("size", written, read, path, ("minItems", "maxItems"))
        if read.get("uniqueItems") and not written.get("uniqueItems"):
            yield Problem("unique", path, "any items", "each once")
        firsts, expected = written.get("prefixItems", []), read.get("prefixItems", [])
        rests, last = (written.get("items", {}), read.get("items", {})), read.get("maxItems", math.inf)
        longest = min(written.get("maxItems", math.inf), last)  # what is longer has been found above
        for position, (one, other) in enumerate(zip_longest(firsts, expected)):
            if position < longest:
                pair = (rests[0] if one is None else one, rests[1] if other is None else other)
                yield from self.compare(*pair, f"{path}[{position}]")
        if longest > max(len(firsts), len(expected)):
            yield from self.compare(*rests, f"{path}[]")

    def _objects(self, written: Node, read: Node, path: str) -> Iterator[Problem]:
        sent, more = nodes.sent_names(written, SENT_AS), nodes.others(written)
        refuses = read.get("additionalProperties") is False
        known: set[str] = set()
        for name, part in read.get("properties", {}).items():
            names = [each for each in part.get(READ_AS, [name]) if each in sent]
            known.update(part.get(READ_AS, [name]))
            if names:
                yield from self.compare(sent[names[0]][1], part, _at(path, name))
            elif more is not False:
                yield from self.compare(more, part, _at(path, name))
            if name in read.get("required", ()) and not any(
                sent[each][0] in written.get("required", ()) for each in names
            ):
                told = "not always there" if names or more is not False else "absent"
                yield Problem("field-required", _at(path, name), told, "required")
        entries = nodes.others(read)
        for name, (_, part) in sent.items():
            if name in known:
                continue
            if refuses:
                yield Problem("field-unknown", _at(path, name), "there", "refused")
            elif entries is not False:
                yield from self.compare(part, entries, _at(path, name))
        if more is not False and refuses:
            yield Problem("field-unknown", _at(path, "*"), "there", "refused")
        elif more is not False and entries is not False:
            yield from self.compare(more, entries, _at(path, "*"))
        yield from self._entries(written, read, path)

    def _entries(self, written: Node, read: Node, path: str) -> Iterator[Problem]:
        """Yield what is wrong with the number and the names of an object's entries."""
        fewest = max(written.get("minProperties", 0), len(written.get("required", ())))
        most = math.inf if nodes.others(written) is not False else len(written.get("properties", ()))
        counted = {"minProperties": fewest, "maxProperties": min(written.get("maxProperties", math.inf), most)}
        yield from _sizes("size", counted, read, path, ("minProperties", "maxProperties"))
        patterns = (written.get("patternProperties"), read.get("patternProperties"))
        if patterns[1] is not None and patterns[0] != patterns[1]:
            yield Problem("field-name", path, _text(patterns[0]), _text(patterns[1]))
        if "propertyNames" in read:
            names = written.get("propertyNames", {"type": "string"})
            if "properties" in written and nodes.others(written) is False:
                names = {"enum": list(nodes.sent_names(written, SENT_AS))}
            if wrong := self.compare({"type": "string", **names}, {"type": "string", **read["propertyNames"]}, path):
                yield Problem("field-name", path, wrong[0].written, wrong[0].read)


def _texts(written: Node, read: Node, path: str) -> Iterator[Problem]:
    yield from _sizes("length", written, read, path, ("minLength", "maxLength"))
    if "pattern" in read and written.get("pattern") != read["pattern"]:
        yield Problem("pattern", path, written.get("pattern"), read["pattern"])
    expected, given = nodes.format_of(read), nodes.format_of(written)
    if expected is not None and given != expected:
        yield Problem("format", path, given, expected)


def _numbers(written: Node, read: Node, path: str) -> Iterator[Problem]:
    low, lowest = nodes.lowest(written), nodes.lowest(read)
    if lowest is not None and (low is None or low < lowest):
        yield Problem("range", path, _bound(written, "inimum"), _bound(read, "inimum"))
    high, highest = nodes.highest(written), nodes.highest(read)
    if highest is not None and (high is None or high > highest):
        yield Problem("range", path, _bound(written, "aximum"), _bound(read, "aximum"))
    if "multipleOf" in read and not nodes.is_multiple(written, read["multipleOf"]):
        yield Problem("multiple", path, written.get("multipleOf"), read["multipleOf"])


def _sizes(rule: str, written: Node, read: Node, path: str, keys: tuple[str, str]) -> Iterator[Problem]:
    fewest, most = keys
    if written.get(fewest, 0) < read.get(fewest, 0):
        yield Problem(rule, path, f"{fewest} {written.get(fewest, 0)}", f"{fewest} {read[fewest]}")
    if written.get(most, math.inf) > read.get(most, math.inf):
        limit = written.get(most, math.inf)
        yield Problem(rule, path, f"no {most}" if limit == math.inf else f"{most} {limit}", f"{most} {read[most]}")


def _bound(node: Node, word: str) -> str:
    found = [f"{key} {value}" for key, value in node.items() if key.endswith(word)]
    return ", ".join(found) or f"no {'m' + word}"


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _shown(alternatives: list[Node]) -> str:
    """Return what alternatives take, in a few words."""
    parts = []
    for each in alternatives:
        values = nodes.values(each)
        is_kind = values is None or nodes.kind(each) in ("null", "boolean")
        parts.append(nodes.kind(each) if is_kind else _text(values))
    return " or ".join(dict.fromkeys(parts))


def _text(data: Any) -> str:
    return orjson.dumps(data).decode()


def _by_kind(values: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for value in values:
        found.setdefault(nodes.kind_of(value), []).append(value)
    return found
