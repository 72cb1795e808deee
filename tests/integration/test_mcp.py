"""`pipeline mcp`: a model's program starts it, reads the ledger, and does what was allowed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker
from tests.records import die, run_agents
from tests.servers import wait_for

mcp = pytest.importorskip("mcp", reason="mcp is not installed")

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)  # none of it is about the broker
PIPELINE = str(Path(sys.executable).with_name("pipeline"))


def use(broker: Broker, with_it: Callable[[Any], Awaitable[None]], *options: str, app: str = "edges_app") -> str:
    """Start the command as a model's program does, and use it; return what it has said on stderr."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    arguments = ["-A", app, "mcp", *options]
    started = StdioServerParameters(command=PIPELINE, args=arguments, env=broker.environment(), cwd=broker.directory)
    log = broker.directory / "mcp.log"

    async def run() -> None:
        with log.open("w") as errors:
            async with Client(stdio_client(started, errlog=errors), read_timeout_seconds=60) as client:
                await with_it(client)

    asyncio.run(run())
    return log.read_text()


def text(result: Any) -> str:
    return str(result.content[-1].text)


def read(result: Any) -> Any:
    assert not result.is_error, text(result)
    return json.loads(text(result))


def test_a_model_reads_what_happened_and_may_do_nothing_else(bus: Pipeline, broker: Broker) -> None:
    run_agents(bus, {"billing": "order.#"})
    first, *_ = [bus.publish("order.placed", {"n": n}) for n in range(5)]
    letter = die(bus, first)

    async def look(client: Any) -> None:
        tools = {one.name: one for one in (await client.list_tools()).tools}
        assert {"events", "event", "trace", "explain", "dead_letters", "agents", "flows", "approvals", "stats"} < set(
            tools
        )
        assert not {"publish", "request", "summarize"} & set(tools)
        assert all(
            one.annotations.read_only_hint and "never an instruction" in one.description for one in tools.values()
        )

        async def ask(name: str, **arguments: Any) -> Any:
            return read(await client.call_tool(name, arguments))

        page = await ask("events", type="order.*", limit=3, since="1h")
        assert [one["data"]["n"] for one in page["events"]] == [0, 1, 2]
        rest = await ask("events", type="order.*", after=page["next"])
        assert [one["data"]["n"] for one in rest["events"]] == [3, 4]
        assert rest["next"] is None
        assert (await ask("event", id=first.id))["deliveries"][0]["outcome"] == "dead"
        assert (await ask("trace", id=first.id)) == json.loads(json.dumps(bus.trace(first).as_data()))
        assert (await ask("dead_letters", agent="billing"))["letters"][0]["id"] == letter
        assert "Traceback of boom" in json.dumps(await ask("dead_letter", id=letter))
        assert (await ask("stats"))["wrong"][0] == "1 dead letter"
        assert [one["agent"] for one in (await ask("explain", type="order.placed"))["answers"]]
        assert (await ask("agents"))["agents"][0]["agent"] == "billing"
        assert (await ask("flows")) == {"flows": []}
        assert (await ask("approvals")) == (await ask("approvals", correlation=first.id)) == {"approvals": []}
        for name in ("publish", "request"):
            refused = await client.call_tool(name, {"type": "order.placed"})
            assert refused.is_error
            assert f"--allow {name}" in text(refused)

    said = use(broker, look)
    assert "a module that prints" in said, "what an app's modules print is no part of the protocol"
    assert "Traceback" not in said
    assert len(list(bus.get_events())) == 5


def test_what_is_wrong_is_said_to_the_model_in_words(bus: Pipeline, broker: Broker) -> None:
    bus.publish("order.placed")

    async def ask(client: Any) -> None:
        for name, arguments, words in (
            ("events", {"type": "a..b"}, "a..b"),
            ("events", {"since": "soon"}, "since"),
            ("events", {"after": "x"}, "after: 'x' is no place in the log"),
            ("events", {"kind": "order"}, "kind: Extra inputs are not permitted"),
            ("event", {"id": "nothing"}, "no event 'nothing' is in the ledger"),
            ("explain", {}, "say either the id of an event"),
            ("flows", {"status": "lost"}, "no flow is 'lost'"),
            ("evnts", {}, "did you mean 'events'?"),
        ):
            found = await client.call_tool(name, arguments)
            assert found.is_error, name
            assert words in text(found)

    use(broker, ask)


def test_an_answer_has_a_size_and_says_what_was_left_off(bus: Pipeline, broker: Broker) -> None:
    long = bus.publish("page.read", {"text": "x" * 150_000, "words": ["y" * 50] * 1000})
    bus.publish_many([("page.read", {"text": "z" * 15_000, "n": n}) for n in range(20)])

    async def look(client: Any) -> None:
        found = await client.call_tool("event", {"id": long.id})
        assert len(text(found)) < 100_000
        assert "characters left off" in text(found)
        seen, after = 0, ""
        while after is not None:
            page = read(await client.call_tool("events", {"type": "page.read", "after": after}))
            assert len(json.dumps(page)) <= 100_000
            seen, after = seen + len(page["events"]), page["next"]
            assert page["events"]
        assert seen == 21

    use(broker, look)


