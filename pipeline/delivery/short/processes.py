"""The short way in a pool of processes: each gets a share of what waits in one job, and says how all of it has ended.

For Celery each delivery is a request like any other: remote control finds it, and its end is its request's own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from signal import SIGKILL, SIGTERM
from types import SimpleNamespace
from typing import Any, NamedTuple

from billiard.exceptions import Terminated, WorkerLostError
from celery import current_app
from celery.app.task import Context as TaskContext
from celery.app.trace import _localized, fast_trace_task, trace_task_ret
from celery.exceptions import TaskRevokedError
from celery.utils.nodenames import gethostname
from celery.worker import state

from ...core.times import monotonic
from ..delivery import Begun
from ..process.deaths import forget
from .ordinary import is_simple
from .runs import Runs, Simple, Taken, is_stopping
from .way import MOST, SIGNALS, InBursts

#: How a delivery has ended, as Celery's tracer says it: whether it failed, its result, its seconds.
Answer = tuple[int, Any, float]
#: What the pool says of a process that has died; all else has happened to the answer on its way.
DEATHS = (WorkerLostError, Terminated, SystemExit, KeyboardInterrupt)


class Job(NamedTuple):
    """A delivery for a process of the pool, as Celery gives it to one."""

    task: str
    id: str
    request: dict[str, Any]
    body: Any
    content_type: str | None
    content_encoding: str | None


class Body(NamedTuple):
    """What a process needs of a message."""

    body: str


class InProcesses(InBursts):
    """Gives shares to the pool, as many at once as it has processes: what comes meanwhile makes the next ones larger.

    What is not known to be quick is a share of its own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._under_way = 0
        self._is_closed = False

    def _deliver(self, taken: Taken) -> None:
        taken.request = self._request(taken)
        if taken.request is not None:
            taken.request.returns = self._consumer.returns
            state.task_reserved(taken.request)
            super()._deliver(taken)

    def run(self) -> None:
        """Give the processes that have none a share each."""
        while self._waiting and (free := self._consumer.pool.num_processes - self._under_way) > 0 and not is_stopping():
            self._under_way += 1
            self._consumer.run_in_pool(Share(self._consumer, self, self._next_share(free)))

    def _next_share(self, free: int) -> list[Taken]:
        if not self._waiting[0].goes_with_others:
            return [self._waiting.pop(0)]
        quick = [taken for taken in self._waiting if taken.goes_with_others]
        share = quick[: min(MOST, math.ceil(len(quick) / free))]
        given = {id(taken) for taken in share}
        self._waiting = [taken for taken in self._waiting if id(taken) not in given]
        return share

    def close(self) -> None:
        """Forget what waits, and let nothing run again: the broker gives it to others."""
        super().close()
        self._is_closed = True

    def ended(self) -> None:
        """Go on with what waits: a share has ended."""
        self._under_way -= 1
        self.run()

    def again(self, request: Any, *, was_lost: bool) -> None:
        """Let a delivery of a share run alone, unless its message is others' by now."""
        if self._is_closed or is_stopping():
            state.task_ready(request)
            return
        state.active_requests.discard(request)
        request.share = request.time_start = request.worker_pid = None
        if not was_lost:  # what has begun it lives on: it is for the ledger like a message that has come again
            request.delivery_info["redelivered"] = True
        self._consumer.on_task_request(request)


