"""A stand-in for a provider, as none can be called from here: no key, and nobody who pays.

It speaks as much of OpenAI's Responses API (POST /v1/responses) as pydantic-ai's client for `openai:NAME` uses: the
client is the real one, and the answers are checked against OpenAI's own types. What it cannot show is how good the
answers of a model are, how long they take, and what OpenAI refuses beside what stands in check().
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jsonschema import Draft202012Validator
from openai.types.responses import Response

from pipeline.examples.crew.provider import has_gone
from tests.ports import free_port

KEY = "sk-nobodys"
#: What OpenAI answers with, asked for `gpt-5`.
MODEL = "gpt-5-2025-08-07"
#: Seconds between two looks whether a client is still there.
LOOK = 0.02


@dataclass(frozen=True)
class Refusal:
    """A 429 that a request gets instead of an answer.

    Attributes:
        headers: how long it asks to wait.

    """

    headers: Mapping[str, str]
    code: str = "rate_limit_exceeded"

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": "Too many.", "type": self.code, "param": None, "code": self.code}}


@dataclass(frozen=True)
class Usage:
    """The tokens that one answer took: read, of these from the cache, and written."""

    read: int
    cached: int
    written: int


@dataclass
class Provider:
    """What the stand-in was asked, and what it has answered.

    Attributes:
        url: as OPENAI_BASE_URL takes it.
        refusals: what the next requests get, one each, but those that ask for an output and nothing else.
        is_holding: whether what follows a tool's call is held back.
        answered: what each answer took, with its idempotency key.
        refused: how many requests were told to come again.
        again: how many requests the client has sent by itself once more.
        held: the keys of the requests that wait for release().
        cut_off: how many of them have gone before.
        wrong: what was wrong with requests.
        connections: how many are open.

    """

    url: str
    refusals: list[Refusal] = field(default_factory=list)
    is_holding: bool = False
    answered: list[tuple[str, Usage]] = field(default_factory=list)
    refused: int = 0
    again: int = 0
    held: list[str] = field(default_factory=list)
    cut_off: int = 0
    wrong: list[str] = field(default_factory=list)
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """What OpenAI's client finds it by."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": KEY}

    @property
    def times(self) -> Counter[str]:
        """How often each request was answered, by its key."""
        return Counter(key for key, _ in list(self.answered))

    def release(self) -> None:
        """Hold nobody back any more."""
        self.is_holding = False

    def take(
        self, headers: Mapping[str, str], asked: dict[str, Any], client: socket.socket
    ) -> Response | Refusal | None:
        """Return the answer, or a refusal, or None when the client has gone."""
        key, goes_on = headers.get("Idempotency-Key", ""), bool(_of_type("function_call_output", asked))
        with self.lock:
            self.again += headers.get("x-stainless-retry-count", "0") != "0"
            if self.refusals and not goes_on and len(asked.get("tools", ())) != 1:
                self.refused += 1
                return self.refusals.pop(0)
            is_held = self.is_holding and goes_on
            if is_held:
                self.held.append(key)
        while is_held and self.is_holding and not has_gone(client):
            time.sleep(LOOK)
        with self.lock:
            if is_held:
                self.held.remove(key)
            if has_gone(client):
                self.cut_off += 1
                return None
            said, usage = answer(asked, len(self.answered) + 1)
            self.answered.append((key, usage))
            return said


