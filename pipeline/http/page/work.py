"""Views of what works: agents, what they gave up, flows, and what waits for a decision."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import Response

from ...app.overview import agent_rows
from ...history.traffic import LOOKED_AT, work_of
from ...operations.letters import LetterQuery
from ..access import READS, App
from ..problems import Problem
from ..routes.events import unpublished
from .charts import chart_of
from .graphs import flow_picture
from .shown import LINES, OneView, PageRoute, read_json, rows_for

if TYPE_CHECKING:
    from ...coordination.flows.instances import Flow

#: Groups of dead letters.
GROUPS = 20
#: For which an agent's work is shown.
HOUR = timedelta(hours=1)

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/ui/agents", dependencies=[READS])
def agents(app: App, view: OneView, type: str = "", data: str = "") -> Response:
    """Show agents, and who would get an event."""
    answers = None
    if type:
        answers = app.explain(unpublished(app, type, read_json("data", data) if data else None))
    shown = {"agents": agent_rows(app), "limits": app.limits.list()}
    return view.show("agents.html", "Agents", "agents", type=type, data=data, answers=answers, **shown)


@router.get("/ui/agents/{id}", dependencies=[READS])
def agent(app: App, view: OneView, id: str) -> Response:
    """Show one: what it has before it, and how it did in the last hour."""
    one = next(iter(agent_rows(app, id)), None)
    if one is None:
        raise Problem(404, f"no agent {id!r} has ever run on this ledger", "unknown-agent")
    done = work_of(app.ledger, id, one["event_types"], HOUR)
    series = {"succeeded": ("done", done.done), "dead": ("failed", done.failed)}
    letters = app.dead_letters.count().get(id)
    return view.show(
        "agent.html",
        f"Agent {id}",
        None,
        one=one,
        work=done,
        later=done.since > done.done.since,
        looked_at=LOOKED_AT,
        chart=chart_of("By the minute", series),
        dead=letters.number if letters else 0,
    )


@router.get("/ui/dead", dependencies=[READS])
def dead(app: App, view: OneView, agent: str = "", error: str = "", after: str = "") -> Response:
    """Show dead letters."""
    found = app.dead_letters.find(LetterQuery(agent or None, error or None), limit=LINES + 1, after=after or None)
    more = found[LINES - 1].cursor if len(found) > LINES else ""
    return view.show(
        "dead.html",
        "Dead letters",
        "dead",
        letters=[one.as_data() for one in found[:LINES]],
        counts=app.dead_letters.count(),
        groups=[one.as_data() for one in app.dead_letters.groups(limit=GROUPS)]
        if not (agent or error or after)
        else [],
        agent=agent,
        error=error,
        after=more,
    )


@router.get("/ui/dead/{id}", dependencies=[READS])
def letter(app: App, view: OneView, id: str) -> Response:
    """Show one, which may be edited."""
    found = app.dead_letters.get(id).as_data(whole=True)
    rows = rows_for(found["event"].get("data"))
    return view.show("letter.html", f"Dead letter of {found['agent']}", None, letter=found, rows=rows)


@router.get("/ui/flows", dependencies=[READS])
def flows(app: App, view: OneView) -> Response:
    """Show flows."""
    return view.show("flows.html", "Flows", "flows", flows=app.flows.list(limit=LINES))


@router.get("/ui/flows/{id}", dependencies=[READS])
def flow(app: App, view: OneView, id: str) -> Response:
    """Show one with its steps."""
    found = app.flows.show(id)
    title = f"{found.kind} {found.name}"
    return view.show(
        "flow.html", title, None, flow=found, steps=_steps(found), picture=flow_picture(found), mermaid=found.mermaid
    )


@router.get("/ui/approvals", dependencies=[READS])
def approvals(app: App, view: OneView, status: str = "pending") -> Response:
    """Show what waits for a decision."""
    found = app.approvals.list(status=None if status == "all" else status, limit=LINES)
    rows = [one.as_data() for one in found]
    return view.show("approvals.html", "Approvals", "approvals", approvals=rows, status=status)


@router.get("/ui/approvals/{id}", dependencies=[READS])
def approval(app: App, view: OneView, id: str) -> Response:
    """Show one, to be decided."""
    one = app.approvals.show(id).as_data(whole=True)
    rows = rows_for(one["metadata"]["args"])
    title = f"Approval of {one['reason']}"
    return view.show("approval.html", title, None, one=one, about=one["metadata"], rows=rows)


def _steps(flow: Flow) -> list[dict[str, Any]]:
    """Return the steps of a flow, each with what has become of it; those that undo one come after all others."""
    nodes = [node["name"] for node in flow.definition.get("nodes", ())]
    shown = []
    for one in flow.steps:
        name = nodes[one.pos % len(nodes)] if nodes else one.agent
        said = f"{name}, undone" if nodes and one.pos >= len(nodes) else name
        result = json.loads(one.result or "null")
        shown.append({"name": said, "outcome": one.outcome.value, "error": one.error, "result": result})
    return shown
