"""Exchanges, queues and messages in one SQLite file; every method is one transaction."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import EmbeddedBrokerError
from ...core.files import refuse_links
from ...core.topics import matches
from .doorbell import doorbell_of, ring, take_down
from .file import BUSY_TIMEOUT, File
from .owners import owners_of

FORMAT = 1
#: A queue with a length limit may be longer by this part of it: it is trimmed now and then.
SLACK = 0.1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchanges (name TEXT PRIMARY KEY, type TEXT NOT NULL, arguments TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY, arguments TEXT NOT NULL, owner INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bindings (
    exchange TEXT, routing_key TEXT, queue TEXT, PRIMARY KEY (exchange, routing_key, queue)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owners (id INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE IF NOT EXISTS topology (version INTEGER NOT NULL);
INSERT INTO topology SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM topology);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY, queue TEXT NOT NULL, priority INTEGER NOT NULL, owner INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 0, meta BLOB NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS ready ON messages (queue, priority DESC, id) WHERE owner = 0;
CREATE INDEX IF NOT EXISTS claimed ON messages (owner) WHERE owner <> 0;
"""

_INSERT = "INSERT INTO messages (queue, priority, meta, body) VALUES (?, ?, ?, ?)"


class Outgoing(NamedTuple):
    """A message to route: `meta` is its JSON headers and properties, `body` its bytes."""

    exchange: str
    routing_key: str
    priority: int
    meta: bytes
    body: bytes


class Claimed(NamedTuple):
    """A message that this store's owner holds until it is acknowledged or rejected."""

    id: int
    queue: str
    deliveries: int
    meta: bytes
    body: bytes


