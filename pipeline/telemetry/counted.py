"""What is counted of deliveries: how long they ran and waited, and how each attempt has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..core.errors import WorkerDied
from ..core.observe import About, Fact, Spans
from ..core.outcome import Outcome
from ..core.retry import Dead
from ..core.times import monotonic, utc_now


class Durations:
    """Listens to spans, and counts how long attempts take."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    @contextmanager
    def __call__(self, name: str, about: About) -> Iterator[None]:
        """Measure an attempt."""
        count = self._spans.count
        if name != "deliver" or count is None:
            yield
            return
        agent, started = (about["agent"],), monotonic()
        if about["attempt"] == 1 and not about["replay"] and not about["asked"]:  # nor for what goes on after a wait
            waited = (utc_now() - about["event"].time).total_seconds()
            count([Fact("waited", agent, max(0.0, waited), can_wait=True)])
        try:
            yield
        finally:
            count([Fact("ran", agent, monotonic() - started, can_wait=True)])


class Counted:
    """Stands before the bookkeeping, and counts what becomes of deliveries as that is recorded.

    What ends a process before it has said so is counted by whoever finds out.
    """

    def __init__(self, books: Any, spans: Spans) -> None:
        self._books, self._spans = books, spans

    def __getattr__(self, name: str) -> Any:
        """Pass on what is not counted."""
        return getattr(self._books, name)

    def _count(self, agent: str, outcome: Outcome) -> None:
        if self._spans.count is not None:
            self._spans.count([Fact("ended", (agent, outcome.value))])

    def claim(self, delivery: Any) -> Any:
        """Count a delivery that has no attempt left."""
        try:
            return self._books.claim(delivery)
        except WorkerDied:
            self._count(delivery.agent, Outcome.DEAD)
            raise

    def claim_all(self, deliveries: Sequence[Any]) -> Any:
        """Count those that have no attempt left."""
        answers = self._books.claim_all(deliveries)
        for delivery, answer in zip(deliveries, answers, strict=True):
            if isinstance(answer, WorkerDied):
                self._count(delivery.agent, Outcome.DEAD)
        return answers

    def succeed(self, delivery: Any, *args: Any, **options: Any) -> Any:
        """Count a success."""
        emitted = self._books.succeed(delivery, *args, **options)
        self._count(delivery.agent, Outcome.SUCCEEDED)
        return emitted

    def succeed_all(self, ended: Sequence[Any]) -> Any:
        """Count those that could be recorded."""
        found = self._books.succeed_all(ended)
        if self._spans.count is not None:
            done = (each for each, one in zip(ended, found, strict=True) if not isinstance(one, BaseException))
            self._spans.count([Fact("ended", (each.delivery.agent, Outcome.SUCCEEDED.value)) for each in done])
        return found

    def filtered(self, delivery: Any, *args: Any) -> None:
        """Count what the agent does not want."""
        self._books.filtered(delivery, *args)
        self._count(delivery.agent, Outcome.FILTERED)

    def paused(self, delivery: Any, *args: Any) -> Any:
        """Count what waits."""
        verdict = self._books.paused(delivery, *args)
        self._count(delivery.agent, Outcome.PARKED)
        return verdict

    def parked(self, delivery: Any, *args: Any) -> Any:
        """Count what waits."""
        verdict = self._books.parked(delivery, *args)
        self._count(delivery.agent, Outcome.PARKED)
        return verdict

    def fail(self, delivery: Any, *args: Any) -> Any:
        """Count a failure."""
        return self._failed(delivery, self._books.fail(delivery, *args))

    def died(self, delivery: Any, *args: Any) -> Any:
        """Count an attempt whose process has died."""
        return self._failed(delivery, self._books.died(delivery, *args))

    def revoke(self, delivery: Any, reason: str) -> None:
        """Count what an operator has revoked."""
        self._books.revoke(delivery, reason)
        self._count(delivery.agent, Outcome.DEAD)

    def _failed(self, delivery: Any, verdict: Any) -> Any:
        self._count(delivery.agent, Outcome.DEAD if isinstance(verdict, Dead) else Outcome.RETRYING)
        return verdict
