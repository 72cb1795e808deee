"""Routes about agents: who there is and how they stand, pausing them, webhooks as agents, and asking an agent."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ...app.overview import agent_rows
from ...bridges.addresses import check_reachable, check_url
from ...core.errors import InvalidAgent, UnknownAgent
from ..access import OPERATES, PUBLISHES, READS, App
from ..answers import Json
from ..problems import Problem

#: How long a request may wait for its answer, in seconds.
MOST_PATIENCE = 60.0


class Pausing(BaseModel):
    """Why an agent is paused."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""


class _Webhook(BaseModel):
    """What may be said, and changed, of a webhook that is an agent."""

    model_config = ConfigDict(extra="forbid")

    filters: dict[str, Any] | str | list[dict[str, Any] | str] | None = Field(
        None, description="Which of its events it wants; several all have to match."
    )
    priority: int = Field(5, ge=1, le=10, description="1 (most urgent) to 10.")
    max_concurrent: int = Field(10, ge=1, description="Calls at once, over all workers.")
    timeout: float = Field(30.0, gt=0, description="Seconds that a call may take.")
    retry: int = Field(3, ge=0, description="Calls again after one that has failed.")
    secret: str | None = Field(None, description="What calls are signed with; it is never shown again.")


class Registration(_Webhook):
    """A webhook that becomes an agent."""

    url: str = Field(description="What is called by POST with each event, as CloudEvents JSON.")
    event_types: list[str] = Field(min_length=1, description="Topic patterns, such as order.*")
    since: int | None = Field(None, ge=0, description="What was published from this sequence number on comes first.")


class Change(_Webhook):
    """What changes about a webhook; what is not given stays."""

    url: str = ""
    event_types: list[str] = Field([], min_length=1)


class LimitChange(BaseModel):
    """What changes about a limit; null lifts it, and what is not given stays."""

    model_config = ConfigDict(extra="forbid")

    rate: str | None = Field(None, description="Attempts, such as 10/s, 30/m, 100/h.")
    burst: int | None = Field(None, ge=1, description="Attempts that may begin at once, where there is a rate.")
    concurrent: int | None = Field(None, ge=1, description="Attempts that may run at once, over all workers.")


class Asked(BaseModel):
    """An event that somebody waits for the answer of."""

    model_config = ConfigDict(extra="forbid")

    type: str
    data: Any = None
    timeout: float = Field(30.0, gt=0, le=MOST_PATIENCE, description="Seconds.")


#: What the verbs of Python call otherwise.
_NAMES = {"event_types": "on", "filters": "where"}

router = APIRouter(tags=["agents"], default_response_class=Json)


@router.get("/agents", dependencies=[READS])
def agents(app: App) -> Response:
    """Return every agent that ever ran: who is there, what waits for it, what it listens to, who has paused it."""
    return Json({"agents": agent_rows(app)})


@router.get("/agents/{id}/status", dependencies=[READS])
def status(app: App, id: str) -> Response:
    """Return how busy an agent is, over all workers."""
    try:
        one = app.presence.agent(id)
    except UnknownAgent as exc:
        raise Problem(404, str(exc), "unknown-agent") from None
    listens = list(app.ledger.subscribers.all().get(id, ()))
    return Json(
        {
            "agent_id": id,
            "active_tasks": one.running,
            "max_concurrent": one.capacity,
            "event_types": listens,
            "state": one.state.value,
        }
    )


@router.post("/agents/{id}/pause", dependencies=[OPERATES])
def pause(app: App, id: str, why: Pausing | None = None) -> Response:
    """Let all workers leave an agent's queue alone; its events wait there."""
    changed = _or_unknown(app.pause, id, reason=why.reason if why else "")
    return Json({"agent_id": id, "paused": True, "changed": changed})


@router.post("/agents/{id}/resume", dependencies=[OPERATES])
def resume(app: App, id: str) -> Response:
    """Let all workers consume an agent's queue again."""
    return Json({"agent_id": id, "paused": False, "changed": _or_unknown(app.resume, id)})


@router.post("/agents/{id}/register", dependencies=[OPERATES], status_code=201)
def register(app: App, id: str, wanted: Registration) -> Response:
    """Register a webhook as an agent; it is called with what is published from now on, and survives restarts."""
    check_url(wanted.url)
    check_reachable(wanted.url, app.bus.settings.webhook_networks)
    options = {_NAMES.get(name, name): value for name, value in wanted.model_dump().items()}
    app.subscriptions.add(id, **options)
    return Json({"agent_id": id, "status": "registered"}, 201)


@router.get("/agents/{id}/registration", dependencies=[READS])
def registration(app: App, id: str) -> Response:
    """Return a webhook's registration, without its secret."""
    return Json(app.subscriptions.get(id).as_data())


@router.patch("/agents/{id}", dependencies=[OPERATES])
def change(app: App, id: str, wanted: Change) -> Response:
    """Change what is given of a webhook's registration; what waits is called as it is by then."""
    given = wanted.model_dump(exclude_unset=True)
    if "url" in given:
        check_url(wanted.url)
        check_reachable(wanted.url, app.bus.settings.webhook_networks)
    return Json(app.subscriptions.change(id, **{_NAMES.get(n, n): value for n, value in given.items()}).as_data())


@router.delete("/agents/{id}", dependencies=[OPERATES])
def remove(app: App, id: str) -> Response:
    """Remove a webhook; what waits for it is a dead letter that says so."""
    app.subscriptions.remove(id)
    return Json({"agent_id": id, "status": "removed"})


@router.get("/limits", dependencies=[READS])
def limits(app: App) -> Response:
    """Return the limits over all workers: what is in force and what is declared, how much runs and waits."""
    return Json({"limits": [one.as_data() for one in app.limits.list()]})


@router.patch("/limits/{name}", dependencies=[OPERATES])
def change_limit(app: App, name: str, wanted: LimitChange) -> Response:
    """Change a limit, everywhere within a second, until that is taken back."""
    rule = app.limits.set(name, **wanted.model_dump(exclude_unset=True))
    return Json({"limit": name, **rule.as_data()})


@router.delete("/limits/{name}", dependencies=[OPERATES])
def clear_limit(app: App, name: str) -> Response:
    """Let a limit be again what its agents declare."""
    return Json({"limit": name, **app.limits.clear(name).as_data()})


@router.post("/requests", dependencies=[PUBLISHES])
async def request(app: App, asked: Asked) -> Response:
    """Publish an event, and answer with the record of the first agent that returns something."""
    found = await app.arequest(asked.type, asked.data, timeout=asked.timeout)
    return Json(found.model_dump(mode="json"))


def _or_unknown(verb: Any, id: str, **options: Any) -> bool:
    """Do something with an agent; one that nobody knows is not found."""
    try:
        return bool(verb(id, **options))
    except InvalidAgent as exc:
        raise Problem(404, str(exc), "unknown-agent") from None
