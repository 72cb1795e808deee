"""Wiring: how a Celery app is made and dressed, so that its commands, workers and canvases know the bus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.signals import import_modules

from ..agents.agent import Agent
from ..brokers.kinds import kind_of_url
from ..brokers.topology import EMIT_FAILED_TASK, EMIT_TASK, AgentQueue
from ..coordination.chords import Emit, EmitFailed
from ..coordination.schedule import PublishScheduled, Scheduled

if TYPE_CHECKING:
    from ..bus import Bus
    from ..delivery.delivery import Bookkeeping
    from ..settings import Settings

#: The setting `worker_consumer` as long as nobody has changed it.
CELERYS_CONSUMER = "celery.worker.consumer:Consumer"
CONSUMER = "pipeline.delivery.consumer:AgentConsumer"
STEP, LANE = "pipeline.workers.step:SweeperStep", "pipeline.delivery.lane.step:LaneStep"
METRICS = "pipeline.telemetry.step:MetricsStep"
WINDOWS = "pipeline.delivery.windows:WindowsStep"
#: What neither an app's own Task class nor its `task_annotations` may change: the bus's tasks acknowledge, retry and
#: keep results as what they promise needs it.
OURS = (
    "acks_late",
    "acks_on_failure_or_timeout",
    "autoretry_for",
    "ignore_result",
    "max_retries",
    "reject_on_worker_lost",
    "Request",
    "retry_on_worker_lost",
    "store_errors_even_if_ignored",
)
#: What agents are declared with; where they are not, the app's annotations and settings hold.
DECLARED = ("rate_limit", "soft_time_limit", "time_limit")
_REQUESTS = "pipeline.delivery.request"


def build(name: str, settings: Settings) -> Celery:
    """Return a new Celery app whose broker and results are what the settings say."""
    url = settings.effective_broker_url
    kind = kind_of_url(url)
    celery = Celery(name)
    celery.conf.update(
        broker_url=url,
        broker_transport_options=kind.options(settings.confirm, settings.redis_visibility_timeout) if kind else {},
        broker_connection_retry_on_startup=True,
        # After a lost connection RabbitMQ may hold the worker's exclusive queue for a while: try again.
        broker_channel_error_retry=True,
        result_backend=settings.effective_result_backend,
        beat_schedule_filename=str(settings.directory / "beat-schedule"),
        imports=settings.agents,
        **_in_namespace(settings.namespace),
    )

    def make_directory(sender: Any, **_: Any) -> None:
        """Create the state directory when a worker or beat starts; publishers need none."""
        with suppress(OSError):  # whoever needs it says so, and reading commands do not
            sender.pipeline.settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    # Celery knows a sender by its address, which is another app's later: the receiver lives as long as its app.
    celery.make_directory = make_directory
    import_modules.connect(make_directory, sender=celery)
    return celery


def _in_namespace(namespace: str) -> Mapping[str, Any]:
    """Return what keeps Celery's own names apart from those of other apps on the same broker."""
    if not namespace:
        return {}
    return {
        "task_default_queue": f"{namespace}.celery",
        "control_exchange": f"{namespace}.celery",
        "event_exchange": f"{namespace}.celeryev",
        "event_queue_prefix": f"{namespace}.celeryev",
        "result_backend_transport_options": {"global_keyprefix": f"{namespace}."},
    }


def _first(urls: Any) -> str:
    """Return the first of a Celery app's broker_url, which may be a list, or nothing yet."""
    return urls if isinstance(urls, str) else next(iter(urls or ()), "")


def _set(conf: Any, name: str, value: Any) -> None:
    """Change one of Celery's settings, whatever the user has called it."""
    conf[name] = value
    if conf[name] is not value:  # Celery 5.6 finds the name with the namespace's prefix first, in what it has read
        conf[(conf.prefix + name).upper() if conf.prefix.isupper() else conf.prefix + name] = value


