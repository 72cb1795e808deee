"""A filter: what `where=` says, ready to be tried on events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Union

import orjson

from ...core.errors import InvalidFilter
from .explain import Explained, explain
from .jsonpath.query import Query, parse_query
from .kinds import Kind
from .mapping import parse_mapping
from .paths import EVENT, METADATA, TYPE, Path
from .text import parse_text
from .tree import Both, Node, as_data, build, check_depth, conjuncts, leaves
from .values import MOST_FILTERS, Failed, Result, wrong

#: What `where=` may be: one filter or a list of them, which all have to match.
Where = Union[Mapping[str, Any], str, Kind, "Filter", Sequence[Union[Mapping[str, Any], str, Kind, "Filter"]], None]


class Filter:
    """Conditions that an event meets or not; two are equal when they say the same in the canonical form.

    Attributes:
        nodes: the filters, which all have to match; none means every event.

    """

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.nodes = tuple(nodes)
        self._tests = build(Both(self.nodes))

    def test(self, event: Mapping[str, Any]) -> Result:
        """Return True, False, None where what is asked for is missing, or Failed; it never raises.

        Arguments:
            event: the CloudEvents attributes as decoded JSON, with `data`.

        """
        try:
            return self._tests(event)
        except Exception as exc:  # of what no condition foresaw, as an event that is no mapping
            return Failed(self.text, type(exc).__name__, str(exc))

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Say whether an event meets the conditions; what is missing or errs does not. It never raises."""
        return self.test(event) is True

    def explain(self, event: Mapping[str, Any]) -> list[Explained]:
        """Return what each condition comes to for an event; one under NOT is shown as it counts."""
        return [explain(leaf, event, inverted=inverted) for node in self.nodes for leaf, inverted in leaves(node)]

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Where the conditions look."""
        return tuple(dict.fromkeys(path for node in self.nodes for leaf, _ in leaves(node) for path in leaf.paths))

    @cached_property
    def envelope_only(self) -> bool:
        """Whether the data need not be decoded: the attributes suffice, of which the metadata is one."""
        if any(isinstance(leaf, Query) for node in self.nodes for leaf, _ in leaves(node)):
            return False
        return all(path.root in (EVENT, METADATA) for path in self.paths)

    @cached_property
    def of_type(self) -> Filter | None:
        """The conditions on the event's type alone: where they do not match, the whole cannot; None without any."""
        parts = [part for node in self.nodes for part in conjuncts(node)]
        alone = [part for part in parts if all(set(leaf.paths) == {TYPE} for leaf, _ in leaves(part))]
        return Filter(alone) if alone else None

    def as_data(self) -> Any:
        """Return the canonical form as JSON data, of which parse() makes an equal filter."""
        found = [as_data(node) for node in self.nodes]
        return found[0] if len(found) == 1 else found

    @cached_property
    def text(self) -> str:
        """The canonical form as a JSON text, of which parse(json.loads(...)) makes an equal filter."""
        return orjson.dumps(self.as_data()).decode()

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Filter) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Filter({self.text})"

    def __reduce__(self) -> tuple[type[Filter], tuple[tuple[Node, ...]]]:
        return Filter, (self.nodes,)


def parse(where: Where) -> Filter:
    """Return the filter that is meant; raise InvalidFilter that names the place of what is wrong.

    Arguments:
        where: a mapping, a text (composite, or a JSONPath that begins with `$`), a kind such as Regex(...), a Filter,
            or a list of those, which all have to match; None or an empty list means every event.

    """
    if where is None:
        return Filter()
    if isinstance(where, Filter):
        return where
    if not isinstance(where, (list, tuple)):
        return Filter([_node(where)])
    nodes: list[Node] = []
    for number, each in enumerate(where[: MOST_FILTERS + 1]):
        try:
            nodes.extend(each.nodes if isinstance(each, Filter) else [_node(each)])
        except InvalidFilter as exc:
            raise _within(number, exc) from None
    if len(nodes) > MOST_FILTERS:
        raise wrong(f"more than {MOST_FILTERS} filters are too many for an agent; join some with AND")
    return Filter(nodes)


def _within(number: int, error: InvalidFilter) -> InvalidFilter:
    """Return an error with the number of the filter in its list."""
    within = InvalidFilter(f"[{number}]: {error}")
    within.place = f"[{number}] {error.place}".strip()
    return within


def _node(where: Any) -> Node:
    if isinstance(where, Kind):
        return check_depth(where.node())
    if isinstance(where, str):
        return parse_query(where) if where.lstrip().startswith("$") else parse_text(where)
    if isinstance(where, Mapping):
        return parse_mapping(where)
    raise wrong(f"a filter is a mapping, a text, a kind such as Regex(...), or a list of those, not {where!r:.60}")
