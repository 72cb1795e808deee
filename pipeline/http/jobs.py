"""Long work that somebody asks for: each job in a thread of the serving process, with how far it has come.

Jobs are kept in memory. What they do can be done again without doing anything twice, so nothing is lost with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from threading import Event, Lock, Thread
from typing import Annotated, Any

from fastapi import Depends, Request

from ..core.errors import PipelineError
from ..core.ids import new_id
from ..core.observe import Log
from ..core.times import as_json_time, monotonic, utc_now
from .problems import RETRY_AFTER, UNKNOWN, Problem, problem_of

logger = Log(logging.getLogger(__name__))

#: Jobs that are remembered, and that run at once.
KEPT, AT_ONCE = 100, 4
#: Seconds that jobs have to end in when the server does.
GRACE = 5.0


class State(StrEnum):
    """What has become of a job."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class _Stopped(Exception):
    """Somebody has stopped the job."""


@dataclass(eq=False)
class Job:
    """Work that goes on when the request that has begun it is answered.

    Attributes:
        kind: what is done: "requeue", "drop", "replay".
        by: who has begun it; empty where no token is asked for.
        asked: what was asked for; asked for once more, it goes on where this job has ended.
        total: how many there are in all; None for what is not known.
        done: how many are done so far.
        error: why it has failed.
        result: what it has come to.

    """

    kind: str
    by: str
    asked: Mapping[str, Any]
    total: int | None = None
    id: str = field(default_factory=new_id)
    state: State = State.RUNNING
    done: int = 0
    begun: datetime = field(default_factory=utc_now)
    ended: datetime | None = None
    error: Problem | None = None
    result: Mapping[str, Any] | None = None
    _stop: Event = field(default_factory=Event)

    def reach(self, done: int) -> None:
        """Note how many are done; what is done between two batches, where a job that somebody has stopped ends."""
        self.done = done
        self.rest(0)

    def rest(self, seconds: float) -> None:
        """Wait, unless somebody stops the job."""
        if self._stop.wait(seconds):
            raise _Stopped

    def stop(self) -> None:
        """Let it end before its next batch."""
        self._stop.set()

    def end(self, state: State, *, error: Problem | None = None, result: Mapping[str, Any] | None = None) -> None:
        """Note what has become of it; the state last, so that who sees that sees the rest."""
        self.error, self.result, self.ended = error, result, utc_now()
        self.state = state

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        state = self.state  # first, as end() sets it last
        return {
            "id": self.id,
            "kind": self.kind,
            "state": state.value,
            "done": self.done,
            "total": self.total,
            "by": self.by,
            "asked": dict(self.asked),
            "begun": as_json_time(self.begun),
            "ended": as_json_time(self.ended),
            "error": None if self.error is None else self.error.document(),
            "result": self.result,
        }


class Jobs:
    """The jobs of a serving process, the last KEPT of them."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Job, Thread]] = {}
        self._lock = Lock()
        self._is_over = False

    def start(self, job: Job, work: Callable[[], Mapping[str, Any]]) -> Job:
        """Begin a job, and return it; raise Problem when as many run as may.

        Arguments:
            work: does it, and returns its result; it calls job.reach() between two batches.

        """
        with self._lock:
            if self._is_over:
                raise Problem(503, "the server ends; ask again when it is back", headers=_later())
            ended = [id for id, (one, _) in self._jobs.items() if one.state is not State.RUNNING]
            if len(self._jobs) - len(ended) >= AT_ONCE:
                detail = f"{AT_ONCE} jobs run already; wait for one to end, or stop one"
                raise Problem(429, detail, "too-many-jobs", _later())
            if len(self._jobs) >= KEPT:
                del self._jobs[ended[0]]
            # The process ends without it, too, where nobody calls end(): what it has not done is done again later.
            thread = Thread(target=self._run, args=(job, work), name=f"job {job.id}", daemon=True)
            thread.start()
            self._jobs[job.id] = job, thread
        return job

    def get(self, id: str) -> Job:
        """Return one; raise Problem when it is not known."""
        found = self._jobs.get(id)
        if found is None:
            raise Problem(404, f"no job {id!r} is known: the last {KEPT} since this server began are", "unknown-job")
        return found[0]

    def list(self) -> list[Job]:
        """Return them, the newest first."""
        with self._lock:
            return [job for job, _ in reversed(self._jobs.values())]

    def begin(self) -> None:
        """Take jobs, also after an end."""
        self._is_over = False

    def end(self) -> None:
        """Stop all of them, and wait until they have ended, for GRACE seconds at most."""
        with self._lock:
            self._is_over = True
            every = [*self._jobs.values()]
        for job, _ in every:
            job.stop()
        until = monotonic() + GRACE
        for _, thread in every:
            thread.join(max(until - monotonic(), 0))

    def _run(self, job: Job, work: Callable[[], Mapping[str, Any]]) -> None:
        try:
            job.end(State.DONE, result=work())
        except _Stopped:
            job.end(State.STOPPED)
        except PipelineError as exc:
            logger.warning("the job %s (%s) has failed: %s", job.id, job.kind, exc)
            job.end(State.FAILED, error=problem_of(exc))
        except Exception:
            logger.exception("the job %s (%s) has failed", job.id, job.kind)
            job.end(State.FAILED, error=UNKNOWN)


def _later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER)}


async def _jobs(request: Request) -> Any:
    return request.app.state.jobs


#: What a route takes that begins jobs, or shows them.
AllJobs = Annotated[Jobs, Depends(_jobs)]
