"""Real servers for the tests: started on free loopback ports with their own data, stopped with the session."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

#: Where distributions put RabbitMQ's own start script, which needs no root and no wrapper.
RABBITMQ_PATHS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin")


class ServerMissingError(Exception):
    """The server's binary is not installed; the message says how to get it."""


def free_port() -> int:
    """Return a TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0, interval: float = 0.02) -> None:
    """Return when `condition()` is true; fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(interval)


class Server(ABC):
    """One server process and its data directory."""

    name: str

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"pipeline-{self.name}-"))
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line; raise ServerMissingError when the binary is not there."""

    def environment(self) -> dict[str, str]:
        """Return the process's environment."""
        return dict(os.environ)

    @abstractmethod
    def is_ready(self) -> bool:
        """Say whether clients can connect."""

    def start(self) -> Server:
        """Start the process and wait until it serves."""
        output = self.directory / "output.log"
        with output.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        wait_for(self._ready_or_dead, f"{self.name} to start (see {output})", seconds=60, interval=0.05)
        assert self.process.poll() is None, output.read_text()
        return self

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None or self.is_ready()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=0.5).close()
        except OSError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the server and all its children, and wait for its end."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        self.process.wait(timeout=30)

    def pause(self) -> None:
        """Freeze the server: connections stay open, nothing answers."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo pause()."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop the server for good and delete its data."""
        if self.process is not None and self.process.poll() is None:
            self.kill(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


class Redis(Server):
    """A Redis server that writes every command to disk, so that a kill loses nothing it has answered."""

    name = "redis"

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        binary = shutil.which("redis-server")
        if binary is None:
            raise ServerMissingError("redis-server is not installed; `make setup-servers` installs it where you may")
        return [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        ]  # fmt: skip

    def is_ready(self) -> bool:
        return self._listens()


class RabbitMQ(Server):
    """A RabbitMQ node of its own."""

    name = "rabbitmq"

    def __init__(self) -> None:
        super().__init__()
        self.distribution_port = free_port()

    @property
    def url(self) -> str:
        """The address of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def command(self) -> list[str]:
        path = os.pathsep.join([*RABBITMQ_PATHS, os.environ.get("PATH", "")])
        binary = shutil.which("rabbitmq-server", path=path)
        if binary is None:
            raise ServerMissingError("rabbitmq-server is not installed; `make setup-servers` installs it where you may")
        return [binary]

    def environment(self) -> dict[str, str]:
        (self.directory / "enabled_plugins").write_text("[].")
        (self.directory / "rabbitmq.conf").write_text("loopback_users = none\nlog.console = false\n")
        own = {
            "HOME": str(self.directory),
            "RABBITMQ_NODENAME": f"pipeline{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }
        return {**os.environ, **own}

    def is_ready(self) -> bool:
        if not self._listens():
            return False
        import amqp

        try:
            connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=2)
            connection.connect()
            connection.close()
        except (OSError, amqp.AMQPError):
            return False
        return True
