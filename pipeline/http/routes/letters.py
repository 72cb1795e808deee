"""Routes about dead letters: list and show them, let one or many be delivered again, or drop them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ...core.errors import InvalidSelection
from ...core.times import seconds_of
from ...operations.letters import LetterQuery
from ...operations.selection import Selection, choose
from ..access import OPERATES, READS, App, Who
from ..answers import Json, Limit
from ..jobs import AllJobs, Job, Jobs
from .jobs import begun

if TYPE_CHECKING:
    from ...app.app import Pipeline

WHICH = "say which dead letters: ids, or filters (agent, error, same_error, type, older_than), or all"


class Drop(BaseModel):
    """Which dead letters are dropped: those with some ids at once, and in a job all that match everything given."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] | None = Field(None, min_length=1, max_length=1000)
    agent: str | None = None
    error: str | None = Field(None, description="A part of the error.")
    same_error: str | None = Field(None, description="The error as a whole.")
    type: str | None = Field(None, description="A topic pattern, such as order.*")
    older_than: str | None = Field(None, description="Only those that were given up longer ago, such as 30d.")
    all: bool = Field(False, description="All of them.")
    dry_run: bool = Field(False, description="Only say how many they are.")


class Requeue(Drop):
    """Which dead letters are delivered again, and how."""

    data: Any = Field(None, description="Other data than the event's; for one letter.")
    from_step: str | None = Field(None, description="Forget this step of the handler, and those after it.")


#: How it is answered where it takes long.
_BEGUN: dict[int | str, dict[str, Any]] = {
    202: {"description": "It goes on as a job.", "content": {"application/json": {"schema": {}}}}
}

router = APIRouter(prefix="/dead-letters", tags=["dead letters"], default_response_class=Json)


@router.get("", dependencies=[READS])
def list_(
    app: App,
    agent: str | None = None,
    error: str | None = None,
    type: str | None = None,
    after: str | None = None,
    limit: Limit = 100,
) -> Response:
    """Return dead letters, the newest first, with how many there are of each agent."""
    found = app.dead_letters.find(LetterQuery(agent=agent, error=error, event_type=type), limit=limit + 1, after=after)
    shown = [one.as_data() for one in found[:limit]]
    counts = {name: count.as_data() for name, count in app.dead_letters.count().items()}
    return Json({"letters": shown, "counts": counts, "next": found[limit - 1].cursor if len(found) > limit else None})


@router.get("/groups", dependencies=[READS])
def groups(app: App, limit: Limit = 100) -> Response:
    """Return dead letters by agent and error, the largest groups first."""
    return Json({"groups": [one.as_data() for one in app.dead_letters.groups(limit=limit)]})


@router.get("/{id}", dependencies=[READS])
def show(app: App, id: str) -> Response:
    """Return one, with its event and its traceback."""
    return Json(app.dead_letters.get(id).as_data(whole=True))


@router.post("/requeue", dependencies=[OPERATES], responses=_BEGUN)
def requeue(app: App, request: Request, jobs: AllJobs, caller: Who, wanted: Requeue) -> Response:
    """Let some be delivered again, to the agent that gave them up alone."""
    chosen = _chosen(wanted)
    if wanted.dry_run:
        return _counted(app, chosen)
    options: dict[str, Any] = {"data": wanted.data} if "data" in wanted.model_fields_set else {}
    if chosen.ids is None and not options:
        return begun(request, begin(app, jobs, wanted, caller.name))
    changed = app.dead_letters.requeue_chosen(chosen, from_step=wanted.from_step, by=caller.name, **options)
    return Json(changed.as_data("requeued"))


@router.post("/drop", dependencies=[OPERATES], responses=_BEGUN)
def drop(app: App, request: Request, jobs: AllJobs, caller: Who, wanted: Drop) -> Response:
    """Drop some: they stay in the ledger, as dropped."""
    chosen = _chosen(wanted)
    if wanted.dry_run:
        return _counted(app, chosen)
    if chosen.ids is None:
        return begun(request, begin(app, jobs, wanted, caller.name))
    return Json(app.dead_letters.drop_chosen(chosen, by=caller.name).as_data("dropped"))


def begin(app: Pipeline, jobs: Jobs, wanted: Drop, by: str) -> Job:
    """Begin to drop all that match, or to requeue them, as a job."""
    chosen, letters = _chosen(wanted), app.dead_letters
    job = Job("requeue" if isinstance(wanted, Requeue) else "drop", by, wanted.model_dump(exclude_defaults=True))

    def work() -> dict[str, Any]:
        job.total = letters.number(chosen)
        if not isinstance(wanted, Requeue):
            return letters.drop_chosen(chosen, by=by, progress=job.reach).as_data("dropped")
        changed = letters.requeue_chosen(chosen, from_step=wanted.from_step, by=by, progress=job.reach)
        return {**changed.as_data("requeued"), "sent": changed.sent}

    return jobs.start(job, work)


def _chosen(wanted: Drop) -> Selection[LetterQuery]:
    """Return what is chosen; raise InvalidSelection for nothing, or for what is chosen in two ways."""
    age = None if wanted.older_than is None else timedelta(seconds=seconds_of(wanted.older_than, "older_than"))
    query = LetterQuery(wanted.agent, wanted.error, wanted.type, age, wanted.same_error)
    return choose(query, wanted.ids, all=wanted.all, says=WHICH)


def _counted(app: Pipeline, chosen: Selection[LetterQuery]) -> Response:
    if chosen.ids is not None:
        raise InvalidSelection("dry_run: it counts what filters find, and not ids")
    return Json({"dry_run": True, "number": app.dead_letters.number(chosen)})