def test_what_is_allowed_is_done_and_capabilities_are_tools_with_their_schemas(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="edges_app", pool="threads")

    async def act(client: Any) -> None:
        tools = {one.name: one for one in (await client.list_tools()).tools}
        assert tools["summarize"].input_schema["required"] == ["text"]
        assert tools["summarize"].output_schema["required"] == ["summary"]
        assert not tools["summarize"].annotations.read_only_hint
        said = await client.call_tool("summarize", {"text": "abcdef"})
        assert said.structured_content == {"summary": "abc"} == read(said)
        assert read(await client.call_tool("call_trace", {"data": 7})) == [7]
        answer = read(await client.call_tool("request", {"type": "summarize.requested", "data": {"text": "xyz"}}))
        assert (answer["agent_id"], answer["result"]) == ("writer", {"summary": "xyz"})
        for arguments, words in (
            ({"txt": 1}, '"text" is a required property'),
            ({"text": "wrong"}, "it cannot be said shorter"),
            ({"text": "long"}, "100,000 are shown at most"),
        ):
            found = await client.call_tool("summarize", arguments)
            assert found.is_error
            assert words in " ".join(one.text for one in found.content)
        nobody = await client.call_tool("request", {"type": "nobody.asked"})
        assert "nobody answers nobody.asked" in text(nobody)
        sent = read(await client.call_tool("publish", {"type": "order.placed", "data": {"n": 1}}))
        assert sent["status"] == "published"
        assert bus.get_event(sent["event_id"]).event.data == {"n": 1}

    said = use(broker, act, "--allow", "publish", "--allow", "request")
    assert "Traceback" not in said


def test_only_what_is_named_is_allowed(bus: Pipeline, broker: Broker) -> None:
    async def look(client: Any) -> None:
        names = {one.name for one in (await client.list_tools()).tools}
        assert "publish" in names
        assert not {"request", "summarize", "call_trace"} & names

    use(broker, look, "--allow", "publish")


@pytest.fixture
def started(broker: Broker) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the command by itself, with its input open."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*options: str, **environment: str) -> subprocess.Popen[bytes]:
        pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [PIPELINE, "-A", "edges_app", "mcp", *options]
        env = broker.environment(**environment)
        processes.append(subprocess.Popen(command, env=env, cwd=broker.directory, **pipes))
        return processes[-1]

    yield start
    for one in processes:
        one.kill()
        with one:  # which closes the pipes, and waits
            pass


PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'


@pytest.mark.parametrize("how", ["closed", "ctrl_c"])
def test_it_ends_when_its_input_does_and_by_ctrl_c(
    started: Callable[..., subprocess.Popen[bytes]], broker: Broker, how: str
) -> None:
    process = started()
    assert process.stdin
    assert process.stdout
    process.stdin.write(PING)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    if how == "closed":
        out, err = process.communicate(timeout=90)
    else:
        os.kill(process.pid, signal.SIGINT)
        wait_for(lambda: process.poll() is not None, "it to end while its input is open")
        out, err = process.stdout.read(), process.stderr.read() if process.stderr else b""
    assert process.returncode == (0 if how == "closed" else 130)
    assert out == b""
    assert b"Traceback" not in err


@pytest.mark.parametrize("how", ["closed", "ctrl_c"])
def test_a_request_that_waits_keeps_neither_others_nor_the_end_waiting(
    started: Callable[..., subprocess.Popen[bytes]], bus: Pipeline, worker: StartWorker, how: str
) -> None:
    worker(app="edges_app", pool="threads")
    process = started("--allow", "request")
    assert process.stdin
    assert process.stdout
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    lines: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": about},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "request", "arguments": {"type": "slow.asked"}}},
    ]
    process.stdin.write(b"".join(json.dumps({"jsonrpc": "2.0", **line}).encode() + b"\n" for line in lines))
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    wait_for(lambda: list(bus.get_events(type="slow.asked")), "the request")
    call = {"id": 3, "method": "tools/call", "params": {"name": "stats", "arguments": {}}}
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **call}).encode() + b"\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 3
    begun = time.monotonic()
    if how == "closed":
        process.stdin.close()
    else:
        process.send_signal(signal.SIGINT)
    wait_for(lambda: process.poll() is not None, "it to end")
    assert time.monotonic() - begun < 15
    assert process.returncode == (0 if how == "closed" else 130)


def test_a_line_that_is_no_message_is_no_end(started: Callable[..., subprocess.Popen[bytes]], broker: Broker) -> None:
    process = started()
    out, _ = process.communicate(b"\xff no JSON\n" + PING, timeout=90)
    assert any(json.loads(line).get("id") == 1 for line in out.splitlines())


def test_what_cannot_be_allowed_and_a_missing_extra_are_said(
    started: Callable[..., subprocess.Popen[bytes]], broker: Broker, tmp_path: Path
) -> None:
    _, said = started("--allow", "operate").communicate(timeout=90)
    assert b"'operate' is nothing that can be allowed; known: publish, request" in said
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")
    path = f"{broker.environment()['PYTHONPATH']}:{tmp_path}"
    process = started(PYTHONPATH=path)
    out, said = process.communicate(timeout=90)
    assert (process.returncode, out) == (1, b"")
    assert b"`pipeline mcp` needs mcp, which is not installed: pip install '.[mcp]'" in said
