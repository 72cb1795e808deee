"""The host of the lane: runs deliveries on the event loop, each as a strand, and says how they have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery.app.trace import build_tracer, fast_trace_task, trace_task_ret

from ...agents.strand import Cancelled, Strand, to_end
from ...brokers.topology import AGENT_PREFIX
from ...core.observe import Log
from .books import Books
from .messages import Adopt, Answer, Cancel, How, Job, Message, Ping
from .watch import Watch

if TYPE_CHECKING:
    from celery import Celery

    from ...bus import Bus
    from ...ledger.subscribing.subscription import Subscription

logger = Log(logging.getLogger(__name__))
#: Deliveries that canvases wait for at once: Celery's own calls around these block a thread each.
CANVASES = 50


class Host:
    """Runs jobs on the event loop of this process; all but the making of it is done on that loop.

    Attributes:
        loop: the loop.
        running: the strand of each job that runs, by its number.

    """

    def __init__(self, bus: Bus, celery: Celery, say: Callable[[list[Answer]], None], hostname: str) -> None:
        """Start the loop.

        Arguments:
            say: takes answers, on the loop.
            hostname: the worker's name.

        """
        self._celery, self._hostname = celery, hostname
        self._say = say
        self.running: dict[int, Strand] = {}
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._answers: list[Answer] = []
        self._threads = ThreadPoolExecutor(CANVASES, thread_name_prefix="pipeline-canvas")
        self._bus = bus
        self._books: dict[int, Books] = {}
        self._keep_books()
        self.loop = bus.loop.running()
        Watch(self.loop, Host._trace.__code__, lambda frame: str(frame.f_locals["job"].name).removeprefix(AGENT_PREFIX))

    def _keep_books(self) -> None:
        for agent in self._bus.agents:
            task = self._celery.tasks[agent.task_name]
            if agent.is_async and not isinstance(task.books, Books):
                type(task).books = self._books.setdefault(id(task.books), Books(task.books))

    def take(self, messages: list[Message]) -> None:
        """Do what the worker's main process says."""
        for message in messages:
            match message:
                case Job():
                    self._tasks[message.number] = self.loop.create_task(self._run(message))
                case Cancel(number):
                    self._cancel(number)
                case Adopt(wanted):
                    self._adopt(wanted)
                case Ping(number):
                    self._answer(number, How.PONG, None)

    def _adopt(self, wanted: Sequence[Subscription]) -> None:
        if self._bus.subscribed is not None:  # in the worker's own process it has them already
            change = self._bus.subscribed.apply(wanted)
            for agent in () if change is None else change.agents:
                task = self._celery.tasks[agent.task_name]
                task.__trace__ = build_tracer(
                    task.name, task, self._celery.loader, self._hostname, app=self._celery
                )  # as a process of Celery's has it from its start
            self._keep_books()

    def close(self) -> None:
        """Give back what was taken for the lane, in a process that goes on."""
        for agent in self._bus.agents:
            task = self._celery.tasks[agent.task_name]
            if isinstance(task.books, Books):
                type(task).books = task.books.close()
        self._threads.shutdown()

    def _cancel(self, number: int) -> None:
        if (strand := self.running.get(number)) is not None:
            strand.cancelled = True
        if (task := self._tasks.get(number)) is not None:
            task.cancel()

    async def _run(self, job: Job) -> None:
        strand = self.running[job.number] = Strand(job.name, partial(self._trace, job))
        try:
            if job.in_canvas:
                # Celery stores its result, and goes on with what waits for it, in calls that block.
                ended = await self.loop.run_in_executor(self._threads, self._trace, job)
            else:
                ended = await to_end(strand)
        except (Cancelled, asyncio.CancelledError):
            self._answer(job.number, How.CANCELLED, None)
        except BaseException as exc:  # what Celery's tracer lets out; nothing may reach the loop
            self._answer(job.number, How.ENDED, (1, _raised(exc), 0.0))
        else:
            self._answer(job.number, How.ENDED, ended)
        finally:
            self.running.pop(job.number, None)
            self._tasks.pop(job.number, None)

    def _trace(self, job: Job) -> tuple[int, Any, float]:
        trace = fast_trace_task if self._celery.use_fast_trace_task else trace_task_ret
        ended: tuple[int, Any, float] = trace(
            job.name, job.id, job.request, job.body, job.content_type, job.content_encoding, app=self._celery
        )
        return ended

    def _answer(self, number: int, how: How, what: Any) -> None:
        if not self._answers:
            self.loop.call_soon(self._flush)
        self._answers.append((number, how, what))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        self._say(answers)


def _raised(error: BaseException) -> ExceptionInfo:
    return ExceptionInfo((type(error), error, error.__traceback__))
