"""Kombu's transports of the addresses amqp://, pyamqp:// and amqps://."""

from __future__ import annotations

from typing import Any

from kombu.transport import pyamqp

from .connection import Connection


class _InBursts:
    """Mixed into Kombu's transports: a loop is given what the socket has in one call."""

    def register_with_event_loop(self, connection: Connection, loop: Any) -> None:
        """Let the loop tell when there is something to read."""
        super().register_with_event_loop(connection, loop)  # type: ignore[misc]  # a mixin: the class beside it has the method
        connection.attend(loop)

    def on_readable(self, connection: Connection, loop: Any) -> None:
        """Read and hand over."""
        connection.read_burst()


class Transport(_InBursts, pyamqp.Transport):  # type: ignore[misc]  # kombu's classes are untyped
    """The transport behind amqp:// and pyamqp://."""

    Connection = Connection


class SSLTransport(_InBursts, pyamqp.SSLTransport):  # type: ignore[misc]  # kombu's classes are untyped
    """The transport behind amqps://."""

    Connection = Connection
