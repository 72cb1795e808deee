"""The brokers that are measured: an embedded file, and RabbitMQ and Redis servers of the benchmark's own."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import RabbitMQ, Redis, ServerMissingError

SERVERS = {"rabbitmq": RabbitMQ, "redis": Redis}
BROKERS = ("embedded", *SERVERS)


class Unavailable(Exception):
    """A broker that cannot be measured here, and why."""


@dataclass(frozen=True)
class Broker:
    """A running broker.

    Attributes:
        directory: an empty directory for what the measured programs write.

    """

    name: str
    url: str
    version: str
    directory: Path


@contextlib.contextmanager
def running(name: str) -> Iterator[Broker]:
    """Start the broker called `name`, and stop it in the end; raise Unavailable with the reason when it cannot be."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as directory, _address(name, Path(directory)) as url:
        work = Path(directory, "work")
        work.mkdir()
        yield Broker(name, url, _version(name, url), work)


@contextlib.contextmanager
def _address(name: str, directory: Path) -> Iterator[str]:
    if name == "embedded":
        yield f"sqlite:///{directory / 'broker.db'}"
        return
    server = SERVERS[name]()
    try:
        server.start()
    except (ServerMissingError, AssertionError) as exc:
        server.stop()
        raise Unavailable(str(exc)) from exc
    try:
        yield server.url
    finally:
        server.stop()


def _version(name: str, url: str) -> str:
    if name == "embedded":
        return f"SQLite {sqlite3.sqlite_version}"
    if name == "redis":
        from redis import Redis as Client

        return f"Redis {Client.from_url(url).info('server')['redis_version']}, every write synced"
    from kombu import Connection

    with Connection(url) as connection:
        connection.connect()
        return f"RabbitMQ {connection.connection.server_properties['version']}"


def stop(process: subprocess.Popen[bytes], grace: float) -> None:
    """Stop a process that was started in a session of its own, and whatever it has started in it."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
