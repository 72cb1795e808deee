"""Routes for those who watch the server itself: whether it lives, and whether what it needs is there."""

from __future__ import annotations

import logging
from asyncio import Future, ensure_future, shield, to_thread, wait_for
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...core.errors import PipelineError, without_passwords
from ...core.observe import Log
from ..answers import Json

if TYPE_CHECKING:
    from ...app.app import Pipeline

logger = Log(logging.getLogger(__name__))

#: Seconds within which it is said whether the server is ready.
PATIENCE = 2.0


class Ready:
    """Looks whether what the server needs is there, once for all who ask at one time: each look keeps a thread."""

    def __init__(self, app: Pipeline) -> None:
        self._app = app
        self._look: Future[None] | None = None

    def look(self) -> Future[None]:
        """Return the look that is going on."""
        if self._look is None or self._look.done():
            self._look = ensure_future(to_thread(self._ask))
        return self._look

    def _ask(self) -> None:
        from ...history.events import end_of_log

        if self._app.has_ledger:
            end_of_log(self._app.ledger)
            return
        with self._app.celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=PATIENCE)


router = APIRouter(tags=["health"], include_in_schema=False)


@router.get("/healthz")
async def healthz() -> Response:
    """Say that the server answers."""
    return Json({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Say whether the ledger answers, without which nothing is accepted; without one, whether the broker does."""
    try:
        ready: Ready = request.app.state.ready
        await wait_for(shield(ready.look()), PATIENCE)
    except (PipelineError, TimeoutError, OSError) as exc:
        logger.warning("not ready: %s", without_passwords(str(exc)) or "no answer in time")
        return Json({"status": "away"}, 503)
    return Json({"status": "ok"})
