"""A NATS server with JetStream."""

from __future__ import annotations

import os
import shutil

from tests.servers import Server, ServerMissingError


class Nats(Server):
    """A NATS server that keeps its streams in files."""

    name = "nats"

    @property
    def url(self) -> str:
        """Its address."""
        return f"nats://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin"])
        binary = shutil.which("nats-server", path=path)
        if binary is None:
            raise ServerMissingError("nats-server is not installed; `make setup-servers` installs it where you may")
        return [binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.directory / "data")]

    def is_ready(self) -> bool:
        return self._listens()
