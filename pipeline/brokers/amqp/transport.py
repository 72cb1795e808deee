"""Kombu's transports of the addresses amqp://, pyamqp:// and amqps://."""

from __future__ import annotations

from kombu.transport import pyamqp

from .connection import Connection


class Transport(pyamqp.Transport):  # type: ignore[misc]  # kombu's classes are untyped
    """The transport behind amqp:// and pyamqp://."""

    Connection = Connection


class SSLTransport(pyamqp.SSLTransport):  # type: ignore[misc]  # kombu's classes are untyped
    """The transport behind amqps://."""

    Connection = Connection
