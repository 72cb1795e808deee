"""The step of a worker's start that opens its lane, where it has async agents."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from billiard import get_start_method
from celery.bootsteps import StartStopStep
from celery.concurrency.prefork import TaskPool as Prefork
from celery.utils.log import get_logger

from ...core.observe import Log
from ...core.times import monotonic
from ..process.deaths import forget
from .lane import TICK, Lane
from .lines import Apart, Here
from .messages import Line

if TYPE_CHECKING:
    from ...bus import Bus

logger = Log(get_logger(__name__))


class LaneStep(StartStopStep):  # type: ignore[misc]  # celery's classes are untyped
    """Runs a lane beside the pool; it is stopped before the pool and after the consumer."""

    #: The sweeper has checked the ledger, and says readably what is wrong with it.
    requires = ("celery.worker.components:Pool", "pipeline.workers.step:SweeperStep")

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        pipeline = getattr(worker.app, "pipeline", None)
        self._bus: Bus | None = pipeline and pipeline.bus
        self._lane: Lane | None = None
        self._heard = 0.0

    def start(self, worker: Any) -> None:
        """Start the host, if one of the agents that this worker runs is async."""
        bus = self._bus
        if bus is None or worker.pool.is_green or not worker.use_eventloop:
            return
        worker.consumer.open_lane = partial(self._open, worker, bus)
        queues = worker.app.amqp.queues.consume_from
        if not any(agent.is_async and bus.names.queue_of(agent.name) in queues for agent in bus.agents):
            return
        self._open(worker, bus)

    def _open(self, worker: Any, bus: Bus) -> Lane:
        if bus.has_ledger:
            _ = bus.ledger.secret  # a process that is forked has it then: what is emitted on the loop is signed with it
        limit = bus.settings.async_concurrency
        is_apart = isinstance(worker.pool, Prefork) and get_start_method() == "fork"

        def start() -> Line:
            return (Apart if is_apart else Here)(bus, worker.app, worker.hostname)

        consumer = worker.consumer
        most = worker.max_tasks_per_child if is_apart else None
        after = consumer.timer.call_after
        self._lane = Lane(start, consumer.run_in_pool, partial(forget, bus), after, consumer.together, most)
        consumer.enter_lane(self._lane)
        where = "a process of their own" if is_apart else "a thread of this process"
        logger.info(
            "async agents run on an event loop in %s, %d of each at once unless an agent says otherwise", where, limit
        )
        return self._lane

    def stop(self, worker: Any) -> None:
        """Wait until the handlers that run have ended; the broker hears meanwhile that the worker lives."""
        if self._lane is not None:
            lane, self._lane = self._lane, None
            lane.finish(lambda: self._beat(worker))

    def _beat(self, worker: Any) -> None:
        if monotonic() - self._heard >= TICK:
            self._heard = monotonic()
            worker.consumer.keep_alive()

    def terminate(self, worker: Any) -> None:
        """Cancel the handlers that run."""
        if self._lane is not None:
            lane, self._lane = self._lane, None
            lane.kill()
