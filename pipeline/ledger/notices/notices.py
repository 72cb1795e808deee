"""What handlers say while they work: how far they are, and texts that grow. It stands beside the log, for ten minutes.

Each process gathers what its handlers say, and writes that together ten times a second, and when it ends. Nothing is
delivered by it, and no delivery fails by it: what cannot be written is left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, delete, func, select

from ...core import forks
from ...core.observe import Log
from ...core.times import SECOND, moment, monotonic, now
from ..database.database import Database
from ..database.rows import chunks
from ..database.waiting import notices
from .notice import LONGEST, Notice, Speaker

logger = Log(logging.getLogger(__name__))

#: Seconds between two writes of a process.
EVERY = 0.1
#: How many of a correlation are kept, and for how many seconds.
KEPT, KEPT_FOR = 1000, 600
#: Characters of texts that a process keeps until they are written.
MOST_UNSAID = 4_000_000
#: Seconds between two warnings that something was left out.
WARN_EVERY = 60.0
#: A number of our own: on PostgreSQL one process writes at a time, so that sequence numbers become visible in order.
_LOCK = 7_316_200_102


class Notices:
    """The table of what handlers say, and what those of this process have not written yet."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = notices.insert()
        self._warned = -WARN_EVERY
        #: Whether what is said is written by flush() only.
        self.by_hand = False
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._unsaid: dict[tuple[Speaker, str | None], tuple[float | None, list[str]]] = {}
        self._held = 0
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        #: What is done when what was said before is written, or left out.
        self._awaited: list[Future[None]] = []

    # -- saying something

    def progress(self, speaker: Speaker, fraction: float | None, text: str) -> None:
        """Say how far the work is, instead of what was said before of that and is not written yet."""
        with self._lock:
            self._unsaid[speaker, None] = fraction, [text]
            self._begin_to_write()

    def add(self, speaker: Speaker, name: str, text: str) -> None:
        """Add to a text."""
        with self._lock:
            if self._held + len(text) > MOST_UNSAID:
                self._warn("they come faster than they can be written")
                return
            self._held += len(text)
            self._unsaid.setdefault((speaker, name), (None, []))[1].append(text)
            self._begin_to_write()

    def _begin_to_write(self) -> None:
        if self._thread is None and not self.by_hand:
            # No daemon: the process ends when that is written.
            self._thread = threading.Thread(target=self._write, name="pipeline-notices")
            try:
                self._thread.start()
            except RuntimeError:  # the process has no thread left, or ends: close() writes it
                self._thread = None

    def _write(self) -> None:
        """Write what is said, until nothing more is."""
        while True:
            self._hurry.wait(EVERY)
            self._hurry.clear()
            self.flush()
            with self._lock:
                if not (self._unsaid or self._awaited):
                    self._thread = None
                    return

    def hurry(self) -> Future[None]:
        """Have all written at once that was said in this process; return what is done when it is, or was left out."""
        written: Future[None] = Future()
        with self._lock:
            if self._thread is None:  # all is written, or flush() does it
                written.set_result(None)
            else:
                self._awaited.append(written)
                self._hurry.set()
        return written

    def flush(self) -> None:
        """Write now what was said in this process."""
        with self._writing:  # one after the other, so that a text's pieces stay in order
            with self._lock:
                unsaid, self._unsaid, self._held = self._unsaid, {}, 0
                awaited, self._awaited = self._awaited, []
            rows = list(chain.from_iterable(_rows(*one, *said) for one, said in unsaid.items()))
            try:
                if rows:
                    self._database.run(partial(self._write_in, rows=rows))
            except Exception as exc:  # whatever it is, handlers go on
                self._warn(exc)
            finally:
                for one in awaited:
                    one.set_result(None)

    def _write_in(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        if not self._database.is_sqlite:
            # A crash of the server may cost what is kept for minutes.
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        connection.execute(self._insert, rows)
        for correlation in {row["correlation"] for row in rows}:
            mine = notices.c.correlation == correlation
            last_kept = select(notices.c.seq).where(mine).order_by(notices.c.seq.desc()).offset(KEPT).limit(1)
            connection.execute(delete(notices).where(mine, notices.c.seq <= last_kept.scalar_subquery()))

    def _warn(self, why: object) -> None:
        if monotonic() - self._warned >= WARN_EVERY:
            self._warned = monotonic()
            logger.warning("some of what handlers say while they work is left out: %s", why)

    # -- reading

    def of(self, correlation: str, after: int = 0, most: int = KEPT) -> list[Notice]:
        """Return what is kept of a correlation, the oldest first.

        Arguments:
            after: only what has a higher number.
            most: how many at most.

        """
        return self._read(notices.c.correlation == correlation, after, most)

    def since(self, after: int, most: int) -> list[Notice]:
        """Return what comes after a number, of whichever correlation."""
        return self._read(None, after, most)

    def _read(self, which: Any, after: int, most: int) -> list[Notice]:
        fresh = notices.c.at > now() - KEPT_FOR * SECOND
        query = select(notices).where(notices.c.seq > after, fresh).order_by(notices.c.seq).limit(most)
        query = query if which is None else query.where(which)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [_notice(row) for row in rows]

    def end(self) -> int:
        """Return the number of the last one."""
        last = select(func.coalesce(func.max(notices.c.seq), 0))
        return int(self._database.read(lambda connection: connection.execute(last).scalar_one()))

    # -- an end

    def forget(self) -> int:
        """Delete what is older than ten minutes; return how many those were."""
        old = delete(notices).where(notices.c.at <= now() - KEPT_FOR * SECOND)
        return self._database.run(lambda connection: connection.execute(old).rowcount)

    def erase(self, correlations: Sequence[str]) -> None:
        """Delete what was said with some correlations."""
        for some in chunks(correlations):
            self._database.run(partial(_erase, which=notices.c.correlation.in_(some)))

    # -- forks

    def before_fork(self) -> None:
        """Do nothing: what is open belongs to the database."""

    def after_fork(self, *, child: bool) -> None:
        """Leave to the parent what it has not written yet, with its thread and its locks."""
        if child:
            self._begin()


def _erase(connection: Connection, which: ColumnElement[bool]) -> None:
    connection.execute(delete(notices).where(which))


def _rows(speaker: Speaker, name: str | None, fraction: float | None, pieces: list[str]) -> list[dict[str, Any]]:
    text = "".join(pieces)
    parts = [text[n : n + LONGEST] for n in range(0, len(text), LONGEST)] or [""]
    about = {"agent": speaker.agent, "attempt": speaker.attempt, "fraction": fraction, "name": name and _written(name)}
    common = {"correlation": speaker.correlation, "delivery": speaker.delivery, "at": now()}
    return [{**common, "body": orjson.dumps({**about, "text": _written(part)}).decode()} for part in parts]


def _written(text: str) -> str:
    """Return a text as it can be written: half of a character, as a provider's chunks may end with, cannot be."""
    return text.encode(errors="replace").decode()


def _notice(row: Row[Any]) -> Notice:
    return Notice(row.seq, moment(row.at), row.correlation, row.delivery, **orjson.loads(row.body))
