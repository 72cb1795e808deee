"""What an app offers to those who publish: one event or many, now, later, or together with a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..agents.payloads import payload_of
from ..core.errors import InvalidEvent
from ..core.event import Event, Payload, new_event
from ..core.times import due_time

if TYPE_CHECKING:
    from ..bus import Bus
    from ..ledger.ledger import Ledger

#: What publish_many() takes: a typed payload, (event type, data), or an event as it is.
Publishable = Payload | tuple[str, Any] | Event


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
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        session: Any = None,
        connection: Any = None,
        timeout: float | None = None,
    ) -> Event:
        """Publish one event and return it; it is accepted for good when this returns.

        Arguments:
            what: a typed payload, or an event type that `data` goes with.
            data: any JSON value; where agents of this app declare a class for the type, one that fits it.
            priority: 1 (most urgent) to 10; default 5.
            correlation_id: joins the event to others; default its own id.
            subject: what the event is about; it belongs to that history (see get_events).
            targets: names of the only agents that may receive it.
            delay: seconds (or a timedelta) until it is published; `cancel(event.id)` takes it back.
            at: the time at which it is published, as an aware datetime.
            session: your SQLAlchemy Session on the ledger's database: the event exists when you commit.
            connection: the same with a SQLAlchemy Connection.
            timeout: seconds to wait for the broker; default the setting `publish_timeout`.

        With a ledger the event is in the log first. When the broker is away, `event.sent` is False and a worker's
        relay sends it later. Without a ledger BrokerUnavailable is raised within `timeout`.

        Raises InvalidEvent that names the wrong field, EventTooLarge, UnknownAgent, IdTaken, LedgerUnavailable,
        LedgerOff.

        """
        due = None if delay is None and at is None else due_time(delay, at)
        event = self._one(
            what, data, priority=priority, correlation_id=correlation_id, subject=subject, targets=targets
        )
        transaction = session if session is not None else connection
        if due is not None:
            # Another program's event stays as it came: with another time it would be another event.
            late = event.evolve(time=due) if event.key == event.id else event
            return self.bus.outbox.delay(late, due, transaction)
        if not self.bus.spans.heard:
            return self._accept_one(event, transaction, timeout)
        with self.bus.spans.span("publish", event=event):
            return self._accept_one(event, transaction, timeout)

    def _accept_one(self, event: Event, transaction: Any, timeout: float | None) -> Event:
        if transaction is not None:
            return self.bus.outbox.append(transaction, [event])[0]
        together = self.bus.together
        if (call := together.enter(event, timeout)) is not None:  # others are publishing
            return together.wait(call)
        try:
            return self.bus.outbox.publish([event], timeout=timeout)[0]
        finally:
            together.leave()

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
        if session is not None:
            return self.bus.outbox.append(session, events)
        return self.bus.outbox.publish(events, timeout=timeout)

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
        ways = {name: options.pop(name, None) for name in ("session", "connection", "delay", "at")}
        if any(way is not None for way in ways.values()):
            return await asyncio.to_thread(self.publish, what, data, **ways, **options)
        timeout = options.pop("timeout", None)
        event = self._one(what, data, **options)
        with self.bus.spans.span("publish", event=event):
            return await self.bus.together.publish(event, timeout)

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
            options: priority, correlation_id, subject and targets, as for publish().

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

    def cancel(self, event_id: str) -> bool:
        """Take back an event that was published with delay= or at=; say whether it was still to come."""
        return self.bus.outbox.cancel(event_id)

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
        """Return a new event; data without a class has to fit the payload that an agent of this app declares for it."""
        event = new_event(what, data, source=self.bus.source, **options)
        if isinstance(what, str):
            for agent in self.bus.agents.typed(event):
                payload_of(agent, event)
        return event

    # -- the ledger

    @property
    def has_ledger(self) -> bool:
        """Whether the setting `ledger_url` names a ledger, or leaves the default."""
        return self.bus.has_ledger

    @property
    def ledger(self) -> Ledger:
        """The ledger; raises LedgerOff when there is none."""
        return self.bus.ledger
