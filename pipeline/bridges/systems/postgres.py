"""A table of PostgreSQL that a program of its own writes events to, in its own transactions: an outbox.

A row is locked while its event is accepted, and deleted or marked in that transaction; other processes pass it by.
Sources: "SELECT", the locking clause, and "LISTEN" of PostgreSQL's documentation; psycopg 3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...core.errors import BridgeAway, ConfigError, line_of, without_passwords
from ..bridge import MOST, PATIENCE, library

if TYPE_CHECKING:
    from ..bridge import Answer, Bridge, Message, Outgoing, Source

#: What a pattern's wildcards are in a regular expression of PostgreSQL, where a dot stands before each word.
_REGEX = {"*": r"\.[^.]*", "#": r"(\.[^.]*)*"}
#: Characters of a reason that go into a row.
LONGEST_REASON = 500


@dataclass(frozen=True)
class PostgresOutbox:
    """A table of a PostgreSQL database.

    Arguments:
        url: such as "postgresql://shop@127.0.0.1/shop".
        table: its name, with the schema's where that is not on the search path.
        id: the column of the primary key, in whose order rows are taken.
        type: the column of the event's type.
        data: the column of its data, which is of the type json, jsonb or text.
        error: the column that gets what is wrong with a row; such rows stay.
        sent: a column of the type timestamptz that gets when a row was taken; without one the row is deleted.
        channel: what NOTIFY tells of new rows on; they are found within a second without that, too.
        reconnect_wait: seconds between two attempts to connect.
        max_reconnects: attempts in a row after which `pipeline bridge` gives up; -1 for none.
        connect_timeout: seconds for an attempt, and for a network that is silent.

    """

    url: str = field(default="postgresql:///", repr=False)
    table: str = "outbox"
    id: str = "id"
    type: str = "type"
    data: str = "data"
    error: str = "error"
    sent: str = ""
    channel: str = "outbox"
    reconnect_wait: float = 2.0
    max_reconnects: int = 10
    connect_timeout: float = 2.0

    @property
    def kind(self) -> str:
        """What it is called."""
        return "PostgreSQL"

    @property
    def extra(self) -> tuple[str, str]:
        """The extra with its library, and that."""
        return "postgres", "psycopg"

    def __str__(self) -> str:
        """Return where it is."""
        return f"{without_passwords(self.url)} {self.table}"

    def check(self, bridge: Bridge) -> None:
        """Raise ConfigError for all but what comes in."""
        if bridge.out or bridge.ask or bridge.answer:
            raise ConfigError(f"bridge {bridge.name!r}: out=, ask= and answer=: from an outbox events come in only")
        if not self.url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
            # Only of a URL it is known where its password stands, which is not to be shown.
            raise ConfigError(
                f"bridge {bridge.name!r}: the address is no URL such as 'postgresql://shop@127.0.0.1/shop'"
            )

    async def connect(self, group: str) -> PostgresLink:
        """Connect once: for the rows, and for what NOTIFY tells."""
        library(self)
        import psycopg

        made = []
        silent = max(1, int(self.connect_timeout))
        try:
            for _ in range(2):
                async with asyncio.timeout(self.connect_timeout):
                    made.append(
                        await psycopg.AsyncConnection.connect(
                            self.url.replace("postgresql+psycopg:", "postgresql:", 1),
                            application_name=f"pipeline {group}",
                            autocommit=True,
                            # Without these a network that is gone would hold the bridge for a quarter of an hour.
                            tcp_user_timeout=silent * 1000,
                            keepalives_idle=silent,
                            keepalives_interval=1,
                        )
                    )
        except (psycopg.Error, OSError, TimeoutError) as exc:
            for one in made:
                await one.close()
            raise BridgeAway(f"{self} does not let us in: {line_of(exc)}") from None
        return PostgresLink(self, made[0], made[1])


class Rows:
    """Rows that are locked in one transaction, which ends when all of them are settled."""

    def __init__(self, link: PostgresLink, number: int) -> None:
        self._link, self._open = link, number

    async def settle(self, statement: Any, values: Sequence[Any]) -> None:
        """Do what becomes of a row."""
        await self._link.run(statement, values)
        self._open -= 1
        if not self._open:
            await self._link.run("COMMIT")


class Row:
    """A row."""

    headers: dict[str, str] = {}

    def __init__(self, link: PostgresLink, rows: Rows, key: Any, type: str, data: str) -> None:
        self._link, self._rows, self._key = link, rows, key
        self.id, self.type, self.body = f"{link.table}-{key}", type or "", (data or "").encode()

    async def done(self) -> None:
        """Delete it, or mark it."""
        await self._rows.settle(self._link.taken, [self._key])

    async def hold(self) -> None:
        """Keep it locked, as it is."""

    async def put_aside(self, reason: str) -> None:
        """Mark it with what is wrong."""
        await self._rows.settle(self._link.wrong, [reason[:LONGEST_REASON], self._key])


class PostgresLink:
    """Two connections to PostgreSQL."""

    def __init__(self, system: PostgresOutbox, rows: Any, notices: Any) -> None:
        from psycopg import sql

        self._system, self._rows, self._notices = system, rows, notices
        self.table = system.table
        names: dict[str, Any] = {
            name: sql.Identifier(getattr(system, name) or "-") for name in ("id", "type", "data", "error", "sent")
        }
        names["table"] = sql.Identifier(*system.table.split("."))
        self._names = names
        names["left"] = sql.SQL("AND {} IS NULL").format(names["sent"]) if system.sent else sql.SQL("")
        self._select = sql.SQL("SELECT 1")  # until sources() says whose rows
        marked = "UPDATE {table} SET {sent} = now() WHERE {id} = %s"
        self.taken = sql.SQL(marked if system.sent else "DELETE FROM {table} WHERE {id} = %s").format(**names)
        self.wrong = sql.SQL("UPDATE {table} SET {error} = %s WHERE {id} = %s").format(**names)
        self._listen = sql.SQL("LISTEN {}").format(sql.Identifier(system.channel))

    @property
    def is_open(self) -> bool:
        """Whether it is of use."""
        return not (self._rows.closed or self._notices.closed)

    async def run(self, statement: Any, values: Sequence[Any] = ()) -> Any:
        """Run a statement; rows come again when the transaction has not ended.

        Raises BridgeAway, and ConfigError for what would be so again: a table, a column or a permission is missing, a
        constraint or a trigger refuses.

        """
        import psycopg

        try:
            return await self._rows.execute(statement, values or None)
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as exc:
            await self.close()
            raise ConfigError(f"{self._system}: {line_of(exc)}") from None
        except (psycopg.Error, OSError) as exc:
            await self.close()
            raise BridgeAway(f"{self._system}: {line_of(exc)}") from None

    async def send(self, message: Outgoing) -> None:
        """Refuse."""
        raise NotImplementedError

    async def ask(self, message: Outgoing, timeout: float) -> bytes:  # noqa: ASYNC109  # as the protocol has it
        """Refuse."""
        raise NotImplementedError

    async def answer(self, patterns: Sequence[str], answer: Answer) -> None:
        """Refuse."""
        raise NotImplementedError

    async def sources(self, patterns: Sequence[str]) -> Sequence[Source]:
        """Listen, and look whether the table is as it has to be."""
        import psycopg

        try:
            await self._notices.execute(self._listen)
        except (psycopg.Error, OSError) as exc:
            raise BridgeAway(f"{self._system}: {line_of(exc)}") from None
        self._select = self._rows_of(patterns)
        await self.run("BEGIN")
        await self.run(self._select)
        await self.run("ROLLBACK")
        return [self._fetch]

    def _rows_of(self, patterns: Sequence[str]) -> Any:
        """Return what selects the rows of some event types: those of others belong to whoever else reads the table."""
        from psycopg import sql

        regex = "|".join("".join(_REGEX.get(word, rf"\.{word}") for word in one.split(".")) for one in patterns)
        return sql.SQL(
            "SELECT {id}, {type}::text, {data}::text FROM {table} WHERE {error} IS NULL {left} "
            f"AND '.' || {{type}}::text ~ {{types}} ORDER BY {{id}} LIMIT {MOST} FOR UPDATE SKIP LOCKED"
        ).format(**self._names, types=sql.Literal(f"^({regex})$"))

    async def _fetch(self) -> Sequence[Message]:
        await self.run("BEGIN")
        found = await (await self.run(self._select)).fetchall()
        if not found:
            await self.run("ROLLBACK")
            await self._wait()
            return []
        rows = Rows(self, len(found))
        return [Row(self, rows, *one) for one in found]

    async def _wait(self) -> None:
        """Wait for a notice; who sends none is looked for all the same."""
        import psycopg

        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await anext(self._notices.notifies())
        except (psycopg.Error, OSError, StopAsyncIteration) as exc:
            raise BridgeAway(f"{self._system}: {line_of(exc)}") from None

    async def close(self) -> None:
        """End it; rows that are not settled are as they were."""
        for one in (self._rows, self._notices):
            with suppress(Exception):  # it has gone
                await one.close()
