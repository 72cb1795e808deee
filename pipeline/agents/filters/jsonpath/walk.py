"""How a query goes through an event: whether it selects something, and what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..values import Trouble

#: Says whether something is selected, or a condition met; asked with a value, and the root of all.
Says = Callable[[Any, Any], bool]
#: Finds a value, or NOTHING, from a value and the root of all.
Finds = Callable[[Any, Any], Any]
#: Finds all values that something selects.
Selects = Callable[[Any, Any], Iterable[Any]]

NOTHING: Final = object()
#: The selector `*`.
WILD: Final = object()
#: How deep `..` goes.
MOST_LEVELS = 100


class Segment(NamedTuple):
    """A step of a query.

    Attributes:
        selectors: names (str), indices (int), slices, WILD, and conditions as what says whether they are met.
        deep: whether it is `..`, which selects at every depth.

    """

    selectors: tuple[Any, ...]
    deep: bool = False

    @property
    def only(self) -> str | int | None:
        """The name or index that is all it selects by."""
        (selector, *others) = self.selectors
        return selector if isinstance(selector, (str, int)) and not others and not self.deep else None


def exists(segments: Sequence[Segment]) -> Says:
    """Return what says whether a query selects something; it looks no further than it has to."""
    says: Says = lambda value, root: True  # noqa: E731  # where there is no further step, something is selected
    for segment in reversed(segments):
        says = _either([_selected(selector, says) for selector in segment.selectors])
        if segment.deep:
            says = _selected_from(lambda value, root: _levels(value), says)
    return says


def nodes(segments: Sequence[Segment]) -> Callable[[Any, Any], Iterator[Any]]:
    """Return what finds all values that a query selects, one after the other."""
    steps = [(segment.deep, [_several(selector) for selector in segment.selectors]) for segment in segments]

    def find(value: Any, root: Any) -> Iterator[Any]:
        found = iter((value,))
        for deep, selectors in steps:
            places = _all_levels(found) if deep else found
            found = _all_selected(places, selectors, root)
        return found

    return find


def _all_levels(places: Iterable[Any]) -> Iterator[Any]:
    return (inner for place in places for inner in _levels(place))


def _all_selected(places: Iterable[Any], selectors: Sequence[Selects], root: Any) -> Iterator[Any]:
    return (inner for place in places for select in selectors for inner in select(place, root))


def single(segments: Sequence[Segment]) -> Finds | None:
    """Return what finds the value of a query of names and indices alone; None for another query."""
    names = [segment.only for segment in segments]
    if None in names:
        return None
    steps = [step(name) for name in names]
    if not steps:
        return lambda value, root: value
    return steps[0] if len(steps) == 1 else lambda value, root: _last(steps, value)


def step(selector: Any) -> Finds:
    """Return what finds what a name or an index selects."""
    if isinstance(selector, int):

        def at(value: Any, root: Any) -> Any:
            return value[selector] if _is_array(value) and -len(value) <= selector < len(value) else NOTHING

        return at

    def of(value: Any, root: Any) -> Any:
        return value.get(selector, NOTHING) if type(value) is dict or isinstance(value, Mapping) else NOTHING

    return of


def _either(several: Sequence[Says]) -> Says:
    if len(several) == 1:
        return several[0]
    return lambda value, root: any(says(value, root) for says in several)


def _selected(selector: Any, further: Says) -> Says:
    """Return what goes on with what a selector selects."""
    if callable(selector):
        return lambda value, root: any(selector(inner, root) and further(inner, root) for inner in _inner(value))
    if not isinstance(selector, (str, int)):
        return _selected_from(_several(selector), further)
    find = step(selector)

    def says(value: Any, root: Any) -> bool:
        inner = find(value, root)
        return inner is not NOTHING and further(inner, root)

    return says


def _selected_from(select: Selects, further: Says) -> Says:
    return lambda value, root: any(further(inner, root) for inner in select(value, root))


def _several(selector: Any) -> Selects:
    """Return what finds everything that a selector selects."""
    if isinstance(selector, (str, int)):
        find = step(selector)
        return lambda value, root: () if (inner := find(value, root)) is NOTHING else (inner,)
    if isinstance(selector, slice):
        return lambda value, root: value[selector] if selector.step != 0 and _is_array(value) else ()
    if selector is WILD:
        return lambda value, root: _inner(value)
    return lambda value, root: (inner for inner in _inner(value) if selector(inner, root))


def _levels(value: Any, level: int = 1) -> Iterator[Any]:
    """Go through a value and everything in it."""
    if level > MOST_LEVELS:
        raise Trouble("JSONPath: recursion limit exceeded")
    yield value
    for inner in _inner(value):
        yield from _levels(inner, level + 1)


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if _is_array(value) else ()


def _is_array(value: Any) -> bool:
    return type(value) is list or (isinstance(value, Sequence) and not isinstance(value, str))


def _last(steps: Sequence[Finds], value: Any) -> Any:
    for each in steps:
        value = each(value, None)
        if value is NOTHING:
            break
    return value
