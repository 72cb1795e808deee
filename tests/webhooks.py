"""A server that webhooks call, as strict or as slow as a test wants it, and what it was called with."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers import wait_for

#: What a worker needs to call this machine.
NEARBY = {"PIPELINE_WEBHOOK_NETWORKS": '["127.0.0.0/8", "::1/128"]'}


@dataclass(frozen=True)
class Call:
    """One call."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]

    @property
    def data(self) -> Any:
        return self.event["data"]

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Hook:
    """What was called, and what is answered: the next of `answers`, then `usual`.

    An answer is (status, headers, body).
    """

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    answers: deque[tuple[int, dict[str, str], bytes]] = field(default_factory=deque)
    usual: tuple[int, dict[str, str], bytes] = (204, {}, b"")
    #: Calls wait for it before they are answered.
    gate: threading.Event = field(default_factory=threading.Event)
    running: int = 0
    most: int = 0
    #: What went wrong here, beside callers that are dead.
    errors: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def seen(self, path: str = "/hook") -> list[Call]:
        with self.lock:
            return [call for call in self.calls if call.path == path]

    def data(self, name: str = "n", path: str = "/hook") -> list[Any]:
        return [call.data[name] for call in self.seen(path)]

    def wait(self, number: int, seconds: float = 60.0, path: str = "/hook") -> list[Call]:
        wait_for(lambda: len(self.seen(path)) >= number, lambda: f"{number} calls of {path}; {self.errors=}", seconds)
        return self.seen(path)

    def count(self) -> Counter[str]:
        return Counter(call.id for call in self.calls)


def _handler(hook: Hook) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(self.path, headers, body)
            with hook.lock:
                hook.calls.append(call)
                hook.running += 1
                hook.most = max(hook.most, hook.running)
                status, more, text = hook.answers.popleft() if hook.answers else hook.usual
            hook.gate.wait(60)
            with hook.lock:
                hook.running -= 1
            try:
                self.send_response(status)
                for name, value in {"content-length": str(len(text)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)
            except OSError:  # who has called is dead
                self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    return Handler


@contextmanager
def hooked() -> Iterator[Hook]:
    """Run a server on a free port of this machine."""
    hook = Hook()
    hook.gate.set()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 200

        def handle_error(self, *_: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # whoever calls may hang up
                hook.errors.append(traceback.format_exc())

    server = Server(("127.0.0.1", 0), _handler(hook))
    hook.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hook
        assert not hook.errors, "\n".join(hook.errors)
    finally:
        hook.gate.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