class Store:
    """One connection to the file, usable from several threads of the process that opened it."""

    def __init__(self, path: Path, *, synchronous: str = "normal") -> None:
        """Open or create the file at `path`; raise EmbeddedBrokerError when it is no usable database."""
        try:
            refuse_links(Path(path))
        except OSError as exc:
            raise EmbeddedBrokerError(f"{path} cannot be opened: {exc}") from exc
        self.path = Path(os.path.realpath(path))  # one name for the file, whatever the working directory becomes
        self._database = File(self.path, _SCHEMA, FORMAT, synchronous=synchronous)
        self._transaction = self._database.transaction
        self._owner = 0
        self._acked: list[int] = []
        self._limits: dict[str, int] = {}
        self._untrimmed: dict[str, int] = {}
        self._version = -1
        self._exchanges: dict[str, tuple[str, dict[str, Any]]] = {}
        self._queues: dict[str, dict[str, Any]] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._doorbells: list[str] = []
        self._seen = (0, 0)

    @property
    def inherited(self) -> bool:
        """Say whether this connection came with a fork and must be left alone."""
        return self._database.pid != os.getpid()

    # -- topology ------------------------------------------------------------------------------------------------------

    def declare_exchange(self, name: str, type: str, arguments: dict[str, Any]) -> None:
        """Create the exchange, or change its type and arguments."""
        row = (name, type, json.dumps(arguments))
        if self._known("SELECT 1 FROM exchanges WHERE name=? AND type=? AND arguments=?", row):
            return
        with self._topology_change() as db:
            db.execute("INSERT OR REPLACE INTO exchanges VALUES (?, ?, ?)", row)

    def declare_queue(self, name: str, arguments: dict[str, Any], *, auto_delete: bool = False) -> None:
        """Create the queue or change its arguments; an auto-delete queue goes with its process."""
        owner = self._own() if auto_delete else 0
        row = (name, json.dumps(arguments), owner)
        if self._known("SELECT 1 FROM queues WHERE name=? AND arguments=? AND owner=?", row):
            return
        with self._topology_change() as db:
            db.execute("INSERT OR REPLACE INTO queues VALUES (?, ?, ?)", row)

    def held_by_another(self, queue: str) -> bool:
        """Say whether the queue goes with another process that is alive."""
        rows = self._database.read(
            "SELECT owner FROM queues WHERE name=? AND owner NOT IN (0, ?)", (queue, self._owner)
        )
        return any(owners_of(self.path).is_alive(owner) for (owner,) in rows)

    def bind(self, exchange: str, routing_key: str, queue: str) -> None:
        """Route the exchange's messages that match `routing_key` to `queue`."""
        row = (exchange, routing_key, queue)
        if self._known("SELECT 1 FROM bindings WHERE exchange=? AND routing_key=? AND queue=?", row):
            return
        with self._topology_change() as db:
            db.execute("INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)", row)

    def unbind(self, exchange: str, routing_key: str, queue: str) -> None:
        """Undo bind()."""
        with self._topology_change() as db:
            db.execute(
                "DELETE FROM bindings WHERE exchange=? AND routing_key=? AND queue=?", (exchange, routing_key, queue)
            )

    def delete_exchange(self, name: str) -> None:
        """Delete the exchange and its bindings."""
        with self._topology_change() as db:
            db.execute("DELETE FROM exchanges WHERE name=?", (name,))
            db.execute("DELETE FROM bindings WHERE exchange=?", (name,))

    def delete_queue(self, name: str) -> None:
        """Delete the queue with its bindings and messages."""
        with self._topology_change() as db:
            self._delete_queues(db, [name])

    def exists(self, queue: str) -> bool:
        """Say whether the queue is declared."""
        return self._known("SELECT 1 FROM queues WHERE name=?", (queue,))

    def exchange_exists(self, name: str) -> bool:
        """Say whether the exchange is declared."""
        return self._known("SELECT 1 FROM exchanges WHERE name=?", (name,))

    def bindings(self) -> list[tuple[str, str, str]]:
        """Return all bindings as (exchange, routing key, queue)."""
        return [(exchange, key, queue) for exchange, key, queue in self._database.read("SELECT * FROM bindings")]

    def _known(self, query: str, row: tuple[Any, ...]) -> bool:
        return bool(self._database.read(query, row))

    @contextlib.contextmanager
    def _topology_change(self) -> Iterator[sqlite3.Connection]:
        with self._transaction() as db:
            yield db
            db.execute("UPDATE topology SET version = version + 1")

    @staticmethod
    def _delete_queues(db: sqlite3.Connection, names: Sequence[str]) -> None:
        rows = [(name,) for name in names]
        for table, column in (("queues", "name"), ("bindings", "queue"), ("messages", "queue")):
            db.executemany(f"DELETE FROM {table} WHERE {column}=?", rows)

    def _refresh(self, db: sqlite3.Connection) -> None:
        """Read the topology again when somebody changed it."""
        version = db.execute("SELECT version FROM topology").fetchone()[0]
        if version == self._version:
            return
        self._exchanges = {
            n: (t, json.loads(a)) for n, t, a in db.execute("SELECT name, type, arguments FROM exchanges")
        }
        self._queues = {n: json.loads(a) for n, a in db.execute("SELECT name, arguments FROM queues")}
        lengths = {name: arguments.get("x-max-length") for name, arguments in self._queues.items()}
        self._limits = {name: length for name, length in lengths.items() if length is not None}
        self._bindings = {}
        for exchange, routing_key, queue in db.execute("SELECT exchange, routing_key, queue FROM bindings"):
            self._bindings.setdefault(exchange, []).append((routing_key, queue))
        self._doorbells = [doorbell_of(self.path, owner) for (owner,) in db.execute("SELECT id FROM owners")]
        self._version = version
        self._route = lru_cache(maxsize=4096)(self._find_route)

    def _find_route(self, exchange: str, routing_key: str) -> tuple[str, ...]:
        """Return the queues that get a message, each once; what nobody gets goes to the alternate exchange."""
        if not exchange:
            return (routing_key,) if routing_key in self._queues else ()
        kind, arguments = self._exchanges.get(exchange, ("direct", {}))
        bound = self._bindings.get(exchange, ())
        if kind == "fanout":
            queues = [queue for _, queue in bound]
        elif kind == "topic":
            queues = [queue for pattern, queue in bound if matches(pattern, routing_key)]
        else:
            queues = [queue for key, queue in bound if key == routing_key]
        alternate = arguments.get("alternate-exchange")
        return tuple(dict.fromkeys(queues)) if queues or not alternate else self._find_route(alternate, routing_key)

    # -- messages ------------------------------------------------------------------------------------------------------

    def be_patient(self, seconds: float) -> None:
        """Wait for the file's lock for so many seconds from now on."""
        self._database.be_patient(seconds)

    def publish(self, messages: Iterable[Outgoing], timeout: float = BUSY_TIMEOUT) -> None:
        """Copy each message to every queue it is routed to, all in one transaction.

        Raises EmbeddedBrokerBusy when the file is locked for `timeout` seconds or its disk is full.
        """
        self._database.be_patient(timeout)
        with self._transaction() as db:
            self._refresh(db)
            rows = [
                (queue, m.priority, m.meta, m.body)
                for m in messages
                for queue in self._route(m.exchange, m.routing_key)
            ]
            for row in rows:
                db.execute(_INSERT, row)
            if limited := [row[0] for row in rows if row[0] in self._limits]:
                self._trim(db, limited)
        if rows:
            ring(self._doorbells)

    def _trim(self, db: sqlite3.Connection, added: list[str]) -> None:
        """Now and then let the oldest waiting messages go of queues that are longer than their `x-max-length`."""
        for queue, number in Counter(added).items():
            limit = self._limits[queue]
            # At the first insert too: most publishers that end at once would never do it.
            self._untrimmed[queue] = self._untrimmed.get(queue, limit) + number
            if self._untrimmed[queue] > limit * SLACK:
                self._untrimmed[queue] = 0
                rows = db.execute(
                    "DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE queue=? AND owner=0 "
                    "ORDER BY id DESC LIMIT -1 OFFSET ?) RETURNING queue, priority, meta, body, id",
                    (queue, limit),
                ).fetchall()
                for row in sorted(rows, key=lambda row: row[-1]):
                    self._dead_letter(db, *row[:-1])

    def claim(self, queues: Sequence[str], limit: int) -> list[Claimed]:
        """Take up to `limit` waiting messages, most urgent first within a queue, and settle earlier acks."""
        owner = self._own()
        taken: list[Claimed] = []
        ready = self._ready(queues)
        if not ready and not self._acked:
            return taken  # without taking the write lock from those who have something to write
        with self._settling() as db:
            for queue in ready:
                if limit <= len(taken):
                    break
                rows = db.execute(
                    "UPDATE messages SET owner=?, deliveries=deliveries+1 WHERE id IN (SELECT id FROM messages "
                    "WHERE queue=? AND owner=0 ORDER BY priority DESC, id LIMIT ?) "
                    "RETURNING priority, id, deliveries, meta, body",
                    (owner, queue, limit - len(taken)),
                ).fetchall()
                rows.sort(key=lambda row: (-row[0], row[1]))
                taken += [Claimed(id, queue, deliveries, meta, body) for _, id, deliveries, meta, body in rows]
        return taken

    def _ready(self, queues: Sequence[str]) -> list[str]:
        """Return those of `queues` in which something waits, in the same order: one probe of the index for each."""
        rows = self._database.read(
            "SELECT value FROM json_each(?) WHERE EXISTS (SELECT 1 FROM messages WHERE queue=value AND owner=0)",
            (json.dumps(queues),),
        )
        return [queue for (queue,) in rows]

    def ack(self, id: int) -> None:
        """Forget a claimed message; written with the next claim() or settle()."""
        self._acked.append(id)

    def settle(self) -> None:
        """Write the acks that are still in memory."""
        if self._acked:
            with self._settling():
                pass

    @contextlib.contextmanager
    def _settling(self) -> Iterator[sqlite3.Connection]:
        """Write the acks together with what else the transaction does; forget them only when it is committed."""
        acked = self._acked[:]  # other threads may append meanwhile
        with self._transaction() as db:
            db.executemany("DELETE FROM messages WHERE id=? AND owner=?", [(id, self._owner) for id in acked])
            yield db
        del self._acked[: len(acked)]

    def requeue(self, id: int) -> None:
        """Put a claimed message back where it was."""
        with self._transaction() as db:
            self._refresh(db)
            db.execute("UPDATE messages SET owner=0 WHERE id=? AND owner=?", (id, self._owner))
        ring(self._doorbells)

    def reject(self, id: int) -> None:
        """Move a claimed message to its queue's dead-letter exchange, or delete it when the queue has none."""
        with self._transaction() as db:
            self._refresh(db)
            row = db.execute(
                "SELECT queue, priority, meta, body FROM messages WHERE id=? AND owner=?", (id, self._owner)
            ).fetchone()
            if row is None:
                return
            db.execute("DELETE FROM messages WHERE id=?", (id,))
            self._dead_letter(db, *row)
        ring(self._doorbells)

    def _dead_letter(self, db: sqlite3.Connection, queue: str, priority: int, meta: bytes, body: bytes) -> None:
        """Give a message that has left its queue to the queue's dead-letter exchange, when it has one."""
        arguments = self._queues.get(queue, {})
        exchange = arguments.get("x-dead-letter-exchange")
        if exchange is not None:
            for target in self._route(exchange, arguments.get("x-dead-letter-routing-key", queue)):
                db.execute(_INSERT, (target, priority, meta, body))

    def purge(self, queue: str) -> int:
        """Delete the waiting messages of a queue and return how many there were."""
        with self._transaction() as db:
            return db.execute("DELETE FROM messages WHERE queue=? AND owner=0", (queue,)).rowcount

    def size(self, queue: str) -> int:
        """Return how many messages wait in a queue."""
        count: int = self._database.read("SELECT count(*) FROM messages WHERE queue=? AND owner=0", (queue,))[0][0]
        return count

    @property
    def doorbell(self) -> str:
        """The path at which this connection is rung when something may wait for it."""
        return doorbell_of(self.path, self._own())

    def changed(self) -> bool:
        """Say whether another connection has written since the last call; costs a few microseconds."""
        version = self._database.read("PRAGMA data_version")[0][0]
        last, self._seen = self._seen, (self._database.opened, version)  # a new connection's number says nothing yet
        return self._seen != last

    # -- owners --------------------------------------------------------------------------------------------------------

    def _own(self) -> int:
        """Return this connection's owner id, registered on first use; only consumers need one."""
        if not self._owner:
            with self._topology_change() as db:
                # A random number: counted ones begin anew when somebody replaces the file, and an old connection that
                # closes would then give away what another process holds.
                owner = 1 + secrets.randbelow(2**62)
                db.execute("INSERT INTO owners VALUES (?)", (owner,))
                # Held before the commit: once others see the row, only a dead process lacks its lock.
                owners_of(self.path).hold(owner)
            self._owner = owner
        return self._owner

    def renew(self) -> None:
        """Register anew where others took this connection for dead: they have what it had claimed."""
        if not self._known("SELECT 1 FROM owners WHERE id=?", (self._owner,)):
            self._owner = 0

    def reap(self) -> int:
        """Take back what processes held that are gone, and return how many of them were found."""
        rows = self._database.read("SELECT id FROM owners WHERE id<>?", (self._owner,))
        owners = owners_of(self.path)
        gone = [id for (id,) in rows if not owners.is_alive(id)]
        for owner in gone:
            self._release(owner)
        return len(gone)

    def _release(self, owner: int) -> None:
        with self._topology_change() as db:
            db.execute("UPDATE messages SET owner=0 WHERE owner=?", (owner,))
            self._delete_queues(db, [name for (name,) in db.execute("SELECT name FROM queues WHERE owner=?", (owner,))])
            db.execute("DELETE FROM owners WHERE id=?", (owner,))
            self._refresh(db)
        take_down(doorbell_of(self.path, owner))
        ring(self._doorbells)

    def close(self) -> None:
        """Settle acks, give back what is still claimed, and close the file."""
        try:
            if not self.inherited:  # what a forked child inherits is its parent's to settle
                try:
                    self.settle()
                finally:
                    self._disown()
        finally:
            self._database.close()

    def _disown(self) -> None:
        if self._owner:
            owner, self._owner = self._owner, 0
            try:
                self._release(owner)
            finally:
                owners_of(self.path).release(owner)
