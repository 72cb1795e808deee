"""A2A: a card that tells agents of others what the agents here can do, and the one method by which they may ask.

Source: https://a2a-protocol.org/latest/specification/, version 1.0: JSON-RPC, with a message as the answer.
"""

from __future__ import annotations

from asyncio import to_thread
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ...app.overview import capabilities_of
from ...core.errors import PipelineError, nearest
from ..access import PUBLISHES, READS, App
from ..answers import Json
from ..problems import problem_of
from ..routes.agents import MOST_PATIENCE

if TYPE_CHECKING:
    from ...app.app import Pipeline
    from ...contracts.capability import Capability

VERSION = "1.0"
#: What a message and an answer may be.
_MODES = ["application/json", "text/plain"]
#: JSON-RPC's codes: no such method, wrong parameters, and something else that is wrong.
_METHOD, _PARAMS, _INTERNAL = -32601, -32602, -32603
#: A2A's codes: there is no such task, and what is not done here.
_NO_TASK, _UNSUPPORTED = -32001, -32004
#: Methods of the protocol about tasks, of which there are none here: an answer is a message.
_OF_TASKS = ("GetTask", "CancelTask", "SubscribeToTask")
_NOT_HERE = ("SendStreamingMessage", "ListTasks", "GetExtendedAgentCard")


class Called(BaseModel):
    """A call by JSON-RPC 2.0."""

    model_config = ConfigDict(extra="ignore")

    jsonrpc: str = Field(pattern="^2\\.0$")
    id: str | int | None = None
    method: str
    params: dict[str, Any] = {}


router = APIRouter(tags=["agents"], default_response_class=Json)


@router.get("/.well-known/agent-card.json", dependencies=[READS])
def card(app: App, request: Request) -> Response:
    """Return the A2A agent card: a skill for each capability, and where to ask."""
    return Json(_card(app, f"{str(request.base_url).rstrip('/')}/a2a", asks=request.app.state.access.asks))


@router.post("/a2a", dependencies=[PUBLISHES])
async def call(app: App, called: Called) -> Response:
    """Answer A2A's SendMessage: ask the freest agent with the skill, and return what it returns as a message."""
    try:
        answer: dict[str, Any] = {"result": {"message": await _sent(app, called)}}
    except _Refused as exc:
        answer = {"error": {"code": exc.code, "message": str(exc)}}
    except PipelineError as exc:
        problem = problem_of(exc)
        if problem.status in (429, 503):  # whose answer says when to try again
            raise
        answer = {"error": {"code": _PARAMS if problem.status == 422 else _INTERNAL, "message": problem.detail}}
    return Json({"jsonrpc": "2.0", "id": called.id, **answer})


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def _sent(app: Pipeline, called: Called) -> dict[str, Any]:
    """Return the message that answers one."""
    if called.method in _OF_TASKS:
        raise _Refused(_NO_TASK, "there are no tasks here: SendMessage waits, and is answered by a message")
    if called.method in _NOT_HERE or "PushNotification" in called.method:
        raise _Refused(_UNSUPPORTED, f"{called.method} is not done here; SendMessage is")
    if called.method != "SendMessage":
        raise _Refused(_METHOD, f"there is no method {called.method!r}; SendMessage is the one that is done here")
    message = called.params.get("message")
    if not isinstance(message, dict):
        raise _Refused(_PARAMS, "params.message: there is none")
    skill = await to_thread(_skill, app, message)
    try:
        data = _data(message)
    except RecursionError:
        raise _Refused(_PARAMS, "message.parts: the data is nested too deeply") from None
    found = await app.acall(skill.id, data, timeout=min(skill.timeout, MOST_PATIENCE))
    shown = {"text": found.result} if isinstance(found.result, str) else {"data": found.result}
    given = message.get("contextId")
    context = {"contextId": given} if isinstance(given, str) else {}
    about = {"skill": skill.id, "agent": found.agent_id, "event": found.original_event_id}
    return {"messageId": found.response_id, "role": "ROLE_AGENT", "parts": [shown], **context, "metadata": about}


def _skill(app: Pipeline, message: dict[str, Any]) -> Capability:
    """Return what is asked for: A2A leaves to the agent which of its skills that is, so here the metadata names it."""
    known = capabilities_of(app)
    about = message.get("metadata")
    wanted = about.get("skill") if isinstance(about, dict) else None
    if wanted is None and len(known) == 1:
        return next(iter(known.values()))
    if not isinstance(wanted, str) or wanted not in known:
        raise _Refused(_PARAMS, f"message.metadata.skill: {wanted!r} is no skill; {nearest(str(wanted or ''), known)}")
    return known[wanted]


def _data(message: dict[str, Any]) -> Any:
    """Return what a message has for an agent: its one part with data, or all its text."""
    parts = message.get("parts")
    parts = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    data = [part["data"] for part in parts if "data" in part]
    if len(data) == 1 == len(parts):
        return _whole(data[0])
    texts = [part.get("text") for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise _Refused(_PARAMS, "message.parts: send one part with data, or texts alone")
    return {"text": "\n".join(map(str, texts))}


def _whole(data: Any) -> Any:
    """Return JSON data with whole numbers as such: what has passed through a protobuf Struct has none."""
    if isinstance(data, float) and data.is_integer() and abs(data) < 2**53:
        return int(data)
    if isinstance(data, dict):
        return {name: _whole(value) for name, value in data.items()}
    return [_whole(value) for value in data] if isinstance(data, list) else data


def _card(app: Pipeline, url: str, *, asks: bool) -> dict[str, Any]:
    """Return the card.

    Arguments:
        url: where to ask.
        asks: whether callers need a token.

    """
    from ... import __version__

    name = app.source.strip("/") or "pipeline"
    shown: dict[str, Any] = {
        "name": name,
        "description": f"The agents of {name}, on an event bus. Name a skill as `skill` in the metadata of a message.",
        "version": __version__,
        "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": VERSION}],
        "capabilities": {"streaming": False, "pushNotifications": False},
        "defaultInputModes": _MODES,
        "defaultOutputModes": _MODES,
        "skills": [_shown(one) for one in capabilities_of(app).values()],
    }
    if asks:
        shown["securitySchemes"] = {"token": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}}
        shown["securityRequirements"] = [{"schemes": {"token": {"list": []}}}]
    return shown


def _shown(one: Capability) -> dict[str, Any]:
    words = [
        f"{verb} JSON that fits {orjson.dumps(schema).decode()}."
        for verb, schema in (("Takes", one.input), ("Returns", one.output))
        if schema is not None
    ]
    described = " ".join([f"Does {one.id}.", *words])
    return {"id": one.id, "name": one.id, "description": described, "tags": list(one.specializations) or [one.id]}
