"""Upcasters: functions that make a newer version's data of an older one's, one step each, chained where needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ..core.errors import InvalidEvent, line_of, nearest
from ..core.ids import Place, place_of
from ..core.topics import check_type
from .versions import Version, version_of

#: Takes the data of one version, which is its own to change, and returns that of the next one.
Upcast = Callable[[dict[str, Any]], dict[str, Any]]


class NoUpcaster(InvalidEvent):
    """An older version's data cannot be read, because a step from it to a newer major version is missing."""


@dataclass(frozen=True)
class Upcaster:
    """One step: what makes data of version `after` out of data of version `before`."""

    type: str
    before: Version
    after: Version
    function: Upcast
    place: Place

    def __str__(self) -> str:
        return f"the upcaster of {self.type} from {self.before} to {self.after} ({self.place})"

    def __call__(self, body: bytes) -> bytes:
        """Return the next version's data as JSON; raise InvalidEvent when the function fails, or returns none.

        Arguments:
            body: JSON, so that the function gets a copy: events do not change.

        """
        try:
            data = self.function(orjson.loads(body))
            if not isinstance(data, dict):
                raise TypeError(f"it returned a {type(data).__name__}, and has to return the data as a dict")
            return orjson.dumps(data)
        except Exception as exc:  # whatever a user's function raises
            raise InvalidEvent(f"{self} failed: {line_of(exc)}") from exc


class Upcasters:
    """The steps of all event types."""

    def __init__(self) -> None:
        #: By type, sorted by the version that they begin with.
        self._steps: dict[str, list[Upcaster]] = {}

    def add(self, type: str, before: str, after: str, function: Upcast) -> None:
        """Keep a step; raise InvalidEvent for what is no step to a newer version, or when there is one already.

        A step that begins with a version ends with a newer one, so that no chain of steps is a circle.
        """
        what = f"upcaster of {check_type(type)}"
        step = Upcaster(type, version_of(before, what), version_of(after, what), function, _place(what, function))
        if step.before >= step.after:
            raise InvalidEvent(
                f"{what}: it leads from {before} to {after}; an upcaster leads from an older version to a newer one, "
                "so that a chain of them comes to an end"
            )
        steps = self._steps.setdefault(type, [])
        taken = next((one for one in steps if one.before == step.before), None)
        if taken is not None:
            if taken.after != step.after or not taken.place.is_again(step.place):
                raise InvalidEvent(
                    f"{what}: two of them begin with {before}: to {taken.after} ({taken.place}) and to {after} "
                    f"({step.place}); let one go, or begin the other with the version that the first one leads to"
                )
            steps.remove(taken)
        steps.append(step)
        steps.sort(key=lambda one: one.before)

    def __iter__(self) -> Iterator[Upcaster]:
        for steps in self._steps.values():
            yield from steps

    def chain(self, type: str, version: Version, target: Version) -> list[Upcaster]:
        """Return the steps from an older version to the one that is read; none when both are of one major version.

        Raises NoUpcaster when a step to a newer major version is missing.
        """
        steps, at = [], version
        while (step := self._next(type, at)) is not None and step.after <= target:
            steps.append(step)
            at = step.after
        if at.major != target.major:
            begun = f"; its chain ends with {at}" if steps else ""
            raise NoUpcaster(
                f"version {version} cannot be read as {target}{begun}: declare "
                f'@app.upcaster("{type}", "{at}", "{target}"), and requeue it (`pipeline dead requeue`)'
            )
        return steps

    def _next(self, type: str, version: Version) -> Upcaster | None:
        """Return the step that takes a version: the one of its major version that begins nearest before it.

        Data of a newer minor version can be read by whoever reads the older one, and so by that one's upcaster.
        """
        found = None
        for step in self._steps.get(type, ()):
            if step.before.major == version.major and step.before <= version < step.after:
                found = step
        return found

    def problems(self, read: Mapping[str, Collection[Version]]) -> list[str]:
        """Return what is wrong with the steps as a whole: those that lead nowhere.

        Arguments:
            read: the versions of each event type that classes read.

        """
        found = []
        for step in self:
            if step.type not in read:
                found.append(
                    f"{step} is for a type that no class here has; a class that no agent takes is made known with "
                    f"app.types.add(...); {nearest(step.type, read)}"
                )
            elif self._next(step.type, step.after) is None and step.after.major not in (
                majors := {version.major for version in read[step.type]}
            ):
                newest = max(read[step.type])
                mend = (
                    f'declare @app.upcaster("{step.type}", "{step.after}", "{newest}")'
                    if step.after < newest
                    else f"give the class that version; known: {', '.join(map(str, sorted(majors)))}.x"
                )
                found.append(f"{step} leads to a version that no class reads, and no further: {mend}")
        return found


def _place(what: str, function: Any) -> Place:
    if not callable(function) or inspect.iscoroutinefunction(function) or inspect.isclass(function):
        raise InvalidEvent(f"{what}: it is a plain function of the data that returns the data: `def newer(data: dict)`")
    try:
        inspect.signature(function).bind({})
    except TypeError:
        raise InvalidEvent(f"{what}: it is called with the data alone: `def newer(data: dict)`") from None
    return place_of(function)
