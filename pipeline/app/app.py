"""The application: a Celery app with an event bus in it. All wiring happens in one constructor."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Never

from celery import Celery
from celery.canvas import Signature
from celery.signals import import_modules

from ..agents import agent as agents_module
from ..agents.agent import Agent, Agents, Handler, Subscription
from ..brokers import kinds, topology
from ..coordination.chords import EMIT, EMIT_FAILED, Emit, EmitFailed, emit
from ..coordination.schedule import SCHEDULED, PublishScheduled, as_schedule
from ..core.errors import InvalidAgent, nearest
from ..core.event import Event, Payload, new_event
from ..core.ids import new_id
from ..core.retry import Retry
from ..publishing.publisher import Publisher
from ..settings import Settings
from .publishing import Publishing
from .reading import Reading

if TYPE_CHECKING:
    from celery.schedules import BaseSchedule

    from ..agents.runner import EventLoop
    from ..delivery.inbox import Inbox, Plain

#: The setting `worker_consumer` as long as nobody has changed it.
CELERYS_CONSUMER = "celery.worker.consumer:Consumer"
_AGENT_OPTIONS = ("on", "name", "retry", "rate_limit", "timeout", "max_concurrent", "priority", "since")


class Pipeline(Publishing, Reading):
    """An event bus on a Celery app.

    `Pipeline("shop")` builds the Celery app, `Pipeline(celery_app)` adds the bus to one that exists. Either can be
    given to the celery command (`celery -A shop worker`): what is not the bus's own is the Celery app's.
    """

    def __init__(self, app: str | Celery = "pipeline", **settings: Any) -> None:
        """Wire everything; nothing is connected, and no agent is imported, before it is needed.

        Arguments:
            app: the name of the application, or its Celery app.
            settings: fields of Settings that win over the environment and the settings file.

        Raises ConfigError when a setting is wrong.

        """
        self.settings = Settings.load(**settings)
        kinds.register()
        self.celery: Celery = app if isinstance(app, Celery) else self._build(app)
        self.celery.pipeline = self
        self.source = f"/{self.celery.main or 'pipeline'}"
        self.agents = Agents()
        self.schedules: dict[str, tuple[BaseSchedule, Payload | str, Any]] = {}
        self.publisher = Publisher(self.celery, self.settings)
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{new_id()[:8]}"
        self._inbox: Inbox | Plain | None = None
        self._loop: EventLoop | None = None
        self._queues = [topology.emit_queue()]
        self.celery.on_after_configure.connect(self._configure, weak=False)
        if self.celery.configured:
            self._configure()
        self.celery.steps["worker"].add("pipeline.workers.sweeper:SweeperStep")
        for task in (Emit, EmitFailed, PublishScheduled):
            self._add_task(type(task.__name__, (task,), {"pipeline": self, "__module__": task.__module__}))

    def _build(self, name: str) -> Celery:
        settings = self.settings
        url = settings.effective_broker_url
        options: dict[str, Any] = {}
        if url.startswith(("amqp", "pyamqp")):
            options = {"confirm_publish": settings.confirm}
        elif url.startswith("redis"):
            timeout = settings.redis_visibility_timeout
            options = {
                "visibility_timeout": timeout,
                # Kombu's defaults look for what dead workers held only every 100 seconds.
                "unacked_restore_interval": min(max(timeout / 10, 0.5), 10),
                "unacked_restore_throttle": 1,
            }
        celery = Celery(name)
        celery.conf.update(
            broker_url=url,
            broker_transport_options=options,
            broker_connection_retry_on_startup=True,
            # After a lost connection RabbitMQ may hold the worker's exclusive queue for a while: try again.
            broker_channel_error_retry=True,
            result_backend=settings.effective_result_backend,
            beat_schedule_filename=str(settings.directory / "beat-schedule"),
            imports=settings.agents,
        )
        import_modules.connect(self._make_directory, sender=celery, weak=False)
        return celery

    def _make_directory(self, **_: Any) -> None:
        """Create the state directory when a worker or beat starts; publishers need none."""
        self.settings.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def __getattr__(self, name: str) -> Any:
        """Pass on what the celery command, Flower and extensions expect of a Celery app."""
        if name.startswith("__") or "celery" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.celery, name)

    # -- declaring

    def agent(
        self,
        *,
        on: Subscription | Iterable[Subscription] | None = None,
        name: str | None = None,
        retry: Retry | int | None = None,
        rate_limit: str | None = None,
        timeout: float | None = None,
        max_concurrent: int | None = None,
        priority: int | None = None,
        since: datetime | int | None = None,
        **unknown: Never,
    ) -> Callable[[Handler], Agent]:
        """Declare the decorated function as an agent.

        Arguments:
            on: what it listens to: a topic pattern, a Payload class, or several; none for agents that joins call.
            name: its name, also its queue's (`agent.<name>`); default the function's.
            retry: a Retry, or the number of retries; default 3, after 1, 2 and 4 seconds.
            rate_limit: attempts per second, minute or hour in each worker process, such as "30/m".
            timeout: seconds an attempt may take; async handlers are cancelled, sync ones stopped by the prefork pool.
            max_concurrent: deliveries that each worker process runs at once; further ones wait in its prefetch window.
            priority: 1 (most urgent) to 10, for the events it emits; default that of the event it handles.
            since: where a new agent begins: an aware datetime, or a sequence number of the ledger (0: with the first
                event); default the time when it is first run.

        Raises InvalidAgent or InvalidPattern that says what is wrong.

        """
        for option in unknown:
            raise InvalidAgent(f"@agent has no option {option!r}; {nearest(option, _AGENT_OPTIONS)}")

        def decorate(handler: Handler) -> Agent:
            return self._add(
                agents_module.declare(
                    handler,
                    on=on,
                    name=name,
                    retry=retry,
                    rate_limit=rate_limit,
                    timeout=timeout,
                    max_concurrent=max_concurrent,
                    priority=priority,
                    since=since,
                )
            )

        return decorate

    def join(
        self,
        name: str,
        *,
        on: Subscription | Iterable[Subscription],
        agents: Iterable[Agent],
        emits: str | type[Payload],
        fails: str | None = None,
    ) -> Agent:
        """Run several agents on each event as one chord, and publish one event with all their results.

        Arguments:
            name: the join's name; it is an agent like any other, with a queue of its own.
            agents: the members; what they return is their result.
            emits: the type of the event that follows, with data `{"original": ..., "results": {agent: result}}`.
            fails: the type of the event when a member is dead, with data `{"original": ..., "error": ...}`;
                default `emits` with its last word replaced by `failed`.

        Raises InvalidAgent or InvalidEvent that says what is wrong.

        """
        from ..coordination.join import starter

        return self._add(agents_module.declare(starter(self, name, agents, emits, fails), on=on, name=name))

    def schedule(self, name: str, when: Any, what: Payload | str, data: Any = None) -> None:
        """Let `celery beat` publish an event on a crontab or interval.

        Arguments:
            name: the schedule's name; with the due time it determines the event's id.
            when: a `celery.schedules.crontab`, a timedelta, or seconds (1 or more).
            what: the payload, or the event type that `data` goes with.

        Raises InvalidAgent or InvalidEvent that says what is wrong.

        """
        if name in self.schedules:
            raise InvalidAgent(f"schedule {name!r} is declared twice")
        new_event(what, data, source=self.source)  # so that a wrong one fails here, not at seven in the morning
        self.schedules[name] = (as_schedule(name, when), what, data)
        self.celery.add_periodic_task(self.schedules[name][0], Signature(SCHEDULED, args=(name,)), name=name)

    def autodiscover(self, *packages: str) -> None:
        """Let workers and beat import the module `agents` of each package; publishers never do."""
        self.celery.autodiscover_tasks(packages, related_name="agents")

    def emit(self, event_type: str, *, cause: Event | None = None) -> Signature:
        """Return the Celery signature that publishes what it is given as an event (see pipeline.emit)."""
        return emit(event_type, cause=cause, app=self.celery)

    def _add(self, agent: Agent) -> Agent:
        self.agents.add(agent)
        agent.app = self.celery
        self._add_queue(topology.agent_queue(agent.name, agent.patterns))
        self._add_task(self._task_class(agent))
        return agent

    def _task_class(self, agent: Agent) -> type[Any]:
        from ..delivery.task import HARD_LIMIT_GRACE, DeliveryTask

        return type(
            agent.name,
            (DeliveryTask,),
            {
                "__module__": agent.handler.__module__,
                "__doc__": agent.handler.__doc__,
                "name": topology.QUEUE_PREFIX + agent.name,
                "agent": agent,
                "pipeline": self,
                "source": f"{self.source}/agent/{agent.name}",
                "retry_on_worker_lost": not self.has_ledger,
                "rate_limit": agent.rate_limit,
                "soft_time_limit": agent.timeout,
                "time_limit": agent.timeout and agent.timeout + HARD_LIMIT_GRACE,
                "max_retries": agent.retry.max,
                "default_retry_delay": agent.retry.base,
            },
        )

    def _add_task(self, task: type[Any]) -> None:
        """Register a task now, or when Celery finalizes its app: until then its settings may still change."""

        def register(**_: Any) -> None:
            self.celery.register_task(task())

        if self.celery.finalized:
            register()
        else:
            self.celery.on_after_finalize.connect(register, weak=False)

    def _add_queue(self, queue: topology.AgentQueue) -> None:
        """Let workers consume a queue, beside those that Celery is configured with."""
        self._queues = [known for known in self._queues if known.name != queue.name] + [queue]
        if self.celery.configured:
            self._configure()

    def _configure(self, **_: Any) -> None:
        """Add to Celery's configuration what the bus needs; run whenever Celery has read it, so it may run again."""
        conf = self.celery.conf
        if conf.worker_consumer == CELERYS_CONSUMER:
            conf.worker_consumer = "pipeline.delivery.consumer:AgentConsumer"
        routes = conf.task_routes or ()
        routes = routes if isinstance(routes, (list, tuple)) else (routes,)
        if self._route not in routes:
            conf.task_routes = (self._route, *routes)
        amqp = self.celery.amqp
        if "queues" in amqp.__dict__:
            for queue in self._queues:
                amqp.queues.select_add(queue)
        else:
            # Not through amqp.queues: what reads the configuration may be about to build them.
            known = {**amqp.Queues(conf.task_queues), **{queue.name: queue for queue in self._queues}}
            conf.task_queues = list(known.values())

    def _route(self, name: str, *_: Any, **__: Any) -> dict[str, str] | None:
        """Send the bus's own tasks to their queues, whoever sends them, before the user's routes are asked."""
        agent = topology.agent_of(name)
        if agent is not None and agent in self.agents:
            return {"queue": name}
        return {"queue": topology.EMIT} if name in (EMIT, EMIT_FAILED) else None

    # -- for the other rooms

    @property
    def inbox(self) -> Inbox | Plain:
        """The bookkeeping of deliveries: with a ledger or without."""
        if self._inbox is None:
            from ..delivery.inbox import Inbox, Plain

            self._inbox = Inbox(self) if self.has_ledger else Plain(self)
        return self._inbox

    @property
    def loop(self) -> EventLoop:
        """The event loop on which this process runs async handlers."""
        if self._loop is None:
            from ..agents.runner import EventLoop

            self._loop = EventLoop()
        return self._loop

    def close(self) -> None:
        """Close the connections that publishing opened; the next publish opens new ones."""
        self.publisher.close()
        if self._ledger is not None:
            self._ledger.close()


@lru_cache(maxsize=1)
def default_app() -> Pipeline:
    """Return the one app that `celery -A pipeline` and the `pipeline` command use, made from the settings.

    Without any agents configured it has those of the briefing example.
    """
    app = Pipeline("pipeline")
    if not app.settings.agents:
        app.celery.conf.update(imports=("pipeline.examples.briefing.agents",))
    return app
