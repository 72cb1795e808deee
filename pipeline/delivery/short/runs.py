"""Deliveries that run beside Celery's tracer: one, or a group that is claimed together and recorded together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack as tasks
from celery.app.trace import LOG_RECEIVED, LOG_SUCCESS
from celery.app.trace import logger as tracer
from celery.worker import state
from celery.worker.strategy import logger as strategy

from ...agents.context import Context
from ...agents.payloads import answer_of, returned_payloads
from ...core.door.replies import ENDS
from ...core.event import Encoded, Event
from ...core.times import Pace, monotonic
from ...ledger.facts import Claim, Delivery
from ..delivery import Begun, Ended
from ..steps import Attempt, Done, Result, run

if TYPE_CHECKING:
    from ...agents.agent import Agent
    from ...bus import Bus

#: Seconds that an outcome waits to be recorded with others.
OLDEST = 0.005
_NO_FLOW: dict[str, Any] = {}


@dataclass(slots=True)
class Simple:
    """An agent whose deliveries may go the short way.

    Attributes:
        request: the class of Celery's requests for its task.
        pace: how long its handler takes.

    """

    agent: Agent
    task: Any
    queue: str
    request: Any
    pace: Pace = field(default_factory=Pace)


@dataclass(slots=True)
class Taken:
    """A message that goes the short way.

    Attributes:
        event: its attributes that routing needs.
        id: the delivery's.
        started: when its handler was called.
        request: Celery's own, where remote control may look for it.

    """

    simple: Simple
    message: Any
    event: dict[str, Any]
    id: str
    started: float = 0.0
    request: Any = None

    @property
    def goes_with_others(self) -> bool:
        """Whether it may be claimed together with others: one that ends the process costs each of them an attempt."""
        return self.simple.pace.is_quick and self.simple.agent.retry.max > 0


class Current:
    """A delivery's task request while its handler runs: Celery's own is made when more than the id is read.

    Attributes:
        id: the delivery's.

    """

    def __init__(self, id: str, make: Callable[[], Any]) -> None:
        self.id = id
        self._make = make

    def __getattr__(self, name: str) -> Any:
        """Return what Celery's own request has."""
        if "_whole" not in vars(self):
            self._whole = self._make()._context
            self._whole.called_directly = False
        return getattr(self._whole, name)


class Shown:
    """What Celery shows as the task that runs; its stacks are left alone while deliveries of one agent follow."""

    def __init__(self) -> None:
        self._task: Any = None

    def show(self, task: Any, request: Current) -> None:
        """Let a task be the current one, with its request."""
        if task is self._task:
            task.request_stack.stack[-1] = request
            return
        self.hide()
        tasks.push(task)
        task.request_stack.push(request)
        self._task = task

    def hide(self) -> None:
        """Let no task be the current one."""
        if self._task is not None:
            tasks.pop()
            self._task.request_stack.pop()
            self._task = None


def is_stopping() -> bool:
    """Say whether the worker was told to end."""
    return any(told is not None and told is not False for told in (state.should_stop, state.should_terminate))


