"""What a broker hands over in one burst is claimed at once, run one after the other, and recorded at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from ...core.event import Encoded
from ...core.times import monotonic
from ...ledger.deliveries import Claim
from ..delivery import Begun, Ended
from .way import ShortWay, Taken, is_stopping

#: Deliveries of a group, at most: that many may run again when their process dies.
MOST = 100
#: Seconds that an outcome waits to be recorded with others.
OLDEST = 0.005


class InBursts(ShortWay):
    """Claims and records in groups the deliveries of agents whose handlers are quick.

    A handler that is not known to be quick, and one without a second attempt, is claimed alone, when all before it is
    recorded: should it end the process, its neighbours have not begun.

    Arguments:
        consumer: the worker's.
        by_celery: sends a message the long way, or gives its task message to the function that is passed.
        flush: writes what was acknowledged so far.
        most: deliveries that wait for the end of their burst.

    """

    def __init__(
        self, consumer: Any, by_celery: Callable[..., None], flush: Callable[[], None], most: int = MOST
    ) -> None:
        super().__init__(consumer, by_celery)
        self._flush = flush
        self._most = most
        self._waiting: list[Taken] = []
        self._ended: list[tuple[Taken, Ended]] = []

    def takes(self, message: Any, event: dict[str, Any], queue: str) -> bool:
        """Deliver an event if it is ordinary, else what has come before it: then the message goes the long way."""
        ordinary = super().takes(message, event, queue)
        if not ordinary:
            self.run()
        return ordinary

    def _deliver(self, taken: Taken) -> None:
        self._waiting.append(taken)
        if len(self._waiting) >= self._most:
            self.run()

    def run(self) -> None:
        """Deliver what the burst has brought."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        with self._inline:
            self._deliver_some(waiting)

    def _deliver_some(self, waiting: Sequence[Taken]) -> None:
        for together, some in groupby(waiting, lambda taken: taken.goes_with_others):
            if together and not is_stopping():
                self._deliver_all(list(some))
                continue
            for taken in some:  # whether the next one goes with others is asked when this one has run
                if not is_stopping():
                    self._flush()
                    self._deliver_alone(taken)

    def _deliver_all(self, group: Sequence[Taken]) -> None:
        read = [(taken, self._delivery(taken)) for taken in group]
        books = group[0].simple.task.books
        known = [(taken, delivery) for taken, delivery in read if delivery is not None]
        for taken, delivery in read:
            if delivery is None:
                self._lengthen(taken)
        claims: Sequence[Claim | BaseException]
        try:
            claims = books.claim_all([delivery for _, delivery in known])
        except BaseException as exc:
            claims = [exc] * len(known)
        try:
            for (taken, delivery), claim in zip(known, claims, strict=True):
                if not taken.simple.pace.is_quick or (self._ended and monotonic() - self._ended[0][0].started > OLDEST):
                    self._record()
                ended = self._go(taken, delivery, claim, later=True)
                if ended is not None:
                    self._ended.append((taken, ended))
        finally:
            self._record()
            self._shown.hide()

    def _lengthen(self, taken: Taken, begun: Begun | None = None) -> None:
        """Record what has ended before Celery takes its time."""
        self._record()
        self._shown.hide()
        super()._lengthen(taken, begun)

    def _record(self) -> None:
        """Record what has ended, send what that has emitted, and acknowledge it."""
        some, self._ended = self._ended, []
        if not some:
            return
        books = some[0][0].simple.task.books
        found: Sequence[Sequence[Encoded] | BaseException]
        try:
            found = books.succeed_all([ended for _, ended in some])
            emitted = [event for one in found if not isinstance(one, BaseException) for event in one]
            if emitted:
                books.send(emitted)
        except BaseException as exc:
            found = [exc] * len(some)
        for (taken, ended), one in zip(some, found, strict=True):
            if isinstance(one, BaseException):
                self._lengthen(taken, Begun(ended.delivery, ended.attempt, one))
            else:
                self._end(taken)
