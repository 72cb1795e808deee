"""Every error that this package raises on purpose, under one root."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: What may be a password is taken for one, up to the last @ of the word; it need not be escaped as it should.
_PASSWORD = re.compile(r"([\w+.-]*\w://[^\s/@:]*):(\S*)@")
_PORT = re.compile(r"\d+[/?#]")
_IN_QUERY = re.compile(r"([?&;][\w.-]*(?:pass|pwd|secret|token|credential)[\w.-]*=)[^\s&;#'\"]+", re.IGNORECASE)


class PipelineError(Exception):
    """The root of all errors raised by `pipeline`."""


class ConfigError(PipelineError):
    """A setting is unknown, unreadable or out of range."""


class InvalidEvent(PipelineError, ValueError):
    """An event, its type or its payload does not validate; the message names the field."""


class EventTooLarge(InvalidEvent):
    """An encoded event is larger than `max_event_bytes`."""


class NotAnEventError(InvalidEvent):
    """What was delivered is no event: the broker's dead letters keep it, as the ledger cannot."""


class InvalidPattern(PipelineError, ValueError):
    """A topic pattern is not one that AMQP understands."""


class InvalidAgent(PipelineError, ValueError):
    """An agent, a join or a schedule was declared wrongly; the message says how to mend it."""


class UnknownAgent(InvalidEvent):
    """An event names a target that no worker has ever run; the message names the nearest known agent."""


class BrokerUnavailable(PipelineError, ConnectionError):
    """The broker did not take the event within `publish_timeout` seconds."""


class EmbeddedBrokerError(PipelineError, OSError):
    """The embedded broker's file cannot be used (corrupted, full disk, no permission)."""


class EmbeddedBrokerBusy(EmbeddedBrokerError):
    """The embedded broker's file cannot be used for now (locked, disk full); trying again may help."""


class WorkerDied(PipelineError):
    """The worker died in each attempt of a delivery, which is therefore set aside."""


class HandlerError(PipelineError):
    """A handler raised what cannot be passed on as it is; the message says what it was."""


class Revoked(PipelineError):
    """Somebody has revoked a delivery, which is therefore set aside."""


class LedgerError(PipelineError):
    """The ledger cannot be used: its address, its schema or its file is wrong; the message says what to do."""


class LedgerUnavailable(LedgerError, ConnectionError):
    """The ledger took nothing for `ledger_timeout` seconds (away, locked, full, read-only); trying again may help."""


class LedgerRefused(LedgerError, ValueError):
    """The database does not take what was to be written, and never will as it is; the message says why."""


class LedgerOff(LedgerError):
    """What was asked for needs a ledger, and the setting `ledger_url` is empty."""


class InvalidSelection(PipelineError, ValueError):
    """What to requeue, drop, replay or prune was not said clearly; the message says how to."""


class UnknownEvent(PipelineError, LookupError):
    """The ledger has no event, delivery or timer with that id."""


class ProjectionFailed(PipelineError):
    """A projection's handler failed; nothing of its batch was kept, and it stays where it was."""


class SettleTimeout(PipelineError, TimeoutError):
    """Not all that an event has caused was settled in time; the message lists what is still open."""


def nearest(unknown: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word nearest to `unknown`, or all known words."""
    words = sorted(known)
    match = get_close_matches(unknown, words, n=1)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"known: {', '.join(words)}" if words else "none is known"


def without_passwords(text: str) -> str:
    """Return the text with the passwords of all URLs in it hidden, also those in a query."""
    return _IN_QUERY.sub(r"\1**", _PASSWORD.sub(_hidden, text))


def _hidden(found: re.Match[str]) -> str:
    is_page = found[1].startswith("http") and _PORT.match(found[2])  # whose path may have an @
    return found[0] if is_page else f"{found[1]}:**@"
