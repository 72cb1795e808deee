"""Views of the log: the newest events, one with all that it has caused, and sending one."""

from __future__ import annotations

from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from ...agents.filters import parse
from ...app.overview import what_is_wrong
from ...contracts.schemas import schema_of
from ...core.errors import UnknownEvent
from ...history.events import EventQuery, Recorded, end_of_log, get_events, place_of
from ...history.inspection import deliveries_of
from ...history.settle import all_settled
from ...history.traffic import COUNTED, events_lately
from ...ledger.status import status
from ...operations.standing import standing
from ..access import READS, App
from ..answers import base_of
from ..routes.stream import Place
from .charts import backlog_of, chart_of
from .said import said_of
from .shown import OneView, PageRoute, indented
from .waterfall import MOST_LINES, lines_of, seconds, span_of

if TYPE_CHECKING:
    from ...app.app import Pipeline

_CHART = f"Events in the last 15 minutes, of the newest {COUNTED:,}"

#: Events that are shown at first, and those that are looked through for them.
FIRST, LOOKED_AT = 100, 2000
#: For which events are counted.
LATELY = timedelta(minutes=15)
#: Attributes of an event that are shown elsewhere, or are the same for all.
_ELSEWHERE = frozenset(("data", "metadata", "type", "specversion", "datacontenttype"))

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/ui/", dependencies=[READS])
def now(app: App, view: OneView, type: str = "", where: str = "") -> Response:
    """Show the newest events, and what is wrong."""
    at = end_of_log(app.ledger)
    numbers = status(app.ledger.database)
    found = _newest(app, numbers.events, type, where)
    asked = {name: value for name, value in (("type", type), ("where", where)) if value}
    asked["after"] = place_of(min(found[0].position, at) if found else at)
    stream = f"{view.base}/stream?{urlencode(asked)}"
    return view.show(
        "now.html",
        "Now",
        "",
        status=numbers,
        wrong=what_is_wrong(app, numbers),
        chart=chart_of(_CHART, {"event": ("events", events_lately(app.ledger, LATELY))}),
        backlog=backlog_of(standing(app.bus, app.ledger.subscribers.all())),
        events=[one.as_answer() for one in found],
        type=type,
        where=where,
        stream=stream,
    )


@router.get("/ui/events/{id}", dependencies=[READS])
def event(app: App, view: OneView, id: str) -> Response:
    """Show an event: all that happened with its correlation, and what the event says."""
    try:
        record: Recorded | None = app.get_event(id)
    except UnknownEvent:  # it may be a correlation's id
        record = None
    correlation = record.event.correlation_id if record is not None else id
    newest, heard = end_of_log(app.ledger), app.ledger.notices.end()  # what is said from here on may be followed
    said = app.notices(correlation)
    place = Place(newest, max(heard, said[-1].seq if said else 0))
    settled = bool(all_settled(app.ledger, correlation))  # before the trace, which has all of it then
    trace = app.trace(correlation)
    start, end = span_of(trace, view.now)
    ids = [one.id for node in trace for one in node.deliveries]
    lines = lines_of(trace, view.now, app.budgets.spent_by(ids[:MOST_LINES]))
    shown = {"event": None} if record is None else _about(app, record)
    return view.show(
        "event.html",
        record.event.type if record is not None else id,
        None,
        rows=lines,
        flows=trace.flows,
        budget=app.budgets.of_tree(correlation),
        start=start.isoformat(),
        took=seconds((end - start).total_seconds()),
        settled=settled,
        said_so_far=said_of(said),
        stream=f"stream?{urlencode({'correlation': correlation, 'after': str(place)})}",
        pending="" if settled else "it goes on",
        chosen=record and record.event.key,
        **shown,
    )


@router.get("/ui/send", dependencies=[READS])
def send(app: App, view: OneView, type: str = "", data: str = "") -> Response:
    """Show the form that sends an event."""
    schema = schema_of(list(app.types.versions(type).values())[-1]) if type in app.types else None
    filled = data or (indented(_example(schema)) if schema else "{}")
    return view.show(
        "send.html",
        "Send an event",
        "send",
        types=list(app.types),
        type=type,
        data=filled,
        schema=schema,
    )


@router.get("/ui/events/{id}/fork", dependencies=[READS])
def fork(app: App, view: OneView, id: str, agent: str = "") -> Response:
    """Show the form that sends an event again, edited."""
    one = app.get_event(id).event
    return view.show(
        "fork.html",
        f"Send {one.type} again, edited",
        None,
        event=one,
        agents=sorted(app.ledger.subscribers.all()),
        agent=agent,
    )


@router.get("/ui")
@router.get("/")
def home(request: Request) -> Response:
    """Lead to the newest events."""
    return RedirectResponse(f"{base_of(request)}/ui/")


def _about(app: Pipeline, record: Recorded) -> dict[str, Any]:
    """Return what an event says, who got it, and who would."""
    return {
        "event": record.event,
        "event_key": record.event.key,
        "about": {name: value for name, value in record.as_answer().items() if name not in _ELSEWHERE},
        "metadata": record.event.metadata,
        "deliveries": deliveries_of(app.ledger, record.event.key),
        "answers": app.explain(record.event),
    }


def _newest(app: Pipeline, last: int, type: str, where: str) -> list[Recorded]:
    """Return the newest events that are wanted, the newest first.

    Arguments:
        last: the number of the last one of the log.

    """
    wanted = parse(where or None)
    query = EventQuery(type=type or None, since=max(last - LOOKED_AT, 0))
    found = (one for one in get_events(app.ledger, query) if not wanted.nodes or wanted.matches(one.event.attributes()))
    return list(reversed(deque(found, FIRST)))


def _example(schema: dict[str, Any]) -> Any:
    """Return data of a schema's form, to be filled in."""
    kinds: dict[str, Any] = {"string": "", "integer": 0, "number": 0.0, "boolean": False, "array": [], "object": {}}
    found = {}
    for name, one in schema.get("properties", {}).items():
        found[name] = one.get("default", kinds.get(one.get("type", "")))
    return found
