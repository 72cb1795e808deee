"""The bus: what the rooms of one app share. It knows neither the face above it nor what is done with it."""

from __future__ import annotations

import atexit
import math
import os
import socket
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from .agents.agent import Agents
from .brokers.topology import topology_of
from .contracts.registry import Types
from .core import forks
from .core.errors import LedgerOff
from .core.ids import new_id
from .core.observe import Spans
from .core.times import monotonic
from .publishing.publisher import Publisher

if TYPE_CHECKING:
    from celery import Celery
    from sqlalchemy import Connection

    from .agents.agent import Agent
    from .agents.loop import EventLoop, Lifespan
    from .contracts.blobs.blobs import Blobs
    from .core.event import Encoded
    from .history.projections import Projections
    from .ledger.bounding.budget import Budget
    from .ledger.facts import Delivery, Run, Stop, Success
    from .ledger.ledger import Ledger
    from .ledger.subscribing.subscription import Subscription
    from .limits.bounds import Bounds
    from .limits.pauses import Pauses
    from .publishing.direct import Outgoing
    from .publishing.together import Together
    from .settings import Settings


T = TypeVar("T")


class MadeOnce(Generic[T]):
    """An attribute that is made when it is first asked for, once, whichever threads ask; then it is a plain one."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self._name = make.__name__
        self.__doc__ = make.__doc__

    def __get__(self, bus: Bus, owner: type[Bus]) -> T:
        """Make it; no fork happens meanwhile, so that no child inherits the lock."""
        made = vars(bus)
        with forks.held_off(), bus.making:
            if self._name not in made:
                made[self._name] = self._make(bus)
            value: T = made[self._name]
            return value


class Pulse:
    """Whether a worker's loop goes on.

    Attributes:
        at: when it last turned (monotonic time).
        rests: says whether it need not turn now: a handler runs in it, or it has ended.

    """

    def __init__(self) -> None:
        self.at = monotonic()
        self.rests: Callable[[], bool] = bool

    def is_beating(self, within: float) -> bool:
        """Say whether the loop has turned within so many seconds, or rests."""
        if self.rests():
            self.at = monotonic()
        return monotonic() - self.at <= within


class Flows(Protocol):
    """Moves flows on, of which deliveries are steps."""

    def ending(
        self,
        run: Run,
        delivery: Delivery,
        what: str,
        sent: list[Encoded],
        success: Success | None,
        work: Callable[[Connection], bool],
    ) -> bool:
        """Record by `work` that a step has ended, with what follows from that; say whether it was recorded."""

    def look(self) -> int:
        """End the flows whose time is over; return how many did."""

    def mend(self) -> int:
        """End the flows of which nothing is left to be done; return how many did."""


class Change(NamedTuple):
    """What a worker's agents have become that the ledger declares.

    Attributes:
        agents: those that are new, or are others now.
        gone: those that were removed.
        wanted: what makes another process of the worker do the same.

    """

    agents: Sequence[Agent]
    gone: Sequence[Agent]
    wanted: Sequence[Subscription]


class Subscribed(Protocol):
    """The agents that the ledger declares, in a process that runs them.

    Attributes:
        is_on: whether this process is that of a worker which runs them.

    """

    is_on: bool

    def look(self) -> bool:
        """Find out what there is; say whether that is something else than before."""

    def apply(self, wanted: Sequence[Subscription] | None = None) -> Change | None:
        """Let this process have those that were found, or some others; None where it has them already."""


class Bus:
    """What the rooms of one app share.

    Attributes:
        settings: as they were read when the app was made.
        celery: the Celery app.
        names: of exchanges and queues.
        source: the CloudEvents source of what the app publishes.
        worker_id: who this process says it is, when it runs deliveries.
        agents: those that were declared.
        types: what events look like.
        publisher: the way to the broker.
        spans: for those who measure what the bus does.
        pulse: of this process's loop, when it is a worker's.
        has_ledger: whether the setting `ledger_url` names a ledger, or leaves the default.
        stop_running: lets handlers of this process, when it is a worker's, end whose tree was stopped.
        making: held while something of the rest is made.
        budgets: those that were declared, by name.
        slots: how many sync handlers this process runs at once, when it is a worker's; None for what is none.
        flows_of: makes what steps of flows are recorded with; None without a ledger.
        subscribed: the agents that the ledger declares; None without a ledger.
        by_hand: where somebody drives this process by hand, what does all that is ready now, or says that it is called
            in the middle of that; nothing of the bus runs in a thread of its own then.
        lifespans: what is entered on each event loop of async handlers before the first one, and left at its end.

    """

    def __init__(self, settings: Settings, celery: Celery) -> None:
        """Connect nothing, and open nothing: that is done when it is first used."""
        self.settings = settings
        self.celery = celery
        self.names = topology_of(settings.namespace)
        self.source = f"/{celery.main or 'pipeline'}"
        self.name_worker()
        self.agents = Agents()
        self.types = Types(settings.schemas_url)
        self.spans = Spans()
        self.pulse = Pulse()
        self.publisher = Publisher(celery, settings, self.names, self.spans)
        self.has_ledger = settings.has_ledger
        self.stop_running: Callable[[Sequence[Stop]], object] = bool
        self.making = threading.RLock()
        self.lifespans: list[Lifespan] = []
        self.budgets: dict[str, Budget] = {}
        self.flows_of: Callable[[Bus], Flows] | None = None
        self.subscribed: Subscribed | None = None
        self.slots: int | None = None
        self.by_hand: Callable[[], bool] | None = None
        atexit.register(_close, weakref.ref(self))

    def name_worker(self) -> None:
        """Give this process a name that no other worker has: not even one that was forked where the app was made."""
        self.worker_id = f"{socket.gethostname()}:{os.getpid()}:{new_id()}"

    # The rest is heavy, and not needed by everybody.

    @MadeOnce
    def ledger(self) -> Ledger:
        """The ledger; raises LedgerOff when there is none."""
        if not self.has_ledger:
            raise LedgerOff("this needs a ledger, and the setting ledger_url is empty; unset it or name a database")
        from .agents.wanting import wants
        from .ledger.ledger import Ledger

        ledger = Ledger(self.settings.effective_ledger_url, timeout=self.settings.ledger_timeout, wants=wants)
        ledger.waiting.budgets.declared = self.budgets
        ledger.notices.by_hand = self.by_hand is not None
        return ledger

    @MadeOnce
    def outbox(self) -> Outgoing:
        """The way of events to the broker: through the ledger if there is one."""
        if self.has_ledger:
            from .publishing.outbox import Outbox

            return Outbox(self.ledger, self.publisher, self.agents.addressed, by_hand=self.by_hand is not None)
        from .publishing.direct import Direct

        return Direct(self.publisher, self.agents.addressed)

    @MadeOnce
    def flows(self) -> Flows | None:
        """What steps of flows are recorded with; None without a ledger."""
        return None if self.flows_of is None else self.flows_of(self)

    @MadeOnce
    def blobs(self) -> Blobs:
        """Where large content is kept."""
        from .contracts.blobs.blobs import NO_LEDGER, Blobs, store_of

        settings = self.settings
        return Blobs(
            store_of(settings.blob_store, settings.directory / "blobs"),
            threshold=min(settings.blob_threshold, settings.max_event_bytes // 2),
            largest=settings.max_blob_bytes,
            ledger=lambda: self.ledger.id if self.has_ledger else NO_LEDGER,
        )

    @MadeOnce
    def pauses(self) -> Pauses:
        """What is paused; raises LedgerOff when there is no ledger."""
        from .limits.pauses import Pauses

        waiting = self.ledger.waiting
        return Pauses(waiting.pauses, waiting.attempts)

    @MadeOnce
    def bounds(self) -> Bounds:
        """Who has too much waiting."""
        from .limits.bounds import Bounds

        return Bounds(self.ledger.waiting.bounds if self.has_ledger else None)

    @MadeOnce
    def together(self) -> Together:
        """What several threads and tasks publish at the same time."""
        from .publishing.together import AT_ONCE, Together

        settings = self.settings
        at_once = AT_ONCE if settings.confirm or self.has_ledger else math.inf  # who waits for nobody needs no others
        return Together(lambda: self.outbox, settings.publish_timeout, at_once)

    @MadeOnce
    def projections(self) -> Projections:
        """The read models, by name."""
        from .history.projections import Projections

        return Projections()

    @property
    def has_projections(self) -> bool:
        """Whether anybody has asked for read models."""
        return "projections" in vars(self)

    @MadeOnce
    def loop(self) -> EventLoop:
        """The event loop on which this process runs async handlers."""
        from .agents.django import around
        from .agents.loop import EventLoop

        return EventLoop(around(), self.lifespans)

    def close(self) -> None:
        """Close the connections that were opened; what is used afterwards opens new ones."""
        if "together" in vars(self):
            self.together.close()
        if "outbox" in vars(self):
            self.outbox.flush()
        self.publisher.close()
        if "ledger" in vars(self):
            self.ledger.notices.flush()
            self.ledger.close()


def _close(bus: weakref.ref[Bus]) -> None:
    """Close what is open when the process ends: a broker sees a farewell, and Python warns of no open database."""
    if (still := bus()) is not None:
        still.close()
