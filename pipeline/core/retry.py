"""What to do after a failed attempt: a pure decision, without clock, randomness or I/O."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import (
    CannotPark,
    FlowFailed,
    InvalidAgent,
    InvalidEvent,
    OverBudget,
    Shed,
    UnknownAgent,
    Vetoed,
    WaitTimeout,
)
from .times import CENTURY

#: Errors that another attempt cannot cure: the event is wrong or not wanted any more, somebody has decided, or nothing
#: is left to spend, or what it has waited for has not come, or has failed, which is kept.
PERMANENT: tuple[type[BaseException], ...] = (
    *(InvalidEvent, OverBudget, Shed, Vetoed),
    *(WaitTimeout, CannotPark, FlowFailed),
)
#: Those of them that time may cure: a target that is not known yet may be deployed in a moment.
PASSING: tuple[type[BaseException], ...] = (UnknownAgent,)


#: What becomes of what is too much for an agent.
HOLD, SHED_OLDEST, SHED_NEW, REJECT = POLICIES = ("hold", "shed-oldest", "shed-new", "reject-at-publish")
#: The share of what may wait at which it is no longer too much.
LOW = 0.7
#: Seconds of the longest pause of a scope, and the share by which pauses are longer at random.
LONGEST_PAUSE, PAUSE_JITTER = 3600.0, 0.1


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed delivery is tried again.

    Arguments:
        max: retries after the first attempt (0 to 1,000 attempts).
        base: seconds before the first retry; the n-th waits `base * 2**(n-1)`.
        cap: the longest wait, in seconds.
        jitter: the share of each wait, 0 to 1, that is random.
        give_up_on: error types that make the delivery dead at once.

    """

    max: int = 3
    base: float = 1.0
    cap: float = 600.0
    jitter: float = 0.5
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        """Raise InvalidAgent when a number is out of its range."""
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.give_up_on):
            raise InvalidAgent(f"Retry(give_up_on={self.give_up_on!r}): need error classes, such as (ValueError,)")
        if not 0 <= self.max <= 1000:
            raise InvalidAgent(f"Retry(max={self.max}): retries must be between 0 and 1000")
        if not 0 <= self.base <= self.cap < CENTURY:
            raise InvalidAgent(
                f"Retry(base={self.base}, cap={self.cap}): need 0 <= base <= cap (seconds), less than a century"
            )
        if not 0 <= self.jitter <= 1:
            raise InvalidAgent(f"Retry(jitter={self.jitter}): need a share between 0 and 1")


@dataclass(frozen=True, slots=True)
class Again:
    """Try once more after `delay` seconds."""

    delay: float


@dataclass(frozen=True, slots=True)
class Dead:
    """Set the delivery aside: `reason` says why no further attempt is made."""

    reason: str


@dataclass(frozen=True, slots=True)
class Breaker:
    """When an agent that fails too often is paused; one delivery tries then whether it goes on.

    Arguments:
        min: attempts that have to have been made before the share counts.
        within: seconds, in whole minutes, in which attempts count.
        share: the share of them, more than 0 and up to 1, that has to have failed.
        pause: seconds.

    """

    min: int = 10
    within: float = 300.0
    share: float = 0.5
    pause: float = 60.0

    def __post_init__(self) -> None:
        """Raise InvalidAgent when a number is out of its range."""
        if self.min < 1:
            raise InvalidAgent(f"Breaker(min={self.min}): need 1 attempt or more")
        if not 60 <= self.within <= 86400:
            raise InvalidAgent(f"Breaker(within={self.within}): need between 60 seconds and a day")
        if not 0 < self.share <= 1:
            raise InvalidAgent(f"Breaker(share={self.share}): need a share of more than 0 and up to 1")
        if not 0 < self.pause <= LONGEST_PAUSE:
            raise InvalidAgent(f"Breaker(pause={self.pause}): need more than 0 and up to {LONGEST_PAUSE:g} seconds")

    def trips(self, made: int, failed: int) -> bool:
        """Say whether too many of some attempts have failed."""
        return made >= self.min and failed >= self.share * made

    def lasts(self, times: int, chance: float) -> float:
        """Return the seconds of a pause, as pause_for() does; they do not grow."""
        return pause_for(self.pause, 0, chance)


@dataclass(frozen=True, slots=True)
class Bound:
    """How much may wait for an agent, and what becomes of what is too much.

    Attributes:
        max_waiting: events in its queue; None for any number.
        overflow: one of POLICIES.
        max_age: seconds after which an event is not handled any more; None for never.

    """

    max_waiting: int | None = None
    overflow: str = HOLD
    max_age: float | None = None

    @property
    def low(self) -> int:
        """How many wait again when enough has been done about it."""
        return int((self.max_waiting or 0) * LOW)


def pause_for(retry_after: float | None, times: int, chance: float, longest: float | None = None) -> float:
    """Return the seconds of a provider's pause: no shorter than it asks for, but `longest` at most.

    Arguments:
        retry_after: the seconds that the provider asks for.
        times: how often it was paused before and has asked again at once: then for 2, 4, 8 ... seconds at least.
        chance: a random number in [0, 1): the last tenth of the pause is random, so that not all begin at once.
        longest: seconds; LONGEST_PAUSE, or fewer.

    """
    least = 2.0 ** min(times, 64) if times or retry_after is None else 0.0
    return min(max(retry_after or 0.0, least) * (1.0 + PAUSE_JITTER * chance), longest or LONGEST_PAUSE)


def decide(retries: int, error: BaseException, policy: Retry, chance: float) -> Again | Dead:
    """Decide what follows a failed attempt.

    Arguments:
        retries: retries made so far (0 after the first attempt).
        error: what the attempt raised.
        policy: the agent's Retry.
        chance: a random number in [0, 1) that places the wait inside the jitter.

    """
    permanent = isinstance(error, PERMANENT) and not isinstance(error, PASSING)
    if permanent or isinstance(error, policy.give_up_on):
        return Dead(f"{type(error).__name__} is permanent")
    if retries >= policy.max:
        return Dead(f"{retries + 1} of {policy.max + 1} attempts failed")
    return Again(backoff(retries, policy, chance))


def backoff(retries: int, policy: Retry, chance: float) -> float:
    """Return the seconds to wait: exponential backoff, capped, with a random share.

    The jitter spreads retries that failed together ("equal jitter" at its default of one half:
    M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    # 2**64 seconds is past any cap; larger exponents would only overflow the float.
    wait = min(policy.cap, policy.base * 2.0 ** min(retries, 64))
    return wait * (1.0 - policy.jitter * chance)
