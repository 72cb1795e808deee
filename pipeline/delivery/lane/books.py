"""Bookkeeping for strands: what waits for the ledger is done by one thread, for all that have asked meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from celery._state import _task_stack, get_current_task

from ...agents.effects import Effects
from ...agents.strand import aside, current, see_through
from ...core.event import Encoded
from ...ledger.facts import Claim, Delivery
from ..delivery import Bookkeeping, Ended, Verdict
from ..steps import Filtered, Parks, Paused, Result
from ..turns.turns import rest

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

T = TypeVar("T")
#: What is asked of the ledger in one transaction, at most.
LARGEST = 100


class Asked(NamedTuple):
    """Something that a strand waits for."""

    about: Any
    answer: asyncio.Future[Any]


class Books:
    """Stands before the bookkeeping; strands wait for it without blocking the loop, everybody else goes straight on."""

    def __init__(self, books: Bookkeeping) -> None:
        self._books = books
        self.told = books.told
        self.ledger = books.ledger
        self._claims: deque[Asked] = deque()
        self._ended: deque[Asked] = deque()
        self._emitted: deque[Asked] = deque()
        self._is_asked = threading.Event()
        self._clerk: threading.Thread | None = None
        self._is_closed = False

    def close(self) -> Bookkeeping:
        """Stand aside: nobody asks any more; return the bookkeeping that was stood before."""
        self._is_closed = True
        self._is_asked.set()
        return self._books

    def __getattr__(self, name: str) -> Any:
        """Pass on what only the main process asks: that a process has died, or that somebody has revoked a delivery."""
        return getattr(self._books, name)

    # -- in groups

    def claim(self, delivery: Delivery) -> Claim:
        """Count an attempt, together with those of other deliveries."""
        if self.ledger is None or current() is None:
            return self._books.claim(delivery)
        claim: Claim = self._ask(self._claims, delivery)
        return claim

    def succeed(
        self, delivery: Delivery, attempt: int, effects: Effects, answer: Any, session: Session | None = None
    ) -> Sequence[Encoded]:
        """Record a success, together with those of other deliveries; one with a transaction of its own goes alone."""
        is_alone = delivery.turns or delivery.leads or delivery.flow
        if session is not None or (is_alone and self.ledger is not None):
            return aside(partial(self._books.succeed, delivery, attempt, effects, answer, session))
        if self.ledger is None or current() is None:
            return self._books.succeed(delivery, attempt, effects, answer)
        emitted: Sequence[Encoded] = self._ask(self._ended, Ended(delivery, attempt, effects, answer))
        return emitted

    def send(self, emitted: Sequence[Encoded]) -> None:
        """Send what a success has emitted, together with that of others."""
        if current() is None:
            self._books.send(emitted)
        else:
            self._ask(self._emitted, emitted)

    def _ask(self, queue: deque[Asked], about: Any) -> Any:
        if self._clerk is None:
            self._clerk = threading.Thread(target=self._serve, name="pipeline-books", daemon=True)
            self._clerk.start()
        answer = asyncio.get_running_loop().create_future()
        queue.append(Asked(about, answer))
        self._is_asked.set()
        return see_through(answer)

    def _serve(self) -> None:
        """Do what is asked, in the order in which it frees room: outcomes, what was emitted, claims."""
        while not self._is_closed:
            self._is_asked.wait()
            self._is_asked.clear()
            while self._ended or self._emitted or self._claims:
                self._answer(self._ended, self._books.succeed_all)
                self._answer(self._emitted, self._send_all)
                self._answer(self._claims, self._books.claim_all)

    @staticmethod
    def _answer(queue: deque[Asked], do: Callable[[list[Any]], Sequence[Any]]) -> None:
        group = [queue.popleft() for _ in range(min(len(queue), LARGEST))]
        if not group:
            return
        try:
            answers = do([asked.about for asked in group])
        except BaseException as exc:  # nobody expects it, but none may wait for ever
            answers = [exc] * len(group)
        loop = group[0].answer.get_loop()
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_tell, [asked.answer for asked in group], answers)

    def _send_all(self, groups: list[Sequence[Encoded]]) -> Sequence[BaseException | None]:
        try:
            self._books.send([encoded for emitted in groups for encoded in emitted])
        except Exception:  # one of them may be at fault; sent twice, the others are still one event each
            return [self._error_of(partial(self._books.send, emitted)) for emitted in groups]
        return [None] * len(groups)

    @staticmethod
    def _error_of(call: Callable[[], object]) -> BaseException | None:
        try:
            call()
        except Exception as exc:
            return exc
        return None

    # -- alone

    def done_before(self, delivery: Delivery, claim: Claim) -> Any:
        """Finish a delivery for which there is no attempt to make."""
        return self._aside(partial(self._books.done_before, delivery, claim))

    def stray(self, delivery: Delivery) -> Paused | Filtered | None:
        """Say what becomes of an event that this version of the agent does not want."""
        return self._aside(partial(self._books.stray, delivery))

    def refused(self, delivery: Delivery, filtered: Filtered) -> Paused | Filtered:
        """Say what becomes of an event that the filter of this version keeps back."""
        return self._aside(partial(self._books.refused, delivery, filtered))

    def take(self, delivery: Delivery) -> Result | None:
        """Take the turns that the delivery needs, and wait for a moment if need be, in no thread that others need."""
        seconds, parks = self._aside(partial(self._books.turn, delivery))
        rest(seconds)
        return parks

    def filtered(self, delivery: Delivery, attempt: int, reason: str) -> None:
        """Record that the agent does not want the event after all."""
        self._aside(partial(self._books.filtered, delivery, attempt, reason))

    def paused(self, delivery: Delivery, attempt: int, pause: Paused) -> Verdict:
        """Record that the handler is to be called later."""
        return self._aside(partial(self._books.paused, delivery, attempt, pause))

    def parked(self, delivery: Delivery, attempt: int, parks: Parks) -> Verdict:
        """Record that the delivery waits."""
        return self._aside(partial(self._books.parked, delivery, attempt, parks))

    def fail(self, delivery: Delivery, attempt: int, error: BaseException) -> Verdict:
        """Record a failed attempt and say what follows it."""
        return self._aside(partial(self._books.fail, delivery, attempt, error))

    def _aside(self, call: Callable[[], T]) -> T:
        return call() if self.ledger is None else aside(in_task(call))


def in_task(call: Callable[[], T]) -> Callable[[], T]:
    """Return a call that may be made in another thread, where what it logs is the current task's all the same."""
    if (task := get_current_task()) is None:
        return call
    request = task.request_stack.top

    def there() -> T:
        _task_stack.push(task)
        task.request_stack.push(request)
        try:
            return call()
        finally:
            task.request_stack.pop()
            _task_stack.pop()

    return there


def _tell(answers: Sequence[asyncio.Future[Any]], results: Sequence[Any]) -> None:
    for answer, result in zip(answers, results, strict=True):
        if answer.done():
            continue
        if isinstance(result, BaseException):
            answer.set_exception(result)
        else:
            answer.set_result(result)