class Share:
    """Deliveries that one process of the pool runs, one after the other; for Celery it is a request, and their pool."""

    def __init__(self, consumer: Any, way: InProcesses, some: Sequence[Taken]) -> None:
        self._consumer, self._way, self._some = consumer, way, some
        self._pool: Any = None
        self._pid = 0
        self._is_told_to_end = False

    def execute_using_pool(self, pool: Any) -> None:
        """Give it to the pool, as Celery does with a request; raise TaskRevokedError when nothing is left of it."""
        self._some = [taken for taken in self._some if not taken.request.revoked()]
        if not self._some:
            self._consumer.call_soon_ack(self._way.ended)
            raise TaskRevokedError
        self._pool = pool
        requests = [taken.request for taken in self._some]
        for request in requests:
            request.share = self
        pool.apply_async(
            run_share,
            args=([
                Job(each.name, each.id, each.request_dict, each.body, each.content_type, each.content_encoding)
                for each in requests
            ],),
            accept_callback=self._accepted,
            callback=self._ended,
            error_callback=self._lost,
            correlation_id=requests[0].id,
        )  # fmt: skip

    def terminate_job(self, pid: int, signal: int) -> None:
        """End the process, once: a second signal would cut off what is cleaned up after the first.

        A signal that only interrupts would hit whoever runs; of several that may be another one than was meant.
        """
        if not self._is_told_to_end:
            self._is_told_to_end = True
            self._pool.terminate_job(pid, signal if len(self._some) == 1 or signal == SIGKILL else SIGTERM)

    def _accepted(self, pid: int, when: float) -> None:
        self._pid = pid
        for taken in self._some:
            taken.request.on_accepted(pid, when)

    def _ended(self, told: tuple[Sequence[Answer], dict[str, float | None]]) -> None:
        answers, means = told
        try:
            with self._consumer.together():
                for taken, answer in zip(self._some, answers, strict=True):
                    taken.simple.pace.mean = means.get(taken.request.name, taken.simple.pace.mean)
                    taken.request.on_success(answer)
        finally:
            self._way.ended()

    def _lost(self, error: Any, *_: Any, **__: Any) -> None:
        """Let what ran in a process that has died run again, each alone; of several nobody knows who has ended it."""
        has_died = isinstance(getattr(error.exception, "exc", error.exception), DEATHS)
        try:
            if has_died and len(self._some) == 1:
                self._some[0].request.on_failure(error)
                return
            if has_died and self._pid != os.getpid():  # which is said of a job that no process had
                forget(self._consumer.bus, self._pid)
            for taken in self._some:
                request = taken.request
                if request._already_revoked or request._already_cancelled:
                    request.on_failure(error)
                else:
                    self._way.again(request, was_lost=has_died)
        finally:
            self._way.ended()


def run_share(jobs: Sequence[Job]) -> tuple[list[Answer], dict[str, float | None]]:
    """Run deliveries in this process of the pool; return how each has ended, and the mean seconds of their handlers."""
    app = current_app._get_current_object()
    app.pipeline.bus.spans.look()
    try:
        return _child(app).run_all(jobs)
    except BaseException:  # it is no handler's doing alone
        forget(app.pipeline.bus, os.getpid())
        raise


@cache
def _child(app: Any) -> InChild:
    return InChild(app)


class InChild(Runs):
    """Runs shares in a process of the pool."""

    def __init__(self, app: Any) -> None:
        super().__init__(app.pipeline.bus)
        self._trace = fast_trace_task if app.use_fast_trace_task else trace_task_ret
        self._hostname = _localized[2] if _localized else gethostname()  # as Celery's tracer tells tasks
        self._simple = {
            agent.task_name: Simple(agent, task, "", None)
            for agent in self._bus.agents
            # What instruments tasks may do so in the processes alone.
            if is_simple(agent, task := app.tasks[agent.task_name], app)
        }
        self._answers: dict[int, Answer] = {}

    def run_all(self, jobs: Sequence[Job]) -> tuple[list[Answer], dict[str, float | None]]:
        """Run deliveries, one after the other."""
        self._answers = {}
        mine: list[Taken] = []
        is_watched = any(signal.receivers for signal in SIGNALS)
        for number, job in enumerate(jobs):
            simple = self._simple.get(job.task)
            if simple is None or is_watched:
                self._answers[number] = self._traced(job)
            else:
                marks = job.request["bus"]
                event = {"id": marks["key"], "type": marks["type"], "bus": marks}
                mine.append(Taken(simple, Body(job.body[0][0]), event, job.id, request=(number, job)))
        self._deliver_some(mine)
        means = {taken.simple.task.name: taken.simple.pace.mean for taken in mine}
        return [self._answers[number] for number in range(len(jobs))], means

    def _traced(self, job: Job) -> Answer:
        answer: Answer = self._trace(*job)
        return answer

    def _is_stopping(self) -> bool:
        return False  # the main process wants an answer to each

    def _request(self, taken: Taken) -> Any:
        _, job = taken.request
        args, kwargs, _ = job.body
        told = {**job.request, "args": args, "kwargs": kwargs, "hostname": self._hostname, "is_eager": False}
        return SimpleNamespace(_context=TaskContext(told, called_directly=False))

    def _end(self, taken: Taken) -> None:
        self._tell_of_end(taken)
        self._answers[taken.request[0]] = 0, "None", monotonic() - taken.started

    def _go_long(self, taken: Taken, begun: Begun | None) -> None:
        number, job = taken.request
        if begun is not None:
            job.request["begun"] = begun
        self._answers[number] = self._traced(job)
