"""Every error that this package raises on purpose, under one root."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError

#: Characters of an error that are kept beside its traceback, and of a text in a log line.
LONGEST_LINE = 2000
#: Characters of a traceback that are kept, its last ones.
LONGEST_TRACEBACK = 20_000

#: What may be a password is taken for one, up to the last @ of the word; it need not be escaped as it should.
_PASSWORD = re.compile(r"((?<![\w+.-])[\w+.-]*\w://[^\s/@:]*):(\S{0,1000})@")
_PORT = re.compile(r"\d+[/?#]")
_SECRETS = "pass|pwd|secret|token|credential|api_?key|signature"
_IN_QUERY = re.compile(rf"([?&;][\w.-]{{0,64}}(?:{_SECRETS})[\w.-]{{0,64}}=)[^\s&;#'\"]+", re.IGNORECASE)
#: Control characters (C0, DEL, C1), what else ends a line for some reader, and what changes the direction of a line.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class PipelineError(Exception):
    """The root of all errors raised by `pipeline`."""

    #: The value in a payload that it is about, so that whoever has the payload can say which field that is.
    about: object = None


class ConfigError(PipelineError):
    """A setting is unknown, unreadable or out of range."""


class QueueConflict(ConfigError):
    """A queue or an exchange exists on the broker with other arguments; the message has the command that mends it."""

    answered = True  # as with BrokerUnavailable, when the trouble is with a queue
    #: Whether what was published is in the ledger all the same, from where it is sent later.
    accepted = False


class InvalidEvent(PipelineError, ValueError):
    """An event, its type or its payload does not validate; the message names the field."""


class EventTooLarge(InvalidEvent):
    """An encoded event is larger than `max_event_bytes`."""


class BlobTooLarge(InvalidEvent):
    """The content of a blob is larger than `max_blob_bytes`."""


class BlobMissing(PipelineError, LookupError):
    """The store does not have the content of a blob; a delivery that failed for it can be requeued when it is back."""


class BlobAltered(PipelineError, ValueError):
    """The store has other content than was published; a delivery that failed for it can be requeued when it is back."""


class BlobUnavailable(PipelineError, OSError):
    """The store of blobs cannot be used (away, full, no permission); trying again may help."""


class IdTaken(InvalidEvent):
    """The log has another event with that id; what an event says never changes."""


class NotAnEventError(InvalidEvent):
    """What was delivered is no event, or none that the ledger can take: the broker's dead letters keep it."""


class NobodyListens(InvalidEvent):
    """An event was found in an agent's queue that no version of the agent listens to; the broker keeps it."""


class InvalidPattern(PipelineError, ValueError):
    """A topic pattern is not one that AMQP understands."""


class InvalidFilter(PipelineError, ValueError):
    """A filter cannot be understood, or could never match; the message names the place in it and what to write."""

    #: Where in the filter: `character 12` of a text (from 1), or the way into a mapping.
    place = ""


class InvalidAgent(PipelineError, ValueError):
    """An agent, a join or a schedule was declared wrongly; the message says how to mend it."""


class UnknownAgent(InvalidEvent):
    """An event names a target that no worker has ever run; the message names the nearest known agent."""


class InvalidSubscription(PipelineError, ValueError):
    """A subscription was written wrongly, or its id is taken; the message says how to mend it."""


class UnknownSubscription(PipelineError, LookupError):
    """No subscription has that id; the message names the nearest one."""


class WebhookFailed(PipelineError):
    """A webhook did not take an event now (5xx, a timeout, no connection); it is called again."""


class WebhookRefused(PipelineError):
    """A webhook does not take an event, and would not when it is called again; the message says what it answered."""


class BrokerUnavailable(PipelineError, ConnectionError):
    """The broker did not take the event within `publish_timeout` seconds."""

    #: Whether the broker is there, and the trouble is with a queue or an event.
    answered = False


class EventRefused(BrokerUnavailable):
    """The broker takes events, and will never take this one: it is too large, say."""

    answered = True


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


class UnknownFlow(PipelineError, LookupError):
    """The ledger has no flow with that id."""


class InvalidCollaboration(PipelineError, ValueError):
    """A collaboration cannot be started as it is asked for; nothing was written."""


class FlowFailed(PipelineError):
    """A flow that is a step of another one has failed: see it with `pipeline flows show`."""


class BridgeAway(PipelineError):
    """The other system of a bridge is away, or not ready; what is for it waits."""


class BridgeRefused(PipelineError):
    """The other system of a bridge does not take an event, and would not when it is sent again."""


class NoResponder(PipelineError):
    """Nobody answers a request: no agent listens to it, or no worker runs one."""


