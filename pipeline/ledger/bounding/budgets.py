"""Budgets: what is reserved counts as spent at once, so a crash can only have spent too much, never too little.

One row counts for each budget, key and day; the row without a day holds a limit that somebody has set at run time. Rows
are locked in their order, and each use of an attempt is noted, so that it counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, and_, delete, exists, func, or_, select, tuple_, update

from ...core.announcements import BudgetExceeded
from ...core.errors import UnknownBudget
from ...core.event import Encoded, Event, new_event
from ...core.limits.limit import text_of
from ...core.times import now
from ..database.tables import events
from ..database.waiting import budgets, reservations, waits
from ..waiting.wait import OVER
from .budget import TREE, UNITS, Amounts, Budget, Refused, Scope, Use, tree_of

if TYPE_CHECKING:
    from ..database.database import Database
    from ..waiting.waits import Waits

#: The kind of a wait for more room.
BUDGET = "budget"
#: Deliveries that are asked for at once.
SOME = 500
_PLACE = ("name", "key", "period")


class Account(NamedTuple):
    """A budget of one key, as operators see it.

    Attributes:
        limit: what is in force, as far as the ledger knows: what was set at run time, else what was declared when it
            was last used.

    """

    name: str
    key: str
    period: str
    limit: Amounts
    used: Amounts

    @property
    def left(self) -> Amounts:
        """What is left of it."""
        return _left(self.limit, self.used)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        amounts = {"limit": self.limit.as_data(), "used": self.used.as_data(), "left": self.left.as_data()}
        return {"name": self.name, "key": self.key, "period": self.period or None, **amounts}


class Budgets:
    """The budgets' table.

    Attributes:
        declared: those of the app, by name.

    """

    def __init__(self, database: Database, waits: Waits, append: Callable[..., object]) -> None:
        self._database = database
        self._waits = waits
        self._append = append
        self.declared: Mapping[str, Budget] = {}

    # -- of a handler

    def reserve(self, use: Use, scopes: Sequence[Scope], wanted: Amounts, event: Event, agent: str) -> Refused | None:
        """Take so much from each of some budgets, all or nothing; return the first that has no room.

        The same use again takes nothing, and has what it had. A tree without a budget has no row, and no bound.
        """

        def work(connection: Connection) -> Refused | None:
            rows = self._locked(connection, scopes)
            if connection.execute(select(reservations.c.at).where(_is(use))).first() is not None:
                return None
            for scope, row in rows:
                limit = self._limit(connection, scope)
                if (refused := _refused(scope, limit, row, wanted)) is not None:
                    if not row.exceeded:
                        self._exceed(connection, refused, use, event, agent)
                    return refused
            self._add(connection, [row for _, row in rows], wanted.numbers)
            places = orjson.dumps([scope.place for scope, _ in rows]).decode()
            spent = dict(zip(UNITS, wanted.numbers, strict=True))
            note = {**use._asdict(), "places": places, **spent, "settled": False, "at": now()}
            connection.execute(self._database.insert(reservations), note)
            return None

        return self._database.run(work)

    def settle(self, use: Use, spent: Amounts) -> None:
        """Correct what a use has reserved to what was spent; what is settled already stays as it is."""

        def work(connection: Connection) -> None:
            note = connection.execute(select(reservations).where(_is(use))).first()
            if note is None:
                return
            rows = self._locked_rows(connection, [tuple(place) for place in orjson.loads(note.places)])
            values = {**dict(zip(UNITS, spent.numbers, strict=True)), "settled": True}
            open_now = and_(_is(use), ~reservations.c.settled)
            if connection.execute(update(reservations).where(open_now).values(values)).rowcount:
                more = [real - getattr(note, unit) for unit, real in zip(UNITS, spent.numbers, strict=True)]
                self._add(connection, list(rows.values()), more)

        self._database.run(work)

    def left(self, scopes: Sequence[Scope]) -> Amounts:
        """Return what each of some budgets has left, at least; None of a unit that none of them bounds."""
        found = Amounts()
        with self._database.reading() as connection:
            for scope in scopes:
                row = connection.execute(select(budgets).where(_at(scope.place))).first()
                limit = self._limit(connection, scope)
                left = _left(limit, _used(row) if row else Amounts(0, 0, 0))
                found = Amounts(*(_least(*pair) for pair in zip(found, left, strict=True)))
        return found

    # -- of operators

    def begin(self, correlation: str, limit: Amounts, connection: Connection | None = None) -> None:
        """Give a tree a budget; one that it has stays as it is.

        Arguments:
            connection: a transaction that is open; default one of its own.

        """

        def work(own: Connection) -> None:
            self._insert(own, [(tree_of(correlation), limit)])

        if connection is None:
            self._database.run(work)
        else:
            work(connection)

    def set(self, name: str, limit: Amounts, key: str = "") -> int:
        """Change the limit of a key, for its days to come too, or of all keys that have none of their own.

        What waits for room goes on; return how many deliveries do. A unit that is not given stays as it is.
        """

        def work(connection: Connection) -> int:
            place = (name, text_of(key), "")
            known = [select(budgets.c.name).where(_at(place) if name == TREE else budgets.c.name == name)]
            if name == TREE:
                known.append(select(events.c.id).where(events.c.correlation == key))
            if name not in self.declared and not any(connection.execute(one.limit(1)).first() for one in known):
                raise UnknownBudget(
                    f"there is no budget {name!r} (of {key!r}); `pipeline budget list` lists those in use"
                )
            self._insert(connection, [(Scope(*place), Amounts())])
            if name != TREE:  # of units that nobody sets what is declared holds, by then too
                declared = and_(_at(place), ~budgets.c.is_set)
                connection.execute(update(budgets).where(declared).values(_columns(Amounts())))
            new = {column: value for column, value in _columns(limit).items() if value is not None}
            connection.execute(update(budgets).where(_at(place)).values(**new, is_set=True, at=now()))
            mine = budgets.c.name == name if key == "" else and_(budgets.c.name == name, budgets.c.key == place[1])
            connection.execute(update(budgets).where(mine).values(exceeded=False))
            waiting = (
                waits.c.key == Scope(*place).waits_as if key else waits.c.key.startswith(f"{name}/", autoescape=True)
            )
            rows = connection.execute(select(waits).where(waits.c.kind == BUDGET, waiting)).all()
            return len(self._waits.release(connection, rows, [OVER] * len(rows)))

        return self._database.run(work)

    def prune(self, before: int) -> None:
        """Forget days, and trees that are no longer in the log, that nobody has charged since then (microseconds).

        Of a tree with a long correlation, whose digest is all that is kept here, nobody asks whether it is in the log.
        """
        gone = ~exists().where(events.c.correlation == budgets.c.key)
        over = or_(budgets.c.period != "", and_(budgets.c.name == TREE, gone))
        self._database.run(lambda connection: connection.execute(delete(budgets).where(budgets.c.at < before, over)))

    def list(self, name: str | None = None, key: str | None = None, limit: int = 100) -> list[Account]:
        """Return budgets in use, those that were used last first.

        Arguments:
            name: only those with this name.
            key: only those of this key.
            limit: how many at most.

        """
        query = select(budgets).order_by(budgets.c.at.desc(), *(budgets.c[one] for one in _PLACE)).limit(limit)
        for column, value in ((budgets.c.name, name), (budgets.c.key, key and text_of(key))):
            query = query if value is None else query.where(column == value)
        found = []
        with self._database.reading() as connection:
            for row in connection.execute(query).all():
                declared = self.declared.get(row.name)
                scope = Scope(row.name, row.key, row.period, declared.limit if declared else _limits(row))
                found.append(Account(*scope.place, self._limit(connection, scope), _used(row)))
        return found

    def of_tree(self, id: str) -> Account | None:
        """Return the budget of a correlation, or of that of an event; None when it has none."""
        query = select(events.c.correlation).where(events.c.id == id)
        correlation = self._database.read(lambda connection: connection.execute(query).scalar())
        found = self.list(TREE, correlation or id)
        return found[0] if found else None

    def spent_by(self, deliveries: Sequence[str]) -> dict[str, Amounts]:
        """Return what some deliveries have spent, in all of their attempts; those without any are left out."""
        row = reservations.c
        found: dict[str, Amounts] = {}
        numbers = [func.sum(row[unit]) for unit in UNITS]
        with self._database.reading() as connection:
            for first in range(0, len(deliveries), SOME):
                some = deliveries[first : first + SOME]
                query = select(row.delivery, *numbers).where(row.delivery.in_(some)).group_by(row.delivery)
                found |= {id: Amounts(*map(int, spent)) for id, *spent in connection.execute(query)}
        return found

    # -- rows

    def _locked(self, connection: Connection, scopes: Sequence[Scope]) -> Sequence[tuple[Scope, Row[Any]]]:
        """Return the rows of some budgets, which are made if need be, but for that of a tree."""
        self._insert(connection, [(scope, scope.limit) for scope in scopes if scope.name != TREE])
        rows = self._locked_rows(connection, [scope.place for scope in scopes])
        for scope in scopes:
            row = rows.get(scope.place)
            if row is not None and scope.name != TREE and not row.is_set and _limits(row) != scope.limit:
                connection.execute(update(budgets).where(_at(scope.place)).values(_columns(scope.limit)))
        return [(scope, rows[scope.place]) for scope in scopes if scope.place in rows]

    def _locked_rows(self, connection: Connection, places: Sequence[Any]) -> dict[Any, Row[Any]]:
        if not places:
            return {}
        columns = [budgets.c[name] for name in _PLACE]
        query = select(budgets).where(or_(*(_at(place) for place in places))).order_by(*columns).with_for_update()
        return {(row.name, row.key, row.period): row for row in connection.execute(query)}

    def _insert(self, connection: Connection, new: Sequence[tuple[Scope, Amounts]]) -> None:
        rows = [
            {
                **dict(zip(_PLACE, scope.place, strict=True)),
                **_columns(limit),
                "at": now(),
            }
            for scope, limit in sorted(new, key=lambda pair: pair[0].place)
        ]
        for row in rows:
            connection.execute(self._database.insert(budgets).on_conflict_do_nothing(), row)

    def _limit(self, connection: Connection, scope: Scope) -> Amounts:
        """Return the limit in force: what was set for the key, else for all keys, else what is declared."""
        if scope.name == TREE:
            row = connection.execute(select(budgets).where(_at(scope.place))).first()
            return _limits(row) if row else Amounts()
        places = [(scope.name, scope.key, ""), (scope.name, "", "")]
        query = select(budgets).where(or_(*(_at(place) for place in places)), budgets.c.is_set)
        of_key = {row.key: _limits(row) for row in connection.execute(query)}
        own, all_keys = of_key.get(scope.key, Amounts()), of_key.get("", Amounts())
        return Amounts(*(_first(*of_unit) for of_unit in zip(own, all_keys, scope.limit, strict=True)))

    @staticmethod
    def _add(connection: Connection, rows: Sequence[Row[Any]], numbers: Sequence[int]) -> None:
        more = {unit: budgets.c[unit] + number for unit, number in zip(UNITS, numbers, strict=True)}
        for row in rows:
            connection.execute(update(budgets).where(_at((row.name, row.key, row.period))).values(**more, at=now()))

    def _exceed(self, connection: Connection, refused: Refused, use: Use, event: Event, agent: str) -> None:
        """Tell it, once until somebody changes the budget, or the next day begins."""
        scope = refused.scope
        connection.execute(update(budgets).where(_at(scope.place)).values(exceeded=True))
        told = BudgetExceeded(
            budget=scope.name,
            key=scope.key,
            unit=refused.unit,
            limit=refused.limit,
            used=refused.used,
            wanted=refused.wanted,
            agent=agent,
            delivery_id=use.delivery,
        )
        announced = new_event(told, source="/ledger", cause=event)
        self._append([Encoded(announced, announced.encode())], due_in=0, connection=connection)


def _is(use: Use) -> Any:
    return and_(*(reservations.c[name] == value for name, value in use._asdict().items()))


def _at(place: Sequence[str]) -> Any:
    return tuple_(*(budgets.c[name] for name in _PLACE)) == tuple_(*place)


def _limits(row: Row[Any]) -> Amounts:
    return Amounts(*(getattr(row, f"{unit}_limit") for unit in UNITS))


def _columns(limit: Amounts) -> dict[str, int | None]:
    return {f"{unit}_limit": value for unit, value in limit._asdict().items()}


def _used(row: Row[Any]) -> Amounts:
    return Amounts(*(getattr(row, unit) for unit in UNITS))


def _refused(scope: Scope, limit: Amounts, row: Row[Any], wanted: Amounts) -> Refused | None:
    for unit, bound, used, more in zip(UNITS, limit, _used(row).numbers, wanted.numbers, strict=True):
        if bound is not None and more and used + more > bound:
            return Refused(scope, unit, bound, used, more)
    return None


def _left(limit: Amounts, used: Amounts) -> Amounts:
    pairs = zip(limit, used.numbers, strict=True)
    return Amounts(*(None if bound is None else max(0, bound - spent) for bound, spent in pairs))


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
