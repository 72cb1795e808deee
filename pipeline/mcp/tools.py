"""What a model may call: a name, what it takes, and the verb of the app that it stands for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from ..app.overview import agent_rows, what_is_wrong
from ..core.errors import InvalidEvent, InvalidSelection
from ..core.event import new_event
from ..core.times import seconds_of, utc_now
from ..history.events import EventQuery, get_events, place_of, read_place
from ..history.inspection import deliveries_of
from ..ledger.status import status
from ..operations.letters import LetterQuery
from .fitting import Page

if TYPE_CHECKING:
    from ..app.app import Pipeline

#: What has to be allowed expressly: to publish events, and to ask agents and wait for their answers.
ALLOWED = ("publish", "request")
#: Seconds that an answer is waited for at most.
MOST_PATIENCE = 60.0
#: What a model should know of what it asks for.
ACTS = "The agent acts, also when no answer comes in time."


@dataclass(frozen=True)
class Tool:
    """Something that a model may call.

    Attributes:
        takes: the JSON Schema of its arguments, an object.
        run: does it, with the app and the arguments, and returns JSON data or a Page; with a scope it is async.
        returns: the JSON Schema of the answer, where that is an object that is told.
        scope: what of ALLOWED it needs; empty for what only reads.

    """

    name: str
    description: str
    takes: dict[str, Any]
    run: Callable[[Pipeline, dict[str, Any]], Any | Awaitable[Any]]
    returns: dict[str, Any] | None = None
    scope: str = ""


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _moment(given: Any) -> Any:
    """Let an age, such as 2h, be the time that long ago."""
    if isinstance(given, str) and given.isdecimal():
        return int(given)
    try:
        return utc_now() - timedelta(seconds=seconds_of(given, "")) if isinstance(given, str) else given
    except InvalidEvent:
        return given


_Moment = Annotated[
    AwareDatetime | Annotated[int, Field(strict=True)] | None,
    BeforeValidator(_moment, json_schema_input_type=str | int | None),
    Field(description="A time with its zone, an age such as 2h, or a sequence number."),
]
_Limit = Annotated[int, Field(ge=1, le=200, description="How many at most.")]
_After = Annotated[str | None, Field(description="What `next` of the page before says.")]
_Pattern = Annotated[str | None, Field(description="An event type, or a pattern such as order.* or order.#")]
_Correlation = Annotated[str | None, Field(description="Only what belongs to this correlation id.")]
_Id = Annotated[str, Field(min_length=1, max_length=1000)]
_Data = Annotated[Any, Field(description="Any JSON value, as events of this type have it.")]


class _Nothing(_Arguments):
    pass


class _One(_Arguments):
    id: _Id


class _Events(_Arguments):
    type: _Pattern = None
    correlation: _Correlation = None
    agent: Annotated[str | None, Field(description="Whose history: an agent, or a subject.")] = None
    metadata: Annotated[dict[str, Any] | None, Field(description="What events have in their metadata.")] = None
    since: _Moment = None
    up_to: _Moment = None
    after: _After = None
    limit: _Limit = 50


class _Letters(_Arguments):
    agent: str | None = None
    error: Annotated[str | None, Field(description="A part of the error.")] = None
    type: _Pattern = None
    after: _After = None
    limit: _Limit = 50


class _Explain(_Arguments):
    id: Annotated[str | None, Field(description="An event of the log; or say a type.")] = None
    type: Annotated[str | None, Field(description="The type of an event that is not published.")] = None
    data: _Data = None
    metadata: dict[str, Any] | None = None


class _Flows(_Arguments):
    name: str | None = None
    status: Annotated[str | None, Field(description="Such as running, stuck, completed, failed.")] = None
    limit: _Limit = 50


class _Approvals(_Arguments):
    status: Annotated[str, Field(description="pending, approved, vetoed, expired, cancelled, or all.")] = "pending"
    agent: str | None = None
    action: str | None = None
    correlation: _Correlation = None
    limit: _Limit = 50


class _Publish(_Arguments):
    type: Annotated[str, Field(description="The event's type, such as order.placed.")]
    data: _Data = None
    priority: Annotated[int | None, Field(ge=1, le=10, description="1 (most urgent) to 10; default 5.")] = None
    correlation_id: str | None = None
    subject: str | None = None
    targets: Annotated[list[str], Field(description="The only agents that may receive it.")] = []
    metadata: dict[str, Any] | None = None


class _Request(_Arguments):
    type: Annotated[str, Field(description="The type of the event that asks.")]
    data: _Data = None
    timeout: Annotated[float, Field(gt=0, le=MOST_PATIENCE, description="Seconds.")] = 30.0


def _events(app: Pipeline, asked: _Events) -> Page:
    query = EventQuery(
        None if asked.agent is None else app.agents.history_of(asked.agent),
        asked.type,
        asked.correlation,
        asked.since,
        asked.up_to,
        batch=asked.limit + 1,
        metadata=asked.metadata,
        after=read_place(asked.after or ""),
    )
    found = list(islice(get_events(app.ledger, query), asked.limit + 1))
    rows = [(one.as_answer(), place_of(one.position)) for one in found[: asked.limit]]
    return Page("events", rows, more=len(found) > asked.limit)


def _event(app: Pipeline, asked: _One) -> dict[str, Any]:
    record = app.get_event(asked.id)
    return {**record.as_answer(), "deliveries": [one.as_data() for one in deliveries_of(app.ledger, asked.id)]}


def _letters(app: Pipeline, asked: _Letters) -> Page:
    query = LetterQuery(agent=asked.agent, error=asked.error, event_type=asked.type)
    found = app.dead_letters.find(query, limit=asked.limit + 1, after=asked.after)
    rows = [(one.as_data(), one.cursor) for one in found[: asked.limit]]
    counts = {name: count.as_data() for name, count in app.dead_letters.count().items()}
    return Page("letters", rows, more=len(found) > asked.limit, beside={"counts": counts})


def _explain(app: Pipeline, asked: _Explain) -> Page:
    if (asked.id is None) is (asked.type is None):
        raise InvalidSelection("say either the id of an event, or the type and data of one that is not published")
    if asked.id is not None:
        event = app.get_event(asked.id).event
    else:
        type = asked.type or ""
        version = app.types.newest(type)
        event = new_event(type, asked.data, source=app.source, metadata=asked.metadata, version=version)
    return Page("answers", [(one.as_data(), None) for one in app.explain(event)])


def _flows(app: Pipeline, asked: _Flows) -> Page:
    found = app.flows.list(name=asked.name, status=asked.status, limit=asked.limit)
    return Page("flows", [(one.as_data(), None) for one in found])


def _approvals(app: Pipeline, asked: _Approvals) -> Page:
    wanted = None if asked.status == "all" else asked.status
    which = asked.model_dump(include={"agent", "action", "correlation", "limit"})
    found = app.approvals.list(status=wanted, **which)
    return Page("approvals", [(one.as_data(), None) for one in found])


def _stats(app: Pipeline, _: _Nothing) -> dict[str, Any]:
    numbers = status(app.ledger.database)
    return {**numbers._asdict(), "wrong": [what for what, _ in what_is_wrong(app, numbers)]}


async def _publish(app: Pipeline, asked: _Publish) -> dict[str, Any]:
    options = asked.model_dump(exclude={"type", "data"}, exclude_defaults=True)
    event = await app.apublish(asked.type, asked.data, **options)
    return {"event_id": event.key, "status": "published" if event.sent else "accepted"}


async def _request(app: Pipeline, asked: _Request) -> dict[str, Any]:
    found = await app.arequest(asked.type, asked.data, timeout=asked.timeout)
    answer: dict[str, Any] = found.model_dump(mode="json")
    return answer


def _tool(name: str, takes: type[_Arguments], run: Callable[..., Any], description: str, scope: str = "") -> Tool:
    def read_and_run(app: Pipeline, arguments: dict[str, Any]) -> Any:
        return run(app, takes.model_validate(arguments))

    return Tool(name, description, takes.model_json_schema(), read_and_run, scope=scope)


_ALL = (
    _tool("events", _Events, _events, "List events of the log, the oldest first, page by page."),
    _tool("event", _One, _event, "Show one event with its data, and what became of it at each agent."),
    _tool(
        "trace",
        _One,
        lambda app, asked: app.trace(asked.id).as_data(),
        "Show what an event, or all of a correlation id, has caused, as a tree of deliveries and events.",
    ),
    _tool("explain", _Explain, _explain, "Say for each agent whether an event is for it, and why or why not."),
    _tool("dead_letters", _Letters, _letters, "List deliveries that agents gave up, the newest first."),
    _tool(
        "dead_letter",
        _One,
        lambda app, asked: app.dead_letters.get(asked.id).as_data(whole=True),
        "Show one delivery that was given up, with its event and its traceback.",
    ),
    _tool(
        "agents",
        _Nothing,
        lambda app, _: Page("agents", [(one, None) for one in agent_rows(app)]),
        "List agents: who is there, how busy, what waits for them, what they listen to and can do.",
    ),
    _tool("flows", _Flows, _flows, "List sagas, workflows, joins and collaborations, the newest first."),
    _tool("flow", _One, lambda app, asked: app.flows.show(asked.id).as_data(), "Show one of the flows with its steps."),
    _tool("approvals", _Approvals, _approvals, "List what waits for somebody's decision, the oldest first."),
    _tool(
        "approval",
        _One,
        lambda app, asked: app.approvals.show(asked.id).as_data(whole=True),
        "Show one: who wants to do what with which arguments, and who has decided.",
    ),
    _tool("stats", _Nothing, _stats, "Say in numbers how the bus stands, and what is wrong."),
    _tool(
        "publish",
        _Publish,
        _publish,
        "Publish an event. Agents that listen to its type act on it; nobody can take it back.",
        "publish",
    ),
    _tool(
        "request",
        _Request,
        _request,
        f"Publish an event and wait for what an agent returns that gets it. {ACTS}",
        "request",
    ),
)


def tools(allow: Collection[str] = ()) -> dict[str, Tool]:
    """Return what may be called, by name.

    Arguments:
        allow: which of ALLOWED, besides reading.

    """
    return {tool.name: tool for tool in _ALL if not tool.scope or tool.scope in allow}
