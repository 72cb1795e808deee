"""Publishes events, each in a process of its own that dies on the way: `python crash_publisher.py POINT NUMBER`."""

from __future__ import annotations

import os
import signal
import sys

from crash_app import app


def publish_and_die(point: str, key: str) -> None:
    child = os.fork()
    if child == 0:
        try:
            app.publish("work.asked", {"key": key, "point": point})
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


if __name__ == "__main__":
    for number in range(int(sys.argv[2])):
        publish_and_die(sys.argv[1], f"{sys.argv[1]}-{number}")
