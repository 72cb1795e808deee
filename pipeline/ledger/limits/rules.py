"""The limits' table: what each limit says, as its agents declare it and as somebody has changed it since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import Connection, func, select, update

from ...core.errors import InvalidAgent, UnknownEvent, nearest
from ...core.limits.limit import Rule, is_singleton, rule_of
from ...core.times import now
from ..database.leases import locked
from ..database.waiting import limits, lines, shares, turns
from .states import HELD

if TYPE_CHECKING:
    from ..database.database import Database


class Stated(NamedTuple):
    """A limit, and how much of it is in use.

    Attributes:
        rule: what is in force.
        declared: what its agents declare.
        changed: whether somebody has changed that.
        running: deliveries that hold a slot, or have been called to one.
        waiting: those in its lines.
        keys: for how many keys something runs or waits.

    """

    name: str
    rule: Rule
    declared: Rule
    changed: bool
    running: int
    waiting: int
    keys: int

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "rule": self.rule.as_data(), "declared": self.declared.as_data()}


class Rules:
    """What limits say: read in each transaction that takes or gives back a turn, so a change is in force at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, connection: Connection, name: str, declared: Rule | None = None) -> Rule:
        """Return what is in force; what is declared is noted where it is new."""
        row = connection.execute(select(limits).where(limits.c.name == name)).first()
        if declared is not None and (row is None or row.declared != _text(declared)):
            self._declare(connection, name, declared)
            if row is not None:
                _wake(connection, name)
        if row is None:
            return declared or Rule()
        return _in_force(declared or _rule(row.declared), row.changed)

    def declare(self, rules: Mapping[str, Rule]) -> None:
        """Note what an app declares, where the ledger does not know it yet."""

        def work(connection: Connection) -> None:
            for name in sorted(rules):
                self.of(connection, name, rules[name])

        self._database.run(work)

    def _declare(self, connection: Connection, name: str, declared: Rule) -> None:
        insert = self._database.insert(limits)
        new = {"declared": insert.excluded.declared}
        row = {"name": name, "declared": _text(declared)}
        connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=new), row)

    def all(self) -> list[Stated]:
        """Return all limits that any worker has ever used, or an app has declared here, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(limits).order_by(limits.c.name)).all()
            return [self._stated(connection, row) for row in rows]

    def _stated(self, connection: Connection, row: Any) -> Stated:
        mine = (turns.c.line >= f"{row.name}:", turns.c.line < f"{row.name};")  # ";" follows the colon
        held = select(func.count()).where(*mine, turns.c.state.in_(HELD))
        waiting = select(func.coalesce(func.sum(shares.c.waiting), 0)).where(
            shares.c.line >= f"{row.name}:", shares.c.line < f"{row.name};"
        )
        keys = select(func.count(turns.c.line.distinct())).where(*mine)
        running, queue, number = (int(connection.execute(query).scalar_one()) for query in (held, waiting, keys))
        declared = _rule(row.declared)
        in_force = _in_force(declared, row.changed)
        return Stated(row.name, in_force, declared, row.changed is not None, running, queue, number)

    def change(self, name: str, changes: Mapping[str, Any] | None) -> Rule:
        """Change a limit until that is taken back, in force everywhere at once; return what is in force.

        Arguments:
            changes: `rate`, `burst` and `concurrent`, each a new value, or None for no such limit; None takes all
                changes back.

        Raises UnknownEvent for a limit that nobody has declared, and InvalidAgent for what contradicts itself.

        """
        if is_singleton(name):
            raise InvalidAgent(f"{name!r} is one at a time; for more declare limit=Limit(concurrent=...) instead")

        def work(connection: Connection) -> Rule:
            row = connection.execute(select(limits).where(limits.c.name == name).with_for_update()).first()
            if row is None:
                known = connection.execute(select(limits.c.name)).scalars().all()
                raise UnknownEvent(f"no limit is called {name!r}; {nearest(name, set(known))}")
            before = orjson.loads(row.changed) if row.changed else {}
            if unknown := set(changes or ()) - {"rate", "burst", "concurrent"}:
                raise InvalidAgent(f"a limit has no {min(unknown)!r} to change; it has rate, burst and concurrent")
            changed = None if changes is None else orjson.dumps({**before, **changes}).decode()
            rule = _checked(_in_force(_rule(row.declared), changed))
            connection.execute(update(limits).where(limits.c.name == name).values(changed=changed))
            _wake(connection, name, patient=True)
            return rule

        return self._database.run(work)


def _wake(connection: Connection, name: str, *, patient: bool = False) -> None:
    """Let the next sweep of any worker look at the lines of a limit that has changed: who waits may go on by now.

    Arguments:
        patient: whether a line is waited for that somebody has at this moment, as nobody may who has lines himself.

    """
    mine = (lines.c.line >= f"{name}:", lines.c.line < f"{name};")
    in_line = select(shares.c.line).where(shares.c.waiting > 0)
    found = select(lines.c.line).where(*mine, lines.c.line.in_(in_line)).order_by(lines.c.line)
    found = found.with_for_update() if patient else locked(found)
    names = connection.execute(found).scalars().all()
    connection.execute(update(lines).where(lines.c.line.in_(names)).values(due=now()))


def _text(rule: Rule) -> str:
    return orjson.dumps(rule._asdict()).decode()


def _rule(text: str) -> Rule:
    said = orjson.loads(text)
    return Rule(**{name: said.get(name, default) for name, default in Rule._field_defaults.items()})


def _in_force(declared: Rule, changed: str | None) -> Rule:
    return declared._replace(**orjson.loads(changed)) if changed else declared


def _checked(rule: Rule) -> Rule:
    rule_of(rule.rate, rule.burst, rule.concurrent)
    return rule