class Runs:
    """Runs deliveries. What follows when one has ended, and what does not go well, is another's to say.

    Handlers that are quick are claimed and recorded in groups. One that is not known to be quick, and one without a
    second attempt, is claimed alone, when all before it is recorded: should it end the process, its neighbours have not
    begun.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._shown = Shown()
        self._tells = strategy.isEnabledFor(logging.INFO)
        self._ended: list[tuple[Taken, Ended]] = []

    def _is_stopping(self) -> bool:
        """Say whether what has not begun is left to others, to whom the broker gives it again."""
        return is_stopping()

    def _flush(self) -> None:
        """Write what was acknowledged so far."""

    def _request(self, taken: Taken) -> Any:
        """Return the request that Celery would have made; None for a message that was set aside then."""
        raise NotImplementedError

    def _end(self, taken: Taken) -> None:
        """Say that a delivery has ended well, and is recorded."""
        raise NotImplementedError

    def _go_long(self, taken: Taken, begun: Begun | None) -> None:
        """Send a delivery the long way, with how far it has come."""
        raise NotImplementedError

    def _lengthen(self, taken: Taken, begun: Begun | None = None) -> None:
        """Record what has ended before Celery takes its time."""
        self._record()
        self._shown.hide()
        self._go_long(taken, begun)

    def _deliver_some(self, waiting: Sequence[Taken]) -> None:
        for together, some in groupby(waiting, lambda taken: taken.goes_with_others):
            if together and not self._is_stopping():
                self._deliver_all(list(some))
                continue
            for taken in some:  # whether the next one goes with others is asked when this one has run
                if not self._is_stopping():
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
                if not taken.simple.pace.is_quick or (self._ended and self._since(self._ended[0][0].started) > OLDEST):
                    self._record()
                ended = self._go(taken, delivery, claim, later=True)
                if ended is not None:
                    self._ended.append((taken, ended))
        finally:
            self._record()
            self._shown.hide()

    def _since(self, started: float) -> float:
        """Return the seconds since something began; none where somebody drives by hand: all runs are alike there."""
        return monotonic() - started if self._bus.by_hand is None else 0.0

    def _deliver_alone(self, taken: Taken) -> None:
        delivery = self._delivery(taken)
        if delivery is None:
            self._lengthen(taken)
            return
        claim: Claim | BaseException
        try:
            claim = taken.simple.task.books.claim(delivery)
        except BaseException as exc:
            claim = exc
        self._go(taken, delivery, claim)

    def _delivery(self, taken: Taken) -> Delivery | None:
        """Return what a message says about its delivery; None when it holds no event, or another one than it says."""
        simple, marks, body = taken.simple, taken.event["bus"], taken.message.body
        try:
            event = Event.decode(body if isinstance(body, str) else bytes(body), taken.event["id"])
        except Exception:  # whatever a stranger's body provokes: the long way says so
            return None
        if event.type != taken.event["type"] or not ENDS.isdisjoint(event.model_extra or ()):
            return None
        agent, of = simple.agent, _NO_FLOW
        if "flow" in marks:
            flow, pos = marks["flow"]
            of = {"flow": flow, "pos": pos, "message": marks["message"], "asked": True, "keeps_result": True}
        return Delivery(taken.id, event, agent.name, simple.task.source, agent.retry, logged="ledger" in marks, **of)

    def _go(
        self, taken: Taken, delivery: Delivery, claim: Claim | BaseException, *, later: bool = False
    ) -> Ended | None:
        """Make the attempt that was claimed, and return what is still to be recorded of it.

        Arguments:
            later: whether the caller records it.

        """
        if isinstance(claim, BaseException):
            self._lengthen(taken, Begun(delivery, 0, claim))
        elif not claim.attempt:
            self._lengthen(taken)
        else:
            delivery = delivery.goes_on(claim) if claim.emitted else delivery
            outcome = self._attempt(taken, delivery, claim.attempt, later=later)
            if isinstance(outcome, Ended):
                return outcome
            if outcome is None:
                self._end(taken)
            else:
                self._lengthen(taken, Begun(delivery, claim.attempt, outcome))
        return None

    def _attempt(
        self, taken: Taken, delivery: Delivery, attempt: int, *, later: bool
    ) -> Ended | Result | BaseException | None:
        """Run the handler and record its success; return what is no success, or not recorded yet."""
        simple = taken.simple
        agent, task, books = simple.agent, simple.task, simple.task.books
        context = Context(
            delivery.event, agent.name, delivery.id, attempt, delivery.source, agent.priority, ledger=books.ledger,
            types=self._bus.types, blobs=self._bus.blobs.context, emitted=delivery.emitted, flow=delivery.flow,
        )  # fmt: skip
        keeps = delivery.keeps_result
        filtering = False if keeps else None  # a step is asked for by its flow, whatever the filter says
        self._shown.show(task, Current(delivery.id, partial(self._request, taken)))
        taken.started = monotonic()
        try:
            try:
                result = run(Attempt(self._bus, agent, context, filtering, keeps_result=keeps, asked=delivery.asked))
            finally:
                simple.pace.took(self._since(taken.started))
            if not isinstance(result, Done):
                return result
            answer = answer_of(agent.name, result.value, self._bus.blobs.context) if keeps else None
            for payload in () if keeps else returned_payloads(agent.name, result.value):
                context.publish(payload)
            ended, session = Ended(delivery, attempt, context.end(), answer), context.opened_session
            if later and session is None:
                return ended
            emitted = books.succeed(*ended, session)
            if session is not None:
                context.close()  # it holds SQLite's write lock, which noting what was sent waits for
            if emitted:
                books.send(emitted)
        except BaseException as exc:
            with suppress(Exception):  # what cannot be rolled back cannot be recorded either
                context.close()
            return exc
        finally:
            if not later:
                self._shown.hide()
        return None

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

    def _tell_of_end(self, taken: Taken) -> None:
        if self._tells:
            self._tell_of(taken, monotonic() - taken.started)

    def _tell_of(self, taken: Taken, runtime: float | None = None) -> None:
        """Write Celery's line that a task was received, or that it has succeeded."""
        about = {
            "id": taken.id,
            "name": taken.simple.task.name,
            "args": f"({taken.event['type']} {taken.event['id']})",
            "kwargs": "{}",
        }
        if runtime is None:
            about["eta"] = None
            strategy.info(LOG_RECEIVED, about, extra={"data": about})
        else:
            about |= {"return_value": "None", "runtime": runtime}
            tracer.info(LOG_SUCCESS, about, extra={"data": about})
