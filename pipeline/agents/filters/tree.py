"""The one tree that all ways to write a filter end in: conditions under AND, OR and NOT with three values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...core.errors import InvalidFilter
from .values import MOST_DEPTH, Leaf, Result, Test, inverse, worse, wrong


@dataclass(frozen=True)
class Both:
    """AND: false where one part is false, else unknown where one is."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """OR: true where one part is true, else unknown where one is."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Inverse:
    """NOT: of what is missing or wrong it is so, too."""

    part: Node


Node = Both | Either | Inverse | Leaf


def both(parts: list[Node]) -> Node:
    """Return AND of some conditions, in one level."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, Both) else (part,))]
    return flat[0] if len(flat) == 1 else Both(tuple(flat))


def either(parts: list[Node]) -> Node:
    """Return OR of some conditions, in one level."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, Either) else (part,))]
    return flat[0] if len(flat) == 1 else Either(tuple(flat))


def negated(part: Node) -> Node:
    """Return NOT of a condition."""
    return part.part if isinstance(part, Inverse) else Inverse(part)


def check_depth(node: Node, place: str = "") -> Node:
    """Return a tree that is not too deep; raise InvalidFilter for another."""
    if _depth(node) > MOST_DEPTH:
        raise too_deep(place)
    return node


def too_deep(place: str = "") -> InvalidFilter:
    """Return the error for conditions, or computations, that stand in each other too deep."""
    return wrong(f"conditions stand in each other more than {MOST_DEPTH} deep; split the filter into several", place)


def _depth(node: Node) -> int:
    if isinstance(node, Inverse):
        return 1 + _depth(node.part)
    return 1 + max(map(_depth, node.parts)) if isinstance(node, (Both, Either)) else 0


def build(node: Node) -> Test:
    """Return the function that tries a tree on an event."""
    if isinstance(node, Inverse):
        inner = build(node.part)
        return lambda event: inverse(inner(event))
    if isinstance(node, Both):
        return _until(False, tuple(map(build, node.parts)))
    if isinstance(node, Either):
        return _until(True, tuple(map(build, node.parts)))
    return node.build()


def as_data(node: Node) -> dict[str, Any]:
    """Return a tree as a mapping filter has it."""
    if isinstance(node, Inverse):
        return {"$not": as_data(node.part)}
    if isinstance(node, (Both, Either)):
        return {"$and" if isinstance(node, Both) else "$or": [as_data(part) for part in node.parts]}
    return node.as_data()


def leaves(node: Node, *, inverted: bool = False) -> Iterator[tuple[Leaf, bool]]:
    """Go through the conditions, each with whether it counts inverted: NOT of an AND is an OR of NOTs."""
    if isinstance(node, Inverse):
        yield from leaves(node.part, inverted=not inverted)
    elif isinstance(node, (Both, Either)):
        for part in node.parts:
            yield from leaves(part, inverted=inverted)
    else:
        yield node, inverted


def conjuncts(node: Node) -> tuple[Node, ...]:
    """Return the parts that all have to be true."""
    return node.parts if isinstance(node, Both) else (node,)


def _until(decisive: bool, tests: tuple[Test, ...]) -> Test:
    """Return AND (which one False decides) or OR (one True); else the result is unknown where one part is."""
    undecided = not decisive

    def test(event: Mapping[str, Any]) -> Result:
        result: Result = undecided
        for each in tests:
            found = each(event)
            if found is decisive:
                return decisive
            if found is not undecided:
                result = found if result is undecided else worse(result, found)
        return result

    return test
