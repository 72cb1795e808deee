"""The step that a worker's start has more than Celery's: its agents are registered, and its sweeper begins."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery.bootsteps import StartStopStep
from celery.concurrency.prefork import TaskPool as Prefork
from celery.signals import worker_process_shutdown, worker_ready, worker_shutdown, worker_shutting_down
from celery.utils.log import get_logger
from kombu.utils.imports import symbol_by_name

from ..brokers.topology import AgentQueue
from ..core import forks
from ..core.errors import ConfigError, LedgerError, PipelineError
from ..core.observe import Log, ended
from ..core.routing import receivers
from ..core.times import monotonic
from ..ledger.status import counted, unrouted_by_type
from ..ledger.workers import HEARTBEAT
from ..publishing.outbox import PAUSE
from .monitor import Stage
from .sweeper import Sweeper
from .vitals import about

if TYPE_CHECKING:
    from ..bus import Bus

logger = Log(get_logger(__name__))

#: Seconds between two looks for what is due.
TICK = 0.2
OFF = (
    "the ledger is off (ledger_url is empty): a delivery may take effect twice, retries wait in the workers' memory, "
    "publish() fails while the broker is away, attempts that kill their worker are not counted, and what the broker "
    "loses is lost; there is no replay, no trace and no dead letter but in the broker's own queues"
)
NO_AGENTS = (
    "this worker has no agents: let the module that it is started with import those that declare them, or name these "
    "in PIPELINE_AGENTS or app.autodiscover()"
)
WANTED = (
    "%s from before went to nobody, and this worker's agents listen to %d of them now: "
    "`pipeline -A YOUR_APP unrouted --replay` delivers these"
)
MISSED = "%s from before went to nobody, and no agent of this worker listens to them: %s"


class LoopHangs(PipelineError):
    """The worker's loop does not turn."""


