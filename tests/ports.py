"""Ports for what tests start: of each tester its own, and none that the kernel gives to others meanwhile."""

from __future__ import annotations

import os
import re
import secrets
import socket
from contextlib import suppress

#: Ports below those that a client's connection, or who asks for any port, gets of the kernel. Between the moment when a
#: port is found free and the one when a server has it, nobody else gets it: a RabbitMQ takes seconds for that.
FIRST, EACH, TESTERS = 10_000, 1_000, 22


def free_port() -> int:
    """Return a TCP port on loopback that is free now."""
    tester = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % TESTERS
    while True:
        port = FIRST + tester * EACH + secrets.randbelow(EACH)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
