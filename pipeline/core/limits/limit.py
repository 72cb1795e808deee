"""What a limit over all workers says, as it is declared; no database is needed to say it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from ..errors import InvalidAgent
from ..times import SECOND, UNITS

#: The kind of a wait for a turn.
SLOT = "slot"
#: How the lines of an agent's order, and of its singleton, are called: no limit has such a name.
_ORDER, _SINGLETON = "#order", "#singleton"
#: Characters of a key that are kept; of a longer one stands its digest.
LONGEST_KEY = 150

_RATE = re.compile(r"(\d+(?:\.\d+)?)/([smhd])")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

Missing = Literal["shared", "error"]
MISSING = ("shared", "error")
OnDead = Literal["hold", "skip"]


@dataclass(frozen=True)
class Limit:
    """How much of an agent may run over all workers; what may not run now waits outside of them.

    Attributes:
        rate: attempts that may begin per second, minute, hour or day: "10/s", "30/m", "100/h", "1000/d".
        burst: attempts that may begin at once after a quiet time, within the rate; default 1.
        concurrent: attempts that may run at once.
        key: a path into the event, such as "metadata.tenant": each of its values has the limit for itself.
        fair_by: a path into the event: between its values the turns are shared fairly, however many wait for each.
        weight: how many turns a value of `fair_by` gets for each one that others get; default 1.
        name: under which it is shown and changed; default the agent's. Agents that give the same name share the limit.
        missing: what an event without the key's value means: all of those share one key, or it is an error.

    """

    rate: str | None = None
    burst: int | None = None
    concurrent: int | None = None
    key: str | None = None
    fair_by: str | None = None
    weight: Mapping[str, float] | None = field(default=None, hash=False)
    name: str | None = None
    missing: Missing = "shared"

    def __post_init__(self) -> None:
        """Raise InvalidAgent for what contradicts itself."""
        rule_of(self.rate, self.burst, self.concurrent, self.weight)  # which checks them
        if self.rate is None and self.concurrent is None:
            raise InvalidAgent("Limit() limits nothing; pass rate='30/m', concurrent=5, or both")
        if self.name is not None and not _NAME.fullmatch(str(self.name)):
            raise InvalidAgent(
                f"Limit(name={self.name!r}): use a lower-case letter, then up to 62 letters, digits, '_' and '-'"
            )
        if self.missing not in MISSING:
            raise InvalidAgent(f"Limit(missing={self.missing!r}): it is 'shared' or 'error'")
        if self.weight and self.fair_by is None:
            raise InvalidAgent("Limit(weight=...) needs fair_by='...', whose values it is about")

    @property
    def rule(self) -> Rule:
        """What is counted, apart from where the keys come from."""
        return rule_of(self.rate, self.burst, self.concurrent, self.weight)


@dataclass(frozen=True)
class Order:
    """That an agent's deliveries run one at a time for each key, in the order of the events.

    Attributes:
        key: a path into the event.
        on_dead: whether a dead letter holds its key until somebody requeues or drops it, or lets it go on.

    """

    key: str
    on_dead: OnDead = "hold"

    def __post_init__(self) -> None:
        """Raise InvalidAgent for a word that is none of the two."""
        if self.on_dead not in ("hold", "skip"):
            raise InvalidAgent(f"on_dead={self.on_dead!r}: it is 'hold' or 'skip'")


class Rule(NamedTuple):
    """What is counted in each line of a limit.

    Attributes:
        rate: as it is written.
        weights: by the values that turns are shared between, as JSON; "" for none.

    """

    rate: str | None = None
    burst: int | None = None
    concurrent: int | None = None
    weights: str = ""

    def __str__(self) -> str:
        """Return it in words."""
        burst = f" with bursts of {self.burst}" if self.burst else ""
        words = [f"{self.rate}{burst}"] if self.rate else []
        words += [f"{self.concurrent} at once"] if self.concurrent else []
        return " and ".join(words) or "without bounds"

    @property
    def interval(self) -> int | None:
        """Microseconds between two turns; None without a rate."""
        return None if self.rate is None else interval_of(self.rate)

    @property
    def tolerance(self) -> int:
        """Microseconds that a turn may come before its time, which lets a burst through."""
        return ((self.burst or 1) - 1) * (self.interval or 0)

    def weight(self, share: str) -> float:
        """Return how many turns a share gets for each one of others."""
        return float(orjson.loads(self.weights).get(share, 1)) if self.weights else 1.0

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "weights": orjson.loads(self.weights) if self.weights else {}}


class Turn(NamedTuple):
    """Something that a delivery has to have before its handler is called.

    Attributes:
        limit: the limit's name.
        key: the value that has the line; None where the event has none, and has to.
        share: the value that turns are shared fairly by.
        rule: as this worker's version of the agent declares it; None for an agent's order.
        first: where it stands in its line: by its priority, and then by
        second: its age (microseconds).
        skips: whether a dead letter of an order lets the others go on.

    """

    limit: str
    key: str | None
    share: str = ""
    rule: Rule | None = None
    first: int = 0
    second: int = 0
    skips: bool = False

    @property
    def line(self) -> str:
        """What the line is called."""
        return f"{self.limit}:{self.key}"

    @property
    def ordered(self) -> bool:
        """Whether the line is of an agent's order."""
        return self.limit.endswith(_ORDER)

    @property
    def kept(self) -> bool:
        """Whether a delivery keeps its slot until it has ended, and not only while an attempt runs."""
        return is_singleton(self.limit)


