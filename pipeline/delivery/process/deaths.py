"""What a process has begun that has died with several deliveries: nobody knows which of them has ended it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.utils.log import get_logger

from ...core.errors import line_of
from ...core.observe import Log

if TYPE_CHECKING:
    from ...bus import Bus

logger = Log(get_logger(__name__))


def forget(bus: Bus, pid: int) -> None:
    """Let the attempts not count that a process of this worker has begun and not ended; without a ledger none do."""
    if not bus.has_ledger:
        return
    try:
        bus.ledger.deliveries.release(bus.worker_id, pid)
    except Exception as exc:  # each has spent an attempt then
        logger.warning("the attempts that process %d has made count: %s", pid, line_of(exc))
