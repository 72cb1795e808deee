"""The application: a Celery app with an event bus in it, and how agents and schedules are declared."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Never

from celery import Celery
from celery.canvas import Signature

from ..agents.agent import Agent, Agents, P, R
from ..agents.declare import OPTIONS, Subscription, declare
from ..agents.filters import Where
from ..agents.filters.paths import parse_path, text_at
from ..brokers import kinds
from ..bus import Bus
from ..contracts.capability import Capability
from ..contracts.registry import Types
from ..contracts.upcasters import Upcast
from ..coordination.chords import emit
from ..coordination.schedule import SCHEDULED, Scheduled, as_schedule
from ..core.announcements import DeliveryDead
from ..core.errors import ConfigError, InvalidAgent, InvalidBudget, InvalidFilter, LedgerOff, nearest
from ..core.event import Event, Payload, new_event
from ..core.ids import Place, place_of_call
from ..core.limits.batch import Batch
from ..core.limits.limit import Limit, OnDead
from ..core.limits.single import Debounce, Singleton, When
from ..core.retry import HOLD, Breaker, Retry
from ..ledger.bounding.budget import AtLimit, Budget, amounts
from ..settings import Settings
from .asking import Asking
from .coordinating import Coordinating
from .pausing import Pausing
from .reading import Reading
from .subscribing import Subscribed, Subscribing
from .wiring import Wiring, build

if TYPE_CHECKING:
    from ..contracts.graph import System
    from ..ledger.bounding.budgets import Budgets
    from ..testing import TestedBus
    from .driven import EventDrivenAgent


class Pipeline(Coordinating, Asking, Reading, Pausing, Subscribing):
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
        self.bus.subscribed = Subscribed(self.bus, self._wiring) if self.bus.has_ledger else None

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
    def types(self) -> Types:
        """What events look like: the known types, their versions and their upcasters."""
        return self.bus.types

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
        did: str | None = None,
        where: Where = None,
        scope: str | Iterable[str] = (),
        breaker: Breaker | None = None,
        max_waiting: int | None = None,
        overflow: str = HOLD,
        max_age: float | timedelta | str | None = None,
        limit: Limit | Iterable[Limit] | None = None,
        order_by: str | None = None,
        on_dead: OnDead | None = None,
        batch: Batch | None = None,
        singleton: Singleton | When | None = None,
        debounce: Debounce | float | timedelta | str | None = None,
        capability: Capability | Iterable[Capability] = (),
        respond: bool = False,
        **unknown: Never,
    ) -> Callable[[Callable[P, R]], Agent[P, R]]:
        """Declare the decorated function as an agent.

        Arguments:
            on: what it listens to: a topic pattern, a Payload class, or several; none for agents that joins call.
            name: its name, also its queue's (`agent.<name>`, behind the namespace); default the function's.
            retry: a Retry, or the number of retries; default 3, after 1, 2 and 4 seconds.
            rate_limit: attempts per second, minute or hour in each worker process, such as "30/m"; over all workers:
                `limit=Limit(rate="30/m")`.
            timeout: seconds an attempt may take; async handlers are cancelled, sync ones stopped by the prefork pool.
            max_concurrent: deliveries that each worker runs at once, default what its pool has room for, 100 for async
                handlers (the setting `async_concurrency`); further ones wait in the agent's prefetch window; over all
                workers: `limit=Limit(concurrent=5)`.
            priority: 1 (most urgent) to 10, for the events it emits; default that of the event it handles.
            since: where a new agent begins: an aware datetime, or a sequence number of the ledger (0: with the first
                event); default the time when it is first run.
            did: its decentralized identifier, such as "did:web:example.com:agents:research": the source of what it
                emits, and another name for it.
            where: which of those events it wants, by what they say: a mapping, a text such as "amount > 100", a kind of
                filter, or several of them, which all have to match (docs/filters.md).
            scope: the providers that it uses, such as "openai:gpt-5", one or several: when one of them says that there
                were too many requests, no agent with that scope calls it for so long; default its own name.
            breaker: when it is paused because it fails too often, such as Breaker(); default never.
            max_waiting: events that may wait in its queue, default any number; `agent.backpressure` says when more do.
            overflow: what becomes of those then: "hold", "shed-oldest", "shed-new" or "reject-at-publish".
            max_age: seconds, a timedelta or a text such as "1h", after which an event is a dead letter instead of being
                handled for the first time.
            limit: a Limit over all workers, or several, which all have to let an attempt begin (docs/limits.md).
            order_by: a path into the event, such as "data.order_id": one at a time for each of its values, in the order
                of the events.
            on_dead: what a dead letter does in that order: "hold" its value until somebody requeues or drops it, or
                "skip": let the next one go on; default "hold".
            batch: a Batch: the handler is called once for up to so many events, with a list (docs/batches.md).
            singleton: that one runs at a time over all workers, and what becomes of an event that comes meanwhile: a
                Singleton, or "skip", "queue" or "cancel" (docs/singletons.md).
            debounce: that of events that come soon after each other only the last one is handled: a Debounce, or the
                quiet time: seconds, a timedelta or a text such as "30s".
            capability: what it can do, as others find it: a capability(), or several (docs/presence.md).
            respond: whether it answers each event with an `agent.response`, with what the handler returns, any JSON.

        Raises InvalidAgent, InvalidPattern or InvalidFilter that says what is wrong, and LedgerOff for what counts over
        all workers (`limit`, `order_by`, `batch`, `singleton`, `debounce`) without a ledger.

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
                    did=did,
                    where=where,
                    scope=scope,
                    breaker=breaker,
                    max_waiting=max_waiting,
                    overflow=overflow,
                    max_age=max_age,
                    limit=limit,
                    order_by=order_by,
                    on_dead=on_dead,
                    batch=batch,
                    singleton=singleton,
                    debounce=debounce,
                    capability=capability,
                    respond=respond,
                )
            )

        return decorate

    def subscribe(
        self, on: Subscription | Iterable[Subscription], handler: Callable[P, R], *, where: Where = None, **options: Any
    ) -> Agent[P, R]:
        """Declare a function as an agent without decorating it; arguments and errors as agent()."""
        declared: Agent[P, R] = self.agent(on=on, where=where, **options)(handler)
        return declared

    def add_agent(self, agent: EventDrivenAgent, **options: Any) -> Agent:
        """Declare an agent of a class, which is given tasks and asked questions by events (docs/presence.md).

        Arguments:
            options: those of agent(), but for `on` and `name`.

        Raises InvalidAgent that says what is wrong, and LedgerOff without a ledger.

        """
        from .driven import failures_of, handler_of, patterns_of

        handler, name = handler_of(agent), agent.agent_id
        if not self.bus.has_ledger:
            raise LedgerOff(f"agent {name!r}: what becomes of its tasks is told by the ledger, and ledger_url is empty")
        made: Agent = self.agent(on=patterns_of(agent), name=name, respond=True, **options)(handler)
        dead = {"data.agent": name, "data.original_type": patterns_of(agent)[0]}
        self.agent(on=DeliveryDead, name=f"{name}-failures", where=dead)(failures_of(self.bus))
        return made

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
        if isinstance(what, Payload):
            self.bus.types.note(type(what))
        self.celery.add_periodic_task(self.schedules[name][0], Signature(SCHEDULED, args=(name,)), name=name)

    def budget(
        self,
        name: str,
        *,
        tokens: int | None = None,
        cost: int | None = None,
        events: int | None = None,
        per: Literal["day"] | None = None,
        key: str = "",
        at_limit: AtLimit = "dead",
        missing: Literal["shared", "error"] = "shared",
    ) -> None:
        """Declare what handlers may spend with `ctx.budget`; `pipeline budget set` changes it at run time.

        Arguments:
            name: what it is called.
            tokens: how many tokens.
            cost: how much money, in millionths.
            events: how many events.
            per: "day" for so much each day (UTC); default in all.
            key: of what each value has its own: "metadata.tenant", "data.customer", "agent", "correlation"; default one
                of all.
            at_limit: "dead" makes a dead letter of a delivery that wants more, "ask" lets it wait until the budget is
                raised, with "degrade" its `reserve()` returns what is false.
            missing: whether events without such a key share one, or are an error.

        Raises InvalidBudget.

        """
        limit = amounts(f"budget {name!r}", tokens=tokens, cost=cost, events=events)
        budget = Budget(name, limit, per, key, at_limit, missing, text_at)
        try:
            parse_path(key or "data")
        except InvalidFilter as exc:
            raise InvalidBudget(f"budget {name!r}: key: {exc}") from None
        if self.bus.budgets.setdefault(name, budget) != budget:
            raise InvalidBudget(f"budget {name!r} is declared twice, and not the same")

    @property
    def budgets(self) -> Budgets:
        """The budgets in use: list and set; raises LedgerOff when there is no ledger."""
        return self.bus.ledger.waiting.budgets

    def upcaster(self, type: str, before: str, after: str) -> Callable[[Upcast], Upcast]:
        """Declare the decorated function as what makes data of version `after` out of data of version `before`.

        It takes the data, which is its own to change, and returns the data. Agents whose class is of a newer version
        than an event get what the chain of such steps makes of it.

        Raises InvalidEvent for a version that is none, for a step that does not lead to a newer one, and for a second
        step from the same version.
        """

        def decorate(function: Upcast) -> Upcast:
            self.bus.types.upcaster(type, before, after, function)
            return function

        return decorate

    def autodiscover(self, *packages: str) -> None:
        """Let workers and beat import the module `agents` of each package; publishers never do."""
        self.celery.autodiscover_tasks(packages, related_name="agents")

    def emit(self, event_type: str, *, cause: Event | None = None) -> Signature:
        """Return the Celery signature that publishes what it is given as an event (see pipeline.emit)."""
        return emit(event_type, cause=cause, app=self.celery)

    def asyncapi(self, *, version: str = "1.0.0") -> dict[str, Any]:
        """Return what the declared agents and schedules receive and send as an AsyncAPI 3 document.

        Arguments:
            version: the application's own version.

        """
        from ..contracts.asyncapi import document

        return document(self.system, version=version)

    @property
    def system(self) -> System:
        """The declared agents and schedules as plain data, for the documents about them."""
        from .contracts import system_of

        return system_of(self.bus, self.schedules)

    def _add(self, agent: Agent[P, R]) -> Agent[P, R]:
        if (agent.is_limited or agent.batch or agent.debounce) and not self.bus.has_ledger:
            raise LedgerOff(
                f"agent {agent.name!r}: limit=, order_by=, batch=, singleton= and debounce= count over all workers, "
                "which needs a ledger, and the setting ledger_url is empty; rate_limit= and max_concurrent= count in "
                "each worker"
            )
        self.bus.agents.add(agent)
        self._wiring.add(agent)
        self.bus.types.note(*agent.classes)
        return agent

    def local(self, directory: str | Path | None = None) -> AbstractContextManager[Pipeline]:
        """Run the agents in this process for a while, with files in a directory (see pipeline.testing.local)."""
        from ..testing import local

        return local(self, directory)

    def testing(self, **options: Any) -> AbstractContextManager[TestedBus]:
        """Run the agents in this thread and in virtual time, for a test (see pipeline.testing.virtual)."""
        from ..testing import virtual

        return virtual(self, **options)

    def close(self) -> None:
        """Close the connections that were opened; what is used afterwards opens new ones."""
        self.bus.close()
