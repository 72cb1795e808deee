"""The trading desk's book: what was handled when, beside how many others, and what the desk owns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from pipeline import Context

from ..books import writing
from .market import OrderUpdated

_TABLES = """
CREATE TABLE IF NOT EXISTS handled (
    number INTEGER PRIMARY KEY, session TEXT, agent TEXT, delivery TEXT, event TEXT, type TEXT, priority INTEGER,
    about TEXT, at_once INTEGER, has_ended INTEGER DEFAULT 0
);
CREATE TABLE IF NOT EXISTS fills (order_id TEXT PRIMARY KEY, session TEXT, symbol TEXT, change INTEGER);
CREATE TABLE IF NOT EXISTS nervous (session TEXT, symbol TEXT, UNIQUE (session, symbol));
"""


class Handled(NamedTuple):
    """An event that an agent has begun to handle.

    Attributes:
        number: its place in the order in which that was begun.
        about: what it was about, in words.
        at_once: how many events the agent handled at that moment, this one with them.

    """

    number: int
    agent: str
    delivery: str
    event: str
    type: str
    priority: int
    about: str
    at_once: int


class Book:
    """The book of one session: of all that one event has caused."""

    def __init__(self, path: Path, session: str) -> None:
        self._path = path
        self._session = session

    @contextmanager
    def handling(self, ctx: Context, about: str) -> Iterator[None]:
        """Write down that an event is being handled, until the block ends."""
        with self._writing() as file:
            others = "SELECT count(*) FROM handled WHERE session = ? AND agent = ? AND NOT has_ended"
            (others,) = file.execute(others, (self._session, ctx.agent)).fetchone()
            event = ctx.event
            row = (self._session, ctx.agent, ctx.delivery_id, event.id, event.type, event.priority, about, others + 1)
            query = (
                "INSERT INTO handled (session, agent, delivery, event, type, priority, about, at_once) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            )
            number = file.execute(query, row).lastrowid
        try:
            yield
        finally:
            with self._writing() as file:
                file.execute("UPDATE handled SET has_ended = 1 WHERE number = ?", (number,))

    def fill(self, order: OrderUpdated) -> None:
        """Write down what an order has come to; the same order counts once."""
        with self._writing() as file:
            row = (order.order_id, self._session, order.symbol, order.change)
            file.execute("INSERT OR IGNORE INTO fills VALUES (?, ?, ?, ?)", row)

    def positions(self) -> dict[str, int]:
        """Return what the desk owns, or owes, of each symbol; what is nothing is left out."""
        with self._writing() as file:
            query = "SELECT symbol, sum(change) FROM fills WHERE session = ? GROUP BY symbol HAVING sum(change) != 0"
            return dict(file.execute(query, (self._session,)).fetchall())

    def beware(self, symbol: str) -> None:
        """Write down that a symbol is volatile."""
        with self._writing() as file:
            file.execute("INSERT OR IGNORE INTO nervous VALUES (?, ?)", (self._session, symbol))

    def is_nervous(self, symbol: str) -> bool:
        """Say whether a symbol is volatile."""
        with self._writing() as file:
            query = "SELECT 1 FROM nervous WHERE session = ? AND symbol = ?"
            return file.execute(query, (self._session, symbol)).fetchone() is not None

    def handled(self, after: int = 0) -> Sequence[Handled]:
        """Return what was handled, in the order in which that was begun.

        Arguments:
            after: only what comes behind this place.

        """
        with self._writing() as file:
            query = (
                "SELECT number, agent, delivery, event, type, priority, about, at_once FROM handled "
                "WHERE session = ? AND number > ? ORDER BY number"
            )
            return [Handled(*row) for row in file.execute(query, (self._session, after))]

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return writing(self._path, _TABLES)
