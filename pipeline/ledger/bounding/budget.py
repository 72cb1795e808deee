"""Budgets as they are declared, and as a handler uses them; no database is needed to say it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol, TypeVar
from zlib import crc32

from ...core.errors import InvalidBudget, nearest
from ...core.limits.limit import text_of
from ...core.times import now

if TYPE_CHECKING:
    from ...core.event import Event

T = TypeVar("T")
AtLimit = Literal["dead", "ask", "degrade"]
#: What is counted; cost in millionths of whatever currency the prices are in.
UNITS = ("tokens", "cost", "events")
#: What may happen at the limit.
AT_LIMIT: tuple[AtLimit, ...] = ("dead", "ask", "degrade")
#: The budget of a tree, which publish(budget=) sets; its key is the correlation, of a long one the digest.
TREE = "tree"
#: Characters of a name.
LONGEST_NAME = 60
MOST = 2**62
DAY = 86_400_000_000
#: Where the numbers of uses within steps begin, and how many of those one step may have.
IN_STEPS, MOST_IN_STEP = 2**30, 1000


#: Returns what an event with these attributes says at a path.
TextAt = Callable[[str, Mapping[str, Any]], str | None]


def _nothing(path: str, said: Mapping[str, Any]) -> str | None:
    return None


class Amounts(NamedTuple):
    """How much of each unit; as a limit or what is left, None is without a bound."""

    tokens: int | None = None
    cost: int | None = None
    events: int | None = None

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The amounts to add up: nothing is 0."""
        return (self.tokens or 0, self.cost or 0, self.events or 0)

    def as_data(self) -> dict[str, int | None]:
        """Return it as JSON data."""
        return self._asdict()

    def __str__(self) -> str:
        tokens, cost, events = self.numbers
        parts = [f"{tokens:,} tokens"] if tokens else []
        parts += [f"cost {cost / 1_000_000:,.6f}".rstrip("0").rstrip(".")] if cost else []
        parts += [f"{events:,} events"] if events else []
        return ", ".join(parts) or "nothing"


def amounts(what: str, **given: Any) -> Amounts:
    """Return amounts that somebody has given; raise InvalidBudget that says what is wrong with them."""
    for unit, value in given.items():
        if unit not in UNITS:
            raise InvalidBudget(f"{what}: {unit!r} is no unit; {nearest(unit, UNITS)}")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST):
            raise InvalidBudget(
                f"{what}: {unit}={value!r}: need a whole number of 0 or more"
                + (" (a cost in millionths: 1.50 is 1_500_000)" if unit == "cost" else "")
            )
    found = Amounts(**given)
    if found == Amounts():
        raise InvalidBudget(f"{what}: it has no unit; give at least one of {', '.join(f'{unit}=' for unit in UNITS)}")
    return found


class Scope(NamedTuple):
    """One budget that something is spent from.

    Attributes:
        key: which of those with the name: a tenant, say; empty where there is one for all.
        period: the day that it is for (UTC); empty for one without an end.
        limit: as it is declared.
        at_limit: what happens when it is spent.

    """

    name: str
    key: str = ""
    period: str = ""
    limit: Amounts = Amounts()
    at_limit: str = "dead"

    @property
    def place(self) -> tuple[str, str, str]:
        """Which row it is."""
        return self.name, self.key, self.period

    @property
    def waits_as(self) -> str:
        """What a delivery waits for that waits for more of it."""
        return f"{self.name}/{self.key}"

    def __str__(self) -> str:
        return " ".join(filter(None, (repr(self.name), self.key and f"of {self.key!r}", self.period)))


@dataclass(frozen=True)
class Budget:
    """A budget as an app declares it.

    Attributes:
        limit: of each key.
        per: "day" for one that begins anew each day (UTC); None for one without an end.
        key: a path into the event, such as "metadata.tenant", or "agent", or "correlation"; empty for one of all.
        at_limit: what happens when it is spent.
        missing: what is done with an event that has no such key: it counts for one that all of those share, or is an
            error.
        text_at: finds what an event with these attributes says at a path, as for all keys.

    """

    name: str
    limit: Amounts
    per: str | None = None
    key: str = ""
    at_limit: str = "dead"
    missing: str = "shared"
    text_at: TextAt = field(default=_nothing, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raise InvalidBudget that says what is wrong."""
        if not 0 < len(self.name) <= LONGEST_NAME or "/" in self.name or self.name == TREE:
            raise InvalidBudget(
                f"budget {self.name!r}: a name is a text of 1 to {LONGEST_NAME} characters without '/', and not "
                f"{TREE!r}"
            )
        if self.per not in (None, "day"):
            raise InvalidBudget(f"budget {self.name!r}: per={self.per!r}: write 'day', or leave it out")
        if self.at_limit not in AT_LIMIT:
            raise InvalidBudget(f"budget {self.name!r}: at_limit={self.at_limit!r}; {nearest(self.at_limit, AT_LIMIT)}")
        if self.missing not in ("shared", "error"):
            raise InvalidBudget(f"budget {self.name!r}: missing={self.missing!r}: write 'shared' or 'error'")
        root = self.key.partition(".")[0]
        if self.key not in ("", "agent", "correlation") and (root not in ("metadata", "data") or root == self.key):
            raise InvalidBudget(
                f"budget {self.name!r}: key={self.key!r}: write 'metadata.NAME', 'data.NAME', 'agent' or 'correlation'"
            )

    def scope(self, event: Event, agent: str) -> Scope:
        """Return the one of its keys that an agent spends from for an event; raise InvalidBudget where it has none."""
        period = day_of(now()) if self.per else ""
        return Scope(self.name, self._key(event, agent), period, self.limit, self.at_limit)

    def _key(self, event: Event, agent: str) -> str:
        if self.key in ("agent", "correlation"):
            return agent if self.key == "agent" else text_of(event.correlation_id)
        found = self.text_at(self.key, event.attributes()) if self.key else ""
        if found is None and self.missing == "error":
            raise InvalidBudget(f"budget {self.name!r}: {event.type} {event.id} has no {self.key}")
        return found or ""


def tree_of(correlation: str) -> Scope:
    """Return the budget of the tree that has a correlation."""
    return Scope(TREE, text_of(correlation))


def day_of(at: int) -> str:
    """Return the day of a time (microseconds), in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at / 1_000_000, UTC).date().isoformat()


