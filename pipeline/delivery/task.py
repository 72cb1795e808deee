"""(3) One delivery of one event to one agent, as a Celery task. Celery's exceptions are raised here, and only here.

decode -> claim -> steps around the handler -> record with the effects -> send them -> acknowledge
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from celery import Signature, Task
from celery.exceptions import Ignore, Reject, TaskPredicate
from celery.exceptions import Retry as CeleryRetry
from celery.utils.log import get_task_logger

from ..agents.context import Context
from ..agents.payloads import answer_of, returned_payloads
from ..agents.strand import aside
from ..core.door.replies import too_late, wants_reply
from ..core.errors import InvalidEvent, NotAnEventError, WorkerDied, line_of
from ..core.event import Event, Payload
from ..core.ids import delivery_id
from ..core.observe import Log
from ..core.retry import Again, Dead
from ..core.times import pause
from ..ledger.facts import Claim, Delivery
from .delivery import Begun, NotRecordedError, Postponed, Scheduled, Verdict, message_number
from .raised import is_order, marked, presentable
from .steps import Attempt, Done, Filtered, Parks, Paused, Result, run
from .turns.turns import turns_of

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..bus import Bus
    from .delivery import Bookkeeping

logger = Log(get_task_logger(__name__))

#: Marks of messages that somebody asked for by name, and of those whose event is wanted whatever its type.
ASKED, GOES_ON = frozenset({"replay", "requeued", "flow"}), frozenset({"goes_on", "flow"})
#: Seconds between the soft time limit, which a handler may clean up after, and the kill.
HARD_LIMIT_GRACE = 10.0
#: Seconds in which other workers may take what one has handed on: on the embedded broker who acknowledges looks at the
#: queues at once, before the others do, and would have it back each time.
AFTER_YOU = 0.03


class Later(Exception):
    """What Celery shows of a delivery that has not failed, and goes on later."""


class DeliveryTask(Task):  # type: ignore[misc]  # celery's classes are untyped
    """The Celery task of one agent: acked when done, set aside when dead, tried again when its process dies."""

    abstract = True
    acks_late = True
    acks_on_failure_or_timeout = False
    ignore_result = False  # as in canvases, which wait for it; of events nobody wants one, as their messages say
    store_errors_even_if_ignored = False
    reject_on_worker_lost = False
    autoretry_for = ()

    agent: Agent
    bus: Bus
    books: Bookkeeping
    #: The CloudEvents source of the events that the agent emits.
    source: str

    def run(self, message: str | dict[str, Any], failed: BaseException | None = None) -> Any:
        """Deliver one event: as JSON text from the bus, or decoded when Celery's canvas calls the agent.

        Arguments:
            failed: why the attempt has failed before it came here.

        """
        try:
            return self._deliver(message, failed)
        except NotRecordedError as exc:
            cause = exc if exc.__cause__ is None else exc.__cause__  # an error may refuse to say whether it is true
            raise Reject(line_of(cause), requeue=True) from None  # Celery logs what it is raised from

    def _deliver(self, message: str | dict[str, Any], failed: BaseException | None) -> Any:
        self.bus.spans.look()
        begun = getattr(self.request, "begun", None)
        if isinstance(begun, Begun) and begun.attempt:
            return self._attempt(begun.delivery, begun.attempt, begun.outcome)
        try:
            if isinstance(begun, Begun) and isinstance(begun.outcome, BaseException):
                raise begun.outcome
            delivery = self.delivery(message, self.request)
            claim = self.books.claim(delivery)
        except (NotRecordedError, NotAnEventError, WorkerDied):
            raise
        except BaseException as exc:
            raise self._not_recorded(exc, f"agent {self.agent.name}: an event could not be claimed") from exc
        if not claim.attempt:
            return self._done_before(delivery, claim)
        return self._attempt(delivery.goes_on(claim), claim.attempt, failed)

    def _done_before(self, delivery: Delivery, claim: Claim) -> Any:
        try:
            return self.books.done_before(delivery, claim)
        except (NotRecordedError, Ignore, WorkerDied):
            raise
        except BaseException as exc:
            told = f"agent {delivery.agent}: {delivery.event.key} was delivered before, and could not be finished"
            raise self._not_recorded(exc, told) from exc

    def _attempt(self, delivery: Delivery, attempt: int, outcome: Result | BaseException | None) -> Any:
        """Make one attempt, unless it was made before it came here, and record what came of it."""
        context = self._context(delivery, attempt)
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            match self._outcome(context, delivery, attempt, outcome):
                case Done(value):
                    return self._succeed(context, delivery, attempt, value)
                case Filtered(reason) as filtered:
                    self._tell("does not want" if filtered.by_filter else "leaves out", delivery, reason)
                    return self.books.filtered(delivery, attempt, reason)
                case Paused() as pause:
                    if pause.reason:
                        self._tell("puts off", delivery, pause.reason)
                    verdict = self.books.paused(delivery, attempt, pause)
                    told = "goes on later"
                case Parks(wait) as parks:
                    self._tell("parks", delivery, wait.reason)
                    verdict = self.books.parked(delivery, attempt, parks)
                    told = wait.reason
        except NotRecordedError:
            raise
        except BaseException as exc:
            if is_order(exc):
                raise
            shown = presentable(exc)
            outcome = self._failed(context, delivery, attempt, exc, shown)
            if outcome is exc:
                raise
            if shown is exc:
                raise outcome from exc
            logger.warning("agent %s: what its handler raised:", delivery.agent, exc_info=exc)
            raise outcome from None  # Celery would log what it was raised from, whatever that holds
        finally:
            context.close()
        raise self._verdict(verdict, Later(f"agent {delivery.agent} {told}"))

    def _outcome(self, context: Context, delivery: Delivery, attempt: int, made: Result | None) -> Result:
        """Return what comes of an attempt: it may be for another version of the agent, by its patterns or its filter.

        Arguments:
            made: what came of it where it was made before.

        """
        begun, more = attempt > 1 or delivery.resumed, delivery.event.model_extra
        if made is None and not delivery.asked and (reason := too_late(more, begun=begun)):
            return Filtered(reason, by_filter=False)
        if not (made or delivery.wanted) and (stray := self.books.stray(delivery)) is not None:
            return stray
        take = partial(self.books.take, delivery) if delivery.turns else None
        filtering, keeps = self._filtering(delivery, attempt), delivery.in_canvas or delivery.keeps_result
        about = Attempt(self.bus, self.agent, context, filtering, delivery.in_canvas, keeps, delivery.asked, take=take)
        found = made or run(about)
        return self.books.refused(delivery, found) if isinstance(found, Filtered) and found.by_filter else found

    def _filtering(self, delivery: Delivery, attempt: int) -> bool | None:
        """Say whether the agent's filter is still to be asked; None where the worker's loop may have decided."""
        if self.agent.filter is None:
            return None
        is_asked_for = delivery.resumed or (delivery.asked and delivery.replay is None)
        if delivery.in_canvas or delivery.event.targets or is_asked_for or attempt > 1:
            return False
        again = delivery.redelivered or delivery.expected is not None or delivery.handed > 0
        return True if again or not self.agent.matches(delivery.event.type) else None

    def _succeed(self, context: Context, delivery: Delivery, attempt: int, value: Any) -> Any:
        """Record what the handler leaves behind, send that, and return its answer."""
        answer = self._collect(context, value, delivery)
        effects, session = context.end(), context.opened_session
        emitted = self.books.succeed(delivery, attempt, effects, answer, session)
        if session is not None:
            context.close()  # it holds SQLite's write lock, which noting what was sent waits for
        if emitted:
            self.books.send(emitted)
        return answer

    def _tell(self, does: str, delivery: Delivery, reason: str) -> None:
        """Say what becomes of an event whose handler is not called: once in a while for each type, else in detail."""
        event = delivery.event
        level = logging.INFO if self.books.told.is_new(delivery.agent, event.type, reason) else logging.DEBUG
        logger.log(level, "agent %s %s %s %s: %s", delivery.agent, does, event.type, event.key, reason)

    def _failed(
        self, context: Context, delivery: Delivery, attempt: int, error: BaseException, shown: BaseException
    ) -> BaseException:
        """Record a failed attempt, and return what to raise, with the error as Celery is shown it."""
        try:
            context.close()  # rolls back, so that the failure can be recorded
            if delivery.leads and not context.batch:  # what has failed before it had its batch has failed alone
                delivery = delivery._replace(leads=False)
            return self._verdict(self.books.fail(delivery, attempt, error), shown)
        except NotRecordedError:
            raise
        except BaseException as exc:
            told = f"agent {delivery.agent}: that {delivery.event.key} failed could not be recorded"
            raise self._not_recorded(exc, told) from exc

    @staticmethod
    def _not_recorded(error: BaseException, told: str) -> BaseException:
        """Return what to raise for what nobody expects: nothing is acknowledged without a row."""
        if is_order(error):
            return error
        logger.error("%s", told, exc_info=error)
        return NotRecordedError(line_of(error))

    def _collect(self, context: Context, value: Any, delivery: Delivery) -> Any:
        """Take what the handler returned: the next events, or the result that somebody waits for."""
        if delivery.is_request:  # payloads are both
            for one in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(one, Payload):
                    context.publish(one)
        if delivery.in_canvas or delivery.keeps_result:
            return answer_of(self.agent.name, value, self.bus.blobs.context)
        for payload in returned_payloads(self.agent.name, value):
            context.publish(payload)
        return None

    def _verdict(self, verdict: Verdict, error: BaseException) -> BaseException:
        """Return what to raise for what follows a failed attempt."""
        match verdict:
            case Scheduled(delay):
                return CeleryRetry(line_of(error), error, delay)  # type: ignore[no-any-return]  # celery's classes are untyped
            case Again(delay):
                return self._again(delay, error)
            case Postponed(delay, waits):
                return self._postponed(delay, error, waits)
            case Dead():
                return marked(error)

    def _again(self, delay: float, error: BaseException) -> BaseException:
        """Let Celery send the task again, and return what to raise then."""
        again = self.signature_from_request(self.request, countdown=delay, retries=self.request.retries + 1)
        return self._sent_again(again, delay, error)

    def _postponed(self, delay: float, error: BaseException, waits: int | None) -> BaseException:
        """Let Celery send the task again without counting that, and return what to raise then."""
        bus = getattr(self.request, "bus", None) or {}
        marks = {name: bus[name] for name in ("key", "routed") if name in bus}
        marks["handed"] = max(bus.get("handed", 0), 0) + 1
        if waits is not None:
            marks["waits"] = waits
        headers = {**(self.request.headers or {}), "bus": self._signed(self.request.args[0], marks)}
        handed_on = self.signature_from_request(self.request, countdown=delay, headers=headers)
        outcome = self._sent_again(handed_on, delay, error)
        aside(partial(pause, AFTER_YOU))
        return outcome

    def _sent_again(self, again: Signature, delay: float, error: BaseException) -> BaseException:
        outcome: BaseException = CeleryRetry(line_of(error), error, delay, self.request.is_eager, again)
        try:
            if not self.request.is_eager:
                aside(again.apply_async)
        except Exception as exc:  # whatever the broker has against it: back in the queue it is merely early
            outcome = Reject(exc, requeue=True)
        return outcome

    def delivery(self, message: str | dict[str, Any], request: Any) -> Delivery:
        """Return what a message says about its delivery.

        Raises NotAnEventError when it holds no event.
        """
        # The consumer has checked who says it, and leaves nothing that others have said.
        bus: dict[str, Any] = getattr(request, "bus", None) or {}
        event = decode(message, bus.get("key"))
        if bus.get("type", event.type) != event.type:
            raise NotAnEventError(f"its header says that it is {bus['type']!r}, and its body {event.type!r}")
        is_own = "ledger" in bus
        asked, in_canvas = not bus.keys().isdisjoint(ASKED), not request.ignore_result
        flow, pos = bus.get("flow") or (None, 0)
        # Of a request that a flow has begun with, its own delivery is what is asked, and no step.
        is_request = "replay" not in bus and flow is None and wants_reply(event.model_extra)
        return Delivery(
            # The consumer has derived it, but for tasks, whose id canvases and other programs may choose.
            id=bus.get("delivery") or (request.id if is_own else delivery_id(event.key, self.agent.name)),
            event=event,
            agent=self.agent.name,
            source=self.source,
            retry=self.agent.retry,
            # Celery's own retries of a canvas come without our mark.
            expected=bus.get("attempt") or (request.retries + 1 if request.retries or "handed" in bus else None),
            replay=bus.get("replay"),
            broadcast=bus.get("broadcast", "replay" not in bus),
            logged=is_own,
            redelivered=bool((request.delivery_info or {}).get("redelivered")),
            message=message_number(bus, request.retries),
            in_canvas=in_canvas,
            retries=request.retries,
            # What a consumer has sent here is looked at once more: Celery may have sent it to another version since.
            wanted=not (request.retries or "stray" in bus or "handed" in bus) or in_canvas or self._wants(event, bus),
            asked=asked,
            resumed="goes_on" in bus,
            handed=bus.get("handed", 0),
            waits=bus.get("waits"),
            leads=self.agent.batch is not None and not (asked or in_canvas or is_request),
            flow=flow,
            pos=pos,
            is_request=is_request,
            keeps_result=flow is not None or is_request,
            turns=turns_of(self.agent, event, is_replayed="replay" in bus) if self.agent.is_limited else (),
        )

    def _wants(self, event: Event, bus: dict[str, Any]) -> bool:
        if self.agent.name in event.targets or self.agent.matches(event.type) or not bus.keys().isdisjoint(GOES_ON):
            return True
        # Another program's event may be wanted for the routing key that it came with, which the ledger does not keep:
        # but what is not wanted counts no attempt.
        return self.agent.matches(bus.get("routed", "")) or (event.key != event.id and "begun" in bus)

    def _context(self, delivery: Delivery, attempt: int) -> Context:
        return Context(
            event=delivery.event,
            agent=delivery.agent,
            delivery_id=delivery.id,
            attempt=attempt,
            source=self.source,
            priority=self.agent.priority,
            replay=delivery.replay is not None,
            ledger=self.books.ledger,
            types=self.bus.types,
            blobs=self.bus.blobs.context,
            emitted=delivery.emitted,
            flow=delivery.flow,
        )

    def member(self, event: Event) -> Signature:
        """Return the Celery signature that runs the agent on an event, signed where there is a ledger."""
        data = event.__json__()
        return self.s(data).set(headers={"bus": self._signed(data, {"key": event.key})})

    def _signed(self, message: str | dict[str, Any], marks: dict[str, Any]) -> dict[str, Any]:
        """Return what the bus says about a delivery that it asks for as a task, signed where there is a ledger."""
        ledger = self.books.ledger
        if ledger is None:
            return marks
        body = orjson.dumps(message, option=orjson.OPT_SORT_KEYS)
        return {**marks, "signature": ledger.seal.sign({**marks, "task": self.name}, body)}


class Surrounded(DeliveryTask):
    """A delivery of an app whose own Task class puts something around each task, such as Flask's app context.

    What fails there is an attempt that has failed, recorded like a handler's.
    """

    abstract = True

    def __call__(self, message: str | dict[str, Any]) -> Any:
        """Deliver, inside of what the app's Task class puts around it."""
        try:
            super().before_start(self.request.id, (message,), {})
            return super().__call__(message)
        except BaseException as exc:
            if is_order(exc) or isinstance(exc, TaskPredicate) or getattr(self.request, "has_begun", False):
                raise
            return self.run(message, exc)

    def before_start(self, *_: Any) -> None:
        """Wait until the delivery is called: Celery would acknowledge what fails here, and nobody record it."""

    def run(self, message: str | dict[str, Any], failed: BaseException | None = None) -> Any:
        """Deliver one event."""
        self.request.has_begun = True
        return super().run(message, failed)


def surrounded_by(base: type[Task]) -> tuple[type[Task], ...]:
    """Return the bases of agents' tasks on an app whose Task class is `base`."""
    is_plain = base.__call__ is Task.__call__ and base.before_start is Task.before_start
    return (DeliveryTask if is_plain else Surrounded, base)


def decode(message: str | dict[str, Any], key: str | None = None) -> Event:
    """Return the event that a task was called with; raise NotAnEventError when it is none.

    Arguments:
        key: what the ledger knows it by; None for another program's event.

    """
    if isinstance(message, Event):
        return message
    try:
        return Event.decode(message if isinstance(message, str) else orjson.dumps(message), key)
    except InvalidEvent as exc:
        raise NotAnEventError(*exc.args) from exc
