"""The registry: the event types that an app knows, with their versions, their classes and their upcasters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, get_args

import orjson
from pydantic import ValidationError

from ..core.announcements import ActionProposed
from ..core.errors import ConfigError, InvalidEvent, explain, nearest
from ..core.event import Event, Payload
from .newer import NewerMajor
from .upcasters import Upcast, Upcasters
from .versions import Version, version_of

#: Which readers a new version of a type has to leave whole: new ones of old data, old ones of new data, both, none.
Mode = Literal["backward", "forward", "full", "none"]
MODES: tuple[str, ...] = get_args(Mode)
BACKWARD: Mode = "backward"


class Types:
    """What events of each type look like in the versions that this app's classes have.

    The classes that agents take, listen to or return, and those of joins and schedules, are known by themselves; what
    is published without any of them is made known with `app.types.add(OrderPlaced)`.
    """

    def __init__(self, url: str = "") -> None:
        """Know none.

        Arguments:
            url: where the schemas are served, without a slash at its end; empty for nowhere.

        """
        self.upcasters = Upcasters()
        self.url = url
        self._classes: dict[str, dict[Version, list[type[Payload]]]] = {}
        self._newest: dict[str, str] = {}
        self._added: dict[str, type[Payload]] = {}
        self._modes: dict[str, Mode] = {}

    def add(self, *classes: type[Payload], mode: Mode | None = None) -> None:
        """Make classes known: data that is published under their types without a class has to fit them.

        Arguments:
            mode: which readers `pipeline schemas check` keeps whole: "backward" (new ones read old data; the default),
                "forward" (old ones read new data), "full" (both) or "none".

        Raises InvalidEvent for what is no class with an event type, and for a mode that is none.

        """
        if mode is not None and mode not in MODES:
            raise InvalidEvent(f"mode: {mode!r} is none of the modes of compatibility; {nearest(str(mode), MODES)}")
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, Payload) and cls.event_type):
                raise InvalidEvent(f"types.add: {cls!r} is no Payload class with an event type (type='...')")
            if mode is not None and self._modes.setdefault(cls.event_type, mode) != mode:
                raise InvalidEvent(
                    f"mode: {cls.event_type} is declared {mode!r} and {self._modes[cls.event_type]!r}; choose one"
                )
            self.note(cls)
            known = self._added.get(cls.event_type, cls)
            self._added[cls.event_type] = max(known, cls, key=_version)

    def note(self, *classes: type[Payload]) -> None:
        """Keep classes that are used without having been added."""
        for cls in classes:
            versions = self._classes.setdefault(cls.event_type, {})
            same = versions.setdefault(_version(cls), [])
            again = next((n for n, one in enumerate(same) if _name(one) == _name(cls)), None)
            if again is None:
                same.append(cls)
            else:
                same[again] = cls  # its module was imported again
            self._newest[cls.event_type] = str(max(versions))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all types, sorted."""
        return iter(sorted(self._classes))

    def __contains__(self, type: object) -> bool:
        return type in self._classes

    def versions(self, type: str) -> dict[Version, type[Payload]]:
        """Return the classes of a type by their versions, the oldest first; raise InvalidEvent for an unknown type."""
        if type not in self._classes:
            raise InvalidEvent(f"no class of type {type!r} is known; {nearest(type, self._classes)}")
        return {version: classes[0] for version, classes in sorted(self._classes[type].items())}

    def classes(self, type: str, version: Version) -> list[type[Payload]]:
        """Return the classes of one version of a type; as a rule there is one."""
        return list(self._classes[type][version])

    def mode(self, type: str) -> Mode:
        """Return which readers of a type its new versions have to leave whole."""
        return self._modes.get(type, BACKWARD)

    def newest(self, type: str) -> str:
        """Return the version of data that is published under a type without a class: the newest one known here."""
        return self._newest.get(type, Payload.schema_version)

    def check_published(self, event: Event) -> None:
        """Raise InvalidEvent that names the wrong field when data does not fit the class added for its type.

        What asks for an approval has to be what the bus itself reads.
        """
        cls = self._added.get(event.type) or (ActionProposed if event.type == ActionProposed.event_type else None)
        if cls is not None:
            try:
                cls.model_validate_json(orjson.dumps(event.data))
            except ValidationError as exc:
                raise InvalidEvent(explain(exc, f"{event.type} {cls.schema_version}")) from exc

    def described(self, event: Event) -> Event:
        """Return an event with the address of its schema (`dataschema`), where that is served and not said already."""
        versions = self._classes.get(event.type) if self.url else None
        if not versions or "dataschema" in (event.model_extra or {}):
            return event
        if event.schema_version not in map(str, versions):
            return event
        return event.evolve(dataschema=f"{self.url}/{event.type}/{event.schema_version}")

    def upcaster(self, type: str, before: str, after: str, function: Upcast) -> None:
        """Keep a step from one version of a type to a newer one; raise InvalidEvent that says what is wrong with it."""
        self.upcasters.add(type, before, after, function)

    def read(self, event: Event, agent: str, versions: Collection[str]) -> bytes:
        """Return an event's data as JSON of one of the versions that an agent's classes have of its type.

        Raises NewerMajor when they are all of older major versions, and InvalidEvent when an upcaster is missing or
        fails, or when the event's version is none.
        """
        what = f"{event.type} for agent {agent!r}"
        body = orjson.dumps(event.data)
        try:
            version = version_of(event.schema_version)
            reads = [version_of(text) for text in versions]
            target = max((one for one in reads if one.major == version.major), default=max(reads))
            if version.major > target.major:
                raise NewerMajor(event, agent, version, target)
            if version >= target or not isinstance(event.data, dict):  # the class says what is wrong with other data
                return body
            for upcast in self.upcasters.chain(event.type, version, target):
                body = upcast(body)
        except NewerMajor:
            raise
        except InvalidEvent as exc:
            raise InvalidEvent(f"{what}: {exc}") from exc
        return body

    def problems(self) -> list[str]:
        """Return what is wrong with the upcasters as a whole."""
        return self.upcasters.problems({type: list(versions) for type, versions in self._classes.items()})

    def check(self) -> None:
        """Raise ConfigError that lists the problems; called before a worker takes anything."""
        if found := self.problems():
            raise ConfigError("; ".join(found))


def payloads_in(*annotations: Any) -> tuple[type[Payload], ...]:
    """Return the Payload classes with an event type that annotations consist of."""
    found: list[type[Payload]] = []
    for annotation in annotations:
        if not (isinstance(annotation, type) and issubclass(annotation, Payload)):
            found += payloads_in(*get_args(annotation))
        elif annotation.event_type:
            found.append(annotation)
    return tuple(dict.fromkeys(found))


def _version(cls: type[Payload]) -> Version:
    return version_of(cls.schema_version, "version")


def _name(cls: type[Payload]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
