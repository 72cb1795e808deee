"""Routes about long work: begin a replay, see how far jobs have come, stop one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ...core.ids import new_id
from ...history.events import EventQuery
from ...ledger.status import status
from ...operations.replay import Replayed, prepare
from ...operations.selection import Selection, choose
from ..access import OPERATES, READS, App, Who
from ..answers import Json, base_of
from ..jobs import AllJobs, Job, Jobs
from .events import moment_of

if TYPE_CHECKING:
    from ...app.app import Pipeline

WHICH = "say which events: ids, or filters (type, since, up_to, correlation, agent, metadata), or all"


class Replay(BaseModel):
    """Events of the log that an agent gets once more."""

    model_config = ConfigDict(extra="forbid")

    to: str = Field(min_length=1, description="The agent that gets them; nobody else does.")
    ids: list[str] | None = Field(None, min_length=1, max_length=1000, description="These events, and no filters.")
    type: str | None = Field(None, description="A topic pattern, such as order.*")
    correlation: str | None = None
    agent: str | None = Field(None, description="Whose history: an agent, or a subject.")
    metadata: dict[str, str | int | float | bool] | None = None
    since: str | int | None = Field(None, description="A time with its zone, or a number of the log.")
    up_to: str | int | None = None
    all: bool = Field(False, description="Every event of the log.")
    rate: float | None = Field(None, ge=0.001, le=1e6, description="Events per second; default as fast as it goes.")
    broadcast: bool = Field(False, description="Send what the agent emits to everybody; else it is only recorded.")
    dry_run: bool = Field(False, description="Only count.")
    id: str | None = Field(None, description="Of an earlier replay, to go on with it; nothing is done twice then.")


router = APIRouter(tags=["jobs"], default_response_class=Json)


@router.post("/replays", dependencies=[OPERATES], status_code=202)
def replay(app: App, request: Request, jobs: AllJobs, caller: Who, wanted: Replay) -> Response:
    """Begin a job that gives events of the log to one agent once more."""
    return begun(request, begin_replay(app, jobs, wanted, caller.name))


@router.get("/jobs", dependencies=[READS])
def list_(jobs: AllJobs) -> Response:
    """Return the jobs of this server, the newest first."""
    return Json({"jobs": [one.as_data() for one in jobs.list()]})


@router.get("/jobs/{id}", dependencies=[READS])
def show(jobs: AllJobs, id: str) -> Response:
    """Return one: how far it has come, and what it has come to."""
    return Json(jobs.get(id).as_data())


@router.post("/jobs/{id}/stop", dependencies=[OPERATES], status_code=202)
def stop(jobs: AllJobs, id: str) -> Response:
    """Let a job end before its next batch; what it has done stays done."""
    job = jobs.get(id)
    job.stop()
    return Json(job.as_data(), 202)


def begun(request: Request, job: Job) -> Response:
    """Return the answer to who has begun a job."""
    return Json(job.as_data(), 202, {"Location": f"{base_of(request)}/jobs/{job.id}"})


def begin_replay(app: Pipeline, jobs: Jobs, wanted: Replay, by: str) -> Job:
    """Begin a replay, as a job; raise what is wrong with it before."""
    chosen = _chosen(app, wanted)
    if wanted.ids is None and wanted.up_to is None:  # who goes on later wants no more than was there
        end = status(app.ledger.database).events
        wanted = wanted.model_copy(update={"all": False, "up_to": end})
        chosen = _chosen(app, wanted)
    wanted = wanted.model_copy(update={"id": wanted.id or new_id()})
    total = None if chosen.ids is None else len(chosen.ids)
    job = Job("replay", by, wanted.model_dump(exclude_defaults=True), total)
    options: dict[str, Any] = wanted.model_dump(include={"rate", "broadcast", "dry_run", "id"})
    work = prepare(app.bus, wanted.to, chosen, **options, progress=job.reach, rest=job.rest)

    def done() -> dict[str, Any]:
        found: Replayed = work()
        return found.as_data()

    return jobs.start(job, done)


def _chosen(app: Pipeline, wanted: Replay) -> Selection[EventQuery]:
    query = EventQuery(
        wanted.agent and app.agents.history_of(wanted.agent),
        wanted.type,
        wanted.correlation,
        moment_of("since", wanted.since),
        moment_of("up_to", wanted.up_to),
        metadata=wanted.metadata,
    )
    return choose(query, wanted.ids, all=wanted.all, says=WHICH)
