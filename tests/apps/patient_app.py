"""An agent that does something once, waits and goes on, in processes that kill themselves on the way, once each.

An event's data names the point. The methods at both sides of it are the product's own; here they are only wrapped.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from contract_app import append, once  # type: ignore[import-not-found]
from kombu.message import Message
from sqlalchemy import Connection, Row

from pipeline import Context, Event, Pipeline, Retry
from pipeline.core.errors import NotAnEventError
from pipeline.delivery import inbox
from pipeline.delivery.task import decode
from pipeline.ledger.database import leases
from pipeline.ledger.waiting.steps import Place, Steps
from pipeline.ledger.waiting.wait import Parking
from pipeline.ledger.waiting.waits import Waits
from pipeline.publishing import outbox
from pipeline.workers.chores import Chores

# What a dead process has left in the outbox is sent again after seconds: the test is quicker, and sees more copies.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

app = Pipeline("patient")
HERE = Path(os.environ["JOURNAL"]).parent


@app.agent(on="patience.asked", retry=Retry(max=10, base=0.01))
def patient(data: dict[str, Any], ctx: Context) -> None:
    ctx.step("paid", append, {"agent": "paid", "data": data["key"]})
    ctx.publish("patience.begun", {"key": data["key"]})
    if data["waits"] == "sleep":
        ctx.sleep(0.1)
    else:
        ctx.wait_for("patience.over", where={"data.key": data["key"]}, anywhere=True, lookback="1h")
    ctx.publish("patience.ended", {"key": data["key"]})


@app.agent(on="patience.begun")
def witness(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "witness", "data": data["key"]})


def die(point: str, data: dict[str, Any]) -> None:
    """End this process as `kill -9` does, the first time that the event passes its point."""
    if data.get("point") == point and once(f"{point}-{data['key']}"):
        os.kill(os.getpid(), signal.SIGKILL)


def of(delivery: str) -> dict[str, Any]:
    """Return the data of the event of a delivery that has begun to wait."""
    found: dict[str, Any] = json.loads((HERE / f"parked-{delivery}").read_text())
    return found


_keep, _park, _add, _release = Steps.keep, Waits.park, Waits.add, Waits.release
_sent, _look = Chores.send_at_once, Chores.look
_acknowledge = Message.ack_log_error


def keep(self: Steps, delivery: str, place: Place, started: int, result: str) -> str:
    kept = _keep(self, delivery, place, started, result)
    with suppress(FileNotFoundError):
        data = json.loads((HERE / f"began-{delivery}").read_text())["data"]
        append({"agent": "kept", "data": data["key"]})
        die("kept", data)
    return kept


def add(self: Waits, connection: Connection, delivery: Any, wait: Any) -> None:
    _add(self, connection, delivery, wait)
    (HERE / f"parked-{delivery.id}").write_text(json.dumps(delivery.event.data))
    die("parking", delivery.event.data)


def park(self: Waits, parking: Parking, *run: Any) -> bool:
    done = _park(self, parking, *run)
    die("parked", parking.delivery.event.data)
    return done


def release(self: Waits, connection: Connection, found: Sequence[Row[Any]], *results: Any) -> list[str]:
    ids = _release(self, connection, found, *results)
    for id in ids:
        die("releasing", of(id))
        (HERE / f"released-{id}").touch()
    return ids


def released(point: str) -> None:
    for path in HERE.glob("released-*"):
        die(point, of(path.name.removeprefix("released-")))


def send_at_once(self: Chores) -> int:
    released("released")
    number = _sent(self)
    released("sent")
    return number


def look(self: Chores) -> int:
    for point in ("released", "sent"):  # more were released together than a worker can die of
        released(point)
    return _look(self)


def acknowledge(self: Message, *args: Any, **options: Any) -> None:
    body = self.body[0][0] if isinstance(self.body, tuple) else self.body  # a task's, on the long way
    with suppress(NotAnEventError):
        event: Event = decode(body if isinstance(body, str) else bytes(body).decode())
        if event.type == "patience.asked":
            die("ack", event.data)
    _acknowledge(self, *args, **options)


Steps.keep, Waits.add, Waits.park, Waits.release = keep, add, park, release  # type: ignore[method-assign]
Chores.send_at_once, Chores.look = send_at_once, look  # type: ignore[method-assign]
Message.ack_log_error = acknowledge
