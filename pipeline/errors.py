"""Every error that this package raises on purpose, under one root."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """The root of all errors raised by `pipeline`."""


class ConfigError(PipelineError):
    """A setting is unknown, unreadable or out of range."""


class InvalidEvent(PipelineError, ValueError):
    """An event, its type or its payload does not validate; the message names the field."""


class EventTooLarge(InvalidEvent):
    """An encoded event is larger than `max_event_bytes`."""


class InvalidPattern(PipelineError, ValueError):
    """A topic pattern is not one that AMQP understands."""


class InvalidAgent(PipelineError, ValueError):
    """An agent, a join or a schedule was declared wrongly; the message says how to mend it."""


class BrokerUnavailable(PipelineError, ConnectionError):
    """The broker did not take the event within `publish_timeout` seconds."""


class EmbeddedBrokerError(PipelineError, OSError):
    """The embedded broker's file cannot be used (corrupted, full disk, no permission)."""


class EmbeddedBrokerBusy(EmbeddedBrokerError):
    """The embedded broker's file cannot be used for now (locked, disk full); trying again may help."""


def nearest(unknown: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `unknown`, or all known words."""
    words = sorted(known)
    match = get_close_matches(unknown, words, n=1)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"known: {', '.join(words)}" if words else "none is known"
