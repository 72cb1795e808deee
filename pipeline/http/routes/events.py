"""Routes about events: publish them, read the log, follow what an event has caused, ask who would get it."""

from __future__ import annotations

import re
from asyncio import to_thread
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ...core.errors import InvalidEvent, UnknownEvent
from ...core.event import Event, new_event
from ...history.events import EventQuery, get_events, place_of, read_place
from ...history.inspection import deliveries_of
from ..access import OPERATES, PUBLISHES, READS, App
from ..answers import Json, Limit, base_of
from ..problems import Problem, invalid, problem_of

if TYPE_CHECKING:
    from ...app.app import Pipeline

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
#: Seconds for which the broker is waited for; with a ledger the event is accepted after that all the same.
PATIENCE = 1.5
#: Attributes that are numbers; in headers everything is a text.
_NUMBERS = ("priority", "hops")
#: Events in a batch.
MOST_IN_BATCH = 1000
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_TIME: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)
_JSON = re.compile(r"application/(?:[\w.-]+\+)?json", re.IGNORECASE)


class Publish(BaseModel):
    """An event to be published, as plain JSON; its id, source and time are given to it."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="The event's type, such as order.placed.")
    data: Any = Field(None, description="Any JSON value; one that fits the class where the app has one for the type.")
    priority: int | None = Field(None, ge=1, le=10, description="1 (most urgent) to 10; default 5.")
    correlation_id: str | None = Field(None, description="Joins it to other events; default its own id.")
    subject: str | None = Field(None, description="What it is about: it belongs to that history.")
    targets: tuple[str, ...] = Field((), description="The only agents that may receive it.")
    metadata: dict[str, Any] | None = Field(None, description="What everything that it causes inherits.")
    budget: dict[str, int] | None = Field(None, description="What all of its correlation may spend.")
    delay: float | None = Field(None, gt=0, description="Seconds until it is published.")
    at: AwareDatetime | None = Field(None, description="When it is published.")


class Fork(BaseModel):
    """What is other about an event that is published once more, as a new one."""

    model_config = ConfigDict(extra="forbid")

    data: Any = Field(None, description="Other data.")
    agent: str | None = Field(None, description="The only agent that gets it.")
    type: str | None = Field(None, description="Another event type.")
    subject: str | None = Field(None, description="Another subject; empty for none.")
    metadata: dict[str, Any] | None = Field(None, description="Other metadata, in place of all that it has.")


class Published(BaseModel):
    """What has become of an event.

    Attributes:
        event_id: what the ledger knows it by.
        status: published; accepted, when it is in the ledger and the broker gets it as soon as it can; or scheduled,
            when it is to be published later.

    """

    event_id: str
    status: str


class PublishedBatch(BaseModel):
    """What has become of the events of a batch, in their order."""

    events: list[Published]


_EVENT = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {name: {"type": "string"} for name in ("specversion", "id", "source", "type")},
}
_BODIES = {
    "required": True,
    "content": {
        "application/json": {"schema": Publish.model_json_schema()},
        STRUCTURED: {"schema": _EVENT},
        BATCH: {"schema": {"type": "array", "items": _EVENT}},
    },
}


class Question(BaseModel):
    """An event that is not published, for those who want to know who would get it."""

    model_config = ConfigDict(extra="forbid")

    type: str
    data: Any = None
    metadata: dict[str, Any] | None = None
    where: dict[str, Any] | None = Field(
        None, description="Agents' names, each with a filter tried instead of its own."
    )


router = APIRouter(tags=["events"], default_response_class=Json)


@router.post(
    "/events",
    dependencies=[PUBLISHES],
    status_code=201,
    response_model=Published | PublishedBatch,
    responses={
        202: {"model": Published | PublishedBatch, "description": "Kept in the ledger; the broker gets it later."}
    },
    openapi_extra={"requestBody": _BODIES},
)
async def publish(app: App, request: Request) -> Response:
    """Publish an event: as plain JSON, or as a CloudEvent in structured, binary or batched form.

    A CloudEvent keeps its id and source, and is published once however often it is sent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if kind == BATCH:
        return await to_thread(_publish_batch, app, body)
    if kind == STRUCTURED or "ce-specversion" in request.headers:
        event = foreign(app, body if kind == STRUCTURED else _from_headers(request, kind, body))
        return _published(request, await app.apublish(event, timeout=patience(app)))
    if kind and not _JSON.fullmatch(kind):
        raise Problem(415, f"{kind}: events are JSON; send application/json or {STRUCTURED}", "unknown-media-type")
    try:
        wanted = Publish.model_validate_json(body)
    except ValidationError as exc:
        raise invalid(exc.errors(), "invalid-event") from None
    options = wanted.model_dump(exclude={"type", "data"}, exclude_defaults=True)
    event = await app.apublish(wanted.type, wanted.data, timeout=patience(app), **options)
    if wanted.delay is not None or wanted.at is not None:  # until then it is in no log, and has no place of its own
        return Json({"event_id": event.key, "status": "scheduled"}, 202)
    return _published(request, event)


