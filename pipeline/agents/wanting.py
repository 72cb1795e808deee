"""What a version of an agent wants by what events say, in a form that is kept where other programs can ask it.

The ledger has it of each version that runs, so that nobody waits for, or sends again, what no version wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from ..contracts.newer import NewerMajor
from ..contracts.versions import version_of
from ..core.errors import InvalidEvent
from ..core.event import Event, Payload
from .filters import Filter, Result, parse

if TYPE_CHECKING:
    from ..contracts.registry import Types


@dataclass(frozen=True)
class Wanting:
    """A version's filter, and the newest version of each event type that its payload's classes have."""

    filter: Filter
    reads: Mapping[str, str]

    def test(self, event_type: str, body: str | bytes) -> Result:
        """Try the filter on an event as it was published: on its type first, for which nothing need be decoded.

        True too for data of another version than is read: what becomes of that, only who upcasts it can say.
        """
        of_type = self.filter.of_type
        if of_type is not None and of_type.test({"type": event_type}) is False:
            return False
        attributes = orjson.loads(body)
        if self.is_apart(event_type, attributes.get("schemaversion", Payload.schema_version)):
            return True
        return self.filter.test(attributes)

    def is_apart(self, event_type: str, version: str) -> bool:
        """Say whether the filter sees other data than was published: that of the version which is read."""
        return self.reads.get(event_type, version) != version and not self.filter.envelope_only

    def as_data(self, recorded: float) -> dict[str, Any]:
        """Return it as JSON data, as the ledger keeps it and wants() reads it.

        Arguments:
            recorded: of which share of the events that are kept back that is recorded (0 to 1), for the ledger.

        """
        return {"where": self.filter.as_data(), "reads": dict(self.reads), "recorded": recorded}


def wants(filters: str, event_type: str, body: str | bytes) -> bool:
    """Say whether one of some versions may want an event; one whose filter is not understood here may, too.

    Arguments:
        filters: a JSON list of what Wanting.as_data() returns.
        body: the event, encoded.

    """
    wantings = _read(filters)
    try:
        return not wantings or any(one is None or one.test(event_type, body) is True for one in wantings)
    except Exception:  # it is no event: who tries to deliver it says so
        return True


def filters_of(filters: str, event: Event) -> list[Filter | None]:
    """Return the filters of some versions, for an event; None for one that only its own program can try on that."""
    return [
        None if one is None or one.is_apart(event.type, event.schema_version) else one.filter for one in _read(filters)
    ]


def wants_read(filters: str, event: Event, types: Types, own: str | None) -> bool:
    """Say whether one of some versions wants an event, each by the data as it reads that.

    A version that reads newer data than this program judges for itself, so it may want the event; it can judge for the
    older ones. So none of two versions takes the other for one that wants what neither does.

    Arguments:
        own: the version of the event's type that this program's agent reads; None for data as it comes.

    """
    return any(one is None or _wants_read(one, event, types, own) for one in _read(filters) or (None,))


def _wants_read(wanting: Wanting, event: Event, types: Types, own: str | None) -> bool:
    attributes = event.attributes()
    if wanting.is_apart(event.type, event.schema_version):
        read = wanting.reads[event.type]
        try:
            if own is None or version_of(read) > version_of(own):
                return True
            attributes["data"] = orjson.loads(types.read(event, "", [read]))
        except (NewerMajor, InvalidEvent):  # that version would not run it either
            return False
    return wanting.filter.matches(attributes)


@lru_cache(maxsize=256)
def _read(filters: str) -> tuple[Wanting | None, ...]:
    try:
        return tuple(map(_one, orjson.loads(filters)))
    except (ValueError, TypeError):  # damaged, until its worker is heard of again
        return ()


def _one(data: Any) -> Wanting | None:
    try:
        return Wanting(parse(data["where"]), dict(data["reads"]))
    except Exception:  # a newer program knows operators that this one does not
        return None