def answer(asked: dict[str, Any], number: int) -> tuple[Response, Usage]:
    """Return the answer to a request: a call of the tool that it offers, and after that of its output's."""
    check(asked)
    tools = {tool["name"]: tool["parameters"] for tool in asked["tools"]}
    output = next(name for name in tools if name.startswith("final_result"))
    others = [name for name in tools if name != output]
    name = others[0] if others and not _of_type("function_call_output", asked) else output
    arguments = fitting(tools[name], name)
    Draft202012Validator(tools[name]).validate(arguments)
    usage = Usage(read=len(json.dumps(asked)) // 4, cached=number, written=100 + number)
    thought = {"id": f"rs_{number}", "type": "reasoning", "summary": [], "encrypted_content": f"secret {number}"}
    call = {
        "id": f"fc_{number}", "type": "function_call", "call_id": f"call_{number}", "name": name,
        "arguments": json.dumps(arguments), "status": "completed",
    }  # fmt: skip
    said = {
        "id": f"resp_{number}", "object": "response", "created_at": int(time.time()), "status": "completed",
        "model": MODEL, "output": [thought, call], "parallel_tool_calls": True, "tool_choice": asked["tool_choice"],
        "tools": asked["tools"], "error": None, "incomplete_details": None, "instructions": asked["instructions"],
        "usage": {
            "input_tokens": usage.read,
            "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
            "output_tokens": usage.written, "output_tokens_details": {"reasoning_tokens": 64},
            "total_tokens": usage.read + usage.written,
        },
    }  # fmt: skip
    return Response.model_validate(said), usage


def check(asked: dict[str, Any]) -> None:
    """Raise ValueError for what OpenAI refuses: a model's turn that comes back without its call, or its thought."""
    calls = {item["call_id"] for item in _of_type("function_call", asked)}
    if {item["call_id"] for item in _of_type("function_call_output", asked)} != calls:
        raise ValueError("No tool call found for function call output.")
    if len(_of_type("reasoning", asked)) != len(calls):
        raise ValueError("Item of type 'function_call' was provided without its required 'reasoning' item.")
    if not all(tool["type"] == "function" and tool["strict"] for tool in asked["tools"]):
        raise ValueError("A tool whose schema nothing has to fit.")


def fitting(schema: Mapping[str, Any], name: str) -> Any:
    """Return something that fits a schema, and says what it is."""
    match schema["type"]:
        case "object":
            return {key: fitting(part, key) for key, part in schema["properties"].items()}
        case "array":
            number = max(schema.get("minItems", 0), min(3, schema.get("maxItems", 3)))
            return [fitting(schema["items"], f"{name} {place}") for place in range(1, number + 1)]
        case "string":
            return f"Something about {name}"
        case kind:
            raise ValueError(f"a schema of {kind!r}")


def _of_type(kind: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [item for item in asked["input"] if isinstance(item, dict) and item.get("type") == kind]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    provider: Provider


class _Request(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    numbers = itertools.count(1)

    def setup(self) -> None:
        super().setup()
        with self.server.provider.lock:
            self.server.provider.connections += 1

    def finish(self) -> None:
        super().finish()
        with self.server.provider.lock:
            self.server.provider.connections -= 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if (self.path, self.headers["Authorization"]) != ("/v1/responses", f"Bearer {KEY}"):
                raise ValueError(f"POST {self.path} with {self.headers['Authorization']}")
            said = self.server.provider.take(self.headers, json.loads(body), self.connection)
        except Exception as exc:
            said = exc
            self.server.provider.wrong.append(f"{type(exc).__name__}: {exc}")
        match said:
            case Exception():
                self._say(400, {"error": {"message": str(said), "type": "invalid_request_error"}})
            case None:
                self.close_connection = True
            case Refusal():
                self._say(429, said.body, said.headers)
            case Response():
                self._say(200, said.model_dump(mode="json"))

    def _say(self, status: int, data: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Type": "application/json", "Content-Length": len(body)}.items():
            self.send_header(name, str(text))
        self.send_header("x-request-id", f"req_{next(self.numbers)}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(*refusals: Refusal, is_holding: bool = False) -> Iterator[Provider]:
    """Run the stand-in until the block ends."""
    port = free_port()
    with _Server(("127.0.0.1", port), _Request) as server:
        server.provider = Provider(f"http://127.0.0.1:{port}/v1", list(refusals), is_holding)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server.provider
        finally:
            server.provider.release()
            server.shutdown()
