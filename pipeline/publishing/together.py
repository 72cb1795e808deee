"""What threads and tasks publish at the same time goes together: one append, one wait for the broker's confirms.

A thread that comes while nobody publishes does it at once. Who comes meanwhile waits for the next batch, which one of
the threads that wait publishes for all of them; for tasks a thread does it that they share. Errors stay each event's
own: when a batch fails, each of its events is published alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from ..core import forks
from ..core.errors import LedgerUnavailable, PipelineError
from ..core.event import Event
from ..core.times import monotonic

if TYPE_CHECKING:
    from .direct import Outgoing

#: Batches that are under way at a time, each with a connection of its own, and events in one of them.
AT_ONCE, MOST = 2, 500
#: Seconds, and the part of its timeout, that a call waits for others at most before it is published alone.
PATIENCE, PART = 1.0, 0.5
#: Threads that publish events of tasks which have to be published alone, at most.
ALONE = 32


class Call:
    """An event that is to be published with others.

    Attributes:
        since: from when on its timeout counts.
        outcome: what has become of it, when the batch that it was in has ended; None when it has to be published alone.
        batch: what the thread that waits for it is to publish, this event among it.
        woken: held until that thread may go on.

    """

    def __init__(self, event: Event, timeout: float) -> None:
        self.event = event
        self.timeout = timeout
        self.since = monotonic()
        self.outcome: Event | Exception | None = None
        self.batch: Sequence[Call] = ()
        self.woken = threading.Lock()
        self.woken.acquire()

    @property
    def patience(self) -> float:
        """Seconds for which it waits for others."""
        return max(min(PATIENCE, self.timeout * PART), 0.0)

    @property
    def left(self) -> float:
        """Seconds that are left for the broker, as an error shows them."""
        return max(round(self.timeout - (monotonic() - self.since), 2), 0.0)

    def begin(self) -> None:
        """Let no more of its time be over than it may wait for others."""
        self.since = max(self.since, monotonic() - self.patience)

    def go_on(self) -> None:
        """Let the thread go on that waits for it."""
        self.batch = ()
        if self.woken.locked():
            self.woken.release()


class TaskCall(Call):
    """An event that a task publishes; `future` is what it waits for."""

    def __init__(self, event: Event, timeout: float) -> None:
        super().__init__(event, timeout)
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Event] = self.loop.create_future()

    def settle(self) -> None:
        """Let the task go on, unless it was cancelled; called in its loop."""
        if self.future.done():
            return
        if isinstance(self.outcome, Exception):
            self.future.set_exception(self.outcome)
        elif self.outcome is not None:
            self.future.set_result(self.outcome)


class Together:
    """Single events of many threads and tasks, published in batches."""

    def __init__(self, outgoing: Callable[[], Outgoing], timeout: float, at_once: float = AT_ONCE) -> None:
        """Take the way to the broker, which is asked for when there is something to publish.

        Arguments:
            timeout: seconds to wait for the broker where a call says nothing else.
            at_once: batches that are under way at a time.

        """
        self._outgoing = outgoing
        self._timeout = timeout
        self._at_once = at_once
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._waiting: deque[Call] = deque()
        self._under_way = 0
        self._threads: dict[str, Any] = {}

    # -- threads

    def enter(self, event: Event, timeout: float | None) -> Call | None:
        """Return None to a thread that is to publish now, and to leave() then; else what it has to wait() for."""
        with self._lock:
            if self._under_way < self._at_once:
                self._under_way += 1
                return None
            call = Call(event, self._seconds(timeout))
            self._waiting.append(call)
            return call

    def leave(self) -> None:
        """Let those go on who have come meanwhile: the first thread among them publishes for all."""
        with self._lock:
            batch = self._next()
            leader = next((call for call in batch if not isinstance(call, TaskCall)), None)
            if leader is not None:
                leader.batch = batch
                leader.woken.release()
            elif not batch or not self._submit(self._publish, batch):
                self._under_way -= 1

    def wait(self, call: Call) -> Event:
        """Publish an event with others, or alone when they take too long; raise what publishing it alone raises."""
        try:
            if not call.woken.acquire(timeout=call.patience) and not self._withdraw(call):
                call.woken.acquire()  # it is in a batch that is under way, which ends in time
            if call.batch:
                self._publish(call.batch)
        except BaseException:  # a time limit, say: nobody else waits for this thread
            if not self._withdraw(call) and call.batch:
                self._end(call.batch)
            raise
        if call.outcome is None:
            return self._alone(call)
        if isinstance(call.outcome, Exception):
            raise call.outcome
        return call.outcome

    # -- tasks

    async def publish(self, event: Event, seconds: float | None) -> Event:
        """Publish an event, with others if there are any, while the event loop goes on; raise as wait() does.

        Arguments:
            seconds: to wait for the broker; default the setting `publish_timeout`.

        """
        call = TaskCall(event, self._seconds(seconds))
        with self._lock:
            if not self._under_way and self._submit(self._serve):
                self._under_way += 1
            self._waiting.append(call)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._withdraw(call)
            raise

    def _serve(self) -> None:
        with self._lock:
            batch = self._next()
        if batch:
            self._publish(batch)
        else:  # the tasks were cancelled
            self.leave()

    def _submit(self, work: Callable[..., None], *arguments: object, alone: bool = False) -> bool:
        """Let a thread do something for tasks; say whether there can be one: while Python ends, no task goes on.

        Arguments:
            alone: whether that is one event's publication; then it holds up no batch.

        """
        name, number = ("pipeline-publish-alone", ALONE) if alone else ("pipeline-publish", min(self._at_once, ALONE))
        try:
            if name not in self._threads:
                # Not before: to be imported for the first time while Python ends is an error.
                from concurrent.futures import ThreadPoolExecutor

                self._threads[name] = ThreadPoolExecutor(int(number), thread_name_prefix=name)
            self._threads[name].submit(work, *arguments)
        except RuntimeError:
            return False
        return True

    def _publish_alone(self, call: TaskCall) -> None:
        try:
            call.outcome = self._alone(call)
        except Exception as exc:
            call.outcome = exc
        self._wake([call])

    # -- both

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else timeout

    def _next(self) -> list[Call]:
        """Take those out who wait longest, and who give the broker as much time as the first of them."""
        waiting, batch = self._waiting, list[Call]()
        while waiting and len(batch) < MOST and (not batch or waiting[0].timeout == batch[0].timeout):
            batch.append(waiting.popleft())
        return batch

    def _withdraw(self, call: Call) -> bool:
        """Say whether nobody had begun with a call, and nobody will."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(call)
            return True
        return False

    def _publish(self, batch: Sequence[Call]) -> None:
        """Publish a batch; what fails for a reason that may be one event's stays to be published alone."""
        for call in batch:
            call.begin()
        shared = len(batch) > 1
        try:
            timeout = min(call.left for call in batch)
            events = self._outgoing().publish([call.event for call in batch], timeout=timeout, shared=shared)
            for call, event in zip(batch, events, strict=True):
                call.outcome = event
        except PipelineError as exc:
            for call in batch:
                if not shared or isinstance(exc, LedgerUnavailable) or not call.left:
                    call.outcome = copy(exc)
        finally:
            self._end(batch)

    def _end(self, batch: Sequence[Call]) -> None:
        self.leave()
        self._wake(batch)

    def _wake(self, batch: Sequence[Call]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[TaskCall]] = {}
        for call in batch:
            if not isinstance(call, TaskCall):
                call.go_on()
            elif call.outcome is None:
                self._submit(self._publish_alone, call, alone=True)
            else:
                by_loop.setdefault(call.loop, []).append(call)
        for loop, calls in by_loop.items():
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, calls)

    def _alone(self, call: Call) -> Event:
        return self._outgoing().publish([call.event], timeout=call.left)[0]

    def close(self) -> None:
        """End the threads that publish for tasks when they have; the next task begins another one."""
        with self._lock:
            every, self._threads = self._threads, {}
        for threads in every.values():
            threads.shutdown()

    # -- forks

    def before_fork(self) -> None:
        """Do nothing: what waits is published by the parent."""

    def after_fork(self, *, child: bool) -> None:
        """Begin anew in a child."""
        if child:
            self._begin()


def _settle(calls: Sequence[TaskCall]) -> None:
    for call in calls:
        call.settle()
