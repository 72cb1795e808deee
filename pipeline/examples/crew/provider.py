"""A provider that only pretends: it answers like a model, over HTTP, counts what it is paid for, and has a bad day.

Its client is pydantic-ai's FunctionModel, and fails as those of real providers do: with a ModelHTTPError.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any

#: Millionths for a token that is read, and for one that is written.
PRICES = (3, 15)
#: Seconds that an answer takes, that a 429 asks to wait, and between two looks whether a client is still there.
LATENCY, PAUSE, LOOK = 0.3, 2.5, 0.02
#: Seconds after which a client gives up.
TIMEOUT = 60.0


def think(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the tool that a model would call, with its arguments: to look something up, or to give its answer."""
    prompt, wanted = asked["prompt"], asked["wanted"]
    if "questions" in wanted:
        parts = [part for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", prompt) if part.strip()]
        return {"tool": asked["output"], "args": {"questions": [f"What are {part.strip()}?" for part in parts[:5]]}}
    if "answer" in wanted and asked["found"] is None:
        return {"tool": asked["tools"][0], "args": {"query": prompt}}
    if "answer" in wanted:
        first_two = re.split(r"(?<=[.!?])\s+", asked["found"])[:2]
        return {"tool": asked["output"], "args": {"answer": " ".join(first_two)}}
    topic, _, findings = prompt.partition("\n\n")
    return {"tool": asked["output"], "args": {"subject": f"About {topic}", "text": findings}}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with what it took: a token for each four characters, as a rule of thumb."""
    thought = think(asked)
    read, written = len(json.dumps(asked)) // 4 + 1, len(json.dumps(thought)) // 4 + 1
    return {**thought, "read": read, "written": written, "cost": read * PRICES[0] + written * PRICES[1]}


# -- the client


def client() -> Any:
    """Return the model as pydantic-ai takes it; without a server (CREW_PROVIDER_URL) it answers by itself."""
    from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel
    from pydantic_ai.usage import RequestUsage

    def ask(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        parts = [part for message in messages for part in message.parts]
        (output,) = info.output_tools
        asked = {
            "instructions": info.instructions,
            "prompt": next(str(part.content) for part in parts if isinstance(part, UserPromptPart)),
            "found": next((str(part.content) for part in parts if isinstance(part, ToolReturnPart)), None),
            "tools": [tool.name for tool in info.function_tools],
            "output": output.name,
            "wanted": sorted(output.parameters_json_schema["properties"]),
        }
        url = os.environ.get("CREW_PROVIDER_URL")
        said = _post(url, asked, dict((info.model_settings or {}).get("extra_headers") or {})) if url else answer(asked)
        usage = RequestUsage(
            input_tokens=said["read"], output_tokens=said["written"], cost=Decimal(said["cost"]) / 1_000_000
        )
        return ModelResponse(parts=[ToolCallPart(said["tool"], said["args"])], usage=usage)

    return FunctionModel(ask, model_name="pretended")


def _post(url: str, asked: dict[str, Any], headers: dict[str, str]) -> Any:
    from pydantic_ai.exceptions import ModelHTTPError

    request = urllib.request.Request(url, json.dumps(asked).encode(), headers)  # noqa: S310  # our own address
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            return json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            raise ModelHTTPError(exc.code, "pretended", exc.reason, headers=dict(exc.headers)) from None


# -- the server


@dataclass(frozen=True)
class Call:
    """A call that was answered, and has to be paid for.

    Attributes:
        key: its idempotency key.
        cost: in millionths.

    """

    key: str
    tokens: int
    cost: int


@dataclass
class Provider:
    """What the provider has done, and what goes wrong: the first search is refused, and the first answer held back.

    Attributes:
        url: its address, as CREW_PROVIDER_URL takes it.
        answered: the calls that have to be paid for.
        refused: how many calls were told to come again later.
        held: the calls that wait for their answer, until release().
        cut_off: the calls whose client has gone before.

    """

    url: str
    answered: list[Call] = field(default_factory=list)
    refused: int = 0
    held: list[str] = field(default_factory=list)
    cut_off: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _until: float | None = None
    _is_holding: bool = False
    _is_released: bool = False

    @property
    def times(self) -> Counter[str]:
        """How often each call was answered, by its key."""
        return Counter(call.key for call in list(self.answered))

    def release(self) -> None:
        """Hold nobody back any more."""
        self._is_released = True

    def take(self, key: str, asked: dict[str, Any], client: socket.socket) -> dict[str, Any] | float | None:
        """Return the answer, the seconds until the client may come again, or None when it has gone."""
        with self._lock:
            if (seconds := self._refusal(asked)) > 0:
                self.refused += 1
                return seconds
            self._is_holding = not self._is_released and (self._is_holding or asked["found"] is not None)
            if not self._is_holding:
                return self._answered(key, asked)
            self.held.append(key)
        while not self._is_released and not has_gone(client):
            sleep(LOOK)
        with self._lock:
            self.held.remove(key)
            if has_gone(client):
                self.cut_off += 1
                return None
            return self._answered(key, asked)

    def _refusal(self, asked: dict[str, Any]) -> float:
        """Return how long a call has to wait: from the first search on, all calls for a while."""
        if self._until is None and asked["tools"]:
            self._until = monotonic() + PAUSE
        return (self._until or 0.0) - monotonic()

    def _answered(self, key: str, asked: dict[str, Any]) -> dict[str, Any]:
        said = answer(asked)
        self.answered.append(Call(key, said["read"] + said["written"], said["cost"]))
        return said


def has_gone(client: socket.socket) -> bool:
    """Say whether whoever has called has hung up."""
    try:
        return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    provider: Provider


class _Request(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:  # as http.server calls it
        """Answer one call."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = self.server.provider.take(self.headers.get("Idempotency-Key", ""), asked, self.connection)
        if said is None:
            return
        if isinstance(said, float):
            self.send_response(429)
            self.send_header("Retry-After", f"{said:.2f}")
            self.end_headers()
            return
        sleep(LATENCY)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Provider]:
    """Run a provider in threads."""
    with _Server(("127.0.0.1", 0), _Request) as server:
        provider = server.provider = Provider(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield provider
        finally:
            provider.release()
            server.shutdown()
