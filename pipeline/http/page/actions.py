"""What people do on the page: forms that are sent, and lead back to what they were about."""

from __future__ import annotations

import json
from asyncio import to_thread
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from ..access import OPERATES, PUBLISHES, App, Who
from ..answers import base_of
from ..jobs import AllJobs
from ..problems import Problem
from ..routes.flows import because
from ..routes.letters import Drop, Requeue, begin
from .shown import HEADERS, PageRoute, form_of, read_json

if TYPE_CHECKING:
    from ...app.app import Pipeline
    from ...core.event import Event

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.post("/ui/send", dependencies=[PUBLISHES])
async def send(app: App, request: Request) -> Response:
    """Publish an event, and show what it causes."""
    form = await form_of(request)
    data, priority = read_json("data", form.get("data") or "null"), form.get("priority") or "5"
    if not priority.isdecimal():
        raise Problem(422, "priority: it is a number from 1 to 10", field="priority")
    event = await app.apublish(form.get("type", ""), data, priority=int(priority))
    return back(request, f"events/{event.key}" if app.has_ledger else "send", said_of(event))


@router.post("/ui/events/{id}/fork", dependencies=[PUBLISHES])
async def fork(app: App, request: Request, id: str) -> Response:
    """Publish an event once more as a new one, edited, and show what that causes."""
    form = await form_of(request)
    metadata = read_json("metadata", form.get("metadata") or "{}")
    if not isinstance(metadata, dict):
        raise Problem(422, "metadata: it is an object, such as {}", field="metadata")
    event = await to_thread(
        app.fork,
        id,
        read_json("data", form.get("data") or "null"),
        agent=form.get("agent") or None,
        type=form.get("type", ""),
        subject=form.get("subject", ""),
        metadata=metadata,
    )
    return back(request, f"events/{event.key}", said_of(event))


@router.post("/ui/agents/{id}/{verb}", dependencies=[OPERATES])
def pause(app: App, request: Request, id: str, verb: str) -> Response:
    """Pause or resume an agent."""
    done = {"pause": app.pause, "resume": app.resume}.get(verb)
    if done is None:
        raise Problem(404, f"{verb}: agents are paused and resumed")
    done(id)
    return back(request, "agents", f"{id}: {verb}d")


@router.post("/ui/dead", dependencies=[OPERATES])
async def dead(app: App, request: Request, caller: Who) -> Response:
    """Requeue or drop dead letters."""
    form = await form_of(request, several="ids")
    return back(request, "dead", await to_thread(_change, app, form, caller.name))


@router.post("/ui/dead/like/{id}", dependencies=[OPERATES])
async def dead_like(app: App, request: Request, jobs: AllJobs, caller: Who, id: str) -> Response:
    """Requeue or drop the dead letters of one agent with one error: those that are like one of them."""
    form = await form_of(request)
    letter = await to_thread(app.dead_letters.get, id)
    kind = Drop if _verb(form) == "drop" else Requeue
    asked = kind.model_validate({"agent": letter.agent, "same_error": letter.error})
    job = await to_thread(begin, app, jobs, asked, caller.name)
    return back(request, f"jobs/{job.id}", "begun")


@router.post("/ui/approvals/{id}", dependencies=[OPERATES])
async def decide(app: App, request: Request, caller: Who, id: str) -> Response:
    """Approve or veto."""
    form = await form_of(request)
    return back(request, f"approvals/{id}", await to_thread(_decide, app, id, form, caller.name))


@router.post("/ui/flows/{id}/{verb}", dependencies=[OPERATES])
def flow(app: App, request: Request, caller: Who, id: str, verb: str) -> Response:
    """Help a flow on, or end it."""
    _help(app, id, verb, caller.name)
    return back(request, f"flows/{id}", f"{verb}: done")


@router.post("/ui/trees/{id}/cancel", dependencies=[OPERATES])
def stop(app: App, request: Request, caller: Who, id: str) -> Response:
    """Stop all that an event has caused."""
    app.cancel(id, tree=True, by=caller.name)
    return back(request, f"events/{id}", "stopped")


def said_of(event: Event) -> str:
    """Return what has become of an event that was published, in words."""
    return "sent" if event.sent else "accepted: the broker is away, and gets it as soon as it is back"


def back(request: Request, path: str, said: str) -> Response:
    """Lead to a view, with what was done."""
    return RedirectResponse(f"{base_of(request)}/ui/{path}?said={quote(said)}", 303, HEADERS)


def _change(app: Pipeline, form: Mapping[str, Any], by: str) -> str:
    """Requeue or drop dead letters; return what was done, in words."""
    ids: list[str] = form["ids"]
    if not ids:
        raise Problem(422, "choose some of them first")
    if _verb(form) == "drop":
        done = app.dead_letters.drop(ids, by=by)
        return f"dropped {done.number}, skipped {done.skipped}"
    options: dict[str, Any] = {}
    if "data" in form:
        data = read_json("data", form["data"])
        if len(ids) > 1:
            raise Problem(422, "data: one dead letter at a time is given other data", field="data")
        if not _same(data, app.dead_letters.get(ids[0]).event.data):
            options["data"] = data
    done = app.dead_letters.requeue(ids, by=by, **options)
    return f"requeued {done.number}, skipped {done.skipped}"


def _verb(form: Mapping[str, Any]) -> str:
    """Return what is to be done to dead letters; raise Problem for anything else."""
    verb: str = form.get("verb", "")
    if verb not in ("requeue", "drop"):
        raise Problem(422, "verb: requeue or drop", field="verb")
    return verb


def _decide(app: Pipeline, id: str, form: Mapping[str, Any], by: str) -> str:
    """Approve or veto; return what it is then."""
    by, reason = by or form.get("by", ""), form.get("reason") or None
    if form.get("verb") not in ("approve", "veto"):
        raise Problem(422, "verb: approve or veto", field="verb")
    if form["verb"] == "veto":
        return app.approvals.veto(id, by=by, reason=reason).status
    options: dict[str, Any] = {}
    if text := form.get("edit", "").strip():
        edit = read_json("edit", text)
        options = {} if _same(edit, app.approvals.show(id).args) else {"edit": edit}
    return app.approvals.approve(id, by=by, reason=reason, **options).status


def _same(one: Any, other: Any) -> bool:
    """Say whether data is the same as JSON, where 1 and true are not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _help(app: Pipeline, id: str, verb: str, by: str) -> None:
    """Help a flow on, or end it."""
    match verb:
        case "resume":
            app.flows.resume(id, by=by)
        case "abort":
            app.flows.abort(id, because("", by, "given it up"))
        case "cancel":
            app.flows.cancel(id, because("", by, "cancelled it"))
        case _:
            raise Problem(404, f"{verb}: flows are resumed, aborted and cancelled")
