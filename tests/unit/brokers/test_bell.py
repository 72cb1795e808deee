"""The embedded broker's bell, which wakes the worker's event loop, is never overheard."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from kombu import Connection

from pipeline.brokers.embedded.transport import Transport


class Loop:
    """An event loop that only remembers."""

    def add_reader(self, *_: Any) -> None: ...
    def remove(self, *_: Any) -> None: ...
    def call_repeatedly(self, *_: Any) -> Any:
        return self

    def cancel(self) -> None: ...


class RungWhileEmptied:
    """The end that is listened to, while another thread rings right before it is emptied."""

    def __init__(self, end: socket.socket, transport: Transport) -> None:
        self._end, self._transport = end, transport

    def recv(self, size: int) -> bytes:
        self._transport.wake()
        return self._end.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)


def test_who_rings_while_the_bell_is_emptied_is_heard(tmp_path: Path) -> None:
    with Connection(f"sqlite:///{tmp_path / 'broker.db'}", transport=Transport) as connection:
        transport = connection.transport
        transport.establish_connection()
        transport.register_with_event_loop(None, Loop())
        heard, rung = transport._bell
        transport._bell = RungWhileEmptied(heard, transport), rung
        transport._on_bell()  # whatever was to be taken has been looked for now
        transport.wake()
        assert heard.recv(4096)
        transport.close_connection(transport)
