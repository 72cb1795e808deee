"""Every worker's sweeper: a thread that relays, fires timers, and sends again what has been lost. No beat is needed.

Any number of workers may sweep: what one has taken, the others leave alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery.bootsteps import StartStopStep
from celery.signals import worker_shutdown
from celery.utils.log import get_logger

from ..brokers import topology
from ..core import forks
from ..core.errors import BrokerUnavailable, ConfigError, LedgerError, PipelineError, ProjectionFailed
from ..ledger import due, reconcile
from ..publishing.outbox import GRACE, PAUSE, Outbox
from ..publishing.publisher import Encoded, Publisher

if TYPE_CHECKING:
    from ..app.app import Pipeline

logger = get_logger(__name__)

#: Seconds between two looks for what is due.
TICK = 0.2
#: Seconds between two heartbeats of a worker.
HEARTBEAT = 5.0
#: Reconciliation looks this many times within `reconcile_after`, but not more often than once a second.
LOOKS = 4
OFF = (
    "the ledger is off (ledger_url is empty): a delivery may take effect twice, retries wait in the workers' memory, "
    "publish() fails while the broker is away, attempts that kill their worker are not counted, and what the broker "
    "loses is lost; there is no replay, no trace and no dead letter but in the broker's own queues"
)


class Sweeper:
    """What a worker does beside its deliveries, each time sweep() is called."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Take the app; a connection of its own is opened when something is to be sent."""
        self._pipeline = pipeline
        self._ledger = pipeline.ledger
        self._publisher = Publisher(pipeline.celery, pipeline.settings)
        self._outbox = Outbox(self._ledger, self._publisher)
        self._after = pipeline.settings.reconcile_after
        self._next: dict[str, float] = {}
        self._failed: set[str] = set()

    def sweep(self) -> int:
        """Do all that is due now; return how many things were done."""
        with forks.held_off():  # what this thread has locked, a module that it imports too, a child could never unlock
            done = self._send_what_is_due()
            self._publisher.close()  # an idle connection beside the worker's own would be in the way of forks
        return done + sum(self._project())

    def _send_what_is_due(self) -> int:
        found = due.look(self._ledger)
        done = self.relay() if found.outbox else 0
        done += self.fire() if found.timers else 0
        done += self.send_at_once() if found.at_once else 0
        look = max(1.0, self._after / LOOKS)
        if self._is_time("declare", look):
            self._declare()
        if self._is_time("reconcile", look):
            done += self.reconcile()
        return done

    def relay(self) -> int:
        """Send what publishers have accepted and not sent."""
        records = due.take_outbox(self._ledger)
        bus = {"ledger": self._ledger.id}
        if not self._outbox.send([Encoded(record.event, record.body, bus=bus) for record in records]):
            due.postpone(self._ledger, [record.event.id for record in records], PAUSE)
            return 0
        return len(records)

    def fire(self) -> int:
        """Publish delayed events and send retries whose time has come."""
        records, retries, lease = due.take_timers(self._ledger, GRACE)
        bus = {"ledger": self._ledger.id}
        self._outbox.send([Encoded(record.event, record.body, bus=bus) for record in records])
        ids = [one.id for one in retries]
        try:
            self._send(retries)
        except BrokerUnavailable as exc:
            logger.warning("%d retries wait for the broker: %s", len(ids), exc)
            due.release_timers(self._ledger, ids, lease, PAUSE)
            return 0
        due.finish_timers(self._ledger, ids, lease)
        return len(records) + len(ids)

    def send_at_once(self) -> int:
        """Send deliveries that somebody asked for: requeued dead letters, a new agent's past."""
        return self._send_or_ask_again(due.at_once(self._ledger))

    def reconcile(self) -> int:
        """Send again what should have reached an agent and is neither in its queue nor in anybody's hands."""
        if reconcile.check(self._ledger, self._after):
            self._next["reconcile"] = 0.0  # there may be more; what is due comes in between
        found = 0
        for agent in due.agents_with_lost(self._ledger, self._after):
            # What waits in the queue is not lost; when the queue is empty, what has no outcome is.
            if self._waiting(agent) == 0:
                again = due.lost(self._ledger, agent, self._after)
                if again:
                    logger.warning("agent %s: %d deliveries were in no queue and are sent again", agent, len(again))
                found += self._send_or_ask_again(again)
        return found

    def _send_or_ask_again(self, deliveries: Sequence[due.Due]) -> int:
        try:
            self._send(deliveries)
        except BrokerUnavailable as exc:
            logger.warning("%d deliveries wait for the broker: %s", len(deliveries), exc)
            due.ask_again(self._ledger, [one.id for one in deliveries])
            return 0
        return len(deliveries)

    def _send(self, deliveries: Sequence[due.Due]) -> None:
        self._publisher.send_encoded([Encoded(one.event, one.body, one.agent, one.bus) for one in deliveries])

    def _declare(self) -> None:
        """Declare this worker's queues: a broker that has lost its data no longer knows who listens."""
        celery = self._pipeline.celery
        try:
            with self._publisher.channel() as channel:
                for queue in celery.amqp.queues.consume_from.values():
                    if isinstance(queue, topology.AgentQueue):
                        queue.declare(channel=channel)
        except self._publisher.recoverable as exc:
            logger.warning("the queues could not be declared again: %r", exc)

    def _waiting(self, agent: str) -> int:
        """Return how many messages wait in an agent's queue."""
        try:
            with self._publisher.channel() as channel:
                queue = topology.agent_queue(agent)(channel)
                queue.declare()
                return int(channel.queue_declare(queue.name, passive=True).message_count)
        except self._publisher.recoverable as exc:
            raise BrokerUnavailable(f"the queue of agent {agent} cannot be looked at: {exc!r}") from exc

    def _project(self) -> list[int]:
        """Keep read models up to date; one that fails does not stop the others."""
        if not self._pipeline.has_projections:
            return []
        from ..history.projections import catch_up

        done = []
        for projection in self._pipeline.projections:
            try:
                done.append(catch_up(self._ledger, projection))
                self._failed.discard(projection.name)
            except ProjectionFailed as exc:
                if projection.name not in self._failed:
                    logger.error("%s", exc, exc_info=exc)
                self._failed.add(projection.name)
        return done

    def _is_time(self, what: str, interval: float) -> bool:
        if time.monotonic() < self._next.get(what, 0.0):
            return False
        self._next[what] = time.monotonic() + interval
        return True

    def leave(self) -> None:
        """Say that the worker has ended, and close what was opened."""
        with suppress(PipelineError):
            due.leave(self._ledger, self._pipeline.worker_id)
        self._publisher.close()


