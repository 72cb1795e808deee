"""The log, read in its order: page by page, along the index that leads straight to what is wanted."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    func,
    literal,
    literal_column,
    select,
    text,
    tuple_,
)

from ..core.topics import matches
from .database.database import Database
from .database.tables import events, tags

#: Types that are read side by side for one pattern; for more of them the whole log is read.
MANY_TYPES = 50
#: Types that are compared with a pattern before the whole log is read instead.
COMPARED = 1000
#: Sequence numbers that are looked through to find out where in the order of the log they begin and end.
FEW = 50_000
#: The fewest rows in a page.
SMALLEST_PAGE = 50
HIGHEST = 2**63 - 1

#: A place in the order of the log: the writing transaction and the sequence number.
Position = tuple[int, int]
#: The positions before and after all others.
BEGIN: Position = (-1, 0)
END: Position = (HIGHEST, HIGHEST)
#: The positions after the first and up to the second, which is included.
Window = tuple[Position, Position]
_NOTHING: Window = (END, BEGIN)

_ORDER = (events.c.tx, events.c.seq)
_COLUMNS = ("seq", "tx", "id", "type", "stream", "time", "recorded", "replay", "body")
COLUMNS = tuple(events.c[name] for name in _COLUMNS)


class Bounds(NamedTuple):
    """Between which sequence numbers and times (microseconds) events are wanted, both included."""

    min_seq: int = -1
    max_seq: int = HIGHEST
    min_time: int = -HIGHEST
    max_time: int = HIGHEST

    @property
    def has_times(self) -> bool:
        """Whether a time is given."""
        return (self.min_time, self.max_time) != (-HIGHEST, HIGHEST)

    def restrict(self, query: Select[Any], *, by_time: bool = False) -> Select[Any]:
        """Return the query with these bounds.

        Arguments:
            by_time: follow the index of times, which a page must not do: it follows the order of the log.

        """
        # "+ 0": the database cannot use the column's index.
        seq = events.c.seq + 0 if by_time and self.has_times else events.c.seq
        time = events.c.time if by_time else events.c.time + 0
        limits = (
            (self.min_seq > -1, seq >= self.min_seq),
            (self.max_seq < HIGHEST, seq <= self.max_seq),
            (self.min_time > -HIGHEST, time >= self.min_time),
            (self.max_time < HIGHEST, time <= self.max_time),
        )
        return query.where(*(condition for given, condition in limits if given))


class Index(NamedTuple):
    """The index that is followed: all events, or those with one value in one column, or of one name in their metadata.

    Attributes:
        tag: the name.

    """

    column: Column[Any] | None = None
    value: str | None = None
    tag: str | None = None


def position_of(row: Row[Any]) -> Position:
    """Return a row's place in the order of the log."""
    return row.tx, row.seq


def in_order(query: Select[Any], *, newest: bool = False) -> Select[Any]:
    """Return the query in the order of the log, or in the reverse order."""
    return query.order_by(*(column.desc() if newest else column for column in _ORDER))


#: The oldest transaction that may still write, on PostgreSQL: what is before it is in its final order.
_OLDEST_OPEN = "txid_snapshot_xmin(txid_current_snapshot())"


def end_of_log(database: Database, connection: Connection) -> Position:
    """Return the position after everything whose order is settled."""
    if database.is_sqlite:
        return 0, connection.execute(select(func.coalesce(func.max(events.c.seq), 0))).scalar_one()
    return connection.execute(select(literal_column(_OLDEST_OPEN))).scalar_one(), 0


def stable(database: Database, query: Select[Any]) -> Select[Any]:
    """Restrict a query on events to those before which no other event can appear any more."""
    return query if database.is_sqlite else query.where(events.c.tx < literal_column(_OLDEST_OPEN))


def after(database: Database, position: Position) -> ColumnElement[bool]:
    """Return the condition that events come after a position."""
    if database.is_sqlite:  # it does not look up pairs in an index
        return (events.c.tx == 0) & (events.c.seq > position[1])
    return tuple_(events.c.tx, events.c.seq) > tuple_(*position)


def merged(pages: Sequence[Iterator[Row[Any]]]) -> Iterator[Row[Any]]:
    """Return the rows of several readers in the order of the log."""
    return pages[0] if len(pages) == 1 else heapq.merge(*pages, key=position_of)


def rows(
    database: Database,
    path: Index,
    window: Window = (BEGIN, END),
    bounds: Bounds | None = None,
    *,
    replayed: bool = False,
    batch: int = 1000,
) -> Iterator[Row[Any]]:
    """Return rows of the log in its order, one page after the other, each read in a transaction of its own.

    Arguments:
        window: the part of the log that is read.
        replayed: also return events that a replay emitted.
        batch: rows in a page.

    """
    bounds = bounds or Bounds()
    if database.is_sqlite:  # sequence numbers are the order
        window = max(window[0], (0, bounds.min_seq - 1)), min(window[1], (0, bounds.max_seq))
        bounds = bounds._replace(min_seq=-1, max_seq=HIGHEST)
    last, until = window
    query = bounds.restrict(_page(database, path, until)).limit(batch)
    if not replayed:
        query = query.where(events.c.replay.is_(None))
    while last < until:
        with database.reading() as connection:
            _follow_the_index(database, connection)
            page = connection.execute(query, {"after_tx": last[0], "after_seq": last[1]}).all()
        yield from page
        if len(page) < batch:
            return
        last = position_of(page[-1])


