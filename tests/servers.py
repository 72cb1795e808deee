"""Real servers for the tests: started on free loopback ports with their own data, stopped with the session."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ports import free_port

if TYPE_CHECKING:
    import psycopg

#: Where distributions put RabbitMQ's own start script, which needs no root and no wrapper.
RABBITMQ_PATHS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin")

#: Where distributions put PostgreSQL's server, one directory for each version.
POSTGRESQL_PATHS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)


#: Seconds that nothing takes which ends in a second or less by itself, on a machine that is busy too.
AT_MOST = 20.0


class ServerMissingError(Exception):
    """The server's binary is not installed; the message says how to get it."""


def wait_for(
    condition: Callable[[], object], what: str | Callable[[], str], seconds: float = 60.0, interval: float = 0.02
) -> None:
    """Return when `condition()` is true; fail with `what` after `seconds`, and ask only then when it can be called."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what if isinstance(what, str) else what()}")
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

    def options(self) -> dict[str, Any]:
        """Return what else the process is started with, as Popen's arguments."""
        return {}

    def prepare(self) -> None:  # noqa: B027
        """Make what the process needs before its first start."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Say whether clients can connect."""

    def start(self) -> Server:
        """Start the process and wait until it serves."""
        self.prepare()
        output = self.directory / "output.log"
        with output.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, **self.options(),
            )  # fmt: skip
        wait_for(self._ready_or_dead, f"{self.name} to start (see {output})", seconds=180, interval=0.05)
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
        """Freeze the server: connections stay open, nothing answers. It is frozen when this returns."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)
        # One thread takes the signal, when it gets a processor; until then the others go on, and answer.
        wait_for(lambda: all(map(_has_stopped, self._group())), f"{self.name} to be frozen", interval=0.001)

    def _group(self) -> list[int]:
        """Return the processes of the server's process group."""
        import psutil

        assert self.process is not None
        first = psutil.Process(self.process.pid)
        pids = [first.pid, *(child.pid for child in first.children(recursive=True))]
        return [pid for pid in pids if _group_of(pid) == first.pid]

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
        (self.directory / "rabbitmq.conf").write_text(
            "loopback_users = none\nlog.console = false\nmax_message_size = 4194304\n"
        )
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


class PostgreSQL(Server):
    """A PostgreSQL server of its own, in which every test gets a database of its own."""

    name = "postgresql"

    @property
    def url(self) -> str:
        """The address of the database that is always there."""
        return self._url("postgres")

    def _url(self, database: str, scheme: str = "postgresql+psycopg") -> str:
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{database}"

    def database(self, like: str = "") -> str:
        """Make a database, empty or like the one of an address that nobody uses, and return its address."""
        name, template = f"test_{uuid.uuid4().hex}", like.rpartition("/")[2] or "template1"
        with self._connection() as connection:
            # Version 15 writes a log of all blocks unless it is told, which takes ten times as long.
            how = "STRATEGY file_copy" if connection.info.server_version >= 150000 else ""
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {how}")
        return self._url(name)

    def drop(self, url: str) -> None:
        """Delete a database that `database()` has made, though clients may still be connected to it."""
        with self._connection() as connection:
            connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def _connection(self) -> psycopg.Connection:
        import psycopg

        return psycopg.connect(self._url("postgres", "postgresql"), autocommit=True, connect_timeout=10)

    def prepare(self) -> None:
        data = self.directory / "data"
        if data.exists():
            return
        command = [
            self._binary("initdb"), "--pgdata", str(data), "--username", "postgres", "--auth", "trust",
            "--encoding", "UTF8", "--no-locale", "--no-sync",
        ]  # fmt: skip
        if os.geteuid() == 0:
            try:
                shutil.chown(self.directory, "postgres", "postgres")
            except LookupError as exc:
                raise ServerMissingError("postgres refuses to run as root, and there is no user postgres") from exc
        made = subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, check=False, **self.options()
        )
        assert made.returncode == 0, made.stderr

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "fsync": "off",  # what a server that is killed has written, the kernel still has
            # In the data directory, and not where a killed server's would stay behind.
            "dynamic_shared_memory_type": "mmap",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self._binary("postgres"), "-D", str(self.directory / "data"), *options]

    def environment(self) -> dict[str, str]:
        # No PGDATA, PGPORT and the like, which are about another server.
        own = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**own, "LC_ALL": "C"}

    def options(self) -> dict[str, Any]:
        # The tests' own working directory may be one that the user postgres must not enter.
        other = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        return {"cwd": self.directory, **other}

    def is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._url("postgres", "postgresql"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    # Each process of PostgreSQL's makes a session of its own: a signal to the first one's group misses the others.

    def kill(self, number: int = signal.SIGKILL) -> None:
        if number != signal.SIGKILL:
            super().kill(number)  # the first process ends the others, in the way that the signal means
            return
        super().pause()  # what is frozen starts no more
        children = self._signal_children(number)
        super().kill(number)
        wait_for(lambda: all(_has_ended(child) for child in children), "all of PostgreSQL's processes to end")

    def pause(self) -> None:
        super().pause()
        children = self._signal_children(signal.SIGSTOP)
        wait_for(lambda: all(_has_stopped(child.pid) for child in children), "PostgreSQL to be frozen", interval=0.001)

    def resume(self) -> None:
        self._signal_children(signal.SIGCONT)
        super().resume()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.resume()
            os.kill(self.process.pid, signal.SIGQUIT)  # unlike SIGKILL, this gives shared memory back
            wait_for(self._ended_or_kill_children, "PostgreSQL to end")
        self._free_shared_memory()
        super().stop()

    def _free_shared_memory(self) -> None:
        """Give back what a killed server has left in the system's shared memory, of which there are few pieces."""
        with contextlib.suppress(FileNotFoundError, IndexError):
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
            subprocess.run(["ipcrm", "-m", lines[6].split()[1]], check=False)

    def _ended_or_kill_children(self) -> bool:
        """Say whether the server has ended; it waits for those of its processes that still greet a client."""
        assert self.process is not None
        if self.process.poll() is None:
            self._signal_children(signal.SIGKILL)
        return self.process.poll() is not None

    def _signal_children(self, number: int) -> list[Any]:
        import psutil

        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        return children

    @staticmethod
    def _binary(name: str) -> str:
        """Return the path of one of the server's programs, all of the version that is found first."""
        usual = [path for pattern in POSTGRESQL_PATHS for path in glob.glob(pattern)]
        newest_first = sorted(usual, key=lambda path: [int(n) for n in re.findall(r"\d+", path)], reverse=True)
        server = shutil.which("postgres", path=os.pathsep.join([os.environ.get("PATH", ""), *newest_first]))
        if server is None:
            raise ServerMissingError("postgres is not installed; `make setup-servers` installs it where you may")
        return str(Path(server).resolve().with_name(name))


def _has_ended(process: Any) -> bool:
    import psutil

    try:
        # A zombie has ended; in a container without an init it stays in the list for good.
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _has_stopped(pid: int) -> bool:
    """Say whether no thread of a process runs any more."""
    import psutil

    try:
        tasks = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        if tasks:
            return all(task.rpartition(")")[2].split()[0] in "TtZX" for task in tasks)
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except (OSError, psutil.NoSuchProcess):
        return True  # it has ended
