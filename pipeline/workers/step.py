"""The step that a worker's start has more than Celery's: its agents are registered, and its sweeper begins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery.bootsteps import StartStopStep
from celery.signals import worker_shutdown
from celery.utils.log import get_logger
from kombu.utils.imports import symbol_by_name

from ..core import forks
from ..core.errors import ConfigError, LedgerError, PipelineError
from ..core.observe import Log, ended
from ..core.routing import receivers
from ..core.times import monotonic
from ..ledger.status import counted, unrouted_by_type
from ..publishing.outbox import PAUSE
from .sweeper import Sweeper

if TYPE_CHECKING:
    from ..bus import Bus

logger = Log(get_logger(__name__))

#: Seconds between two looks for what is due.
TICK = 0.2
#: Seconds between two heartbeats of a worker.
HEARTBEAT = 5.0
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
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._agents: dict[str, tuple[tuple[str, ...], datetime | int | None]] = {}
        self._sweeper: Sweeper | None = None

    def start(self, worker: Any) -> None:
        """Register the agents that this worker runs, and begin to sweep; a ledger that is wrong ends the worker."""
        bus = self._bus
        if bus is None:
            return
        if not bus.agents:
            logger.warning(NO_AGENTS)
        if not bus.has_ledger:
            logger.warning(OFF)
            return
        try:
            self._agents = self._consumed(bus, worker)
            self._register(bus)
            bus.ledger.subscribers.identify({a.name: a.did for a in bus.agents if a.did and a.name in self._agents})
            bus.pauses.look()
            self._mention_missed(bus)
            self._sweeper = Sweeper(bus)
        except (ConfigError, LedgerError) as exc:
            raise ended(logger, f"pipeline: {exc}") from exc
        for name, run in (("sweeper", self._sweep), ("heartbeat", self._beat)):
            self._threads.append(threading.Thread(target=run, name=f"pipeline-{name}", daemon=True))
            self._threads[-1].start()
        bus.pulse.at = monotonic()
        worker_shutdown.connect(self._end)  # there is one worker in a process

    @staticmethod
    def _consumed(bus: Bus, worker: Any) -> dict[str, tuple[tuple[str, ...], datetime | int | None]]:
        """Return the agents whose queues this worker consumes."""
        names = {bus.names.agent_of(name) for name in worker.app.amqp.queues.consume_from}
        return {agent.name: (agent.patterns, agent.since) for agent in bus.agents if agent.name in names}

    def _register(self, bus: Bus) -> None:
        share = bus.settings.filtered_share
        filters = {name: wanting.as_data(share) for name in self._agents if (wanting := bus.agents[name].wanting)}
        bus.ledger.subscribers.register(self._agents, bus.worker_id, filters)
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
        assert self._sweeper is not None
        self._repeat("sweeper", self._sweeper.sweep, TICK)

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
                self._register(bus)

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
