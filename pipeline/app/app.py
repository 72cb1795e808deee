"""The application: a Celery app with an event bus in it, and how agents, joins and schedules are declared."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Never

from celery import Celery
from celery.canvas import Signature

from ..agents.agent import Agent, Agents, P, R
from ..agents.declare import OPTIONS, Subscription, declare
from ..brokers import kinds
from ..bus import Bus
from ..coordination.chords import emit
from ..coordination.schedule import SCHEDULED, Scheduled, as_schedule
from ..core.errors import ConfigError, InvalidAgent, nearest
from ..core.event import Event, Payload, new_event
from ..core.ids import Place, place_of_call
from ..core.retry import Retry
from ..settings import Settings
from .publishing import Publishing
from .reading import Reading
from .wiring import Wiring, build


class Pipeline(Publishing, Reading):
    """An event bus on a Celery app.

    `Pipeline("shop")` builds the Celery app, `Pipeline(celery_app)` adds the bus to one that exists. Either can be
    given to the celery command (`celery -A shop worker`): what is not the bus's own is the Celery app's. Type checkers
    find that at `app.celery` only.
    """

    def __init__(self, app: str | Celery = "pipeline", **settings: Any) -> None:
        """Wire everything; nothing is connected, and no agent is imported, before it is needed.

        Arguments:
            app: the name of the application, or its Celery app.
            settings: fields of Settings that win over the environment and the settings file.

        Raises ConfigError when a setting is wrong.

        """
        if isinstance(app, Pipeline):
            raise ConfigError("Pipeline() takes a name or a Celery app, and was given a Pipeline: use that one")
        self.settings = Settings.load(**settings)
        kinds.register()
        self.celery: Celery = app if isinstance(app, Celery) else build(app, self.settings)
        self.celery.pipeline = self
        self.bus = Bus(self.settings, self.celery)
        self.schedules: dict[str, Scheduled] = {}
        self._declared: dict[str, Place] = {}
        self._wiring = Wiring(self.bus, self.schedules)

    @property  # type: ignore[misc]  # mypy allows no property of that name, Python does
    def __class__(self) -> type[Any]:
        """Let `celery -A MODULE` find it under any name: it asks isinstance(), as it does of Celery's own proxies."""
        found: type[Any] = Celery
        return found

    @property
    def agents(self) -> Agents:
        """The agents that were declared, by name."""
        return self.bus.agents

    @property
    def source(self) -> str:
        """The CloudEvents source of what the app publishes."""
        return self.bus.source

    if not TYPE_CHECKING:  # for them, a name that is none of the Pipeline's is a mistake; Celery's are at `app.celery`

        def __getattr__(self, name: str) -> Any:
            """Pass on what the celery command, Flower and extensions expect of a Celery app."""
            if name.startswith("__") or "celery" not in self.__dict__:
                raise AttributeError(name)
            try:
                return getattr(self.celery, name)
            except AttributeError:
                hint = nearest(name, [own for own in dir(type(self)) if not own.startswith("_")])
                raise AttributeError(f"neither Pipeline nor its Celery app has {name!r}; {hint}") from None

    # -- declaring

    def agent(
        self,
        *unnamed: Never,
        on: Subscription | Iterable[Subscription] | None = None,
        name: str | None = None,
        retry: Retry | int | None = None,
        rate_limit: str | None = None,
        timeout: float | None = None,
        max_concurrent: int | None = None,
        priority: int | None = None,
        since: datetime | int | None = None,
        **unknown: Never,
    ) -> Callable[[Callable[P, R]], Agent[P, R]]:
        """Declare the decorated function as an agent.

        Arguments:
            on: what it listens to: a topic pattern, a Payload class, or several; none for agents that joins call.
            name: its name, also its queue's (`agent.<name>`, behind the namespace); default the function's.
            retry: a Retry, or the number of retries; default 3, after 1, 2 and 4 seconds.
            rate_limit: attempts per second, minute or hour in each worker process, such as "30/m".
            timeout: seconds an attempt may take; async handlers are cancelled, sync ones stopped by the prefork pool.
            max_concurrent: deliveries that each worker runs at once, default what its pool has room for, 100 for async
                handlers (the setting `async_concurrency`); further ones wait in the agent's prefetch window.
            priority: 1 (most urgent) to 10, for the events it emits; default that of the event it handles.
            since: where a new agent begins: an aware datetime, or a sequence number of the ledger (0: with the first
                event); default the time when it is first run.

        Raises InvalidAgent or InvalidPattern that says what is wrong.

        """
        if unnamed:
            on = '"order.placed"' if callable(unnamed[0]) else repr(unnamed[0])
            raise InvalidAgent(f"write @app.agent(on={on}), with what the agent listens to in the brackets")
        for option in unknown:
            raise InvalidAgent(f"@agent has no option {option!r}; {nearest(option, OPTIONS)}")

        def decorate(handler: Callable[P, R]) -> Agent[P, R]:
            return self._add(
                declare(
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

    def lifespan(self, make: Callable[[], AsyncIterator[None]]) -> Callable[[], AbstractAsyncContextManager[None]]:
        """Declare what is set up on each event loop before its first async handler, and cleaned up at its end.

        The decorated function is an async generator that yields once, as for contextlib.asynccontextmanager: before
        the yield it makes clients (an HTTP client, a database pool), after it it closes them. What it raises before the
        yield, each attempt of an async handler fails with; the next attempt tries again.
        """
        if not inspect.isasyncgenfunction(make):
            raise InvalidAgent("@app.lifespan takes an async function that yields once: `async def clients(): ...`")
        lifespan = asynccontextmanager(make)
        self.bus.lifespans.append(lifespan)
        return lifespan

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

        members = list(agents)
        agent = declare(starter(self.celery, name, members, emits, fails), on=on, name=name)
        type_ = emits if isinstance(emits, str) else emits.event_type
        agent.members = tuple(member.name for member in members)
        agent.declared = place_of_call(sys._getframe(1), agent.members, type_, fails)
        return self._add(agent)

    def schedule(self, name: str, when: Any, what: Payload | str, data: Any = None) -> None:
        """Let `celery beat` publish an event on a crontab or interval.

        Arguments:
            name: the schedule's name; with the due time it determines the event's id.
            when: a `celery.schedules.crontab`, a timedelta, or seconds (1 or more).
            what: the payload, or the event type that `data` goes with.

        Raises InvalidAgent or InvalidEvent that says what is wrong.

        """
        new_event(what, data, source=self.bus.source)  # so that a wrong one fails here, not at seven in the morning
        scheduled = (as_schedule(name, when), what, data)
        scheduled[0].app = self.celery  # whose time zone a crontab is in, as beat takes it
        place = place_of_call(sys._getframe(1), *scheduled)
        taken = self._declared.get(name, place)
        if not taken.is_again(place):
            raise InvalidAgent(f"schedule {name!r} is declared twice: by {taken} and by {place}")
        self._declared[name], self.schedules[name] = place, scheduled
        self.celery.add_periodic_task(self.schedules[name][0], Signature(SCHEDULED, args=(name,)), name=name)

    def autodiscover(self, *packages: str) -> None:
        """Let workers and beat import the module `agents` of each package; publishers never do."""
        self.celery.autodiscover_tasks(packages, related_name="agents")

    def emit(self, event_type: str, *, cause: Event | None = None) -> Signature:
        """Return the Celery signature that publishes what it is given as an event (see pipeline.emit)."""
        return emit(event_type, cause=cause, app=self.celery)

    def _add(self, agent: Agent[P, R]) -> Agent[P, R]:
        self.bus.agents.add(agent)
        self._wiring.add(agent)
        return agent

    def close(self) -> None:
        """Close the connections that were opened; what is used afterwards opens new ones."""
        self.bus.close()