class Wiring:
    """Adds to a Celery app what the bus needs, whenever Celery reads its configuration."""

    def __init__(self, bus: Bus, schedules: Mapping[str, Scheduled]) -> None:
        self._bus = bus
        self._celery = bus.celery
        self._books: Bookkeeping | None = None
        self._queues = [bus.names.emit_queue()]
        self._celery.on_after_configure.connect(self._configure, weak=False)
        if self._celery.configured:
            self._configure()
        self._celery.steps["worker"].update((STEP, LANE))
        self._celery.steps["consumer"].add(WINDOWS)
        self._let_others_listen(bus.settings)
        for task, more in ((Emit, {}), (EmitFailed, {}), (PublishScheduled, {"schedules": schedules})):
            attributes = {"bus": bus, "__module__": task.__module__, **more}
            self._add_task(partial(type, task.__name__, (task,), attributes))

    def _let_others_listen(self, settings: Settings) -> None:
        """Let those hear of what the bus does for whom the settings ask."""
        if settings.metrics_port:
            self._celery.steps["worker"].add(METRICS)
        if settings.log_format == "json":
            from ..telemetry.logs import write_json

            write_json()
        if settings.traces:
            from ..telemetry.traces import await_sdk

            await_sdk(self._bus)

    def add(self, agent: Agent) -> None:
        """Give an agent its queue and its task."""
        agent.app = self._celery
        self._add_queue(self._bus.names.agent_queue(agent.name, agent.patterns))
        self._add_task(partial(self._task_of, agent))

    def put(self, agent: Agent) -> None:
        """Do that for an agent that the ledger declares, in place of what it was, while a worker runs."""
        self._celery.tasks.pop(agent.task_name, None)
        self.add(agent)

    def drop(self, agent: Agent) -> None:
        """Take the queue of such an agent away; its task stays for what is on its way to it."""
        name = self._bus.names.queue_of(agent.name)
        self._queues = [queue for queue in self._queues if queue.name != name]
        queues = self._celery.amqp.queues
        for known in (queues, queues.consume_from):
            known.pop(name, None)

    def _task_of(self, agent: Agent) -> type[Any]:
        """Return an agent's task; it also is what the app's own Task class (`app.Task`, `task_cls`) makes of tasks."""
        from ..delivery.task import HARD_LIMIT_GRACE, surrounded_by

        return type(
            agent.name,
            surrounded_by(self._celery.Task),
            {
                "__module__": agent.handler.__module__,
                "__doc__": agent.handler.__doc__,
                "name": agent.task_name,
                "agent": agent,
                "bus": self._bus,
                "source": agent.did or f"{self._bus.source}/agent/{agent.name}",
                "rate_limit": agent.rate_limit,
                "soft_time_limit": agent.timeout,
                "time_limit": agent.timeout and agent.timeout + HARD_LIMIT_GRACE,
                "max_retries": agent.retry.max,
                "default_retry_delay": agent.retry.base,
                **self._bookkeeping(),
            },
        )

    def _bookkeeping(self) -> Mapping[str, Any]:
        """Return who keeps the books of deliveries, with a ledger or without, and how Celery treats their tasks."""
        if self._bus.has_ledger:
            from ..coordination.flows.flows import Flows
            from ..delivery.inbox import Inbox

            self._bus.flows_of = Flows
            self._books = self._books or self._counted(Inbox(self._bus))
            request, lost = "RecordedRequest", False
        else:
            from ..delivery.plain import Plain

            self._books = self._books or self._counted(Plain(self._bus))
            # A pool process that dies counts as an attempt: Celery sends the task again, to this queue only.
            request, lost = "PlainRequest", True
        return {"books": self._books, "Request": f"{_REQUESTS}:{request}", "retry_on_worker_lost": lost}

    def _counted(self, books: Bookkeeping) -> Bookkeeping:
        """Return the books as they are kept where a worker counts how deliveries end."""
        if not self._bus.settings.metrics_port:
            return books
        from ..telemetry.counted import Counted

        counted: Bookkeeping = Counted(books, self._bus.spans)
        return counted

    def _add_task(self, task: Callable[[], type[Any]]) -> None:
        """Register a task now, or when Celery finalizes its app: until then its settings may still change."""

        def register(**_: Any) -> None:
            made = task()
            own = {name: getattr(made, name, None) for name in (*OURS, *DECLARED)}
            kept = {name: value for name, value in own.items() if value is not getattr(Task, name, None)}
            self._celery.register_task(made())  # which annotates it
            for name, value in kept.items():
                setattr(made, name, value)

        if self._celery.finalized:
            register()
        else:
            self._celery.on_after_finalize.connect(register, weak=False)

    def _add_queue(self, queue: AgentQueue) -> None:
        """Let workers consume a queue, beside those that Celery is configured with."""
        self._queues = [other for other in self._queues if other.name != queue.name] + [queue]
        if "queues" in self._celery.amqp.__dict__:
            self._celery.amqp.queues.select_add(queue)
        elif self._celery.configured:
            self._configure()

    def _configure(self, **_: Any) -> None:
        """Add to Celery's configuration what the bus needs; run whenever Celery has read it, so it may run again."""
        conf = self._celery.conf
        if conf.worker_consumer == CELERYS_CONSUMER:
            _set(conf, "worker_consumer", CONSUMER)
        kind = kind_of_url(_first(conf.broker_url))
        if kind is not None:
            bounds = kind.bounds(self._bus.settings.broker_timeout)
            _set(conf, "broker_transport_options", {**bounds, **(conf.broker_transport_options or {})})
        routes = conf.task_routes or ()
        routes = routes if isinstance(routes, (list, tuple)) else (routes,)
        if self._route not in routes:
            _set(conf, "task_routes", (self._route, *routes))
        amqp = self._celery.amqp
        if "queues" in amqp.__dict__:
            for queue in self._queues:
                amqp.queues.select_add(queue)
        else:
            # Not through amqp.queues: what reads the configuration may be about to build them.
            queues = {**amqp.Queues(conf.task_queues), **{queue.name: queue for queue in self._queues}}
            _set(conf, "task_queues", list(queues.values()))

    def _route(self, name: str, *_: Any, **__: Any) -> dict[str, str] | None:
        """Send the bus's own tasks to their queues, whoever sends them, before the user's routes are asked."""
        agent = self._bus.agents.of_task(name)
        if agent is not None:
            return {"queue": self._bus.names.queue_of(agent.name)}
        return {"queue": self._bus.names.emit} if name in (EMIT_TASK, EMIT_FAILED_TASK) else None