class SweeperStep(StartStopStep):  # type: ignore[misc]  # celery's classes are untyped
    """Runs a Sweeper in each worker's main process, after its pool has started."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        pipeline = getattr(worker.app, "pipeline", None)
        self._bus: Bus | None = pipeline and pipeline.bus
        consumer = worker.app.conf.worker_consumer
        if pipeline and not getattr(symbol_by_name(consumer), "reads_events", False):
            raise ended(
                logger,
                f"worker_consumer = {consumer!r} takes no events: derive it from "
                "pipeline.delivery.consumer.AgentConsumer, or remove the setting",
            )
        if self._bus is not None:
            try:
                self._bus.types.check()
            except ConfigError as exc:
                raise ended(logger, f"pipeline: {exc}") from exc
            self._bus.name_worker()  # before the pool is forked, which runs deliveries under that name
            worker_process_shutdown.connect(self._end_of_process)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._agents: dict[str, tuple[tuple[str, ...], datetime | int | None]] = {}
        self.sweeper: Sweeper | None = None

    def create(self, worker: Any) -> None:
        """Prepare for the pool, which starts next, to be forked."""
        if self._bus is not None and isinstance(worker.pool, Prefork):
            _share_memory()

    def start(self, worker: Any) -> None:
        """Register the agents that this worker runs, and begin to sweep; a ledger that is wrong ends the worker."""
        bus = self._bus
        if bus is None:
            return
        if not bus.has_ledger:
            if not bus.agents:
                logger.warning(NO_AGENTS)
            logger.warning(OFF)
            return
        try:
            self._subscribe(bus, worker)
            if not bus.agents:
                logger.warning(NO_AGENTS)
            self._agents = self._consumed(bus, worker)
            self._bind(bus, worker)
            self.register(bus)
            bus.ledger.subscribers.identify({a.name: a.did for a in bus.agents if a.did and a.name in self._agents})
            bus.ledger.limits.rules.declare(
                {n: r for a in bus.agents if a.name in self._agents for n, r in a.rules.items()}
            )
            bus.pauses.look()
            self._mention_missed(bus)
            self.sweeper = Sweeper(bus)
        except (ConfigError, LedgerError) as exc:
            raise ended(logger, f"pipeline: {exc}") from exc
        threads = (("sweeper", self._sweep), ("heartbeat", self._beat)) if bus.by_hand is None else ()
        for name, run in threads:
            self._threads.append(threading.Thread(target=run, name=f"pipeline-{name}", daemon=True))
            self._threads[-1].start()
        bus.pulse.at = monotonic()
        worker_ready.connect(self._come)
        worker_shutting_down.connect(self._leave)
        worker_shutdown.connect(self._end)  # there is one worker in a process

    @staticmethod
    def _subscribe(bus: Bus, worker: Any) -> None:
        """Let a worker that runs whatever agents there are (without -Q) have those that the ledger declares, too."""
        if bus.subscribed is not None and worker.app.amqp.queues._consume_from is None:
            bus.subscribed.is_on = True
            bus.subscribed.look()
            bus.subscribed.apply()

    @staticmethod
    def _consumed(bus: Bus, worker: Any) -> dict[str, tuple[tuple[str, ...], datetime | int | None]]:
        """Return the agents of the code whose queues this worker consumes; of the others the ledger knows by itself."""
        names = {bus.names.agent_of(name) for name in worker.app.amqp.queues.consume_from}
        mine = (agent for agent in bus.agents if agent.name in names and not agent.in_ledger)
        return {agent.name: (agent.patterns, agent.since) for agent in mine}

    @staticmethod
    def _bind(bus: Bus, worker: Any) -> None:
        """Declare the worker's queues before publishers hear of its agents.

        The consumer does so seconds later; what was published in between would have no queue, and wait for
        reconciliation. What is wrong with the broker or a queue, the consumer says, which connects next.
        """
        queues = [one for one in worker.app.amqp.queues.consume_from.values() if isinstance(one, AgentQueue)]
        with suppress(*bus.publisher.recoverable), worker.app.connection_for_read() as connection:
            connection.connect()  # once: the consumer is the one who waits for a broker that is away
            channel = connection.channel()
            for queue in queues:
                queue(channel).declare()

    def register(self, bus: Bus) -> None:
        """Say that this worker lives, and what it runs."""
        share = bus.settings.filtered_share
        filters = {name: wanting.as_data(share) for name in self._agents if (wanting := bus.agents[name].wanting)}
        bus.ledger.subscribers.register(self._agents, bus.worker_id, filters, about(bus, self._agents))
        _ = bus.ledger.seal  # read here once: the loop, which checks signatures, should not wait for the ledger

    def _mention_missed(self, bus: Bus) -> None:
        """Log how many events from before nobody was given: who publishes first thinks that they are handled now."""
        missed = unrouted_by_type(bus.ledger.database)
        # An agent with a `since` gets its past by itself.
        own = {name: patterns for name, (patterns, since) in self._agents.items() if since is None}
        wanted = sum(some.number for some in missed if receivers(own, some.type, some.targets))
        number = sum(some.number for some in missed)
        if wanted:
            logger.warning(WANTED, counted(number), wanted)
        elif number:
            logger.info(MISSED, counted(number), ", ".join(dict.fromkeys(some.type for some in missed)))

    def _sweep(self) -> None:
        assert self.sweeper is not None
        self._repeat("sweeper", self.sweeper.sweep, TICK)

    def _beat(self) -> None:
        """Say that the worker lives, in a thread of its own: a slow broker or read model must not make it seem dead.

        A worker whose loop hangs does not live: it takes nothing and ends nothing, so others have to.
        """
        assert self._bus is not None
        bus, within = self._bus, self._bus.settings.broker_timeout

        def beat() -> None:
            if not bus.pulse.is_beating(within):
                raise LoopHangs(f"the worker's loop has not turned for {within:g} s, so it does not count as living")
            with forks.held_off():
                self.register(bus)

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

    def _come(self, **_: Any) -> None:
        """Let the sweeper say that the worker is there; before, its own queues might not be bound."""
        if self.sweeper is not None:
            self.sweeper.chores.monitor.stage = Stage.READY

    def _leave(self, **_: Any) -> None:
        """Let the sweeper say that the worker stops; here a signal may have interrupted anything."""
        if self.sweeper is not None:
            self.sweeper.chores.monitor.stage = Stage.LEAVES

    def _end_of_process(self, **_: Any) -> None:
        """Write, in a process of the pool that ends, what its handlers have said last: it waits for no thread."""
        if self._bus is not None and self._bus.has_ledger:
            self._bus.ledger.notices.flush()

    def disconnect(self) -> None:
        """Hear no more of workers: this one has ended, and in its process another may begin."""
        worker_ready.disconnect(self._come)
        worker_shutting_down.disconnect(self._leave)
        worker_shutdown.disconnect(self._end)
        worker_process_shutdown.disconnect(self._end_of_process)

    def _end(self, **_: Any) -> None:
        """End the thread; what it had taken and not sent is taken by another worker."""
        self.disconnect()
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)
        if self.sweeper is not None:
            with suppress(PipelineError):
                self.sweeper.chores.monitor.come_and_go()  # it may have ended before the sweeper looked
            self.sweeper.leave()


def _is_expected(exc: Exception) -> bool:
    return isinstance(exc, (PipelineError, OSError))


def _share_memory() -> None:
    """Let the processes of a pool share what was imported: a collection in each writes to, and so copies, all of it.

    Source: https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()
