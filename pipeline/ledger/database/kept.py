"""Connections that threads keep between two transactions: taking one from the pool costs as much as a short one does.

A thread has one at a time: it gives back what it keeps before SQLAlchemy takes another one for it. So there are no more
connections than without, and no more idle ones than the pool would keep. And those that SQLAlchemy lends for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import ref

from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from .trouble import as_sqlalchemys, is_lost

#: Connections that a process keeps open, and those that it may open beside them for a while.
KEPT, BESIDE = 10, 20


class Pool(QueuePool):
    """A pool that ends what comes back after it was closed: nobody would ever close what it kept then."""

    __module__ = QueuePool.__module__  # its logger is named after that, and is as quiet as SQLAlchemy's others
    _is_closed = False

    def dispose(self) -> None:
        """Close what nobody uses now, and from now on what comes back."""
        self._is_closed = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        if self._is_closed:  # looked at last: who closes it at this moment either finds the connection or is seen here
            super().dispose()


def pooled(timeout: float) -> dict[str, Any]:
    """Return what makes an engine keep its connections in such a pool.

    Arguments:
        timeout: seconds to wait for a connection while all are in use.

    """
    return {"poolclass": Pool, "pool_size": KEPT, "max_overflow": BESIDE, "pool_timeout": timeout}


class Place:
    """Where a thread keeps its connection while it does not use it.

    Attributes:
        kept: the connection with the number of its pool, if there is one; whoever gets it out of the list has it.
        is_open: whether the thread may keep one.

    """

    __slots__ = ("__weakref__", "is_open", "kept")

    def __init__(self, *, is_open: bool) -> None:
        self.kept: list[tuple[int, PoolProxiedConnection]] = []
        self.is_open = is_open

    def take(self) -> tuple[int, PoolProxiedConnection] | None:
        """Return what is kept, unless somebody has it."""
        try:
            return self.kept.pop()
        except IndexError:
            return None


class Own(threading.local):
    """Each thread's own place: it ends with the thread, and the pool gets the connection back."""

    def __init__(self, places: list[ref[Place]]) -> None:
        self.place = Place(is_open=len(places) < KEPT)
        if self.place.is_open:
            places.append(ref(self.place, places.remove))


class Keeper:
    """The places of all threads; the first KEPT of them are open.

    Attributes:
        number: of the pool that is in use; it was closed so often.
        own: the thread's own place.

    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._closing = threading.RLock()
        self._places: list[ref[Place]] = []
        self._inherited: list[Any] = []
        self.number = 0
        self.own = Own(self._places)

    def give_back(self) -> None:
        """Give what this thread keeps back to the pool, for SQLAlchemy to take."""
        taken = self.own.place.take()
        if taken is not None:
            taken[1].close()

    def close(self) -> None:
        """Close what nobody uses at the moment; what somebody uses is closed before it would be used again."""
        for one in tuple(self._places):
            place = one()
            taken = None if place is None else place.take()
            if taken is not None:
                taken[1].close()
        with self._closing:  # of two at once the second would replace the first one's new pool without closing it
            self.number += 1
            self._engine.dispose()

    def leave_to_parent(self) -> None:
        """Forget, in a child, what is the parent's: even to end a connection would be to say so to its server."""
        self._inherited += [self.own, *(one() for one in self._places)]
        self._closing = threading.RLock()
        self._places = []
        self.own = Own(self._places)
        self._engine.dispose(close=False)


class Lent:
    """What runs statements that live as long as the ledger in a transaction that was begun with SQLAlchemy.

    Arguments:
        execute: runs one on the driver's connection.
        lost: is called when that is lost, as others may be then.

    """

    def __init__(self, connection: Connection, execute: Callable[..., Any], lost: Callable[[], object]) -> None:
        self._connection, self._execute, self._lost = connection, execute, lost

    def execute(self, statement: Any, rows: Any = None) -> Any:
        """Run a statement, with one row of parameters or with many; what it returns has fetchone() and fetchall()."""
        dialect: Any = self._connection.dialect
        try:
            return self._execute(statement, rows)
        except dialect.loaded_dbapi.Error as exc:
            found = as_sqlalchemys(exc, dialect, lost=is_lost(exc, dialect, self._connection.connection))
            if found.connection_invalidated:
                self._connection.invalidate(exc)
                self._lost()
            raise found from exc
        except Exception:
            raise
        except BaseException as exc:
            self._connection.invalidate(exc)  # an order to end has left it in the middle of a statement
            raise
