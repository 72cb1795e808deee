"""Routes about what goes on for long: flows and those who help them on, approvals, and stopping a tree of work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ..access import OPERATES, READS, App, Caller, Who
from ..answers import Json, Limit
from ..problems import Problem


class Reason(BaseModel):
    """Why something is done."""

    model_config = ConfigDict(extra="forbid")

    reason: str = ""


class Decision(BaseModel):
    """What somebody says to a proposal.

    Attributes:
        by: who says so, where no token does.

    """

    model_config = ConfigDict(extra="forbid")

    by: str = ""
    groups: list[str] = []
    reason: str | None = None
    edit: Any = Field(default=None, description="All arguments, as they may be.")


class Collaborate(BaseModel):
    """Who is to work together, and how."""

    model_config = ConfigDict(extra="forbid")

    pattern: str = Field(description="request-response, publish-subscribe, choreography, saga or workflow.")
    participants: list[str | dict[str, Any]] = Field(
        min_length=1, description="Agents' names; in a saga or workflow also what is said of one beside its name."
    )
    payload: Any = Field(default=None, description="What each of them gets.")
    deadline: float | str | None = Field(default=None, description="Seconds, or a text such as 1h.")


router = APIRouter(default_response_class=Json)


@router.get("/flows", dependencies=[READS], tags=["flows"])
def flows(app: App, name: str | None = None, status: str | None = None, limit: Limit = 100) -> Response:
    """Return joins, sagas, workflows and collaborations, the newest first."""
    return Json({"flows": [one.as_data() for one in app.flows.list(name=name, status=status, limit=limit)]})


@router.get("/flows/{id}", dependencies=[READS], tags=["flows"])
def flow(app: App, id: str) -> Response:
    """Return one with its steps."""
    return Json(app.flows.show(id).as_data())


@router.post("/flows/{id}/abort", dependencies=[OPERATES], tags=["flows"])
def abort(app: App, id: str, caller: Who, why: Reason | None = None) -> Response:
    """Give a saga or workflow up: what it has done is undone."""
    return Json(
        {"id": id, "changed": app.flows.abort(id, because(why.reason if why else "", caller.name, "given it up"))}
    )


@router.post("/flows/{id}/cancel", dependencies=[OPERATES], tags=["flows"])
def cancel(app: App, id: str, caller: Who, why: Reason | None = None) -> Response:
    """Stop a flow as it stands: nothing is undone."""
    return Json(
        {"id": id, "changed": app.flows.cancel(id, because(why.reason if why else "", caller.name, "cancelled it"))}
    )


@router.post("/flows/{id}/resume", dependencies=[OPERATES], tags=["flows"])
def resume(app: App, id: str, caller: Who) -> Response:
    """Let a flow that is stuck go on: what holds it is done again."""
    return Json({"id": id, "steps": list(app.flows.resume(id, by=caller.name))})


@router.post("/flows/{id}/steps/{step}/retry", dependencies=[OPERATES], tags=["flows"])
def retry(app: App, id: str, step: str, caller: Who) -> Response:
    """Do a step again that has failed, or what undoes it."""
    return Json({"id": id, "steps": list(app.flows.retry_step(id, step, by=caller.name))})


@router.post("/flows/{id}/steps/{step}/skip", dependencies=[OPERATES], tags=["flows"])
def skip(app: App, id: str, step: str, caller: Who) -> Response:
    """Let a flow go on without a step that holds it."""
    return Json({"id": id, "steps": list(app.flows.skip(id, step, by=caller.name))})


@router.post("/collaborations", dependencies=[OPERATES], tags=["collaborations"], status_code=201)
def collaborate(app: App, wanted: Collaborate) -> Response:
    """Let agents that are chosen now work together in a pattern."""
    id = app.collaborate(wanted.pattern, wanted.participants, wanted.payload, deadline=wanted.deadline)
    return Json({"id": id}, 201)


@router.get("/collaborations", dependencies=[READS], tags=["collaborations"])
def collaborations(app: App, limit: Limit = 100) -> Response:
    """Return collaborations, the newest first."""
    return Json({"collaborations": [one.as_data() for one in app.collaborations.list(limit=limit)]})


@router.get("/collaborations/{id}", dependencies=[READS], tags=["collaborations"])
def collaboration(app: App, id: str) -> Response:
    """Return one: who takes part, and what each has come to."""
    return Json(app.collaborations.get(id).as_data())


@router.get("/approvals", dependencies=[READS], tags=["approvals"])
def approvals(
    app: App,
    status: str = "pending",
    agent: str | None = None,
    action: str | None = None,
    correlation: str | None = None,
    limit: Limit = 100,
) -> Response:
    """Return what waits for a decision, the oldest first; `status=all` returns what has had one, too."""
    wanted = None if status == "all" else status
    found = app.approvals.list(status=wanted, agent=agent, action=action, correlation=correlation, limit=limit)
    return Json({"approvals": [one.as_data() for one in found]})


@router.get("/approvals/{id}", dependencies=[READS], tags=["approvals"])
def approval(app: App, id: str) -> Response:
    """Return one: who wants to do what with which arguments, and who has decided."""
    return Json(app.approvals.show(id).as_data(whole=True))


@router.post("/approvals/{id}/approve", dependencies=[OPERATES], tags=["approvals"])
def approve(app: App, id: str, caller: Who, said: Decision | None = None) -> Response:
    """Say that it may be done, with the arguments that were proposed or with others."""
    said = said or Decision()
    options: dict[str, Any] = {"edit": said.edit} if "edit" in said.model_fields_set else {}
    found = app.approvals.approve(id, by=_who(caller, said), groups=said.groups, reason=said.reason, **options)
    return Json(found.as_data(whole=True))


@router.post("/approvals/{id}/veto", dependencies=[OPERATES], tags=["approvals"])
def veto(app: App, id: str, caller: Who, said: Decision | None = None) -> Response:
    """Say that it must not be done."""
    said = said or Decision()
    if "edit" in said.model_fields_set:
        raise Problem(422, "edit: what must not be done has no arguments to edit", "invalid-request", field="edit")
    found = app.approvals.veto(id, by=_who(caller, said), groups=said.groups, reason=said.reason)
    return Json(found.as_data(whole=True))


@router.post("/trees/{id}/cancel", dependencies=[OPERATES], tags=["flows"])
def cancel_tree(app: App, id: str, caller: Who, why: Reason | None = None) -> Response:
    """Stop all that an event has caused, and will; what had happened before is listed."""
    done = app.cancel(id, tree=True, by=caller.name, reason=why.reason if why else "")
    return Json(done if isinstance(done, bool) else done.as_data())


def because(reason: str, by: str, done: str) -> str:
    """Return why something is done: in the words of who does it, else that they did."""
    return reason or f"{by or 'somebody'} has {done}"


def _who(caller: Caller, said: Decision) -> str:
    """Return who decides: a token's name, which nobody can choose, before what is said."""
    if caller.name and said.by and said.by != caller.name:
        raise Problem(403, f"this token is {caller.name!r}, and may not decide as {said.by!r}", "not-allowed")
    return caller.name or said.by
