"""The contract suite's agents in a worker that is told to end at once while its main thread writes to the broker."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from amqp.transport import _AbstractTransport
from billiard.process import current_process
from contract_app import app, is_open, once  # type: ignore[import-not-found]
from redis.connection import AbstractConnection

from pipeline.brokers.embedded.file import File

__all__ = ["app"]


def interrupt() -> None:
    """Let the signal come once, when the test says so, if this is the main thread of the worker itself."""
    is_main = threading.current_thread() is threading.main_thread() and current_process().name == "MainProcess"
    if is_main and is_open("end") and once("interrupted"):
        os.write(1, b"told to end in the middle of a write\n")
        os.kill(os.getpid(), signal.SIGQUIT)


def interrupted(goes_on: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method before which the signal comes."""

    def method(*args: Any, **kwargs: Any) -> Any:
        interrupt()
        return goes_on(*args, **kwargs)

    return method


def within(transaction: Callable[..., Any]) -> Callable[..., Any]:
    """Return a context within which the signal comes."""

    @contextmanager
    def method(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with transaction(*args, **kwargs) as within:
            interrupt()
            yield within

    return method


_AbstractTransport.write = interrupted(_AbstractTransport.write)
AbstractConnection.send_packed_command = interrupted(AbstractConnection.send_packed_command)  # type: ignore[method-assign]
File.transaction = within(File.transaction)  # type: ignore[method-assign]
