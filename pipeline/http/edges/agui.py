"""AG-UI: a run for each correlation, whose events a page of somebody else's can show as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from ...core.errors import PipelineError
from ...core.observe import Log
from ...core.outcome import Outcome
from ...core.times import monotonic
from ...history.events import EventQuery, Wanted, end_of_log, get_events
from ...history.settle import Settled, settled
from ...history.tree import Trace
from ...ledger.waiting.approval import Proposal
from ..access import PUBLISHES, READS, App
from ..answers import encoded
from ..problems import Problem
from ..routes.events import patience
from ..routes.stream import EVERY, HEARTBEAT, PAGE, Following, Reader, Tail, entered
from .story import Seen, State, Story

if TYPE_CHECKING:
    from ...app.app import Pipeline

logger = Log(logging.getLogger(__name__))

#: Which part of the time that a run has taken passes between two looks, and the most seconds of that.
_SHARE, _LONGEST = 20, 2.0


class RunAgentInput(BaseModel):
    """What a client of AG-UI asks for; of what else it sends nothing is used."""

    model_config = ConfigDict(extra="ignore")

    threadId: str = Field(min_length=1, max_length=200)  # noqa: N815  # the protocol's words
    runId: str = Field(min_length=1, max_length=200)  # noqa: N815
    messages: list[dict[str, Any]] = Field(description="The last one of the user is what is asked.")
    resume: list[dict[str, Any]] | None = Field(None, description="Not taken: approvals have routes of their own.")


router = APIRouter(prefix="/agui", tags=["events"])


@router.get("", dependencies=[READS], response_class=StreamingResponse)
async def follow(
    app: App, request: Request, correlation: Annotated[str, Query(description="A correlation id, or an event's.")]
) -> Response:
    """Tell what happens with a correlation in the events of AG-UI, from its beginning until it has settled.

    Deliveries are steps, texts that grow are messages, and an approval that all waits for is an interrupt.
    """
    tree = await asyncio.to_thread(app.trace, correlation)
    reader = Reader(Wanted(correlation=tree.correlation))
    tail = entered(request, reader)
    return Following(tail, reader, _telling(app, tail, reader, Story(tree.correlation, tree.correlation)))


@router.post("", dependencies=[READS, PUBLISHES], response_class=StreamingResponse)
async def run(
    app: App,
    request: Request,
    asked: RunAgentInput,
    type: Annotated[str, Query(description="The type of the event that is published.")],
) -> Response:
    """Publish an event of the user's last message, `{"text": ...}`, and tell what it causes in the events of AG-UI."""
    if asked.resume:
        raise Problem(422, "resume: decide with POST /approvals/ID/approve or /veto, and follow again", field="resume")
    metadata = {"thread_id": asked.threadId, "run_id": asked.runId}
    data = {"text": _last_of_user(asked.messages)}
    _ = app.ledger  # or say that there is none, before anything is published
    reader = Reader(Wanted(correlation=""))  # that is nobody's
    tail = entered(request, reader)
    try:
        event = await app.apublish(type, data, timeout=patience(app), metadata=metadata)
    except BaseException:
        tail.leave(reader)
        raise
    reader.wanted = Wanted(correlation=event.correlation_id)
    return Following(tail, reader, _telling(app, tail, reader, Story(asked.threadId, asked.runId)))


def _last_of_user(messages: Sequence[dict[str, Any]]) -> str:
    """Return the text of the user's last message; raise Problem where there is none."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
            texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
            if texts and all(isinstance(text, str) for text in texts):
                return "".join(map(str, texts))
            break
    raise Problem(422, "messages: the user's last message has no text", field="messages")


async def _telling(app: Pipeline, tail: Tail, reader: Reader, story: Story) -> AsyncIterator[bytes]:
    """Yield the events of a run as they are written on the wire, until it is over."""
    began = last = monotonic()
    correlation = reader.wanted.correlation or ""
    try:
        await tail.listen(reader)
        yield _written(story.begin())
        while not tail.is_over:
            reader.forget()  # it only wakes this: what has come is read from the ledger
            at = monotonic()
            found = story.tell(await asyncio.to_thread(_look, app, story, correlation))
            took = monotonic() - at
            if found:
                last = monotonic()
                yield _written(found)
            if story.is_over:
                return
            if monotonic() - last > HEARTBEAT:
                last = monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(min(took, _LONGEST))  # a large run is not looked at all the time
            await _something(reader, min(max(EVERY, (monotonic() - began) / _SHARE), _LONGEST))
    except PipelineError as exc:  # the answer has begun
        logger.warning("a reader of a run was let go: %s", exc)
        yield _written([{"type": "RUN_ERROR", "message": "the ledger cannot be read now", "code": "away"}])
    finally:
        tail.leave(reader)


async def _something(reader: Reader, seconds: float) -> None:
    """Wait until there is something for a reader, or some time has passed."""
    try:
        await asyncio.wait_for(reader.waiting.get(), seconds)
    except TimeoutError:
        return


def _look(app: Pipeline, story: Story, correlation: str) -> Seen:
    """Return what is new of a run, and how it stands."""
    ledger = app.ledger
    tree = app.trace(correlation)
    states = [settled(ledger, root.id) for root in tree.roots]  # before the rest: what is done has said all by then
    state, waits_for = _state(app, tree, states)
    end, query = end_of_log(ledger), EventQuery(correlation=correlation, after=story.place)
    found = list(islice(get_events(ledger, query), PAGE))
    records = [one for one in found if one.position <= end]  # before the others one may still appear
    notices = ledger.notices.of(correlation, story.heard)
    all_of_it = len(records) < PAGE and len(records) == len(found)  # else the next look has more
    return Seen(records, notices, tree, state if all_of_it else "open", waits_for)


def _state(app: Pipeline, tree: Trace, states: Sequence[Settled]) -> tuple[State, list[Proposal]]:
    if all(states):
        stopped = any(one.outcome is Outcome.CANCELLED for event in tree for one in event.deliveries)
        is_stopped = (
            stopped and app.ledger.waiting.trees.cancellation(app.get_event(tree.roots[0].id).event) is not None
        )
        return "cancelled" if is_stopped else "settled", []
    still = [one for each in states for _, one in each.deliveries]
    others = any(one.unsent or one.timers or one.undelivered for one in states)
    if others or not still or any(one.outcome is not Outcome.PARKED for one in still):
        return "open", []
    asked_by = {event.id: event.delivery for event in tree}
    waiting = {one.id for one in still}
    asked = app.ledger.waiting.approvals.find(correlation=tree.correlation, limit=None)
    pending = [one for one in asked if asked_by.get(one.event) in waiting]
    return ("waiting", pending) if {asked_by[one.event] for one in pending} == waiting else ("open", [])


def _written(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + encoded(one) + b"\n\n" for one in events)
