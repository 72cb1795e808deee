"""What an app offers to those who publish: one event or many, now, later, or together with a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

from ..agents.payloads import payload_of
from ..contracts.blobs.blob import may_hold_blobs
from ..contracts.newer import NewerMajor
from ..core.errors import InvalidEvent, InvalidSelection, Overloaded
from ..core.event import Content, Event, Payload, new_event
from ..core.routing import receivers
from ..core.times import due_time
from ..ledger.waiting.approval import UNSET

if TYPE_CHECKING:
    from ..bus import Bus
    from ..contracts.blobs.blobs import Blobs
    from ..ledger.facts import Cancelled
    from ..ledger.ledger import Ledger

#: What publish_many() takes: a typed payload, (event type, data), or an event as it is.
Publishable = Payload | tuple[str, Any] | Event
#: The name in an event's metadata that says which event it was forked from.
FORKED_FROM = "forked_from"


class Publishing:
    """The publishing side of a Pipeline."""

    bus: Bus

    def publish(
        self,
        what: Publishable | str,
        data: Any = None,
        *,
        priority: int | None = None,
        correlation_id: str | None = None,
        subject: str | None = None,
        targets: tuple[str, ...] = (),
        metadata: Mapping[str, Any] | None = None,
        budget: Mapping[str, int] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        session: Any = None,
        connection: Any = None,
        timeout: float | None = None,
    ) -> Event:
        """Publish one event and return it; it is accepted for good when this returns.

        Arguments:
            what: a typed payload, or an event type that `data` goes with.
            data: any JSON value; where this app has a class for the type, one that fits it, and is of its version.
            priority: 1 (most urgent) to 10; default 5.
            correlation_id: joins the event to others; default its own id.
            subject: what the event is about; it belongs to that history (see get_events).
            targets: names or dids of the only agents that may receive it.
            metadata: what belongs to the work as a whole, such as a user and a session; everything that the event
                causes inherits it, and get_events() finds it. At most 4 KiB of JSON.
            budget: what everything that has its correlation may spend, such as {"tokens": 100_000}; units are tokens,
                cost (in millionths) and events. The first one that a correlation gets counts.
            delay: seconds (or a timedelta) until it is published; `cancel(event.id)` takes it back.
            at: the time at which it is published, as an aware datetime.
            session: your SQLAlchemy Session on the ledger's database: the event exists when you commit.
            connection: the same with a SQLAlchemy Connection.
            timeout: seconds to wait for the broker; default the setting `publish_timeout`.

        With a ledger the event is in the log first. When the broker is away, `event.sent` is False and a worker's
        relay sends it later. Without a ledger BrokerUnavailable is raised within `timeout`.

        The content of large blobs is in their store before. Raises InvalidEvent that names the wrong field,
        EventTooLarge, UnknownAgent, IdTaken, LedgerUnavailable, LedgerOff; BlobTooLarge, BlobUnavailable, BlobMissing;
        Overloaded when an agent refuses what is too much (docs/backpressure.md), but not in a transaction.

        """
        due = None if delay is None and at is None else due_time(delay, at)
        event = self._one(
            what,
            data,
            priority=priority,
            correlation_id=correlation_id,
            subject=subject,
            targets=targets,
            metadata=metadata,
        )
        transaction = session if session is not None else connection
        if budget is not None:
            if due is None and transaction is None:
                self._admit([event])  # before its tree has a budget: the first one counts
            self._begin_budget(event, budget, transaction)
        spans = self.bus.spans
        if spans.looks is not None:
            spans.looks()
        if not spans.heard:
            return self._accept_one(event, due, transaction, timeout)
        with spans.span("publish", event=event) as about:
            return self._accept_one(about["event"], due, transaction, timeout)

    def _begin_budget(self, event: Event, budget: Mapping[str, int], transaction: Any) -> None:
        """Give the event's tree a budget, before anybody can spend it; without the event nobody does."""
        from ..ledger.bounding.budget import amounts

        limit = amounts("budget=", **budget)
        connection = transaction.connection() if callable(getattr(transaction, "connection", None)) else transaction
        if connection is not None:
            self.bus.ledger.is_begun_in(connection)
        self.bus.ledger.waiting.budgets.begin(event.correlation_id, limit, connection)

    def _accept_one(self, event: Event, due: datetime | None, transaction: Any, timeout: float | None) -> Event:
        if due is not None:
            # Another program's event stays as it came: with another time it would be another event.
            late = event.evolve(time=due) if event.key == event.id else event
            return self.bus.outbox.delay(late, due, transaction)
        if transaction is not None:
            return self.bus.outbox.append(transaction, [event])[0]
        self._admit([event])
        together = self.bus.together
        if (call := together.enter(event, timeout)) is not None:  # others are publishing
            return together.wait(call)
        try:
            published = self.bus.outbox.publish([event], timeout=timeout)[0]
        finally:
            together.leave()
        self.bus.bounds.look()
        return published

    def publish_many(
        self, items: Iterable[Publishable], *, session: Any = None, timeout: float | None = None
    ) -> list[Event]:
        """Publish several events in order with many confirms in flight, and return them.

        Arguments:
            items: typed payloads, (event type, data) pairs, or events.
            session: your SQLAlchemy Session or Connection on the ledger's database, as in publish().
            timeout: seconds to wait for the broker to take all of them.

        Raises InvalidEvent before any is accepted, and without a ledger BrokerUnavailable when some may not have been
        taken; publishing the returned events again would be safe, because ids stay, so build them first if you want to.

        """
        events = [self._event(item) for item in items]
        spans = self.bus.spans
        if spans.looks is not None:
            spans.looks()
        if not spans.heard:
            return self._accept_many(events, session, timeout)
        with spans.span("publish", batch=events) as about:
            return self._accept_many(about["batch"], session, timeout)

    def _accept_many(self, events: list[Event], session: Any, timeout: float | None) -> list[Event]:
        if session is not None:
            return self.bus.outbox.append(session, events)
        self._admit(events)
        published = self.bus.outbox.publish(events, timeout=timeout)
        self.bus.bounds.look()
        return published

    async def apublish(self, what: Publishable | str, data: Any = None, **options: Any) -> Event:
        """Publish one event from async code without blocking its event loop; arguments and errors as publish().

        An AsyncSession or AsyncConnection is taken too.
        """
        for name in ("session", "connection"):
            run_sync = getattr(options.get(name), "run_sync", None)
            if run_sync is not None:
                del options[name]
                event: Event = await run_sync(lambda own: self.publish(what, data, session=own, **options))
                return event
        ways = {name: options.pop(name, None) for name in ("session", "connection", "budget", "delay", "at")}
        if any(way is not None for way in ways.values()):
            return await asyncio.to_thread(self.publish, what, data, **ways, **options)
        timeout = options.pop("timeout", None)
        if isinstance(what, Payload) and may_hold_blobs(type(what)):
            event = await asyncio.to_thread(self._one, what, data, **options)
        else:
            event = self._one(what, data, **options)
        if self.bus.bounds.may_reject:
            await asyncio.to_thread(self._admit, [event])
        spans = self.bus.spans
        if spans.looks is not None:
            spans.looks()
        if spans.heard:
            with spans.span("publish", event=event) as about:
                published = await self.bus.together.publish(about["event"], timeout)
        else:
            published = await self.bus.together.publish(event, timeout)
        if not self.bus.bounds.is_fresh:
            await asyncio.to_thread(self.bus.bounds.look)
        return published

    def publish_on_commit(
        self,
        what: Payload | Event | str,
        data: Any = None,
        *,
        on_commit: Callable[[Callable[[], Any]], Any] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Event:
        """Publish one event when the surrounding transaction has committed, and never when it is rolled back.

        Arguments:
            on_commit: what to hand the callback to; default `django.db.transaction.on_commit`.
            delay: seconds (or a timedelta) from the commit until it is published.
            at: the time at which it is published, as an aware datetime.
            timeout: seconds to wait for the broker.
            options: priority, correlation_id, subject, targets and metadata, as for publish().

        A crash between commit and callback loses the event; where that matters, use publish(session=...), which
        writes it in the transaction itself. What publish() raises about the event is raised at once. The `sent` of the
        event that is returned is False: it is accepted only later.

        """
        if on_commit is None:
            from django.db.transaction import on_commit as on_commit_in_django

            on_commit = on_commit_in_django
        event = what if isinstance(what, Event) else self._new(what, data, **options)
        # After the commit nobody could roll back any more: what is wrong is found now.
        if due_time(delay, at) is not None:
            self.bus.outbox.check_delay()
        self.bus.outbox.encode([event])
        on_commit(lambda: self.publish(event, delay=delay, at=at, timeout=timeout))
        return event.marked(sent=False)

    def fork(
        self,
        event: Event | str,
        data: Any = UNSET,
        *,
        agent: str | None = None,
        type: str | None = None,
        subject: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Event:
        """Publish an event of the ledger as a new one, edited where wanted; what it causes is a tree of its own.

        It has a new id and correlation, and `forked_from` in its metadata, which all that it causes inherits: so
        get_events(metadata={"forked_from": id}) finds that tree. What is not given is as it was, the budget apart.

        Arguments:
            event: the event, or its id.
            data: other data.
            agent: name or did of the only agent that gets it; default whoever may get the event.
            type: another event type.
            subject: another subject; empty for none.
            metadata: other metadata, in place of all that it has.
            timeout: seconds to wait for the broker, as for publish().

        Raises UnknownEvent, LedgerOff, and what publish() raises.

        """
        from ..history.events import get_event

        one = get_event(self.bus.ledger, event if isinstance(event, str) else event.key).event
        type = type or one.type
        version = one.schema_version if type == one.type else self.bus.types.newest(type)
        forked = new_event(
            Content(type, version, one.data if data is UNSET else data),
            source=self.bus.source,
            priority=one.priority,
            subject=(one.subject if subject is None else subject) or None,
            targets=one.targets if agent is None else (agent,),
            metadata={**(one.metadata if metadata is None else metadata), FORKED_FROM: one.key},
        )
        if more := {name: value for name, value in (one.model_extra or {}).items() if name != "dataschema"}:
            forked = forked.evolve(**more)  # filters may ask for it
        self.check(forked)
        return self.publish(self.bus.types.described(forked), timeout=timeout)

    def _admit(self, events: Sequence[Event]) -> None:
        """Raise Overloaded when an agent that would get one of some events has too much waiting, and says so."""
        if not self.bus.bounds.may_reject or not (full := self.bus.bounds.rejecting()):
            return
        known = self.bus.ledger.subscribers.known()
        patterns = {agent: known.get(agent, ()) for agent in full}
        for event in events:
            for agent in receivers(patterns, event.type, event.targets):
                raise Overloaded(
                    f"agent {agent!r} has too much waiting, and refuses {event.type} (overflow='reject-at-publish'): "
                    "nothing was published; try again later"
                )

    @overload
    def cancel(self, event: Event | str) -> bool: ...

    @overload
    def cancel(
        self, event: Event | str, *, tree: Literal[True], by: str = "", reason: str = "", terminate: bool = False
    ) -> Cancelled: ...

    @overload
    def cancel(self, *, correlation: str, by: str = "", reason: str = "", terminate: bool = False) -> Cancelled: ...

    def cancel(
        self,
        event: Event | str | None = None,
        *,
        tree: bool = False,
        correlation: str | None = None,
        by: str = "",
        reason: str = "",
        terminate: bool = False,
    ) -> Cancelled | bool:
        """Take back an event that was published with delay= or at=; or stop a whole tree of work.

        Without `tree` and `correlation` say whether the event was still to come. With them, whatever an event has
        caused, or has a correlation, and has not ended is cancelled, running deliveries too; nothing that it emits or
        that comes to it later runs. Returns what was stopped, what ran, and what had happened already.

        Arguments:
            event: a delayed event, or with `tree` the event on top; that of the first event of a correlation stands for
                all of it.
            tree: stop what the event has caused, itself included.
            correlation: stop everything that has this correlation id.
            by: who does it.
            reason: why.
            terminate: end the processes of running sync handlers; else they go on, and what they emit is refused.

        Raises InvalidSelection, UnknownEvent when there is no such tree, and LedgerOff.

        """
        key = event.key if isinstance(event, Event) else event
        if (key is None) == (correlation is None) or (tree and key is None):
            raise InvalidSelection("cancel() takes a delayed event, an event with tree=True, or correlation=")
        if key is not None and not tree:
            if by or reason or terminate:
                raise InvalidSelection("by=, reason= and terminate= are for a tree: add tree=True")
            return self.bus.outbox.cancel(key)
        return self.bus.ledger.waiting.trees.cancel(
            key, correlation=correlation, by=by, reason=reason, terminate=terminate
        )

    def _one(self, what: Publishable | str, data: Any, **options: Any) -> Event:
        if isinstance(what, tuple):
            raise InvalidEvent("payload: publish() takes a type and data as two arguments; publish_many() takes pairs")
        return what if isinstance(what, Event) else self._new(what, data, **options)

    def _event(self, item: Publishable) -> Event:
        if isinstance(item, Event):
            return item
        what, data = item if isinstance(item, tuple) else (item, None)
        return self._new(what, data)

    def _new(self, what: Payload | str, data: Any, **options: Any) -> Event:
        """Return a new event; data without a class is of the newest version that this app has of its type.

        It has to fit the classes that agents take, and the one that was added to `app.types`.
        """
        types, blobs = self.bus.types, self.bus.blobs.context
        if not isinstance(what, str):
            event = new_event(what, data, source=self.bus.source, context=blobs, **options)
            return types.described(event) if types.url else event
        event = new_event(what, data, source=self.bus.source, version=types.newest(what), context=blobs, **options)
        self.check(event)
        return types.described(event) if types.url else event

    def check(self, event: Event) -> None:
        """Raise InvalidEvent that names the wrong field of an event that agents' or added classes could not read.

        publish() does so for data without a class; this is for an event that somebody else has made.
        """
        types = self.bus.types
        types.check_published(event)
        for agent in self.bus.agents.typed(event):
            with suppress(NewerMajor):  # it waits for a worker that has a newer class
                payload_of(agent, event, types, self.bus.blobs.context)

    @property
    def blobs(self) -> Blobs:
        """Where the content of large blobs is kept; with `app.blobs.context` pydantic reads a payload's blobs."""
        return self.bus.blobs

    # -- the ledger

    @property
    def has_ledger(self) -> bool:
        """Whether the setting `ledger_url` names a ledger, or leaves the default."""
        return self.bus.has_ledger

    @property
    def ledger(self) -> Ledger:
        """The ledger; raises LedgerOff when there is none."""
        return self.bus.ledger
