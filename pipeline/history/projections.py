"""Projections: read models that workers keep up to date from the log, and that can be rebuilt from it."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.orm import Session

from ..core.errors import InvalidAgent, ProjectionFailed, nearest
from ..core.event import Event, Payload
from ..core.ids import Place, place_of
from ..core.routing import pattern_of, wants
from ..core.times import monotonic
from ..ledger.aside import Bad, read
from ..ledger.database.tables import events, positions
from ..ledger.ledger import Ledger
from ..ledger.log import BEGIN, COLUMNS, Position, after, in_order, position_of, stable

Handler = Callable[[Event, Session], None]
Function = TypeVar("Function", bound=Callable[..., Any])

#: Seconds that a batch may take: on SQLite nobody else can write meanwhile.
BATCH_SECONDS = 0.5
#: Seconds between two looks at a projection that another process is at.
_BUSY_INTERVAL = 0.05
_MAX_NAME = 255


class Projection:
    """A read model: its handler is called once for each event that one of its patterns matches, in order.

    The handler writes with the session it is given, in the transaction that also moves the projection on: both are
    kept, or neither. Events that a replay emitted are not shown to it.
    """

    def __init__(
        self,
        name: str,
        patterns: str | type[Payload] | Iterable[str | type[Payload]],
        handler: Handler,
    ) -> None:
        """Check and keep what describes the projection.

        Arguments:
            name: what its position in the log is kept under.
            patterns: a topic pattern or Payload class, or several.
            handler: a plain function of an Event and a SQLAlchemy Session on the ledger's database.

        Raises InvalidAgent, InvalidPattern or InvalidSelection.

        """
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
            raise InvalidAgent(f"projection: {name!r} is no name of 1 to {_MAX_NAME} characters")
        if not callable(handler) or _is_no_plain(handler):
            raise InvalidAgent(f"projection {name!r}: {handler!r} is no plain function of an event and a session")
        several = [patterns] if isinstance(patterns, (str, type)) else list(patterns)
        if not several:
            raise InvalidAgent(f"projection {name!r} listens to nothing; give a topic pattern or a Payload class")
        self.name = name
        self.patterns = tuple(dict.fromkeys(pattern_of(pattern) for pattern in several))
        self.handler = handler
        self.clear: Callable[[Session], None] | None = None

    def __repr__(self) -> str:
        return f"<Projection {self.name} on {', '.join(self.patterns)}>"

    def __call__(self, event: Event, session: Session) -> None:
        """Call the handler itself (for tests)."""
        self.handler(event, session)

    def matches(self, event_type: str) -> bool:
        """Say whether one of the patterns matches `event_type`."""
        return wants(self.patterns, event_type)

    @property
    def place(self) -> Place:
        """Where it is declared."""
        return place_of(self.handler, self.patterns)

    def reset(self, function: Function) -> Function:
        """Let the decorated `function(session)` empty the read model before it is rebuilt."""
        if _is_no_plain(function):
            raise InvalidAgent(f"projection {self.name!r}: {function!r} is no plain function of a session")
        self.clear = function
        return function


class Projections:
    """The registry: every projection by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Projection] = {}

    def add(self, projection: Projection) -> None:
        """Keep a projection; raise InvalidAgent when another one has its name, or this one with other patterns."""
        taken = self._by_name.get(projection.name)
        if taken is not None and not taken.place.is_again(projection.place):
            raise InvalidAgent(
                f"projection name {projection.name!r} is used twice: by {taken.place} and by {projection.place}; "
                "pass name='...' to one of them"
            )
        self._by_name[projection.name] = projection

    def __getitem__(self, name: str) -> Projection:
        """Return the projection called `name`, or raise InvalidAgent with the nearest known name."""
        try:
            return self._by_name[name]
        except KeyError:
            raise InvalidAgent(f"no projection is called {name!r}; {nearest(name, self._by_name)}") from None

    def __iter__(self) -> Iterator[Projection]:
        """Iterate over the projections in the order of their declaration."""
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name


def catch_up(ledger: Ledger, projection: Projection, limit: int = 1000) -> int:
    """Show a projection the next events, in one transaction, and return the number of events it moved on by.

    That includes events that it does not listen to; 0 means that there are no more, or that another process is at it.

    Arguments:
        limit: events to move on by at most; a slow handler gets fewer at once (see BATCH_SECONDS).

    Raises ProjectionFailed when the handler raises; then nothing of the batch is kept.

    """
    return _advance(ledger, projection, limit) or 0


def rebuild(ledger: Ledger, projection: Projection, progress: Callable[[int, int], None] | None = None) -> int:
    """Empty a read model and fill it again from the whole log; return the number of events that it moved on by.

    Arguments:
        progress: is called with the events done and the events there are, after each batch.

    Raises ProjectionFailed when the projection has no reset function, or when that or the handler raises.

    """
    if projection.clear is None:
        raise ProjectionFailed(
            f"projection {projection.name!r} cannot be rebuilt: "
            f"decorate the function that empties its read model with @{projection.name}.reset"
        )
    _register(ledger, projection)
    with ledger.database.transaction() as connection:
        _move(connection, projection, BEGIN)  # waits for a process that is at it
        with _session(connection) as session, _named(projection, session, "its reset function"):
            _call(projection.clear, session)
    total = _remaining(ledger)
    done = 0
    while (number := _advance(ledger, projection)) != 0:
        if number is None:
            time.sleep(_BUSY_INTERVAL)  # a sweeper has it in its hands
            continue
        done += number
        if progress is not None:
            progress(done, max(total, done))
    return done