@router.get("/events", dependencies=[READS])
def read(
    app: App,
    type: Annotated[str | None, Query(description="A topic pattern, such as order.*")] = None,
    correlation: str | None = None,
    agent: Annotated[str | None, Query(description="Whose history: an agent, or a subject.")] = None,
    metadata: Annotated[list[str], Query(description="NAME=VALUE; repeatable.")] = [],  # noqa: B006  # it is copied
    since: Annotated[str | None, Query(description="A time with its zone, or a number of the log.")] = None,
    up_to: str | None = None,
    replayed: bool = False,
    after: Annotated[str, Query(description="What `next` of the page before says.")] = "",
    limit: Limit = 100,
) -> Response:
    """Return events of the log, the oldest first, page by page."""
    query = EventQuery(
        None if agent is None else app.agents.history_of(agent),
        type,
        correlation,
        moment_of("since", since),
        moment_of("up_to", up_to),
        replayed,
        limit + 1,
        _pairs(metadata),
        read_place(after),
    )
    found = list(islice(get_events(app.ledger, query), limit + 1))
    more = len(found) > limit
    shown = [one.as_answer() for one in found[:limit]]
    return Json({"events": shown, "next": place_of(found[limit - 1].position) if more else None})


@router.get("/events/{id}", dependencies=[READS])
def event(app: App, id: str) -> Response:
    """Return one event with its deliveries."""
    record = app.get_event(id)
    return Json({**record.as_answer(), "deliveries": [one.as_data() for one in deliveries_of(app.ledger, id)]})


@router.delete("/events/{id}", dependencies=[OPERATES])
def cancel(app: App, id: str) -> Response:
    """Take back an event that is to be published later."""
    take_back(app, id)
    return Json({"event_id": id, "status": "cancelled"})


@router.get("/events/{id}/trace", dependencies=[READS])
def trace(app: App, id: str) -> Response:
    """Return what an event, or a correlation, has caused, as a tree: deliveries, and what they have emitted."""
    return Json(app.trace(id).as_data())


@router.get("/events/{id}/explain", dependencies=[READS])
def explain(app: App, id: str) -> Response:
    """Return for each agent whether an event is for it, and each condition with the value that it saw."""
    return Json({"answers": [one.as_data() for one in app.explain(app.get_event(id).event)]})


@router.post("/explain", dependencies=[READS])
def explain_other(app: App, question: Question) -> Response:
    """Return the same for an event that is not published, or with other filters."""
    event = unpublished(app, question.type, question.data, question.metadata)
    return Json({"answers": [one.as_data() for one in app.explain(event, where=question.where)]})


@router.post("/events/{id}/fork", dependencies=[READS, PUBLISHES], status_code=201, response_model=Published)
def fork(app: App, request: Request, id: str, wanted: Fork) -> Response:
    """Publish an event of the log as a new one, edited where wanted; what it causes is a tree of its own."""
    return _published(request, app.fork(id, timeout=patience(app), **wanted.model_dump(exclude_unset=True)))


# -- how events come in


