"""The agents of effects_app in a process that kills itself between two steps of the bus, once for each event.

An event's data names the point. The methods at both sides of it are the product's own; here they are only wrapped.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from contract_app import once
from effects_app import app
from kombu.message import Message

from pipeline import Event
from pipeline.core.errors import NotAnEventError
from pipeline.core.event import Encoded
from pipeline.delivery import inbox
from pipeline.delivery.task import decode
from pipeline.ledger.database import leases
from pipeline.ledger.facts import Success
from pipeline.ledger.ledger import Ledger
from pipeline.publishing import outbox
from pipeline.publishing.outbox import Outbox

__all__ = ["app"]

# What a dead process has left in the outbox is sent again after seconds: the test is quicker, and sees more copies.
outbox.GRACE = inbox.GRACE = 1.0
leases.LEASE = 2.0

#: Where a process dies, and which event is on its way then.
POINTS = {
    "effect": "work.done",  # the handler has written, the transaction is complete but for its commit
    "commit": "work.done",  # committed, not sent
    "sent": "work.done",  # the broker has it, which is not written yet: it is still in the outbox
    "ack": "work.asked",  # done, but for telling the broker
    "publisher-append": "work.asked",  # in the log, not sent
    "publisher-sent": "work.asked",  # sent, which is not written yet
}
_succeed, _send = Ledger.succeed, Outbox._send
_acknowledge = Message.ack_log_error


def die(point: str, event: Event) -> None:
    """End this process as `kill -9` does, the first time that the event passes its point."""
    if threading.current_thread().name == "pipeline-sweeper":
        return  # a relay that overtakes the handler would take the pool's other processes with it, in the middle
    mine = event.type == POINTS[point] and event.data["point"] == point
    if mine and once(f"{point}-{event.data['key']}"):
        os.kill(os.getpid(), signal.SIGKILL)


def succeed(self: Ledger, success: Success, *args: Any) -> None:
    _succeed(self, success, *args)
    for record in success.emitted:
        die("effect", record.event)


def send(self: Outbox, batch: Sequence[Encoded], *args: Any, **options: Any) -> bool:
    for each in batch:
        die("commit", each.event)
        die("publisher-append", each.event)
    sent = _send(self, batch, *args, **options)
    for each in batch:
        die("sent", each.event)
        die("publisher-sent", each.event)
    return sent


def acknowledge(self: Message, *args: Any, **options: Any) -> None:
    body = self.body[0][0] if isinstance(self.body, tuple) else self.body  # a task's, on the long way
    with suppress(NotAnEventError):
        die("ack", decode(body if isinstance(body, str) else bytes(body).decode()))
    _acknowledge(self, *args, **options)


Ledger.succeed = succeed  # type: ignore[method-assign]
Outbox._send = send  # type: ignore[method-assign]
Message.ack_log_error = acknowledge
