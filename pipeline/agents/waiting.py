"""Durable steps and waits of one delivery: `ctx.step`, `ctx.sleep`, `ctx.wait_for`, `ctx.ask`.

Named checkpoints, and no replay of a history: when a delivery goes on, its handler starts at the top, and what has a
result in the ledger returns that at once. Code outside of steps runs again.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import orjson

from ..core.errors import InvalidEvent, InvalidStep, OverBudget, StepFull, WaitTimeout
from ..core.event import Event
from ..core.times import SECOND, due_time, micros, moment, now, seconds_of
from ..core.topics import check_type
from ..ledger.bounding.budget import Refused, Spending
from ..ledger.waiting.approval import Approval
from ..ledger.waiting.wait import APPROVAL, EVENT, FORGOTTEN, TIME, Wait
from .filters import Where, parse
from .pausing.ask import Ask, Asked, approval_ids, asked, asked_before
from .pausing.results import Reader, named, reader
from .pausing.within import IN_STEP, within
from .strand import aside

if TYPE_CHECKING:
    from ..contracts.arguments import Schema
    from ..core.announcements import ActionProposed
    from ..ledger.ledger import Ledger
    from ..ledger.waiting.steps import Place

T = TypeVar("T")

#: Steps and waits that one delivery may have.
MOST_STEPS = 1000
#: Characters of a step's name.
MOST_LETTERS = 200
#: Names of the steps that waits are.
SLEEP, WAIT = "sleep", "wait for {}"
#: Seconds after which a delivery that waits for a higher budget looks again.
LOOK_AGAIN = 300


class Parked(BaseException):
    """Ends a handler whose delivery is to be parked; no Exception, so that what catches those lets it pass."""

    def __init__(self, wait: Wait) -> None:
        super().__init__(wait.reason)
        self.wait = wait


class Slept:
    """What `ctx.sleep` returns: nothing, which may be awaited."""

    def __await__(self) -> Iterator[None]:
        """Return at once."""
        return iter(())


class Waiting:
    """The steps and waits of one delivery.

    Attributes:
        begun: the wait that has ended the handler; it cannot go on after that.

    """

    def __init__(
        self,
        ledger: Ledger | None,
        event: Event,
        delivery: str,
        agent: str,
        propose: Callable[[ActionProposed], bool],
        blobs: dict[str, Any] | None = None,
    ) -> None:
        """Take the delivery.

        Arguments:
            ledger: None in a test without one: steps are run, and what waits is refused.
            propose: emits a proposal; says whether it was not out already.
            blobs: pydantic's context, with which large content is kept and read.

        """
        self._agent = agent
        self._propose = propose
        self._blobs = blobs
        self._ledger = ledger
        self._event = event
        self._delivery = delivery
        self._mutex = threading.Lock()
        self._used: Counter[str] = Counter()
        self._functions: dict[str, str] = {}
        self._asked: dict[str, Asked] = {}
        self._known: dict[Place, str] | None = None if ledger is not None else {}
        self.begun: Wait | None = None

    # -- steps

    def step(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a step has come to, which is run unless it was before; an awaitable when it is async."""
        reads = reader(function, name, self._blobs)
        place = self._place(name, named(function))
        if inspect.iscoroutinefunction(inspect.unwrap(function)):
            return self._async_step(place, reads, function, args, kwargs)  # type: ignore[return-value]  # T is awaitable
        known = aside(partial(self._result, place))
        if known is not None:
            return reads.load(known)  # type: ignore[no-any-return]  # as the function's return type says
        started = now()
        with within(place):
            result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            return self._awaited(place, reads, started, result)  # type: ignore[return-value]  # T is awaitable
        kept: T = reads.load(aside(partial(self._keep, place, started, reads.dump(result))))
        return kept

    async def _async_step(
        self,
        place: Place,
        reads: Reader,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        known = await asyncio.to_thread(self._result, place)
        if known is not None:
            return reads.load(known)
        return await self._awaited(place, reads, now(), function(*args, **kwargs))

    async def _awaited(self, place: Place, reads: Reader, started: int, result: Any) -> Any:
        with within(place):
            text = reads.dump(await result)
        return reads.load(await asyncio.to_thread(self._keep, place, started, text))

    def _place(self, name: str, function: str) -> Place:
        """Return which use of which name this is."""
        if not isinstance(name, str) or not 0 < len(name) <= MOST_LETTERS:
            raise InvalidStep(f"step {name!r}: a name is a text of 1 to {MOST_LETTERS} characters")
        with self._mutex:
            before = self._functions.setdefault(name, function)
            if before != function:
                raise InvalidStep(f"step {name!r}: it is {before} and {function}; give each its own name")
            number = self._used[name]
            self._used[name] += 1
            if self._used.total() > MOST_STEPS:
                raise StepFull(f"step {name!r}: a delivery has at most {MOST_STEPS} steps; split the work into events")
        return name, number

    def _result(self, place: Place) -> str | None:
        with self._mutex:
            if self._known is None:
                assert self._ledger is not None
                steps = self._ledger.waiting.steps.of(self._delivery)
                self._known = {(step.name, step.number): step.result for step in steps}
            return self._known.get(place)

    def forgotten(self) -> tuple[int, int]:
        """Return how often steps were forgotten, and how many events the delivery had emitted by then."""
        aside(partial(self._result, (FORGOTTEN, 0)))
        notes = {number: text for (name, number), text in (self._known or {}).items() if name == FORGOTTEN}
        return (max(notes), int(notes[max(notes)])) if notes else (0, 0)

    def _keep(self, place: Place, started: int, text: str) -> str:
        if self._ledger is None:
            return text
        return self._ledger.waiting.steps.keep(self._delivery, place, started, text)

    # -- waits

    def sleep(self, duration: float | timedelta | str | None, until: datetime | None) -> Slept:
        """Park the delivery for some time; return at once when that is over."""
        if (duration is None) == (until is None):
            raise InvalidStep("sleep: give a duration or until=, one of them")
        if until is not None:
            due = micros(due_time(None, until) or until)
        else:
            assert duration is not None
            due = now() + round(seconds_of(duration, "sleep") * SECOND)
        place = self._place(SLEEP, SLEEP)
        if aside(partial(self._result, place)) is None:
            self.park(Wait(TIME, "sleeps", *place, due=due))
        return Slept()

    def wait_for(
        self,
        type: str,
        where: Where,
        timeout: float | timedelta | str | None,
        lookback: float | timedelta | str | None,
        *,
        anywhere: bool,
    ) -> Event:
        """Park the delivery until an event comes; return it, or raise WaitTimeout."""
        check_type(type)
        seconds = None if timeout is None else seconds_of(timeout, "timeout")
        back = 0.0 if anywhere else None
        if lookback is not None:
            back = seconds_of(lookback, "lookback")
        condition = parse(where)
        name, number = place = self._place(WAIT.format(type)[:MOST_LETTERS], type)
        known = aside(partial(self._result, place))
        if known is not None:
            return self._arrived(type, orjson.loads(known))
        due = None if seconds is None else now() + round(seconds * SECOND)
        until = "" if due is None else f" until {moment(due).isoformat(sep=' ', timespec='seconds')}"
        return self.park(
            Wait(
                EVENT,
                f"waits for {type}{until}",
                *place,
                due=due,
                key=type,
                correlation=None if anywhere else self._event.correlation_id,
                condition=condition.text if condition.nodes else None,
                after=self._last(name, number),
                back=back,
            )
        )

    def _last(self, name: str, number: int) -> tuple[int, int] | None:
        """Return the place in the log of the event that has ended the wait before this one, if that was one."""
        for earlier in reversed(range(number)):
            result = orjson.loads((self._known or {}).get((name, earlier), "null"))
            if isinstance(result, dict) and "at" in result:
                tx, seq = result["at"]
                return tx, seq
        return None

    def _arrived(self, type: str, result: Any) -> Event:
        if "event" not in result:
            raise WaitTimeout(f"no {type} has come until {moment(result['timeout']).isoformat(sep=' ')}")
        assert self._ledger is not None
        event = aside(partial(self._ledger.waiting.arrivals.event, result["event"]))
        if event is None:
            raise InvalidEvent(f"event {result['event']}, which has ended the wait for {type}, is not in the ledger")
        return event

    # -- budgets

    def spending(self, agent: str, attempt: int) -> Spending:
        """Return what the delivery may spend."""
        if self._ledger is None:
            raise InvalidStep("a context made by hand has no budgets: pass what the handler needs in another way")
        return Spending(
            self._ledger.waiting.budgets,
            self._event,
            agent,
            self._delivery,
            attempt,
            aside=aside,
            ask=self._ask_for_more,
            over=over,
            step=IN_STEP.get,
        )

    def _ask_for_more(self, refused: Refused) -> NoReturn:
        # Whoever raises the budget lets it go on at once; by then it may not have been parked yet.
        due = now() + round(LOOK_AGAIN * SECOND)
        self.park(Wait("budget", f"waits for a higher limit: {refused}", due=due, key=refused.scope.waits_as))

    def ask(self, wanted: Ask) -> Approval:
        """Park the delivery until somebody has decided; return the answer, or raise Vetoed."""
        self._place(wanted.step, wanted.step)
        id_of = approval_ids(self._ledger, self._delivery, wanted.step, self.forgotten()[0])
        if wanted.step not in self._asked:
            before = aside(partial(asked_before, self._ledger, wanted.step, self._known or {}, id_of))
            self._asked.setdefault(wanted.step, Asked(before))
        with self._mutex:
            place = wanted.step, self._asked[wanted.step].number(wanted)
        id = id_of(place[1])
        is_new = self._propose(wanted.proposal(id, self._agent))  # each time: ids go by the place
        known = aside(partial(self._result, place))
        if known is None:
            answer = None if self._ledger is None else aside(partial(wanted.answer, self._ledger, id, is_new=is_new))
            if answer is None:
                self.park(Wait(APPROVAL, wanted.reason(is_new=is_new), key=id))
            known = aside(partial(self._keep, place, *answer))
        return wanted.read(known)

    def park(self, wait: Wait) -> NoReturn:
        """End the handler, whose delivery waits for something."""
        if self._ledger is None:
            raise InvalidStep(f"a context made by hand does not park: this handler {wait.reason}")
        self.begun = wait
        raise Parked(wait)


def over(refused: Refused) -> NoReturn:
    """Raise OverBudget, and say how to go on."""
    scope = refused.scope
    key = f" --key {scope.key}" if scope.key else ""
    more = f"`pipeline budget set {scope.name}{key} --{refused.unit} N`"
    raise OverBudget(f"{refused}; raise it ({more}) and requeue the delivery")


class Pausing:
    """What handlers call on their context to do something once, and to wait."""

    __slots__ = ()

    def step(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function once for this delivery, and return its result; await that when the function is async.

        The result is kept under the name (and the n-th use of it) in a transaction of its own. A retry, a crash, a
        release or a requeue returns it instead of calling the function again, so it has to be what JSON holds, or what
        pydantic makes of the function's return type. What is outside of steps runs again.

        Raises LedgerOff without a ledger, InvalidStep for a result that JSON cannot hold and for two functions under
        one name, StepFull for more than 1,000 steps, and what the function raises. A result of more than 256 KiB is
        kept as a blob.
        """
        return self._waits("ctx.step()").step(name, function, *args, **kwargs)

    def sleep(self, duration: float | timedelta | str | None = None, *, until: datetime | None = None) -> Slept:
        """Let the delivery go on later, and hold no worker meanwhile; what was published so far goes out.

        It ends the handler here, which starts at its top again when the time has come; then this returns at once. It
        may be awaited, and need not be. No attempt is spent. Raises LedgerOff without a ledger.

        Arguments:
            duration: seconds, a timedelta, or a text such as "90s", "30m", "24h", "7d".
            until: an aware datetime instead.

        """
        return self._waits("ctx.sleep()").sleep(duration, until)

    def wait_for(
        self,
        type: str,
        where: Where = None,
        *,
        timeout: float | timedelta | str | None = None,
        lookback: float | timedelta | str | None = None,
        anywhere: bool = False,
    ) -> Event:
        """Let the delivery go on when an event comes, and return that; no worker is held meanwhile.

        As with `sleep`, the handler is ended here and starts at its top again. It is not awaited, in async handlers
        either. The event is one of the same correlation that came after the delivery's own one, and after the one that
        an earlier wait for the type has returned.

        Raises WaitTimeout when none comes in time, InvalidFilter, LedgerOff without a ledger.

        Arguments:
            type: the event's type; no pattern.
            where: a filter that it has to match, as agents have.
            timeout: seconds, a timedelta, or a text such as "24h"; default for ever.
            lookback: how long before now an event may have come; default as above, and 0 with `anywhere`.
            anywhere: take events of any correlation.

        """
        return self._waits("ctx.wait_for()").wait_for(type, where, timeout, lookback, anywhere=anywhere)

    def ask(
        self,
        action: str,
        args: Any = None,
        *,
        schema: Schema = None,
        message: str | None = None,
        expires: float | timedelta | str | None = "24h",
        n_of: int = 1,
        who: str | Iterable[str] = (),
        veto: str = "raise",
    ) -> Approval:
        """Let the delivery go on when somebody has approved of an action, and return the answer (docs/approvals.md).

        As with `wait_for`, the handler is ended here, starts at its top again, and does not await it.

        Raises Vetoed when it is vetoed, or nobody has decided in time; InvalidStep, LedgerOff without a ledger.

        Arguments:
            action: its name, such as "refund".
            args: what it is to be done with: a pydantic model, or a mapping.
            schema: a pydantic model or a JSON Schema that `args` match, and what somebody makes of them; default
                the model of `args`.
            message: the question, for people.
            expires: seconds, a timedelta, or a text such as "24h", in which it has to be decided; None for ever.
            n_of: how many different people have to approve.
            who: names or groups of those who may decide; default everybody.
            veto: "return" returns a veto, too, instead of raising it.

        """
        waits = self._waits("ctx.ask()")
        wanted = asked(action, args, schema=schema, message=message, expires=expires, n_of=n_of, who=who, veto=veto)
        return waits.ask(wanted)

    def park(self, wait: Wait) -> NoReturn:
        """Let the delivery wait for what the bus knows the end of; what it writes is written then."""
        self._waits("a wait").park(wait)

    def _waits(self, what: str) -> Waiting:
        raise NotImplementedError
