"""A2A: the card is one that the protocol's own package reads, and its client asks by it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.http import new_token
from tests.harness import Broker, StartWorker
from tests.http import Server, served
from tests.servers import wait_for

pytest.importorskip("a2a", reason="a2a-sdk is not installed")

pytestmark = pytest.mark.parametrize("broker", ["embedded"], indirect=True)  # none of it is about the broker
CARD = "/.well-known/agent-card.json"


@pytest.fixture
def server(bus: Pipeline, worker: StartWorker) -> Iterator[Server]:
    """A server that knows no agents, but for those that a worker runs."""
    worker(app="edges_app", pool="threads")
    wait_for(lambda: len(bus.presence.agents()) == 5, "the agents to be there")
    with served(bus) as one:
        yield one


def ask(server: Server, *parts: Any, skill: str | None) -> Any:
    """Ask as others do: with the card from where it lies, and the client that it leads to."""
    from a2a.client import create_client
    from a2a.types import Message, Role, SendMessageRequest

    async def run() -> Any:
        message = Message(message_id="m1", context_id="c1", role=Role.ROLE_USER, parts=parts)
        if skill is not None:
            message.metadata["skill"] = skill
        client = await create_client(server.url)
        try:
            (answer,) = [one async for one in client.send_message(SendMessageRequest(message=message))]
        finally:
            await client.close()
        return answer.message

    return asyncio.run(run())


def test_the_card_is_one_of_the_protocol_and_tells_what_agents_can_do(server: Server, bus: Pipeline) -> None:
    from a2a.types import AgentCard
    from google.protobuf.json_format import ParseDict

    told = server.get(CARD)
    card = ParseDict(told.data, AgentCard())  # which knows each name, or raises
    assert card.name == "publisher"
    assert [(one.url, one.protocol_binding) for one in card.supported_interfaces] == [(f"{server.url}/a2a", "JSONRPC")]
    assert not card.capabilities.streaming
    skills = {one.id: one for one in card.skills}
    assert set(skills) == {"summarize", "trace"}
    assert list(skills["summarize"].tags) == ["law"]
    assert '"required":["text"]' in skills["summarize"].description
    assert all(one.name and one.description and one.tags for one in card.skills)
    assert not card.security_schemes


def test_the_protocols_client_asks_an_agent_and_has_its_answer(server: Server, bus: Pipeline) -> None:
    from a2a.helpers.proto_helpers import new_data_part, new_text_part
    from google.protobuf.json_format import MessageToDict

    said = MessageToDict(ask(server, new_text_part("abcdef"), skill="summarize"))
    assert (said["role"], said["contextId"], said["parts"]) == ("ROLE_AGENT", "c1", [{"data": {"summary": "abc"}}])
    assert bus.get_event(said["metadata"]["event"]).event.type == "summarize.requested"
    said = MessageToDict(ask(server, new_data_part({"text": "xyz"}), skill="summarize"))
    assert said["parts"] == [{"data": {"summary": "xyz"}}]
    said = MessageToDict(ask(server, new_data_part({"n": 7}), skill="trace"))
    (event,) = bus.get_events(type="trace.requested")
    assert said["parts"] == [{"data": [{"n": 7.0}]}]
    assert isinstance(event.event.data["n"], int), "a protobuf Struct knows no whole numbers, and agents do"


def test_what_is_wrong_is_an_error_that_the_client_raises(server: Server) -> None:
    from a2a.client.errors import A2AClientError
    from a2a.helpers.proto_helpers import new_data_part, new_text_part
    from a2a.utils.errors import InternalError, InvalidParamsError

    for part, skill, error, words in (
        (new_text_part("x"), "sumarize", InvalidParamsError, "did you mean 'summarize'"),
        (new_text_part("x"), None, InvalidParamsError, "known: summarize, trace"),
        (new_data_part({"txt": 1}), "summarize", InvalidParamsError, '"text" is a required property'),
        (new_text_part("wrong"), "summarize", InternalError, "it cannot be said shorter"),
    ):
        with pytest.raises((error, A2AClientError), match=words):
            ask(server, part, skill=skill)
    for method, code in (("GetTask", -32001), ("SendStreamingMessage", -32004), ("Nonsense", -32601)):
        said = server.post("/a2a", {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"id": "t"}}).data
        assert (said["id"], said["error"]["code"]) == (7, code)
    nested: Any = 1
    for _ in range(900):
        nested = [nested]
    deep = {"parts": [{"data": nested}], "metadata": {"skill": "trace"}}
    for message in ({}, {"parts": []}, {"parts": [{"url": "http://x"}], "metadata": {"skill": "trace"}}, deep):
        call = {"jsonrpc": "2.0", "id": "a", "method": "SendMessage", "params": {"message": message}}
        assert server.post("/a2a", call).data["error"]["code"] == -32602
    assert server.post("/a2a", {"jsonrpc": "1.0", "method": "SendMessage"}).status == 422


def test_the_card_needs_the_scope_read_and_says_that_a_token_is_needed_to_ask(bus: Pipeline, broker: Broker) -> None:
    made = [new_token(scope, [scope]) for scope in ("read", "publish")]
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {}}
    with served(bus, tokens=[kept for _, kept in made]) as server:
        read, publish = ({"Authorization": f"Bearer {text}"} for text, _ in made)
        assert [server.call("GET", CARD, headers=one).status for one in (read, publish, {})] == [200, 403, 401]
        assert [server.post("/a2a", call, headers=one).status for one in (read, publish, {})] == [403, 200, 401]
        card = server.call("GET", CARD, headers=read).data
        assert card["securitySchemes"]["token"]["httpAuthSecurityScheme"]["scheme"] == "Bearer"
        assert card["skills"] == []
