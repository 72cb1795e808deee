"""Lines: who takes a turn or gives one back locks the line's row first, so that each slot has one owner at a time.

A slot belongs to a delivery, and has no lease that ends: who records how an attempt has ended hands its slots to the
next in line in the same transaction. So does a handler whose tree was stopped meanwhile, when it ends. A turn of a rate
is taken when the handler is about to be called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import Connection, and_, case, delete, func, select, tuple_, update

from ...core.errors import Shed
from ...core.limits import gcra
from ...core.limits.limit import SLOT, Rule, Turn, is_order, is_singleton, limit_in
from ...core.outcome import FINAL, Outcome
from ...core.times import SECOND, now
from ..database.leases import runs_on
from ..database.tables import agents, deliveries
from ..database.waiting import HAS_WAITING, lines, shares, turns, waits
from .picking import pick
from .states import CALLED, EXPECTED, HELD, KEPT, RUNS, WAITING, one

if TYPE_CHECKING:
    from ..database.database import Database
    from ..deliveries import Deliveries
    from .rules import Rules

T = TypeVar("T")

#: Microseconds before its turn at which a delivery is called out of its line; it may come back that much too early, and
#: then its worker waits for the turn.
AHEAD = SECOND // 2
#: Microseconds by which workers' clocks may differ without changing a rate.
CLOCKS = 5 * SECOND
#: Deliveries that are called in one transaction, at most.
MOST = 200
#: Microseconds after which somebody looks again whether the first in an order still comes.
LOOK_AGAIN = 5 * SECOND
#: The share of those in an order whose dead letters let the others go on.
SKIPS = "skip"
#: How the errors of dead letters begin that let the others go on in any case: that somebody looks after each is not
#: what a bound is for.
SHED = f"{Shed.__name__}: "


class Ending(NamedTuple):
    """How an attempt ends, as far as lines are concerned.

    Attributes:
        turns: all that the delivery may have had.
        line: the line in which it waits from now on.
        over: whether no other attempt follows.
        dead: whether it ends as a dead letter.

    """

    delivery: str
    turns: Sequence[Turn]
    line: str | None = None
    over: bool = False
    dead: bool = False


@dataclass(slots=True)
class Line:
    """A line whose row is locked.

    Attributes:
        rule: None in an order.

    """

    name: str
    tat: int
    due: int | None
    passed: int
    rule: Rule | None


class Lines:
    """The tables of lines, shares and turns."""

    def __init__(self, database: Database, deliveries: Deliveries, rules: Rules) -> None:
        self._database = database
        self._deliveries = deliveries
        self._rules = rules

    # -- one delivery

    def take(self, delivery: str, turns: Sequence[Turn]) -> tuple[float, str | None]:
        """Take all turns that a delivery needs, or none of them.

        Return the seconds until they begin, and the line that it has to wait in; None when it need not.
        """
        return self._database.run(lambda own: self.take_in(own, self.locked(own, turns), delivery, turns))

    def take_in(
        self, connection: Connection, opened: Sequence[Line], delivery: str, turns: Sequence[Turn]
    ) -> tuple[float, str | None]:
        """Do what take() does, in the transaction in which somebody has locked the lines."""
        at, start = now(), 0
        mine = self.states(connection, delivery)
        for line, turn in zip(opened, turns_in_order(turns), strict=True):
            if line.rule is None:
                self.expect(connection, [(delivery, turn)])
                begins = at if self._is_first(connection, line.name, delivery) else None
            else:
                begins = self._begins(connection, line, line.rule, mine.get(line.name), at)
            if begins is None:
                return 0.0, line.name
            start = max(start, begins)
        for line, turn in zip(opened, turns_in_order(turns), strict=True):
            self._use(connection, line, turn, delivery, at)
        return max(0, start - at) / SECOND, None

    def ending(self, connection: Connection, ending: Ending, work: Callable[[Connection], T]) -> T:
        """Record how an attempt ends, and hand its turns on, in the same transaction."""
        opened = self.locked(connection, ending.turns)
        result = work(connection)
        if result is not False:
            self.hand_on(connection, ending, opened)
        else:  # it was recorded before
            self._give_back(connection, ending, opened)
        return result

    def give_back(self, delivery: str, turns: Sequence[Turn]) -> None:
        """Note that the handler of what somebody has stopped does not run any more, and hand on what it still has."""
        ending = Ending(delivery, turns)
        self._database.run(lambda own: self._give_back(own, ending, self.locked(own, turns)))

    def _give_back(self, connection: Connection, ending: Ending, opened: Sequence[Line]) -> None:
        outcome = connection.execute(select(deliveries.c.outcome).where(deliveries.c.id == ending.delivery)).scalar()
        if outcome in FINAL:
            self._end_run(connection, ending._replace(line=None, over=True), opened)

    def _end_run(self, connection: Connection, ending: Ending, opened: Sequence[Line]) -> None:
        self._deliveries.end_run(connection, ending.delivery)
        self.hand_on(connection, ending, opened)

    def come_back(self, delivery: str, turns: Sequence[Turn], message: int | None) -> None:
        """Do what give_back() does for a stopped delivery whose message has come, unless its handler still runs.

        Arguments:
            message: which message it is, when the broker has given it to somebody before, who has not answered.

        """
        ending = Ending(delivery, turns, over=True)
        elsewhere = [] if message is None else [deliveries.c.message.is_distinct_from(message)]

        def work(connection: Connection) -> None:
            opened = self.locked(connection, turns)
            running = select(deliveries.c.id).where(deliveries.c.id == delivery, runs_on(), *elsewhere)
            if connection.execute(running).first() is None:
                self._end_run(connection, ending, opened)

        self._database.run(work)

    def hand_on(self, connection: Connection, ending: Ending, opened: Sequence[Line]) -> None:
        """Give back what an attempt has had, enter it where it waits, and call those whose turn it is."""
        at = now()
        for line, turn in zip(opened, turns_in_order(ending.turns), strict=True):
            stays = turn.ordered and not (ending.over or (ending.dead and turn.skips))
            if line.name == ending.line:
                self.enter(connection, line, turn, ending.delivery, at)
            elif turn.kept and not (ending.over or ending.dead):
                self.leave(connection, line, ending.delivery, turns.c.state != KEPT)
            elif not stays:
                self.leave(connection, line, ending.delivery)
        for line in opened:
            self.advance(connection, line, at)

    # -- those in a line

    def advance(self, connection: Connection, line: Line, at: int) -> int:
        """Call out of a line those whose turn it is, and note when to look again; return how many were called."""
        before = line.due, line.passed
        if line.rule is None:
            number, line.due = self._advance_order(connection, line.name, at)
        else:
            number, line.due = self._advance_limit(connection, line, line.rule, at)
        if before != (line.due, line.passed):
            self._write(connection, line)
        return number

    def _advance_limit(self, connection: Connection, line: Line, rule: Rule, at: int) -> tuple[int, int | None]:
        number = 0
        held: tuple[int, int] | None = None
        while self._has_waiting(connection, line.name):
            called, runs = held or self._held(connection, line.name)
            room = MOST
            if rule.concurrent is not None:
                room = min(room, rule.concurrent - called - runs)
            if rule.interval is not None:
                room = min(room, gcra.within(line.tat, at, rule.interval, rule.tolerance, AHEAD) - called)
            if room <= 0:
                has_slot = rule.concurrent is None or called + runs < rule.concurrent
                if rule.interval is None or not has_slot:
                    return number, None  # who gives a slot back calls
                return number, gcra.after(called, line.tat, at, rule.interval, rule.tolerance) - AHEAD
            if number >= MOST:
                return number, at  # the others in another transaction
            picked, line.passed = pick(connection, line.name, line.passed, rule, room, at)
            if not picked and self._has_waiting(connection, line.name):
                return number, at + LOOK_AGAIN  # those of paused agents: whoever resumes them knows of no line
            released, busy = self._call(connection, line.name, picked)
            number += len(released)
            if busy:
                return number, at
            held = called + len(released), runs
        return number, None

    def _call(self, connection: Connection, line: str, ids: Sequence[str]) -> tuple[list[str], list[str]]:
        """Let deliveries go to their queues, forget those that wait no more, and leave the others in line for now.

        Return those that go, and those that somebody else has locked, who may be waiting for this line.
        """
        of_these = select(deliveries.c.id).where(deliveries.c.id.in_(sorted(ids))).order_by(deliveries.c.id)
        free = connection.execute(of_these.with_for_update(skip_locked=True)).scalars().all()
        there = free if len(free) == len(ids) else connection.execute(of_these).scalars().all()
        connection.execute(delete(waits).where(waits.c.delivery.in_(free), waits.c.kind == SLOT))
        released = self._deliveries.unpark(connection, free)
        busy = sorted(set(there) - set(free))
        gone = set(ids) - {*released, *busy}
        if gone:  # Celery asks again for members of canvases; a singleton's may be in line and not parked yet
            asking = (Outcome.RETRYING, Outcome.RUNNING) if is_singleton(limit_in(line)) else (Outcome.RETRYING,)
            asks = deliveries.c.id.in_(sorted(gone)), deliveries.c.outcome.in_([one.value for one in asking])
            coming = connection.execute(select(deliveries.c.id).where(*asks)).scalars().all()
            released, gone = [*released, *coming], gone - set(coming)
        if gone:  # somebody has stopped them
            connection.execute(delete(turns).where(turns.c.line == line, turns.c.delivery.in_(sorted(gone))))
        for id in busy:
            back = update(turns).where(one(id, line)).values(state=WAITING).returning(turns.c.share)
            mine = and_(shares.c.line == line, shares.c.share == connection.execute(back).scalar())
            connection.execute(update(shares).where(mine).values(waiting=shares.c.waiting + 1))
        return released, busy

    def _advance_order(self, connection: Connection, line: str, at: int) -> tuple[int, int | None]:
        """Call the first in an order, unless another one of its key has not ended."""
        place = turns.c.state.not_in(HELD), turns.c.first, turns.c.second  # whoever has the key comes before all
        columns = (turns, deliveries.c.outcome, deliveries.c.error, runs_on().label("runs_on"))
        query = select(*columns).outerjoin(deliveries, deliveries.c.id == turns.c.delivery)
        query = query.where(turns.c.line == line).order_by(*place).limit(1)
        while (first := connection.execute(query).first()) is not None:
            if first.state == WAITING:
                connection.execute(update(turns).where(one(first.delivery, line)).values(state=CALLED, since=at))
                released, busy = self._call(connection, line, [first.delivery])
                if released or busy:
                    return len(released), at if busy else at + LOOK_AGAIN
            elif self._is_over(connection, line, first):
                connection.execute(delete(turns).where(one(first.delivery, line)))
            else:
                others = select(turns.c.delivery).where(turns.c.line == line, turns.c.state == WAITING).limit(1)
                return 0, at + LOOK_AGAIN if connection.execute(others).first() else None
        return 0, None

    @staticmethod
    def _is_over(connection: Connection, line: str, turn: Any) -> bool:
        """Say whether nothing follows for a delivery: it has ended, or is none that the agent ever gets."""
        if turn.runs_on:
            return False
        if turn.outcome is not None:
            lets_go_on = turn.share == SKIPS or (turn.error or "").startswith(SHED)
            return turn.outcome in FINAL or (turn.outcome == Outcome.DEAD.value and lets_go_on)
        # Reconciliation has seen to it that the agent gets all that is for it up to there.
        name = limit_in(line).partition("#")[0]
        behind = tuple_(agents.c.tx, agents.c.seq) >= tuple_(turn.first, turn.second)
        return connection.execute(select(agents.c.name).where(agents.c.name == name, behind)).first() is not None

    # -- turns

    def _begins(self, connection: Connection, line: Line, rule: Rule, state: str | None, at: int) -> int | None:
        """Return when a delivery may begin (microseconds); None when it has to wait in line."""
        if state not in HELD:
            if self._has_waiting(connection, line.name):
                return None
            called, runs = self._held(connection, line.name)
            if rule.concurrent is not None and called + runs >= rule.concurrent:
                return None
            if rule.interval is not None and called:
                return None  # those were before
        if rule.interval is None:
            return at
        start, _ = gcra.starts(line.tat, at, rule.interval, rule.tolerance)
        return start if start <= at + AHEAD else None

    def _use(self, connection: Connection, line: Line, turn: Turn, delivery: str, at: int) -> None:
        """Note that a delivery has its turn, and begins."""
        rule = line.rule
        if rule is not None and rule.interval is not None:
            _, line.tat = gcra.starts(line.tat, at, rule.interval, rule.tolerance)
            self._write(connection, line)
        if rule is not None and rule.concurrent is None:
            connection.execute(delete(turns).where(one(delivery, line.name)))
            return
        state = KEPT if turn.kept else RUNS
        self._put(connection, {"delivery": delivery, **_place(turn), "state": state, "since": at})

    def enter(self, connection: Connection, line: Line, turn: Turn, delivery: str, at: int) -> None:
        """Let a delivery wait in a line that is parked in the same transaction; it keeps the place that it had."""
        waits_already = self.states(connection, delivery).get(line.name) == WAITING
        self._put(connection, {"delivery": delivery, **_place(turn), "state": WAITING, "since": at})
        if line.rule is None or waits_already:
            return
        insert = self._database.insert(shares)
        known = shares.c
        spent = case((known.spent > line.passed, known.spent), else_=line.passed)
        again = insert.on_conflict_do_update(
            index_elements=["line", "share"], set_={"waiting": known.waiting + 1, "spent": spent}
        )
        connection.execute(again, {"line": line.name, "share": turn.share, "spent": line.passed, "waiting": 1})

    def leave(self, connection: Connection, line: Line, delivery: str, *which: Any) -> None:
        """Let a delivery have, and want, nothing of a line any more."""
        gone = delete(turns).where(one(delivery, line.name), *which).returning(turns.c.state, turns.c.share)
        row = connection.execute(gone).first()
        if row is not None and row.state == WAITING and line.rule is not None:
            mine = and_(shares.c.line == line.name, shares.c.share == row.share, HAS_WAITING)
            connection.execute(update(shares).where(mine).values(waiting=shares.c.waiting - 1))

    def _put(self, connection: Connection, row: dict[str, Any]) -> None:
        insert = self._database.insert(turns)
        new = {name: insert.excluded[name] for name in ("state", "since")}
        connection.execute(insert.on_conflict_do_update(index_elements=["delivery", "line"], set_=new), row)

    def expect(self, connection: Connection, coming: Sequence[tuple[str, Turn]]) -> None:
        """Enter deliveries into their orders that are still to come."""
        if coming:
            rows = [{"delivery": id, **_place(turn), "state": EXPECTED, "since": now()} for id, turn in coming]
            connection.execute(self._database.insert(turns).on_conflict_do_nothing(), rows)

    def _is_first(self, connection: Connection, line: str, delivery: str) -> bool:
        """Say whether a delivery is the first in its order, and nobody else has its key."""
        place = turns.c.state.not_in(HELD), turns.c.first, turns.c.second
        query = select(turns.c.delivery).where(turns.c.line == line).order_by(*place).limit(1)
        return connection.execute(query).scalar() == delivery

    @staticmethod
    def _has_waiting(connection: Connection, line: str) -> bool:
        query = select(shares.c.share).where(shares.c.line == line, HAS_WAITING).limit(1)
        return connection.execute(query).first() is not None

    @staticmethod
    def _held(connection: Connection, line: str) -> tuple[int, int]:
        """Return how many were called, and how many run."""
        query = select(turns.c.state, func.count()).where(turns.c.line == line, turns.c.state.in_(HELD))
        found = {row[0]: row[1] for row in connection.execute(query.group_by(turns.c.state))}
        return found.get(CALLED, 0), found.get(RUNS, 0) + found.get(KEPT, 0)

    @staticmethod
    def states(connection: Connection, delivery: str) -> dict[str, str]:
        """Return in which lines a delivery is, and what has become of its turns there."""
        query = select(turns.c.line, turns.c.state).where(turns.c.delivery == delivery)
        return {row.line: row.state for row in connection.execute(query)}

    # -- lines

    def locked(self, connection: Connection, wanted: Iterable[Turn]) -> list[Line]:
        """Lock the lines of turns, before anything else is; in one order, so that no two wait for each other."""
        needed = {turn.line: turn for turn in turns_in_order(wanted)}
        rules = {name: self._rule(connection, name, turn.rule) for name, turn in needed.items()}
        query = select(lines).where(lines.c.line.in_(list(needed))).order_by(lines.c.line).with_for_update()
        while len(found := connection.execute(query).all()) < len(needed):
            insert = self._database.insert(lines).on_conflict_do_nothing()
            connection.execute(insert, [{"line": name} for name in needed])
        return [_line(row, rules[row.line]) for row in found]

    def opened(self, connection: Connection, row: Any) -> Line:
        """Return a line of which somebody has locked this row."""
        return _line(row, self._rule(connection, row.line, None))

    def _rule(self, connection: Connection, line: str, declared: Rule | None) -> Rule | None:
        return None if is_order(line) else self._rules.of(connection, limit_in(line), declared)

    @staticmethod
    def _write(connection: Connection, line: Line) -> None:
        values = {"tat": line.tat, "due": line.due, "passed": line.passed}
        connection.execute(update(lines).where(lines.c.line == line.name).values(values))


def _line(row: Any, rule: Rule | None) -> Line:
    """Return a line; what turns of a slower rate have left behind holds no longer when there is a faster one."""
    tat = row.tat
    if rule is not None and rule.interval is not None:
        most = gcra.most(now(), rule.interval, rule.tolerance, AHEAD)
        tat = most if tat > most + CLOCKS else tat
    return Line(row.line, tat, row.due, row.passed, rule)


def turns_in_order(wanted: Iterable[Turn]) -> list[Turn]:
    """Return turns in the order in which their lines are locked, each line once."""
    return [turn for _, turn in sorted({turn.line: turn for turn in wanted if turn.key is not None}.items())]


def _place(turn: Turn) -> dict[str, Any]:
    share = (SKIPS if turn.skips else "") if turn.ordered else turn.share
    return {"line": turn.line, "share": share, "first": turn.first, "second": turn.second}