def lag(ledger: Ledger, projection: Projection) -> int:
    """Return how many events in the log the projection has still to see."""
    with ledger.database.reading() as connection:
        behind = after(ledger.database, _position(connection, projection))
        query = select(events.c.type, func.count()).where(events.c.replay.is_(None)).group_by(events.c.type)
        return sum(number for type, number in connection.execute(query.where(behind)) if projection.matches(type))


def _remaining(ledger: Ledger) -> int:
    with ledger.database.reading() as connection:
        return int(connection.execute(stable(ledger.database, select(func.count()).select_from(events))).scalar_one())


def _advance(ledger: Ledger, projection: Projection, limit: int = 1000) -> int | None:
    """Do what catch_up() says; return None when another process is at it."""
    if not _is_behind(ledger, projection):  # a look that takes no lock
        return 0
    with ledger.database.transaction() as connection:
        position = _take(connection, projection)
        if position is not None:
            return _project(ledger, connection, projection, position, limit)
    # Not in the transaction above: who inserts what another one is about to insert would have to wait for that.
    return _advance(ledger, projection, limit) if _register(ledger, projection) else None


def _is_behind(ledger: Ledger, projection: Projection) -> bool:
    with ledger.database.reading() as connection:
        query = select(events.c.seq).where(after(ledger.database, _position(connection, projection))).limit(1)
        return connection.execute(stable(ledger.database, query)).first() is not None


def _position(connection: Connection, projection: Projection) -> Position:
    row = connection.execute(select(positions).where(positions.c.name == projection.name)).first()
    return position_of(row) if row else BEGIN


def _take(connection: Connection, projection: Projection) -> Position | None:
    """Lock a projection's position and return it, or None when there is none or another process has locked it."""
    query = select(positions).where(positions.c.name == projection.name)
    row = connection.execute(query.with_for_update(skip_locked=True)).first()
    return position_of(row) if row else None


def _register(ledger: Ledger, projection: Projection) -> bool:
    """Put a new projection at the beginning of the log; say whether it is new."""
    tx, seq = BEGIN
    row = {"name": projection.name, "tx": tx, "seq": seq}
    statement = ledger.database.insert(positions).values(row).on_conflict_do_nothing().returning(positions.c.name)
    return ledger.database.run(lambda connection: connection.execute(statement).first()) is not None


def _move(connection: Connection, projection: Projection, position: Position) -> None:
    tx, seq = position
    connection.execute(update(positions).where(positions.c.name == projection.name).values(tx=tx, seq=seq))


def _project(ledger: Ledger, connection: Connection, projection: Projection, position: Position, limit: int) -> int:
    query = in_order(select(*COLUMNS).where(after(ledger.database, position))).limit(limit)
    rows = connection.execute(stable(ledger.database, query)).all()
    bad: list[Bad] = []
    number = _handle(connection, projection, rows, bad)
    ledger.aside.put(connection, f"projection {projection.name}"[:_MAX_NAME], bad)
    if number:
        _move(connection, projection, position_of(rows[number - 1]))
    return number


def _handle(connection: Connection, projection: Projection, rows: Sequence[Row[Any]], bad: list[Bad]) -> int:
    """Call the handler for events as long as a batch may take; return the number of events that are behind it now.

    Arguments:
        bad: is given those that cannot be read, and that it therefore never sees.

    """
    until = monotonic() + BATCH_SECONDS
    with _session(connection) as session:
        for number, row in enumerate(rows, start=1):
            if row.replay is not None or not projection.matches(row.type):
                continue
            record = read(row.id, row.body)
            if isinstance(record, Bad):
                bad.append(record)
                continue
            with _named(projection, session, f"event {row.id} ({row.type}, number {row.seq})"):
                _call(projection.handler, record.event, session)
            if monotonic() > until:
                return number
    return len(rows)


def _session(connection: Connection) -> Session:
    """Return a session in a transaction that is ours to commit, whatever is called on the session."""
    return Session(bind=connection, join_transaction_mode="rollback_only")


def _is_no_plain(function: Any) -> bool:
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(each) for is_kind in kinds for each in (function, type(function).__call__))


def _call(function: Callable[..., Any], *arguments: Any) -> None:
    """Call the user's function; raise TypeError when it has done nothing yet, which a decorator may hide until then."""
    answer = function(*arguments)
    if inspect.iscoroutine(answer) or inspect.isgenerator(answer):
        answer.close()
    if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        raise TypeError(f"it returned a {type(answer).__name__}, so nothing has run; make it a plain function")


@contextlib.contextmanager
def _named(projection: Projection, session: Session, what: str) -> Iterator[None]:
    """Run the user's code, and say whose and where when it fails."""
    place = f"projection {projection.name!r} failed at {what}"
    connection = session.connection()
    try:
        yield
        session.flush()
    except Exception as exc:
        raise ProjectionFailed(f"{place}: {type(exc).__name__}: {exc}") from exc
    if connection.get_transaction() is None:
        raise ProjectionFailed(f"{place}: it rolled the session back; raise an error instead")