def _follow_the_index(database: Database, connection: Connection) -> None:
    """Keep PostgreSQL from sorting all that is left for each page, because it takes that for little."""
    if not database.is_sqlite:
        connection.exec_driver_sql("SET LOCAL enable_sort = off")


def _page(database: Database, path: Index, until: Position) -> Select[Any]:
    """Return the query for the rows after the parameters `after_tx` and `after_seq`, up to a position."""
    if path.tag is not None:
        return _tagged(database, path, until)
    order: tuple[Any, ...] = _ORDER
    last: tuple[Any, ...] = (
        bindparam("after_tx", type_=events.c.tx.type),
        bindparam("after_seq", type_=events.c.seq.type),
    )
    query = select(*COLUMNS)
    if database.is_sqlite:
        if path.column is not None:
            query = query.where(path.column == path.value)
        return in_order(query.where(events.c.tx == 0, events.c.seq > last[1], events.c.seq <= until[1]))
    query = query.where(tuple_(*order) <= tuple_(*until))
    if path.column is not None:
        # A range of one value, and the column in the order: then no other index than the column's own gives the order,
        # and the last page of something rare does not search all that follows.
        query = query.where(path.column <= path.value)
        order, last = (path.column, *order), (bindparam("value", path.value, type_=path.column.type), *last)
    return query.where(tuple_(*order) > tuple_(*last)).order_by(*order)


def _tagged(database: Database, path: Index, until: Position) -> Select[Any]:
    """Return the same for what is found by its metadata, along the index of that."""
    tx, seq = tags.c.tx, tags.c.seq
    last = bindparam("after_tx", type_=tx.type), bindparam("after_seq", type_=seq.type)
    query = select(*COLUMNS).join(tags, (events.c.seq == seq) & (events.c.tx == tx))
    query = query.where(tags.c.name == path.tag, tags.c.value == path.value).order_by(tx, seq)
    if database.is_sqlite:
        return query.where(tx == 0, seq > last[1], seq <= until[1])
    return query.where(tuple_(tx, seq) > tuple_(*last), tuple_(tx, seq) <= tuple_(*until))


def window_of(database: Database, connection: Connection, bounds: Bounds, *, narrow: bool) -> Window:
    """Return the part of the log in which all events lie that are there now and within the bounds.

    Arguments:
        narrow: ask where they begin and end, which pays when much of the log is to be read.

    """
    last = connection.execute(in_order(select(*_ORDER), newest=True).limit(1)).first()
    if last is None:
        return _NOTHING
    few = not database.is_sqlite and min(bounds.max_seq, last.seq) - bounds.min_seq < FEW
    if not (narrow and (bounds.has_times or few)):
        return BEGIN, position_of(last)
    first = _extreme(database, connection, bounds, func.min)
    if first is None:
        return _NOTHING
    if bounds.max_seq < HIGHEST or bounds.max_time < HIGHEST:
        until = _extreme(database, connection, bounds, func.max) or END
    else:
        until = position_of(last)
    return (first[0], first[1] - 1), until


def _extreme(database: Database, connection: Connection, bounds: Bounds, function: Any) -> Position | None:
    """Return the lowest transaction and sequence number within the bounds, or the highest ones."""
    # "+ 0": else PostgreSQL walks along the order of the log until it meets the first such event.
    tx = literal(0) if database.is_sqlite else function(events.c.tx + 0)
    query = bounds.restrict(select(tx, function(events.c.seq + 0)), by_time=True)
    found_tx, found_seq = connection.execute(query).one()
    return None if found_seq is None else (found_tx, found_seq)


def type_paths(connection: Connection, pattern: str) -> list[Index]:
    """Return a path for each type that matches a pattern, or one along all events where that is less work."""
    if set(pattern.split(".")) == {"#"}:
        return [Index()]
    if not {"*", "#"} & set(pattern.split(".")):
        return [Index(events.c.type, pattern)]
    candidates = known_types(connection, pattern)
    types = [type for type in candidates if matches(pattern, type)]
    if len(candidates) == COMPARED or len(types) > MANY_TYPES:
        return [Index()]
    return [Index(events.c.type, type) for type in types]


#: Goes from one type to the next in the index, however many events lie between.
_TYPES = text("""
    WITH RECURSIVE known(type) AS (
        SELECT min(type) FROM pipeline_events WHERE type >= :low AND type < :high
        UNION ALL
        SELECT (SELECT min(type) FROM pipeline_events WHERE type > known.type AND type < :high)
        FROM known WHERE known.type IS NOT NULL
    )
    SELECT type FROM known WHERE type IS NOT NULL LIMIT :most
""")


def known_types(connection: Connection, pattern: str) -> Sequence[str]:
    """Return types that are in the log and begin as a pattern does, at most COMPARED."""
    words = pattern.split(".")
    wild = next(number for number, word in enumerate(words) if word in ("*", "#"))
    prefix = ".".join(words[:wild])
    # "/" follows the dot, and "{" the letters: all that begins with the prefix lies between.
    limits = {"low": prefix, "high": f"{prefix}/" if prefix else "{", "most": COMPARED}
    return connection.execute(_TYPES, limits).scalars().all()
