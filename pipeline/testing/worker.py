"""A worker that is driven by hand: the real consumer, pool and chores, one message after the other in this thread."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.worker import WorkController, state

from ..brokers.embedded.store import Outgoing
from ..core.times import SECOND
from ..ledger.workers import HEARTBEAT
from ..workers.step import SweeperStep
from .clock import VirtualClock, VirtualTimer
from .faults import DUPLICATE, REORDER, Faults

if TYPE_CHECKING:
    from ..app.app import Pipeline

#: Messages that are taken at once, as a worker in the fastest of all settings takes them.
AT_ONCE = 100
#: Messages that overtake each other.
SEVERAL = 4


class Driven:
    """A worker of an application, in virtual time."""

    def __init__(self, app: Pipeline, clock: VirtualClock) -> None:
        """Start it: it consumes when this returns, and does nothing more by itself."""
        self._bus, self._clock = app.bus, clock
        self.timer = VirtualTimer(clock)
        self._heard = clock.at
        self.controller: Any = WorkController(
            app=app.celery,
            hostname=f"testing@{app.bus.worker_id.rpartition(':')[2]}",
            pool="solo",
            concurrency=1,
            prefetch_multiplier=AT_ONCE,
            use_eventloop=False,
            timer_cls=partial(self._timer),
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
            task_events=False,
        )
        self.consumer: Any = self.controller.consumer
        self.consumer.loop = self._begin
        # Celery's own start() would begin again and again: its loop is not expected to return.
        self.consumer.start = partial(self.consumer.blueprint.start, self.consumer)
        self.controller.blueprint.start(self.controller)
        self._step: SweeperStep = self.controller.blueprint.steps[SweeperStep.name]
        signals.worker_ready.send(sender=self.consumer)

    def _timer(self, **_: Any) -> VirtualTimer:
        return self.timer

    @staticmethod
    def _begin(consumer: Any, connection: Any, tasks: Any, *_: Any) -> None:
        """Do what Celery's loop does before it turns."""
        tasks.on_message = consumer.create_task_handler()
        tasks.consume()
        consumer.on_ready()

    # -- what is ready now

    def drain(self) -> bool:
        """Deliver what the broker has now; say whether there was anything."""
        consumer = self.consumer
        consumer.perform_pending_operations()
        if consumer.qos.prev != consumer.qos.value:
            consumer.qos.update()
        try:
            consumer.connection.drain_events(timeout=0)
        except TimeoutError:
            return False
        finally:
            consumer.perform_pending_operations()
        return True

    def take_one(self, chance: Random, faults: Faults) -> str:
        """Deliver one message of a queue that chance chooses, or a few in another order; return what was done."""
        consumer = self.consumer
        consumer.perform_pending_operations()
        channel = consumer.task_consumer.channel
        transport, store = channel.connection, channel.store
        waiting = [queue for queue in channel._active_queues if store.size(queue)]
        if not waiting:
            store.settle()
            return ""
        queue = chance.choice(waiting)
        taken = store.claim([queue], SEVERAL if faults.happens(REORDER) else 1)
        chance.shuffle(taken)
        try:
            for claimed in taken:
                if faults.happens(DUPLICATE):
                    store.publish([Outgoing("", queue, 0, claimed.meta, claimed.body)])
                transport._deliver(channel._raw(claimed), queue)
                for call in tuple(transport.after_burst):
                    call()
        finally:
            consumer.perform_pending_operations()
        store.settle()
        return f"deliver {len(taken)} of {queue}"

    def sweep(self) -> int:
        """Do the chores that are due; return how many things were done."""
        if self._clock.at - self._heard > HEARTBEAT * SECOND:  # it has lived meanwhile
            self._heard = self._clock.at
            self._step.register(self._bus)
        assert self._step.sweeper is not None
        done = self._step.sweeper.sweep()
        self._step.sweeper.chores.outbox.flush()
        return done

    def run(self) -> None:
        """Do all that is ready, and what follows from it, until nothing is."""
        while True:
            busy = self.drain()
            busy = self.timer.ring() > 0 or busy
            if not busy:
                self._bus.outbox.flush()
                self._bus.ledger.notices.flush()
                if not self.sweep():
                    return

    # -- its end

    def stop(self) -> None:
        """End it, as a worker ends that is told to."""
        self.controller.stop()
        self._forget()

    def die(self) -> None:
        """Let it be gone at once: the broker has what it held, and nobody has said anything."""
        self._step.disconnect()
        connection = self.consumer.connection
        with suppress(Exception):
            connection.transport.close_connection(connection.connection)
        if self._step.sweeper is not None:
            self._step.sweeper.chores.close()
        self._forget()

    @staticmethod
    def _forget() -> None:
        state.reserved_requests.clear()
        state.active_requests.clear()
        state.requests.clear()
