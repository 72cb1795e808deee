"""Views of what operators do: what is due later, replays and other jobs."""

from __future__ import annotations

from asyncio import to_thread
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from ...coordination.schedule import shown
from ...core.times import utc_now
from ...history.inspection import upcoming
from ..access import OPERATES, READS, App, Who
from ..jobs import AllJobs, Job, State
from ..problems import Problem, invalid
from ..routes.events import take_back
from ..routes.jobs import Replay, begin_replay
from .actions import back
from .shown import LINES, OneView, PageRoute, form_of

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a form says of a replay.
FIELDS = ("to", "type", "correlation", "agent", "since", "up_to", "rate", "all", "broadcast", "id")

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/ui/schedules", dependencies=[READS])
def schedules(app: App, view: OneView, after: str = "") -> Response:
    """Show schedules, and what is due later."""
    found = upcoming(app.ledger, limit=LINES + 1, after=after or None)
    return view.show(
        "schedules.html",
        "Schedules and timers",
        "schedules",
        schedules=shown(app.schedules, utc_now()),
        timers=[one.as_data() for one in found[:LINES]],
        after=found[LINES - 1].cursor if len(found) > LINES else "",
    )


@router.post("/ui/timers/{id}/cancel", dependencies=[OPERATES])
def cancel(app: App, request: Request, id: str) -> Response:
    """Take back an event that is published later."""
    take_back(app, id)
    return back(request, "schedules", f"taken back: {id}")


@router.get("/ui/replay", dependencies=[READS])
def replay(app: App, view: OneView, jobs: AllJobs, of: str = "") -> Response:
    """Show the form of a replay, filled as the one of a job was, and the jobs that there are."""
    asked = again(jobs.get(of)) if of else {}
    agents = sorted({*app.ledger.subscribers.all(), *(agent.name for agent in app.agents)})
    every = [(one.as_data(), described(one)) for one in jobs.list()]
    return view.show("replay.html", "Replay", "replay", asked=asked, agents=agents, jobs=every)


@router.post("/ui/replay", dependencies=[OPERATES])
async def begin(app: App, request: Request, jobs: AllJobs, caller: Who) -> Response:
    """Begin a replay, or count what it would send."""
    form = await form_of(request)
    wanted = read_replay(form)
    job = await to_thread(begin_replay, app, jobs, wanted, caller.name)
    return back(request, f"jobs/{job.id}", "begun")


@router.get("/ui/jobs/{id}", dependencies=[READS])
def job(view: OneView, jobs: AllJobs, id: str) -> Response:
    """Show how far a job has come."""
    found = jobs.get(id)
    data = found.as_data()
    settled = data["state"] != State.RUNNING
    fits = found.kind == "replay" and {*found.asked} <= {*FIELDS, "dry_run"}
    return view.show("job.html", described(found), None, job=data, settled=settled, fits=fits)


@router.post("/ui/jobs/{id}/again", dependencies=[OPERATES])
def go_on(app: App, request: Request, jobs: AllJobs, caller: Who, id: str) -> Response:
    """Replay what was counted, or go on with a replay that has ended before its time."""
    found = jobs.get(id)
    if found.kind != "replay":
        raise Problem(422, f"the job {id!r} is no replay")
    job = begin_replay(app, jobs, Replay.model_validate(again(found)), caller.name)
    return back(request, f"jobs/{job.id}", "begun")


@router.post("/ui/jobs/{id}/stop", dependencies=[OPERATES])
def stop(request: Request, jobs: AllJobs, id: str) -> Response:
    """Stop a job."""
    jobs.get(id).stop()
    return back(request, f"jobs/{id}", "it ends after its batch")


def read_replay(form: Mapping[str, Any]) -> Replay:
    """Return what a form asks for; raise Problem that names the wrong field."""
    given = {name: form[name].strip() for name in FIELDS if form.get(name, "").strip()}
    try:
        return Replay.model_validate({**given, "dry_run": form.get("verb") == "count"})
    except ValidationError as exc:
        raise invalid(exc.errors(), "invalid-request") from None


def again(job: Job) -> dict[str, Any]:
    """Return what is asked for to do a replay that was only counted, to go on with one, or to do one anew."""
    # What was counted has the id under which it is done, so that who asks twice has it done once.
    goes_on = job.state in (State.STOPPED, State.FAILED) or job.asked.get("dry_run")
    return {name: value for name, value in job.asked.items() if name != "dry_run" and (name != "id" or goes_on)}


def described(job: Job) -> str:
    """Return what a job does, in words."""
    asked = {name: value for name, value in job.asked.items() if name not in ("to", "id", "dry_run", "broadcast")}
    which = ", ".join(name if value is True else f"{name} {value}" for name, value in asked.items())
    match job.kind:
        case "replay":
            verb = "Count what would be replayed" if job.asked.get("dry_run") else "Replay"
            return f"{verb} to {job.asked['to']}: {which}"
        case kind:
            return f"{kind.capitalize()} dead letters: {which}"
