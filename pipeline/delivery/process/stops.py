"""Handlers that run for a tree that was stopped: those in the lane are cancelled, others only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from celery.utils.log import get_logger
from celery.worker import state

from ...core.observe import Log
from ...ledger.facts import Stop

logger = Log(get_logger(__name__))
CANNOT = (
    "%s: the delivery was cancelled, and this pool cannot end its handler; what it emits is refused when it returns"
)


def stop_running(pool: Any, stops: Iterable[Stop]) -> None:
    """Let handlers end, in the worker's main thread; whoever has ended by now is left alone.

    Arguments:
        pool: the worker's.

    """
    wanted = {stop.delivery: stop for stop in stops}
    for id, request in list(_requests()):
        stop = wanted.get(id)
        if stop is not None and (request.lane is not None or stop.terminate):
            try:
                request.terminate(pool)
            except NotImplementedError:
                logger.warning(CANNOT, request.id)


def _requests() -> Iterator[tuple[str, Any]]:
    """Return what the worker has begun, each with its delivery's id."""
    for request in list(state.active_requests):
        if hasattr(request, "lane"):
            marks = request.request_dict.get("bus") or {}
            yield marks.get("delivery") or request.id, request
