"""The protocol over standard input and output, which belong to it alone while it is spoken."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from anyio import wrap_file
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

#: Bytes that are read at once, and lines that wait at most.
_PIECE, _WAITING = 65536, 16


class Wire(NamedTuple):
    """File descriptors of what comes in, and of what goes out."""

    come: int
    go: int


@contextmanager
def wire() -> Iterator[Wire]:
    """Take standard input and output for the protocol: whatever else is printed meanwhile goes to stderr.

    To be entered before an app is loaded: its modules may print.
    """
    sys.stdout.flush()
    found = Wire(os.dup(0), os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        yield found
    finally:
        sys.stdout.flush()
        os.dup2(found.come, 0)
        os.dup2(found.go, 1)
        os.close(found.go)  # the other one may still be read, by a thread that nobody can wake


def serve(server: Server[Any], wire: Wire) -> None:
    """Answer until the input ends; Ctrl-C raises KeyboardInterrupt at once."""
    asyncio.run(_serve(server, wire))


async def _serve(server: Server[Any], wire: Wire) -> None:
    come: Any = _Lines(wire.come)
    with os.fdopen(wire.go, "wb", closefd=False) as out:
        go = wrap_file(io.TextIOWrapper(out, encoding="utf-8"))
        with suppress(BrokenPipeError):  # nobody hears the last answers
            async with stdio_server(come, go) as (read, write):
                await server.run(read, write, server.create_initialization_options())


class _Lines:
    """The lines that come in, read by a thread that keeps nothing from ending: the SDK's own does, until one comes."""

    def __init__(self, source: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(_WAITING)
        threading.Thread(target=self._read, args=(source,), name="pipeline-mcp", daemon=True).start()

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self, source: int) -> None:
        rest = b""
        with suppress(RuntimeError):  # the loop has ended
            while piece := os.read(source, _PIECE):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._put(line.decode(errors="replace"))
            self._put(None)

    def _put(self, line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()
