"""A join of many, in processes that kill themselves on the way, once for each event; each member is sent twice.

An event's data names the point. The methods at both sides of it are the product's own; here they are only wrapped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from contract_app import append, once  # type: ignore[import-not-found]
from kombu.message import Message

from pipeline import Context, Event, Pipeline, Retry
from pipeline.coordination.flows.flows import Flows
from pipeline.core.errors import NotAnEventError
from pipeline.core.event import Encoded
from pipeline.delivery import inbox
from pipeline.delivery.task import decode
from pipeline.ledger.database import leases
from pipeline.publishing import outbox
from pipeline.publishing.outbox import Outbox
from pipeline.workers.chores import Chores

# What a dead process has left in the outbox is sent again after seconds: the test is quicker, and sees more copies.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

app = Pipeline("joined")


@app.agent(retry=Retry(max=50, base=0.01))
def member(data: dict[str, Any]) -> dict[str, Any]:
    append({"agent": "member", "data": f"{data['key']}/{data['n']}"})
    return {"n": data["n"]}


app.join("crowd", on="crowd.asked", agents=[member], each="data.items", emits="crowd.done")


@app.agent(on="crowd.done", retry=Retry(max=50, base=0.01))
def witness(data: dict[str, Any], ctx: Context) -> None:
    append({"agent": "witness", "data": data["original"]["key"], "n": [each["n"] for each in data["results"]]})


def die(point: str, data: dict[str, Any]) -> None:
    """End this process as `kill -9` does, the first time that the event passes its point."""
    if isinstance(data, dict) and data.get("point") == point and once(f"{point}-{data['key']}"):
        os.kill(os.getpid(), signal.SIGKILL)


_settle, _ending, _outgoing = Flows._settle, Flows.ending, Outbox._send
_send = Chores._send
_acknowledge = Message.ack_log_error


def settle(self: Flows, *args: Any, **options: Any) -> list[Encoded]:
    follows = _settle(self, *args, **options)
    for record in follows:
        die("ending", record.event.data["original"])  # all is written but for the commit
    return follows


def ending(self: Flows, run: Any, delivery: Any, what: str, sent: list[Encoded], *more: Any) -> bool:
    recorded = _ending(self, run, delivery, what, sent, *more)
    die("recorded", delivery.event.data)
    for record in sent:
        die("ended", record.event.data["original"])
    return recorded


def outgoing(self: Outbox, batch: Sequence[Encoded], *args: Any, **options: Any) -> bool:
    sent = _outgoing(self, batch, *args, **options)
    for record in batch:
        if record.event.type == "crowd.done":
            die("sent", record.event.data["original"])
    return sent


def send(self: Chores, messages: Sequence[Any], what: str) -> Any:
    for message in messages:
        die("sending", message.encoded.event.data)
    answer = _send(self, [each for message in messages for each in (message, message)], what)
    for message in messages:
        die("members", message.encoded.event.data)
    return answer


def acknowledge(self: Message, *args: Any, **options: Any) -> None:
    body = self.body[0][0] if isinstance(self.body, tuple) else self.body  # a task's, on the long way
    with suppress(NotAnEventError):
        event: Event = decode(body if isinstance(body, str) else bytes(body).decode())
        if event.type == "crowd.asked":
            die("ack", event.data)
    _acknowledge(self, *args, **options)


Flows._settle, Flows.ending, Outbox._send = settle, ending, outgoing  # type: ignore[method-assign]
Chores._send = send  # type: ignore[method-assign]
Message.ack_log_error = acknowledge
