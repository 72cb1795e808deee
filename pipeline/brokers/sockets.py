"""The sockets that a connection to a broker has open; none is opened for that, and nothing raised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any


def bound(connection: Any, seconds: float) -> None:
    """Let no wait for a broker that has fallen silent last longer than so many seconds, on connections that are open.

    Celery 5.7 does so with its worker's own connection, Celery 5.6 with none.
    """
    with suppress(Exception):  # a connection that is broken is what this is for
        for socket in _sockets(connection):
            socket.settimeout(seconds)


def _sockets(connection: Any) -> Iterator[Any]:
    # By what is there already: the properties of the same names would connect to the broker that does not answer.
    for channel in list(getattr(connection.transport, "channels", None) or ()):  # Redis has a client for each channel
        for name in ("client", "subclient"):
            client = getattr(vars(channel).get(name), "connection", None)
            yield from filter(None, [getattr(client, "_sock", None)])
    amqp = getattr(connection._connection, "_transport", None)
    yield from filter(None, [getattr(amqp, "sock", None)])