class SweeperStep(StartStopStep):  # type: ignore[misc]  # celery's classes are untyped
    """Runs a Sweeper in each worker's main process, after its pool has started."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        """Take the worker."""
        super().__init__(worker, **options)
        self._pipeline: Pipeline | None = getattr(worker.app, "pipeline", None)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._agents: dict[str, tuple[tuple[str, ...], datetime | int | None]] = {}
        self._sweeper: Sweeper | None = None

    def start(self, worker: Any) -> None:
        """Register the agents that this worker runs, and begin to sweep; a ledger that is wrong ends the worker."""
        pipeline = self._pipeline
        if pipeline is None:
            return
        if not pipeline.has_ledger:
            logger.warning(OFF)
            return
        try:
            self._agents = self._consumed(pipeline, worker)
            self._register()
            self._sweeper = Sweeper(pipeline)
        except (ConfigError, LedgerError) as exc:
            raise SystemExit(f"pipeline: {exc}") from exc
        for name, run in (("sweeper", self._sweep), ("heartbeat", self._beat)):
            self._threads.append(threading.Thread(target=run, name=f"pipeline-{name}", daemon=True))
            self._threads[-1].start()
        worker_shutdown.connect(self._end)  # there is one worker in a process

    @staticmethod
    def _consumed(pipeline: Pipeline, worker: Any) -> dict[str, tuple[tuple[str, ...], datetime | int | None]]:
        """Return the agents whose queues this worker consumes."""
        names = {topology.agent_of(name) for name in worker.app.amqp.queues.consume_from}
        return {agent.name: (agent.patterns, agent.since) for agent in pipeline.agents if agent.name in names}

    def _register(self) -> None:
        assert self._pipeline is not None
        reconcile.register(self._pipeline.ledger, self._agents)
        due.heartbeat(self._pipeline.ledger, self._pipeline.worker_id)

    def _sweep(self) -> None:
        assert self._sweeper is not None
        self._repeat("sweeper", self._sweeper.sweep, TICK)

    def _beat(self) -> None:
        """Say that the worker lives, in a thread of its own: a slow broker or read model must not make it seem dead."""

        def beat() -> None:
            with forks.held_off():
                self._register()

        self._repeat("heartbeat", beat, HEARTBEAT)

    def _repeat(self, name: str, do: Callable[[], int | None], interval: float) -> None:
        """Call `do` until the worker ends: at once again while it finds something to do, else after the interval."""
        pause, trouble = 0.0, ""
        while not self._stop.wait(pause):
            try:
                pause = 0.0 if do() else interval
                trouble = ""
            except Exception as exc:  # the thread must outlive a database or broker that is away
                if str(exc) != trouble:
                    logger.warning("the %s goes on in %g s: %s", name, PAUSE, exc, exc_info=not _is_expected(exc))
                pause, trouble = PAUSE, str(exc)

    def stop(self, worker: Any) -> None:
        """Go on: Celery stops this step before the pool, and whose handlers still run has to be known as alive."""

    terminate: Callable[[Any, Any], None] = stop

    def _end(self, **_: Any) -> None:
        """End the thread; what it had taken and not sent is taken by another worker."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)
        if self._sweeper is not None:
            self._sweeper.leave()


def _is_expected(exc: Exception) -> bool:
    return isinstance(exc, (PipelineError, OSError))