class RequestTimeout(PipelineError, TimeoutError):
    """A request was not answered in time; what answers later is recorded all the same.

    Attributes:
        answers: those that have come, by agent: of gather(), which waits for all.

    """

    def __init__(self, message: str, answers: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.answers: dict[str, Any] = dict(answers or {})


class RequestFailed(PipelineError):
    """Who could answer a request has failed: `code` names the error, `retryable` says whether to ask again."""

    def __init__(self, message: str, code: str = "", retryable: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class WaitsForItself(PipelineError):
    """A handler would wait for an answer that only its own worker can give, which it keeps busy."""


class InvalidStep(InvalidEvent):
    """A step or a wait was written wrongly, or returned what cannot be kept; another attempt would not mend it."""


class StepFull(InvalidStep):
    """A delivery has too many steps."""


class TooManyHops(InvalidEvent):
    """An event has gone further than `max_hops`: agents seem to call each other; the message shows those on its way."""


class InvalidBudget(InvalidEvent):
    """A budget, or what is to be taken from one, was written wrongly; the message says how to mend it."""


class UnknownBudget(PipelineError, LookupError):
    """No budget has that name; the message says how to find those that there are."""


class OverBudget(PipelineError):
    """A budget has no room for what a handler wanted to spend; the message says which, and how to raise it."""


class TreeWasCancelled(PipelineError):
    """What was asked for belongs to a tree of work that somebody has stopped; the message says who, and what to do."""


class CannotPark(PipelineError):
    """A delivery cannot wait where it is: in a canvas, which waits for its result."""


class WaitTimeout(PipelineError, TimeoutError):
    """What `ctx.wait_for` waits for has not come in time."""


class Vetoed(PipelineError):
    """What `ctx.ask` has asked for must not be done: somebody has vetoed it, or nobody has decided in time."""


class AlreadyDecided(PipelineError):
    """An approval was decided before, or has expired; the message says by whom and when."""


class NotAllowed(PipelineError):
    """Whoever wants to decide an approval may not, or has to say who they are."""


class RateLimited(PipelineError):
    """A provider takes no more for now: to be raised by handlers, whose deliveries then wait without failing."""

    #: Seconds that a pause lasts at most, however often it was paused before; None for an hour.
    longest: ClassVar[float | None] = None

    def __init__(self, retry_after: float | timedelta | str | None = None, scope: str | None = None) -> None:
        """Take what the provider says.

        Arguments:
            retry_after: seconds that it asks to wait, a timedelta, or a text such as "5m"; None when it does not say.
            scope: what is paused, such as "openai:gpt-5"; None for the agent's own scope.

        """
        super().__init__(retry_after, scope)
        self.retry_after = retry_after
        self.scope = scope

    def __str__(self) -> str:
        """Say who asks to wait, and how long."""
        unit = " s" if isinstance(self.retry_after, (int, float)) else ""
        wait = "" if self.retry_after is None else f" for {self.retry_after}{unit}"
        return f"{self.scope or 'the provider'} asks to wait{wait}"


class Shed(PipelineError):
    """A delivery was given up because too much waits for its agent, or it is too old; the message says which."""


class Overloaded(PipelineError):
    """An agent has more waiting than it may, and lets publishers know: nothing was published; try again later."""


class ProjectionFailed(PipelineError):
    """A projection's handler failed; nothing of its batch was kept, and it stays where it was."""


class SettleTimeout(PipelineError, TimeoutError):
    """Not all that an event has caused was settled in time; the message lists what is still open."""


def to_install(extra: str) -> str:
    """Return how to install what an extra brings, for those who have a checkout and those who have a wheel."""
    wheel = f"celery_eventbus-VERSION-py3-none-any.whl[{extra}]"
    return f"pip install '.[{extra}]' in a checkout, or from a wheel: pip install '{wheel}'"


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


def visible(text: str, keep: str = "") -> str:
    """Return a text with what a terminal would obey, or no encoder takes, as Python would write it.

    Arguments:
        keep: such characters that stay, as a line's end.

    """
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def shown(text: str) -> str:
    """Return a text as it is written into a log: on one line of at most LONGEST_LINE characters, without passwords."""
    return visible(without_passwords(text[:LONGEST_LINE]))[:LONGEST_LINE]


def line_of(error: BaseException) -> str:
    """Return an error's class and text as they are shown, also when it has no text."""
    try:
        text = str(error)[:LONGEST_LINE]
    except BaseException as exc:  # a text is no reason to lose a delivery, whatever it raises
        text = f"<its text cannot be made: {type(exc).__name__}>"
    return shown(f"{type(error).__name__}: {text}")


def traceback_of(error: BaseException) -> str:
    """Return the last LONGEST_TRACEBACK characters of an error's traceback, or its line when there can be none."""
    try:
        text = "".join(traceback.format_exception(error))[-LONGEST_TRACEBACK:]
    except BaseException:  # notes, causes or groups that Python itself cannot format
        return line_of(error)
    return visible(without_passwords(text), keep="\n\t")[-LONGEST_TRACEBACK:]


def explain(error: ValidationError, what: str) -> str:
    """Return one line that names the first wrong fields of `what`."""
    problems = []
    for e in error.errors(include_url=False):
        field = ".".join(map(str, e["loc"]))
        # Our own checks name the field themselves, and pydantic puts its words before theirs.
        message = e["msg"].removeprefix("Value error, ").removeprefix(f"{field}: ")
        problems.append(f"{field}: {message}" if field else message)
    others = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return f"{what} does not validate: {'; '.join(problems[:3])}{others}"
