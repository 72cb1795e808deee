"""A large log, written quickly: realistic events and deliveries straight into the ledger's tables.

40 types and 200 streams, of which some are far more frequent than others; correlations of 1 to 1,000 events that
overlap in time, each event caused by an earlier one; two deliveries of every event. The indexes are built afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import func, select

from pipeline.core.ids import derived_id, new_id
from pipeline.ledger.database.tables import deliveries, events, metadata
from pipeline.ledger.ledger import Ledger

FAMILIES = ("order", "user", "payment", "stock", "mail", "search", "report", "alarm")
WORDS = ("created", "changed", "checked", "failed", "closed")
#: The families take turns, so that a pattern such as `order.*` has frequent and rare types.
TYPES = tuple(f"{family}.{word}" for word in WORDS for family in FAMILIES)
STREAMS = tuple(f"agent{number:03}" for number in range(200))
#: The nth of them is n times rarer than the first.
TYPE_WEIGHTS = [1 / (number + 1) for number in range(len(TYPES))]
STREAM_WEIGHTS = [1 / (number + 1) for number in range(len(STREAMS))]
LARGEST = 1000
#: Correlations that go on at the same time.
OPEN = 50
#: Events written at once.
BATCH = 25_000
#: KiB of pages that SQLite keeps in memory while it writes: ids are random, so that a batch touches most of an index.
CACHE = 262_144
START = datetime(2026, 1, 1, tzinfo=UTC)
#: Between two events.
STEP = timedelta(milliseconds=200)
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class _Flow:
    """A correlation that goes on: its id, how many events are left, and what the last one caused."""

    id: str
    left: int
    causes: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Log:
    """A ledger that grows; it is the same log whatever database it is in.

    Attributes:
        largest: the id of the newest correlation of LARGEST events.

    """

    ledger: Ledger
    size: int = 0
    largest: str = ""
    _random: random.Random = field(default_factory=lambda: random.Random(4711))

    def grow(self, size: int) -> None:
        """Write events until there are `size` of them, in whole correlations as far as that goes."""
        indexes = [index for table in (events, deliveries) for index in table.indexes]
        with self.ledger.database.transaction() as connection:
            for index in indexes:
                index.drop(connection)
        rows = self._rows(size - self.size)
        while batch := list(islice(rows, BATCH)):
            self._write([event for event, _ in batch], [one for _, both in batch for one in both])
        with self.ledger.database.transaction() as connection:
            for index in indexes:
                index.create(connection)
        self._settle()
        self.size = size

    def time(self, number: int) -> datetime:
        """Return when the nth event happened."""
        return START + STEP * number

    def newest(self, condition: Any, count: int) -> datetime:
        """Return since when there are `count` events with a condition."""
        wanted = select(events.c.time).where(condition).order_by(events.c.seq.desc()).offset(count - 1).limit(1)
        with self.ledger.database.reading() as connection:
            return _EPOCH + timedelta(microseconds=connection.execute(wanted).scalar_one())

    def _write(self, logged: list[dict[str, Any]], delivered: list[dict[str, Any]]) -> None:
        with self.ledger.database.transaction() as connection:
            if self.ledger.database.is_sqlite:
                connection.exec_driver_sql(f"PRAGMA cache_size = -{CACHE}")
                connection.execute(events.insert(), logged)
                connection.execute(deliveries.insert(), delivered)
                return
            tx = connection.execute(select(func.txid_current())).scalar_one()
            cursor = connection.connection.cursor()
            for table, rows in ((events, [{**row, "tx": tx} for row in logged]), (deliveries, delivered)):
                with cursor.copy(f"COPY {table.name} ({', '.join(rows[0])}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(tuple(row.values()))

    def _settle(self) -> None:
        """Forget what was in memory for writing, and do what PostgreSQL does by itself after a while."""
        self.ledger.database.close()
        if self.ledger.database.is_sqlite:
            return
        with self.ledger.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name in metadata.tables:
                connection.exec_driver_sql(f"VACUUM ANALYZE {name}")

    def _rows(self, count: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        choose = self._random
        flows = [_Flow(new_id(), LARGEST)]
        self.largest = flows[0].id
        types = choose.choices(TYPES, TYPE_WEIGHTS, k=count)
        streams = choose.choices(STREAMS, STREAM_WEIGHTS, k=count)
        for number in range(count):
            while len(flows) < OPEN:
                flows.append(_Flow(new_id(), int(10 ** choose.uniform(0, 3))))
            # The largest has its turn often enough to end within the smallest log.
            flow = flows[0] if number % 5 == 0 else flows[int(choose.random() * len(flows))]
            yield self._row(self.size + number, types[number], streams[number], flow)
            if not flow.left:
                flows.remove(flow)

    def _row(self, number: int, type: str, stream: str, flow: _Flow) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        causation, delivery = self._random.choice(flow.causes) if flow.causes else (None, None)
        id = new_id() if causation else flow.id
        flow.left -= 1
        time = self.time(number)
        at = (time - _EPOCH) // _MICROSECOND
        body = {
            "specversion": "1.0", "id": id, "type": type, "source": f"/shop/agent/{stream}", "time": time,
            "datacontenttype": "application/json", "correlationid": flow.id, "causationid": causation,
            "schemaversion": "1.0.0", "priority": 5, "hops": 0,
            "data": {"number": number, "user_id": "user-4711", "query": "What do the sources say about event-driven?"},
        }  # fmt: skip
        event = {
            "id": id, "type": type, "stream": stream, "correlation": flow.id, "causation": causation,
            "delivery": delivery, "time": at, "recorded": at,
            "body": orjson.dumps(body, option=orjson.OPT_UTC_Z).decode(),
        }  # fmt: skip
        both = [_delivery(id, STREAMS[(number + more) % len(STREAMS)], at) for more in range(2)]
        flow.causes = [*flow.causes[-4:], (id, both[0]["id"])]
        return event, both


def _delivery(event: str, agent: str, at: int) -> dict[str, Any]:
    return {
        "id": derived_id(event, agent), "event_id": event, "agent": agent, "outcome": "succeeded", "attempts": 1,
        "started": at + 2000, "ended": at + 5000, "worker": "host:1:abc",
    }  # fmt: skip
