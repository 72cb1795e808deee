"""The short way in a pool of threads: each gets a share of what a burst has brought, and the loop its acks at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from typing import Any

from celery.worker import state

from ...core.times import seconds
from ...ledger.facts import Claim, Delivery
from ..delivery import Begun, Ended
from .runs import Shown, Taken
from .way import InBursts, ShortWay


class InThreads(InBursts):
    """Runs deliveries in the pool's threads, where remote control finds their requests as it does any others."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pool = self._consumer.pool
        self._done: list[Taken] = []

    def _deliver(self, taken: Taken) -> None:
        taken.request = self._request(taken)
        if taken.request is not None:
            state.task_reserved(taken.request)
            super()._deliver(taken)

    def run(self) -> None:
        """Give the threads what the burst has brought: what is quick in as many shares as there are threads."""
        waiting, self._waiting = self._waiting, []
        together = [taken for taken in waiting if taken.goes_with_others]
        shares = [[taken] for taken in waiting if not taken.goes_with_others]
        shares += [together[n :: self._pool.limit] for n in range(min(self._pool.limit, len(together)))]
        for share in shares:
            self._pool.executor.submit(copy(self)._deliver_share, share)

    def _deliver_share(self, share: Sequence[Taken]) -> None:
        self._shown, self._ended, self._done = Shown(), [], []
        try:
            for taken in share:
                if taken.id in state.revoked:
                    self._lengthen(taken)
            self._deliver_some([taken for taken in share if taken.id not in state.revoked])
        finally:
            self._consumer.call_soon_ack(self._acknowledge, self._done)

    def _go(
        self, taken: Taken, delivery: Delivery, claim: Claim | BaseException, *, later: bool = False
    ) -> Ended | None:
        taken.request.time_start, taken.request.worker_pid = seconds(), os.getpid()
        state.active_requests.add(taken.request)
        return super()._go(taken, delivery, claim, later=later)

    def _end(self, taken: Taken) -> None:
        state.task_ready(taken.request)
        self._done.append(taken)
        self._tell_of_end(taken)

    def _acknowledge(self, done: Sequence[Taken]) -> None:
        """Acknowledge what a thread has done: in the loop's own thread, which alone uses the connection."""
        with self._consumer.together():
            for taken in done:
                self._count(taken)
                taken.request.acknowledge()

    def _go_long(self, taken: Taken, begun: Begun | None) -> None:
        state.task_ready(taken.request)
        self._consumer.call_soon_ack(ShortWay._go_long, self, taken, begun)
