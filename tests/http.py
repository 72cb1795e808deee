"""The HTTP front of an app, served by a thread of the tests, and a client for it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from pipeline import Pipeline
from pipeline.http import front
from tests.harness import Broker
from tests.servers import free_port, wait_for

#: Seconds for an answer.
PATIENCE = 30


@dataclass(frozen=True)
class Answer:
    """What a server has answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A server that answers on this machine."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self, method: str, path: str, data: Any = None, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Send a request; `data` goes as JSON."""
        sent = dict(headers or {})
        if data is not None:
            body = json.dumps(data).encode()
            sent.setdefault("Content-Type", "application/json")
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, data: Any = None, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        return self.call("POST", path, data, headers, body)

    @contextmanager
    def follow(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[Iterator[dict[str, str]]]:
        """Follow a stream: what is yielded are its events, each with what its lines say."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            yield events_of(answer)


def events_of(answer: http.client.HTTPResponse) -> Iterator[dict[str, str]]:
    said: dict[str, str] = {}
    silent = 0
    while line := answer.readline().decode():
        if line == "\n":
            if "data" in said:
                yield said
            said = {}
        elif line.startswith(":"):
            silent += 1
            assert silent < 3, "nothing came"
        else:
            name, _, value = line.rstrip("\n").partition(": ")
            said[name] = value


@contextmanager
def served(app: Pipeline, **options: Any) -> Iterator[Server]:
    """Serve an app until the block ends."""
    with running(front(app, **options)) as server:
        yield server


@contextmanager
def running(api: FastAPI) -> Iterator[Server]:
    """Run a server until the block ends."""
    port = free_port()
    config = uvicorn.Config(api, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, "the server to listen")
        yield Server(port)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


@contextmanager
def serving(broker: Broker, app: str, *options: str) -> Iterator[Server]:
    """Serve an app with the command, and end it as Ctrl-C does."""
    command = [str(Path(sys.executable).with_name("pipeline")), "-A", app, "serve", "--port", "0", *options]
    log = broker.directory / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=broker.environment(),
            cwd=broker.directory,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    try:
        wait_for(lambda: "serving http" in log.read_text() or process.poll() is not None, "the server to listen")
        found = re.search(r"serving http://127\.0\.0\.1:(\d+)", log.read_text())
        assert found, log.read_text()
        yield Server(int(found[1]))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)
