"""What becomes of events that come while one runs, or soon after each other; no database is needed to say it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal, get_args

from ..errors import InvalidAgent, InvalidEvent
from ..times import SECOND, seconds_of
from .limit import MISSING, Missing, Rule, singleton_of

When = Literal["skip", "queue", "cancel"]
SKIP, QUEUE, CANCEL = WHENS = get_args(When)
#: The kind of a wait for a quiet time, and the step that its end is: a number that no step of a handler has.
QUIET = "quiet"
DEBOUNCE, BEFORE_ALL = "debounce", -1
#: How many quiet times a series lasts at most, unless its agent says otherwise.
TIMES = 10


@dataclass(frozen=True)
class Singleton:
    """One delivery of an agent at a time over all workers, from its first attempt until it has ended.

    Attributes:
        key: a path into the event, such as "data.customer": one at a time for each of its values.
        when: what becomes of an event that comes meanwhile: "skip": it is not handled; "queue": it waits; "cancel": it
            takes the place of the one that runs, and of those that wait.
        missing: what an event without the key's value means, as for a Limit.

    Raises InvalidAgent for a word that is none of these.

    """

    key: str | None = None
    when: When = "skip"
    missing: Missing = "shared"
    fair_by: ClassVar[None] = None

    def __post_init__(self) -> None:
        """Raise InvalidAgent for a word that is none of these."""
        if self.when not in WHENS:
            raise InvalidAgent(f"Singleton(when={self.when!r}): it is 'skip', 'queue' or 'cancel'")
        if self.missing not in MISSING:
            raise InvalidAgent(f"Singleton(missing={self.missing!r}): it is 'shared' or 'error'")

    @property
    def rule(self) -> Rule:
        """What is counted."""
        return Rule(concurrent=1)

    @staticmethod
    def limit_of(agent: str) -> str:
        """Return what it is called among limits."""
        return singleton_of(agent)


@dataclass(frozen=True)
class Debounce:
    """Only the last event of a series is handled, when none has come for a quiet time.

    Attributes:
        quiet: seconds, a timedelta or a text such as "30s".
        most: how long after the first event of a series the last one is handled at the latest; default 10 quiet times.
        key: a path into the event, such as "data.document": each of its values has series of its own.
        missing: what an event without the key's value means, as for a Limit.

    Raises InvalidAgent for what contradicts itself.

    """

    quiet: float | timedelta | str
    most: float | timedelta | str | None = None
    key: str | None = None
    missing: Missing = "shared"

    def __post_init__(self) -> None:
        """Raise InvalidAgent for what contradicts itself."""
        if self.quiet_time <= 0:
            raise InvalidAgent(f"Debounce(quiet={self.quiet!r}): give more than 0 seconds, such as '30s'")
        if self.most_time < self.quiet_time:
            raise InvalidAgent(
                f"Debounce(most={self.most!r}) is shorter than the quiet time {self.quiet!r}: no event would ever be "
                "quiet for so long; give more, or leave it out for 10 quiet times"
            )
        if self.missing not in MISSING:
            raise InvalidAgent(f"Debounce(missing={self.missing!r}): it is 'shared' or 'error'")

    @property
    def quiet_time(self) -> int:
        """The quiet time in microseconds."""
        return _micros(self.quiet, "quiet")

    @property
    def most_time(self) -> int:
        """How long a series lasts at most, in microseconds."""
        return TIMES * self.quiet_time if self.most is None else _micros(self.most, "most")


def _micros(duration: float | timedelta | str, what: str) -> int:
    try:
        return round(seconds_of(duration, f"Debounce({what}=...)") * SECOND)
    except InvalidEvent as exc:
        raise InvalidAgent(str(exc)) from None


def took_its_place(event: str) -> str:
    """Return why a delivery has ended without its handler, or was stopped in it."""
    return f"event {event} took its place"
