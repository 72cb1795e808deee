"""What a handler knows about its delivery, and what it does through it: emit events, and write in one transaction."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from ..contracts.blobs.blob import may_hold_blobs
from ..core.errors import LedgerOff, PipelineError
from ..core.event import Content, Event, Payload, content_of, new_event
from ..core.ids import caused_id, delivery_id
from ..core.outcome import Outcome
from ..core.times import due_time
from .effects import NOTHING, Effects, Later
from .pausing.emitted import check_same
from .pausing.saying import Saying
from .strand import aside, current, wait
from .waiting import Pausing, Waiting

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..contracts.registry import Types
    from ..core.announcements import ActionProposed
    from ..ledger.bounding.budget import Spending
    from ..ledger.database.database import Database
    from ..ledger.database.rows import Write
    from ..ledger.flows.rows import FlowView
    from ..ledger.ledger import Ledger
    from ..ledger.waiting.wait import Wait

#: Which handler on an event loop may write, of those that have asked: one at a time on SQLite.
_TURNS: WeakKeyDictionary[Database, asyncio.Lock] = WeakKeyDictionary()


def turn_of(database: Database) -> asyncio.Lock | None:
    """Return what handlers on the loop wait for before they open a session; None where many may write at once."""
    return _TURNS.setdefault(database, asyncio.Lock()) if database.is_sqlite else None


class Context(Pausing, Saying):
    """What a handler knows about its delivery, and how it emits further events.

    Threads of one handler may share it, until the delivery ends: what comes later is refused. A test of a handler makes
    one with `Context.for_test()`.

    Attributes:
        event: the event that is delivered.
        agent: the agent's name.
        delivery_id: the id of this delivery, the same on every attempt.
        attempt: 1 on the first attempt, 2 on the first retry.
        replay: whether the event is replayed: what is emitted is then recorded but, by default, sent to nobody.

    """

    __slots__ = (
        "_asking", "_before", "_blobs", "_by_hand", "_closing", "_ended", "_events", "_flow", "_has_begun", "_later",
        "_ledger", "_mutex", "_next", "_opening", "_priority", "_rows", "_source", "_spending", "_types", "agent",
        "attempt", "batch", "delivery_id", "event", "opened_session", "replay", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        event: Event,
        agent: str,
        delivery_id: str,
        attempt: int,
        source: str,
        priority: int | None,
        *,
        replay: bool = False,
        ledger: Ledger | None = None,
        types: Types | None = None,
        blobs: dict[str, Any] | None = None,
        emitted: int = 0,
        flow: str | None = None,
    ) -> None:
        self.event, self.agent, self.delivery_id = event, agent, delivery_id
        self.attempt, self.replay = attempt, replay
        #: The events that the handler is called with, once that is known.
        self.batch: tuple[Event, ...] = ()
        self.opened_session: Session | None = None
        self._events: list[Event] = []
        self._later: list[Later] = []
        self._rows: list[Write] = []
        self._closing: ExitStack | None = None
        self._opening: asyncio.Future[None] | None = None
        self._asking, self._ended = threading.Lock(), False
        #: What is emitted gets its id from its position: only one thread at a time may take one.
        self._mutex = threading.Lock()
        self._source, self._priority = source, priority
        self._ledger, self._types, self._blobs, self._by_hand = ledger, types, blobs, False
        #: What an earlier run has emitted before it was parked is out: the same events are not sent again.
        self._before = emitted
        self._next, self._has_begun, self._has_said = 0, False, False
        self.waiting: Waiting | None = None
        self._spending: Spending | None = None
        self._flow: str | FlowView | None = flow

    @classmethod
    def for_test(
        cls,
        what: Event | Payload | Sequence[Event | Payload],
        *,
        agent: str = "test",
        attempt: int = 1,
        replay: bool = False,
        session: Session | None = None,
    ) -> Self:
        """Return a context for calling a handler in a test, without the bus; `published` is what it has emitted.

        Arguments:
            what: the event that is delivered, or its payload; of a batch a list of them.
            agent: the agent's name.
            attempt: which attempt it is to be.
            replay: whether the event is to be replayed.
            session: what the handler gets as `ctx.session`; whoever makes it commits, rolls back and closes it.

        """
        given = [what] if isinstance(what, (Event, Payload)) else what
        events = tuple(one if isinstance(one, Event) else new_event(one, source="/test") for one in given)
        event = events[0]
        id, source = delivery_id(event.key, agent), f"/test/agent/{agent}"
        context = cls(event, agent, id, attempt, source, None, replay=replay)
        context.opened_session, context._by_hand = session, True
        context.batch = events
        return context

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that the handler is called with, the oldest first; one, unless the agent takes batches."""
        return self.batch or (self.event,)

    @property
    def published(self) -> tuple[Event, ...]:
        """What the handler has emitted so far; what is due later comes last."""
        return (*self._events, *(later.event for later in self._later))

    @property
    def has_ledger(self) -> bool:
        """Whether the delivery is recorded in a ledger."""
        return self._ledger is not None

    @property
    def session(self) -> Session:
        """A SQLAlchemy session on the ledger's database, committed together with the delivery's outcome.

        What the handler writes in it takes effect exactly once. It is rolled back when the attempt fails. On SQLite
        it holds the database's one write lock from its first use: open it when the slow work is done.

        Raises LedgerOff, LedgerUnavailable when it is locked or away, PipelineError when the delivery has ended.
        """
        if (database := self._to_open("ctx.session")) is not None:
            if current() is not None:  # on the event loop: the others go on meanwhile
                wait(self._opened(database))
            else:
                with self._asking:  # of several threads one opens it
                    if self.opened_session is None:
                        self._enter(ExitStack(), database)
        assert self.opened_session is not None
        return self.opened_session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Lend `ctx.session` to an async handler without blocking the loop: it is waited for, first come first served.

        It is committed with the delivery's outcome, not at the end of the block, and on SQLite holds the database's
        one write lock until then: let it be the last thing that the handler does. Raises as `ctx.session` does.
        """
        if (database := self._to_open("ctx.transaction()")) is not None:
            await self._opened(database)
        assert self.opened_session is not None
        yield self.opened_session

    def _to_open(self, what: str) -> Database | None:
        """Return the database on which a session is to be opened; None when there is one."""
        with self._mutex:
            self._check_open(what)
            if self.opened_session is not None:
                return None
            if self._by_hand:
                raise PipelineError(f"{what} of a context made by hand: pass Context.for_test(..., session=...)")
            if self._ledger is None:
                raise LedgerOff(f"{what} needs a ledger, and the setting ledger_url is empty")
            return self._ledger.database

    async def _opened(self, database: Database) -> None:
        """Open the session once, whichever of the handler's tasks ask; what is opened too late closes itself."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open(database))
        await asyncio.shield(self._opening)

    async def _open(self, database: Database) -> None:
        loop, closing = asyncio.get_running_loop(), ExitStack()
        if (
            turn := turn_of(database)
        ) is not None:  # who waited in a thread would keep it from the one that it waits for
            await turn.acquire()
            closing.callback(loop.call_soon_threadsafe, turn.release)
        await loop.run_in_executor(None, self._enter, closing, database)

    def _enter(self, closing: ExitStack, database: Database) -> None:
        with closing:
            session = closing.enter_context(database.session())
            with self._mutex:
                if not self._ended:
                    self.opened_session, self._closing = session, closing.pop_all()

    def publish(
        self,
        what: Payload | str,
        data: Any = None,
        *,
        priority: int | None = None,
        subject: str | None = None,
        targets: tuple[str, ...] = (),
        metadata: Mapping[str, Any] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
    ) -> Event:
        """Emit an event that this one caused; it is sent when the handler has succeeded.

        Arguments:
            what: a typed payload, or an event type that `data` goes with.
            data: any JSON value.
            priority: 1 (most urgent) to 10; default the agent's, else that of the event handled.
            metadata: what is added to that of the event handled, or replaced in it.
            delay: seconds (or a timedelta) until it is published; needs a ledger.
            at: the time at which it is published, as an aware datetime; needs a ledger.

        Raises InvalidEvent at once when the event does not validate, PipelineError when the delivery has ended, and
        BlobMissing or BlobUnavailable when the content of a blob cannot be kept.

        """
        due = self._due(delay, at)
        content = self._kept(what, data)
        self._begin()
        with self._mutex:
            self._check_open("ctx.publish()")
            position = self._next
            event = new_event(
                content,
                None if content is not what else data,
                source=self._source,
                cause=self.event,
                id=caused_id(self.delivery_id, position, self._ledger.secret if self._ledger is not None else b""),
                priority=self._priority if priority is None else priority,
                subject=subject,
                targets=targets,
                metadata=metadata,
                version=self._types.newest(what) if self._types and isinstance(what, str) else Payload.schema_version,
            )
            self._next += 1  # what was refused takes no position
            event = self._types.described(event) if self._types and self._types.url else event
            if due is not None:
                event = event.evolve(time=due)
            is_out = position < self._before
            if not is_out:
                self._events.append(event) if due is None else self._later.append(Later(event, due))
        if is_out:
            check_same(self._ledger, event)
        return event

    def _due(self, delay: float | timedelta | None, at: datetime | None) -> datetime | None:
        """Return when an event is to be published, if not now."""
        due = None if delay is None and at is None else due_time(delay, at)
        if due is not None and self._ledger is None and not self._by_hand:
            raise LedgerOff("delay= and at= need a ledger, and the setting ledger_url is empty")
        return due

    def _begin(self) -> None:
        """Begin with the events where an earlier run has begun: after those whose steps were forgotten."""
        if self._before and not self._has_begun:
            _, first = self._waits("ctx.publish()").forgotten()
            with self._mutex:
                self._next += 0 if self._has_begun else first
                self._has_begun = True

    def begin_anew(self) -> None:
        """Let what is emitted from now on be something else than all that earlier runs have emitted."""
        self._next, self._has_begun = max(self._next, self._before), True

    def _waits(self, what: str) -> Waiting:
        with self._mutex:
            self._check_open(what)
            if self._ledger is None and not self._by_hand:
                raise LedgerOff(f"{what} needs a ledger, and the setting ledger_url is empty")
            if self.waiting is None:
                about = self.event, self.delivery_id, self.agent, self._propose, self._blobs
                self.waiting = Waiting(self._ledger, *about)
            return self.waiting

    def _propose(self, proposal: ActionProposed) -> bool:
        """Emit what somebody is to decide; say whether an earlier run has not done so already."""
        is_new = self.place >= self._before
        self.publish(proposal)
        return is_new

    @property
    def budget(self) -> Spending:
        """What the delivery may spend: `reserve()` before, `settle()` after, and `left`.

        Raises LedgerOff without a ledger.
        """
        if self._spending is None:
            self._spending = self._waits("ctx.budget").spending(self.agent, self.attempt)
        return self._spending

    @property
    def flow(self) -> FlowView | None:
        """The join, saga or workflow that it is a step of, with what steps before it came to; None for none."""
        if isinstance(self._flow, str) and self._ledger is not None:
            self._flow = aside(partial(self._ledger.waiting.flows.view, self._flow))
        return None if isinstance(self._flow, str) else self._flow

    @property
    def in_flow(self) -> bool:
        """Whether it is a step of a join, saga or workflow."""
        return self._flow is not None

    @property
    def cancelled(self) -> bool:
        """Whether its tree was stopped, or it is a step that is late: nothing of it takes effect, so it may end now.

        It asks the ledger each time: meant for a long sync handler, now and then. Always False without a ledger.
        """
        if self._ledger is None:
            return False
        outcome, _ = aside(partial(self._ledger.deliveries.state, self.delivery_id))
        return outcome in (Outcome.CANCELLED, Outcome.LATE)

    @property
    def begun_wait(self) -> Wait | None:
        """The wait that has ended the handler, if one has."""
        return None if self.waiting is None else self.waiting.begun

    @property
    def emitted(self) -> int:
        """How many events the delivery has emitted so far, those before an earlier wait included."""
        return max(self._next, self._before)

    @property
    def place(self) -> int:
        """The place that the next event has among those of the delivery, the same in each run."""
        self._begin()
        return self._next

    @property
    def emitted_before(self) -> int:
        """How many events it had emitted before this attempt: before earlier waits."""
        return self._before

    def _kept(self, what: Payload | str, data: Any) -> Payload | str | Content:
        """Return what an event is to say, whose large content is kept first, while the event loop goes on."""
        holds = isinstance(what, Payload) and may_hold_blobs(type(what))
        return aside(partial(content_of, what, data, self._blobs)) if holds else what

    def write(self, row: Write) -> None:
        """Let a row be written together with the delivery's success; without a ledger there is nowhere to."""
        with self._mutex:
            self._check_open("ctx.write()")
            if self._ledger is not None:
                self._rows.append(row)

    def _check_open(self, what: str) -> None:
        if self._ended:
            raise PipelineError(
                f"{what} comes too late: delivery {self.delivery_id} of agent {self.agent!r} has ended; "
                "let the handler wait for the threads and tasks that it starts"
            )

    def effects(self) -> Effects:
        """Return what the delivery leaves behind so far."""
        has_any = self._events or self._later or self._rows
        return Effects(tuple(self._events), tuple(self._later), tuple(self._rows)) if has_any else NOTHING

    def end(self) -> Effects:
        """Return what the delivery leaves behind, once and for all; what comes later is refused."""
        with self._mutex:
            self._ended = True
            effects = self.effects()
        if self._has_said and self._closing is None:  # else it holds SQLite's write lock
            self._say_all()
        return effects

    def close(self) -> None:
        """End the delivery and close the session, if one was opened; what is not committed is rolled back."""
        with self._mutex:
            self._ended = True
            closing, self._closing = self._closing, None
        if closing is not None:
            aside(closing.close)
        if self._has_said:
            self._say_all()