def _publish_batch(app: Pipeline, body: bytes) -> Response:
    """Publish all events of a batch, or none when one of them is wrong."""
    try:
        bodies = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise Problem(422, f"the batch is no JSON: {exc}", "invalid-event") from None
    if not isinstance(bodies, list):
        raise Problem(422, "a batch is a list of events", "invalid-event")
    if len(bodies) > MOST_IN_BATCH:
        raise Problem(413, f"the batch has {len(bodies):,} events, and may have {MOST_IN_BATCH:,}", "batch-too-large")
    events = []
    for number, one in enumerate(bodies):
        try:
            events.append(foreign(app, orjson.dumps(one)))
        except TypeError as exc:  # it is nested too deeply
            raise Problem(422, f"[{number}]: {exc}", "invalid-event", field=f"[{number}]") from None
        except InvalidEvent as exc:
            raise problem_of(exc, f"[{number}]") from None
    found = app.publish_many(events, timeout=patience(app))
    status = 201 if all(event.sent for event in found) else 202
    return Json({"events": [said(event) for event in found]}, status)


def foreign(app: Pipeline, body: bytes) -> Event:
    """Return another program's event as it came; raise InvalidEvent that names the wrong field."""
    event = Event.decode(body, None)
    app.check(event)
    return event


def _from_headers(request: Request, kind: str, body: bytes) -> bytes:
    """Return a CloudEvent in binary form as JSON: its attributes are headers, percent-encoded, and its data the body.

    Source: CloudEvents, HTTP Protocol Binding 1.0.2, section 3.1.
    """
    attributes: dict[str, Any] = {
        name[3:]: unquote(value) for name, value in request.headers.items() if name.startswith("ce-")
    }
    for name in _NUMBERS:
        if attributes.get(name, "").isdecimal():
            attributes[name] = int(attributes[name])
    if body:
        if kind and not _JSON.fullmatch(kind):
            raise Problem(415, f"{kind}: the data of events is JSON", "unknown-media-type")
        attributes["datacontenttype"] = kind or "application/json"
        try:
            attributes["data"] = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise Problem(422, f"data: it is no JSON: {exc}", "invalid-event", field="data") from None
    return orjson.dumps(attributes)


def _published(request: Request, event: Event) -> Response:
    return Json(said(event), 201 if event.sent else 202, {"Location": f"{base_of(request)}/events/{event.key}"})


def said(event: Event) -> dict[str, str]:
    """Return what has become of an event, as an answer has it."""
    return {"event_id": event.key, "status": "published" if event.sent else "accepted"}


def patience(app: Pipeline) -> float:
    """Return the seconds for which the broker is waited for."""
    return min(PATIENCE, app.bus.settings.publish_timeout)


# -- how events go out


def moment_of(name: str, given: str | int | None) -> datetime | int | None:
    """Return the place in the log that is given as a number, or a time; raise Problem for what is neither."""
    text = None if given is None else str(given)
    if text is None or (text.isdecimal() and len(text) < 19):
        return None if text is None else int(text)
    try:
        return _TIME.validate_python(text if _DAY.match(text) else "")  # pydantic takes any number for seconds
    except ValidationError:
        raise Problem(
            422, f"{name}: {text!r} is neither a time with its zone nor a number of the log", field=name
        ) from None


def take_back(app: Pipeline, id: str) -> None:
    """Take back an event that is to be published later; raise UnknownEvent for one that is not."""
    if not app.cancel(id):
        raise UnknownEvent(
            f"no event {id!r} is due later: it was published or cancelled, or never there; "
            f"POST /trees/{id}/cancel stops what it has caused"
        )


def unpublished(app: Pipeline, type: str, data: Any, metadata: dict[str, Any] | None = None) -> Event:
    """Return an event as it would be published, for those who ask who would get it; raise InvalidEvent."""
    return new_event(type, data, source=app.source, metadata=metadata, version=app.types.newest(type))


def _pairs(texts: list[str]) -> dict[str, str] | None:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise Problem(422, f"metadata: {text!r} is not NAME=VALUE", field="metadata")
        pairs[name] = value
    return pairs or None