class Refused(NamedTuple):
    """A budget that has no room: which one, its unit, and how much was wanted where."""

    scope: Scope
    unit: str
    limit: int
    used: int
    wanted: int

    def __str__(self) -> str:
        return (
            f"budget {self.scope}: {self.wanted:,} more {self.unit} are wanted, and {self.used:,} of {self.limit:,} "
            "are used"
        )


class Use(NamedTuple):
    """Which use of budgets it is: the n-th of an attempt of a delivery, from 0 on; within a step, see number_of()."""

    delivery: str
    attempt: int
    number: int


class Books(Protocol):
    """Where budgets are kept."""

    declared: Mapping[str, Budget]

    def reserve(self, use: Use, scopes: list[Scope], wanted: Amounts, event: Event, agent: str) -> Refused | None:
        """Spend some of each budget, once for each use, or say which one has no room."""

    def settle(self, use: Use, spent: Amounts) -> None:
        """Note what was really spent."""

    def left(self, scopes: list[Scope]) -> Amounts:
        """Return what each of the budgets has left, at least."""


@dataclass
class Reservation:
    """What a handler has reserved. It counts as spent until it is settled, and for ever when that does not happen.

    Attributes:
        granted: False when a budget has no room that is declared with at_limit="degrade": nothing was reserved.

    """

    granted: bool
    _settle: Callable[[Amounts], None] = field(repr=False)

    def __bool__(self) -> bool:
        return self.granted

    def settle(self, *, tokens: int | None = None, cost: int | None = None, events: int | None = None) -> None:
        """Say what was really spent, of units that are not named nothing; once, what comes later changes nothing.

        Raises InvalidBudget.
        """
        spent = amounts("settle()", tokens=tokens, cost=cost, events=events)
        if self.granted:
            self._settle(spent)


def number_of(step: tuple[str, int] | None, nth: int) -> int:
    """Return the number of the n-th use of budgets in a step, or outside of all.

    A step that is kept is not run again, so those in the steps after it cannot be counted from the attempt's first on.
    """
    if step is None:
        return nth
    name, use = step
    return IN_STEPS + crc32(f"{use} {name}".encode()) % (IN_STEPS - MOST_IN_STEP) + nth


class Spending:
    """The budgets of one delivery's attempt: `ctx.budget`.

    Arguments:
        step: says in which step it is called, if in any.
        aside: runs what takes a moment.
        ask: parks the delivery until there is room.
        over: raises what makes a dead letter.

    """

    def __init__(
        self,
        books: Books,
        event: Event,
        agent: str,
        delivery: str,
        attempt: int,
        *,
        aside: Callable[[Callable[[], Any]], Any],
        ask: Callable[[Refused], NoReturn],
        over: Callable[[Refused], NoReturn],
        step: Callable[[], tuple[str, int] | None] = lambda: None,
    ) -> None:
        self._books, self._event, self._agent = books, event, agent
        self._delivery, self._attempt, self._step = delivery, attempt, step
        self._used: Counter[tuple[str, int] | None] = Counter()
        self._aside, self._ask, self._over = aside, ask, over

    def reserve(self, *, tokens: int | None = None, cost: int | None = None, events: int | None = None) -> Reservation:
        """Take so much from every budget that the delivery belongs to, before it is spent; then `settle()` it.

        One short transaction. Where a budget has no room the delivery is a dead letter, or waits until the budget is
        raised (at_limit="ask"), or what is returned is false (at_limit="degrade"). What a failed or killed attempt has
        reserved and not settled counts as spent.

        Arguments:
            cost: in millionths.

        Raises InvalidBudget.

        """
        wanted = amounts("reserve()", tokens=tokens, cost=cost, events=events)
        step = self._step()
        use = Use(self._delivery, self._attempt, number_of(step, self._used[step]))
        self._used[step] += 1
        refused = self._aside(lambda: self._books.reserve(use, self._scopes, wanted, self._event, self._agent))
        if refused is not None and refused.scope.at_limit == "dead":
            self._over(refused)
        if refused is not None and refused.scope.at_limit == "ask":
            self._ask(refused)
        return Reservation(refused is None, lambda spent: self._aside(lambda: self._books.settle(use, spent)))

    @property
    def left(self) -> Amounts:
        """What the tightest of the delivery's budgets has left, by unit; None where no budget bounds it."""
        left: Amounts = self._aside(lambda: self._books.left(self._scopes))
        return left

    @property
    def _scopes(self) -> list[Scope]:
        declared = [one.scope(self._event, self._agent) for one in self._books.declared.values()]
        return [*declared, tree_of(self._event.correlation_id)]
