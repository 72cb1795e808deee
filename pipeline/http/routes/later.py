"""Routes about what waits: queues, schedules, and what is due later."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from ...coordination.schedule import shown
from ...core.times import utc_now
from ...history.inspection import upcoming
from ...history.traffic import throughput
from ...operations.standing import standing
from ..access import READS, App
from ..answers import Json, Limit

router = APIRouter(tags=["waiting"], default_response_class=Json)


@router.get("/queues", dependencies=[READS])
def queues(app: App) -> Response:
    """Return each agent's queue: what waits in it, what its agent has in hand, and how many it does a second."""
    names, done = app.bus.names, throughput(app.ledger).done
    found = standing(app.bus, sorted(app.ledger.subscribers.all()))
    rows = [
        {"queue": names.queue_of(agent), "agent": agent, **one.as_data(), "rate": round(done.get(agent, 0.0), 3)}
        for agent, one in found.items()
    ]
    return Json({"queues": rows})


@router.get("/schedules", dependencies=[READS])
def schedules(app: App) -> Response:
    """Return the schedules that the app declares, and what beat publishes by each."""
    return Json({"schedules": shown(app.schedules, utc_now())})


@router.get("/timers", dependencies=[READS])
def timers(app: App, after: str | None = None, limit: Limit = 100) -> Response:
    """Return what is due later, the next first: delayed events, retries, parked deliveries, deadlines."""
    found = upcoming(app.ledger, limit=limit + 1, after=after)
    more = found[limit - 1].cursor if len(found) > limit else None
    return Json({"timers": [one.as_data() for one in found[:limit]], "next": more})
