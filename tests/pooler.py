"""What stands beside the tests' PostgreSQL server: a real PgBouncer before it, a hot standby behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

from tests.servers import PostgreSQL, Server, ServerMissingError


class PgBouncer(Server):
    """A pooler before a PostgreSQL server, with one pool of a few of its connections for each of its databases."""

    name = "pgbouncer"

    #: Connections to the server for all clients of a database.
    POOL = 4

    def __init__(self, behind: PostgreSQL, mode: str = "transaction") -> None:
        """Take the server that it stands before, and when a connection goes back: "transaction" or "session"."""
        super().__init__()
        self.behind = behind
        self.mode = mode

    @property
    def url(self) -> str:
        """The address of the database that is always there."""
        return self.through(self.behind.url)

    def through(self, url: str) -> str:
        """Return the address through the pooler of a database on the server behind it."""
        return url.replace(f":{self.behind.port}/", f":{self.port}/")

    def prepare(self) -> None:
        (self.directory / "users.txt").write_text('"postgres" ""\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "auth_file": self.directory / "users.txt",
            "pool_mode": self.mode,
            "default_pool_size": self.POOL if self.mode == "transaction" else 50,
            "max_client_conn": 500,
            "server_login_retry": 1,
            "admin_users": "postgres",
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        databases = f"[databases]\n* = host=127.0.0.1 port={self.behind.port} user=postgres\n"
        (self.directory / "pgbouncer.ini").write_text("\n".join([databases, "[pgbouncer]", *lines, ""]))
        if os.geteuid() == 0:
            for path in (self.directory, *self.directory.iterdir()):
                shutil.chown(path, "postgres", "postgres")

    def command(self) -> list[str]:
        binary = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
        if binary is None:
            raise ServerMissingError("pgbouncer is not installed; `make setup-servers` installs it where you may")
        return [binary, str(self.directory / "pgbouncer.ini")]

    def options(self) -> dict[str, Any]:
        return self.behind.options() | {"cwd": self.directory}  # it does not run as root either

    def is_ready(self) -> bool:
        return self._listens()

    def command_to(self, command: str) -> list[tuple[Any, ...]]:
        """Give a command to its console, and return what that answers."""
        import psycopg

        url = f"postgresql://postgres@127.0.0.1:{self.port}/pgbouncer"
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as console:
            cursor = psycopg.ClientCursor(console).execute(command)  # the console knows the simple protocol only
            return cursor.fetchall() if cursor.description else []


class Standby(PostgreSQL):
    """A hot standby, which follows a server until it is promoted."""

    def __init__(self, first: PostgreSQL) -> None:
        """Take the server that it follows."""
        super().__init__()
        self.first = first

    def instead(self, url: str) -> str:
        """Return the address here of a database on the server that this one follows."""
        return url.replace(f":{self.first.port}/", f":{self.port}/")

    def prepare(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        self._run(
            "pg_basebackup", "--pgdata", str(self.directory / "data"), "--write-recovery-conf", "--checkpoint=fast",
            "--no-sync", "--dbname", f"postgresql://postgres@127.0.0.1:{self.first.port}/",
        )  # fmt: skip

    def promote(self) -> None:
        """Let it take writes."""
        self._run("pg_ctl", "promote", "--pgdata", str(self.directory / "data"))

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binary(program), *arguments], env=self.environment(), capture_output=True, text=True, check=False,
            **self.options(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
