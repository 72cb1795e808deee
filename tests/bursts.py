"""A worker's short way on a ledger, with a connection that tells when it has handed over a burst; and what is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import current_task
from celery._state import _task_stack
from celery.concurrency.base import BasePool
from celery.worker import state
from kombu.message import Message
from sqlalchemy import text

from pipeline import Context, Event, Pipeline
from pipeline.core.event import new_event
from pipeline.delivery.consumer import to_task_message
from pipeline.delivery.delivery import Begun
from pipeline.delivery.short import short_way
from tests.ledgers import record
from tests.records import make_app


class Books:
    """Keeps an app's books, and a list of what is done."""

    def __init__(self, books: Any, done: list[str]) -> None:
        self._books = books
        self._done = done

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._books, name)
        if not callable(attribute):
            return attribute

        def noted(first: Any, *more: Any) -> Any:
            self._done.append(f"{name} {len(first)}" if name.endswith("_all") or name == "send" else name)
            return attribute(first, *more)

        return noted


class Site:
    """An app, and what its worker knows of a connection that tells when a burst was handed over."""

    def __init__(self, app: Pipeline, pool: BasePool) -> None:
        self.app = app
        self.done: list[str] = []
        #: What handlers think that the time is.
        self.clock = 0.0
        self.long: list[tuple[str, Begun | None]] = []
        app.celery.finalize()
        for agent in app.agents:
            task = app.celery.tasks[agent.task_name]
            task.books = Books(task.books, self.done)
        app.ledger.subscribers.register({agent.name: (agent.patterns, None) for agent in app.agents})
        app.ledger.workers.heartbeat(app.bus.worker_id)
        #: What is to run again, and of which processes nothing counts.
        self.again: list[Any] = []
        self.forgotten: list[int] = []
        self.connection = SimpleNamespace(after_burst=[], flush=lambda: self.done.append("flush"))
        consumer = SimpleNamespace(
            app=app.celery, bus=app.bus, pool=pool, hostname="w1@test", inline=None, event_dispatcher=None,
            connection=SimpleNamespace(connection=self.connection), connection_errors=(), on_task_message=set(),
            disable_rate_limits=False, task_buckets=defaultdict(lambda: None), _maximum_prefetch_restored=True,
            call_soon_ack=lambda do, *about: do(*about), together=nullcontext,
            _restore_prefetch_count_after_connection_restart=lambda *_: None,
            hub="a loop", controller=SimpleNamespace(time_limit=None, soft_time_limit=None, max_tasks_per_child=None),
            returns=None, run_in_pool=lambda one: one.execute_using_pool(pool), on_task_request=self.again.append,
        )  # fmt: skip
        self.way = short_way(consumer, self._by_celery)

    def _by_celery(self, message: Any, event: dict[str, Any], queue: str, run: Any = None) -> None:
        if run is not None and not isinstance(run, partial):  # it wants the message of a task, and no more
            try:
                to_task_message(message, event, self.app.bus.agents[queue.removeprefix("agent.")], queue)
            except UnicodeDecodeError:
                self.done.append("set aside")
            else:
                run(message)
            return
        self.done.append("long way")
        self.long.append((event["id"], run and run.args[1]))

    def take(self, *data: Any, agent: str = "quick", redelivered: bool = False) -> list[str]:
        """Hand over a burst of events to an agent, and return what was done then."""
        self.hand_over(*data, agent=agent, redelivered=redelivered)
        for call in self.connection.after_burst:
            call()
        number = len(self.done)  # threads may add to it
        done = self.done[:number]
        del self.done[:number]
        return done

    def hand_over(self, *data: Any, agent: str = "quick", redelivered: bool = False, body: bytes | None = None) -> None:
        """Hand over events without an end of their burst."""
        for one in data:
            event = new_event(f"{agent}.thing", one, source="/test")
            self.app.ledger.append([record(event)], due_in=0)
            message = Message(body or event.encode(), delivery_info={"redelivered": redelivered})
            message.ack_log_error = lambda *_: self.done.append("ack")
            attributes = {"id": event.key, "type": event.type, "targets": None, "bus": {"ledger": self.app.ledger.id}}
            if not self.way.takes(message, attributes, f"agent.{agent}"):
                self._by_celery(message, attributes, f"agent.{agent}")


@contextmanager
def working(directory: Path, pool: BasePool) -> Iterator[Site]:
    """Give a site whose agents do what the data of an event says."""
    app = make_app(f"sqlite:///{directory / 'ledger.db'}", directory, agents=False)

    def handle(event: Event, ctx: Context) -> None:
        site.done.append(current_task.request.id == ctx.delivery_id and str(event.data))
        match event.data:
            case float():
                site.clock += event.data
            case "fail":
                raise RuntimeError("told to fail")
            case "write":
                ctx.session.execute(text("CREATE TABLE effects (n INTEGER)"))
            case "emit":
                ctx.publish("something.else", {})
            case "stop":
                state.should_stop = 0

    for name in ("quick", "other"):
        app.agent(on=f"{name}.#", name=name)(handle)
    app.agent(on="once.#", name="once", retry=0)(handle)
    site = Site(app, pool)
    try:
        yield site
    finally:
        state.should_stop = None
        while _task_stack.top is not None:  # what ran last is shown until something else does
            _task_stack.pop()
        app.close()