def names_of(agent: str, limits: Sequence[Limit]) -> list[str]:
    """Return what an agent's limits are called: by their own names, or by the agent's."""
    return [limit.name or (agent if number == 1 else f"{agent}#{number}") for number, limit in enumerate(limits, 1)]


def order_of(agent: str) -> str:
    """Return what an agent's order is called among limits."""
    return agent + _ORDER


def singleton_of(agent: str) -> str:
    """Return what an agent's singleton is called among limits."""
    return agent + _SINGLETON


def is_singleton(limit: str) -> bool:
    """Say whether a limit is an agent's singleton."""
    return limit.endswith(_SINGLETON)


def limit_in(line: str) -> str:
    """Return the limit, or the agent's order, that a line is of."""
    return line.partition(":")[0]


def is_order(line: str) -> bool:
    """Say whether a line is of an agent's order."""
    return limit_in(line).endswith(_ORDER)


def reason_for(line: str) -> str:
    """Return what a delivery in a line waits for, as people are told."""
    limit, _, key = line.partition(":")
    of = f" for {key!r}" if key else ""
    if is_order(line):
        return f"waits for its turn in the order of events{of}"
    if is_singleton(limit):
        return f"waits until the one that runs has ended{of}"
    return f"waits for a turn of the limit {limit}{of}"


def rule_of(
    rate: str | None, burst: int | None, concurrent: int | None, weight: Mapping[str, float] | None = None
) -> Rule:
    """Return what is counted; raise InvalidAgent for what contradicts itself."""
    if rate is not None:
        interval_of(rate)
    if burst is not None and rate is None:
        raise InvalidAgent(f"Limit(burst={burst!r}) without a rate; pass rate='30/m', or leave burst out")
    for name, number in (("burst", burst), ("concurrent", concurrent)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise InvalidAgent(f"Limit({name}={number!r}): it is 1 or more; leave it out for no such limit")
    for share, more in (weight or {}).items():
        is_number = isinstance(more, (int, float)) and not isinstance(more, bool)
        if not isinstance(share, str) or not is_number or not 0.001 <= more <= 1000:
            raise InvalidAgent(f"Limit(weight={{{share!r}: {more!r}}}): give texts numbers between 0.001 and 1000")
    weights = orjson.dumps(dict(weight), option=orjson.OPT_SORT_KEYS).decode() if weight else ""
    return Rule(rate, burst, concurrent, weights)


def interval_of(rate: str) -> int:
    """Return the microseconds between two turns of a rate; raise InvalidAgent when it is none."""
    found = _RATE.fullmatch(str(rate))
    number = float(found[1]) if found else 0
    if not found or number <= 0 or number > 100_000:
        raise InvalidAgent(f"Limit(rate={rate!r}) is not a rate such as '10/s', '30/m', '100/h' or '1000/d'")
    return max(1, round(UNITS[found[2]] * SECOND / number))


def text_of(value: Any) -> str:
    """Return a key's value as a text: itself, or as JSON; of a long one the digest."""
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str).decode()
    return text if len(text) <= LONGEST_KEY else "sha256-" + hashlib.sha256(text.encode()).hexdigest()
