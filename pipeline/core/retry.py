"""What to do after a failed attempt: a pure decision, without clock, randomness or I/O."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidAgent, InvalidEvent, UnknownAgent

#: Errors that another attempt cannot cure: the event itself is wrong.
PERMANENT: tuple[type[BaseException], ...] = (InvalidEvent,)
#: Those of them that time may cure: a target that is not known yet may be deployed in a moment.
PASSING: tuple[type[BaseException], ...] = (UnknownAgent,)


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
        if not 0 <= self.base <= self.cap:
            raise InvalidAgent(f"Retry(base={self.base}, cap={self.cap}): need 0 <= base <= cap (seconds)")
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
