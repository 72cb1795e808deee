"""Who gets an event: the one rule that publishing, workers, reconciliation, replay, traces and retention go by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .announcements import ANNOUNCEMENTS, APPROVALS
from .errors import InvalidSelection
from .event import Payload
from .topics import check_pattern, matches


def reaches(agent: str, patterns: Iterable[str], event_type: str, targets: Collection[str] | None = ()) -> bool:
    """Say whether an event is for an agent: targets name it, or there are none and one of its patterns matches."""
    if targets:
        return agent in targets
    return wants(patterns, event_type)


def wants(patterns: Iterable[str], event_type: str) -> bool:
    """Say whether one of some topic patterns matches an event type."""
    for pattern in patterns:  # noqa: SIM110  # a generator for any() takes twice as long, once for every delivery
        if matches(pattern, event_type):
            return True
    return False


def receivers(agents: Mapping[str, Iterable[str]], event_type: str, targets: Collection[str] = ()) -> list[str]:
    """Return which of some agents (each with its patterns) an event is for."""
    return [agent for agent, patterns in agents.items() if reaches(agent, patterns, event_type, targets)]


def needs_receiver(event_type: str) -> bool:
    """Say whether an event that nobody gets is worth a note; what the bus says and hears itself is not."""
    return not event_type.startswith(ANNOUNCEMENTS) and event_type not in APPROVALS


def targets_of(text: str | None) -> tuple[str, ...]:
    """Return the names in a `targets` attribute, which joins them by commas; none for no attribute."""
    return tuple(filter(None, text.split(","))) if text else ()


def pattern_of(what: str | type[Payload]) -> str:
    """Return the topic pattern that somebody wants; raise InvalidPattern or InvalidSelection when it is none."""
    if isinstance(what, str):
        return check_pattern(what)
    if isinstance(what, type) and issubclass(what, Payload) and what.event_type:
        return what.event_type
    raise InvalidSelection(f"type: {what!r} is neither a topic pattern nor a Payload class with a type")
