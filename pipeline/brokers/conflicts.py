"""Queues and exchanges that exist on RabbitMQ with other arguments: which one it is, and what mends it."""

from __future__ import annotations

import re
from shlex import quote

from amqp.exceptions import PreconditionFailed

from ..core.errors import QueueConflict

#: What RabbitMQ says, such as: inequivalent arg 'durable' for queue 'agent.billing' in vhost '/': received ...
_SAID = re.compile(
    r"inequivalent arg '(?P<arg>[^']*)' for (?P<what>queue|exchange) '(?P<name>.*)' in vhost '(?P<host>.*?)'"
)


def conflict_of(exc: BaseException | None) -> QueueConflict | None:
    """Return the error that says how to mend it when a declaration was refused; None for whatever else went wrong."""
    while exc is not None and not isinstance(exc, PreconditionFailed):
        exc = exc.__cause__
    found = exc and _SAID.search(str(exc))
    if not found:
        return None
    what, name = found["what"], found["name"]
    command = f"celery -A YOUR_APP amqp {what}.delete {quote(name)} False" + (" False" if what == "queue" else "")
    lost = " (it deletes what waits in the queue; with a ledger that is sent again)" if what == "queue" else ""
    return QueueConflict(
        f"the {what} {name!r} exists in RabbitMQ's virtual host {found['host']!r} with another {found['arg']!r} than "
        f"the bus declares; stop its users, run `{command}`{lost}, and start again"
    )
