"""What is put around a handler, in a fixed order: each step is a function of the delivery and of what comes next.

A step calls on, or answers by itself; errors are raised. A new one is a function here and its place in STEPS.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..agents.effects import NOTHING, Effects
from ..agents.filters import Failed
from ..agents.pausing.within import HANDLING
from ..agents.payloads import answer_of, arguments, attributes_read, reads_as_published
from ..agents.runner import call
from ..agents.strand import aside
from ..agents.waiting import Parked
from ..contracts.newer import SHORTEST, NewerMajor
from ..core.door.dids import is_did
from ..core.errors import InvalidStep, LedgerError, Shed, TooManyHops, line_of
from ..core.event import Payload
from ..core.ids import derived_id
from ..core.outcome import NO_MATCH, Outcome
from ..core.retry import PERMANENT, pause_for
from ..core.routing import needs_receiver, wants
from ..core.times import chance, monotonic, utc_now
from ..families import AgentResponse
from ..ledger.database.rows import attempt_made
from ..ledger.waiting.wait import Wait
from ..limits.pauses import wait_for
from ..limits.providers import asked_by, limited_by
from .turns.batches import others_in_batch
from .turns.quiet import quiet_for

if TYPE_CHECKING:
    from ..agents.agent import Agent
    from ..agents.context import Context
    from ..bus import Bus
    from ..core.event import Event
    from ..ledger.waiting.pauses import Pause


#: Seconds that Celery may keep what cannot be parked in its memory: RabbitMQ ends a worker after 30 minutes.
LONGEST_IN_MEMORY = 1200.0
#: The step that has ended when what a provider has refused goes on: of agents with a bound, for
#: which it counts that the delivery has begun.
REFUSED = "(refused by a provider)"


@dataclass(frozen=True, slots=True)
class Done:
    """The handler was called, and returned this."""

    value: Any


@dataclass(frozen=True, slots=True)
class Filtered:
    """The agent does not want the event after all: its handler is not called.

    Attributes:
        by_filter: whether its filter says so, and that of another version may say something else.

    """

    reason: str
    by_filter: bool = True


@dataclass(frozen=True, slots=True)
class Paused:
    """The handler is to be called in `delay` seconds; this attempt does not count.

    Attributes:
        newer: why, when the event waits for a worker that reads it: then how long follows from what it has waited.
        line: the line of a limit that it stands in until then, and is called out of.

    """

    delay: float
    reason: str | None = None
    newer: NewerMajor | None = None
    line: str | None = None


@dataclass(frozen=True, slots=True)
class Parks:
    """The delivery waits for something: its handler is called again when that has come; this attempt does not count.

    Attributes:
        effects: what it has emitted until then, which goes out now.
        emitted: how many events that are, those before an earlier wait included.

    """

    wait: Wait
    effects: Effects = NOTHING
    emitted: int = 0


Result = Done | Filtered | Paused | Parks
#: What each is called where deliveries are counted and traced.
OUTCOMES = {Done: Outcome.SUCCEEDED, Filtered: Outcome.FILTERED, Paused: Outcome.PARKED, Parks: Outcome.PARKED}


@dataclass(slots=True)
class Attempt:
    """One attempt of a delivery on its way through the steps.

    Attributes:
        filtering: whether the agent's filter is asked here. None for what the worker's loop has decided, as it does
            where the filter can see what the handler will see.
        in_canvas: whether a chord or chain waits for what comes of it, and it cannot be parked.
        keeps_result: whether somebody waits for what it returns.
        asked: whether somebody has asked for this very delivery.
        arguments: what the handler is called with, once the contract was checked.
        take: takes the turns that the delivery needs of limits over all workers, or says what it waits for.

    """

    bus: Bus
    agent: Agent
    context: Context
    filtering: bool | None = None
    in_canvas: bool = False
    keeps_result: bool = False
    asked: bool = False
    arguments: tuple[Any, ...] = ()
    take: Callable[[], Result | None] | None = None


class Step(Protocol):
    """Something around a handler."""

    def __call__(self, attempt: Attempt, call_next: Callable[[], Result]) -> Result:
        """Return what came of the attempt, by calling on or without."""


def observe(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Let those hear of the attempt who listen."""
    spans = attempt.bus.spans
    if not spans.heard:
        return call_next()
    context, agent = attempt.context, attempt.agent
    about = {"agent": agent.name, "event": context.event, "attempt": context.attempt, "delivery": context.delivery_id}
    with spans.span("deliver", **about, retry=agent.retry, replay=context.replay, asked=attempt.asked) as known:
        result = call_next()
        known["outcome"], known["events"] = OUTCOMES[type(result)], context.events
        return result


def bounded(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Raise TooManyHops for an event that has gone too far; what the bus itself says about such a one may go on."""
    event, bus = attempt.context.event, attempt.bus
    if event.hops <= bus.settings.max_hops or not needs_receiver(event.type):
        return call_next()
    way = aside(partial(bus.ledger.waiting.trees.way, event)) if bus.has_ledger else []
    shown = f"; on its way were {' -> '.join([*way, attempt.agent.name])}" if way else ""
    raise TooManyHops(
        f"hops: the event has gone {event.hops:,}, and max_hops is {bus.settings.max_hops:,}{shown}. If that is no "
        "circle, set PIPELINE_MAX_HOPS higher and requeue it"
    )


def unpaused(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Hold back what an agent gets while one of its scopes is paused; pause that when its provider asks for it."""
    agent, bus, context = attempt.agent, attempt.bus, attempt.context
    # What may be paused: the scopes that it declares, and its own name where its breaker or this process has done so.
    if bus.has_ledger and (agent.scopes or agent.breaker or agent.name in bus.pauses.own):
        pause = aside(partial(bus.pauses.holding, agent, context.delivery_id))
        if pause is not None and (pause.is_on or not attempt.in_canvas):
            return _held_back(attempt, pause)
    try:
        return call_next()
    except Exception as exc:
        limited = None if isinstance(exc, agent.retry.give_up_on) else limited_by(exc)
        if limited is None:
            raise
        context.close()  # its session holds SQLite's write lock
        if not bus.has_ledger:
            seconds = pause_for(asked_by(limited), 0, chance())
            return Paused(min(seconds, LONGEST_IN_MEMORY), line_of(exc))
        scope = limited.scope or (*agent.scopes, agent.name)[0]
        try:
            pause = aside(partial(bus.pauses.limit, agent, scope, line_of(exc), asked_by(limited), limited.longest))
        except LedgerError:
            raise exc from None
        return _held_back(attempt, pause, REFUSED if agent.bound is not None else None)


def _held_back(attempt: Attempt, pause: Pause, step: str | None = None) -> Result:
    """Let a delivery wait for the end of a pause, which is kept as the end of a step where somebody asks for that."""
    wait = wait_for(pause)._replace(name=step)
    if attempt.in_canvas:
        return Paused(min(pause.left, LONGEST_IN_MEMORY), wait.reason)
    return Parks(wait, emitted=attempt.context.emitted_before)


def within_bounds(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Give up what is too old or too much, before its handler is called for the first time; raise Shed for it."""
    bound, context, bus = attempt.agent.bound, attempt.context, attempt.bus
    if bound is None or attempt.asked or context.replay or context.attempt > 1:
        return call_next()

    def has_begun() -> bool:
        return bus.has_ledger and bool(bus.ledger.waiting.steps.of(context.delivery_id))  # and waited for something

    too_much = aside(partial(bus.bounds.too_much, attempt.agent.name, bound, context.event, has_begun))
    if too_much is None:
        return call_next()
    raise Shed(too_much)


def unbroken(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Count how the attempts of an agent with a breaker end, which pauses it when too many fail."""
    breaker, context, bus = attempt.agent.breaker, attempt.context, attempt.bus
    if breaker is None or not bus.has_ledger:
        return call_next()
    try:
        result = call_next()
    except Exception as exc:
        # Those errors say nothing about what the agent needs: somebody has decided, or nothing is left to spend.
        if limited_by(exc) is None and not isinstance(exc, PERMANENT):
            context.close()
            with suppress(LedgerError):  # that it has failed cannot be recorded either
                aside(partial(bus.pauses.failed, attempt.agent, breaker, line_of(exc)))
        raise
    if isinstance(result, Done):
        context.write(attempt_made(attempt.agent.name))
    return result


def contract(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Validate the event's data into what the handler takes; raise InvalidEvent that names the wrong field.

    A newer major version than the handler's waits for a worker that reads it.
    """
    context, bus = attempt.context, attempt.bus
    try:
        attempt.arguments = arguments(attempt.agent, context.event, context, bus.types, bus.blobs.context)
    except NewerMajor as newer:
        return Paused(SHORTEST, newer.reason, newer)
    return call_next()


def capable(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Check what the event asks of a capability, and what the handler returns; raise InvalidEvent for what is wrong."""
    agent, event = attempt.agent, attempt.context.event
    asked = next((one for one in agent.capabilities if one.type == event.type), None)
    if asked is None:
        return call_next()
    asked.check_input(event.data)
    result = call_next()
    if isinstance(result, Done) and asked.output is not None:
        asked.check_output(answer_of(agent.name, result.value, attempt.bus.blobs.context))
    return result


def responding(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Answer the event with what the handler returned, and how long it took; nobody answers an answer."""
    agent, context = attempt.agent, attempt.context
    started = monotonic()
    result = call_next()
    if agent.respond and isinstance(result, Done) and context.event.type != AgentResponse.event_type:
        value = answer_of(agent.name, result.value, attempt.bus.blobs.context)
        response = response_to(context.event, agent.name, context.delivery_id, "success", value, monotonic() - started)
        context.publish(response, targets=aside(partial(asker, context.event, attempt.bus)))
        if not attempt.keeps_result:  # payloads are events, too
            values = result.value if isinstance(result.value, (list, tuple)) else (result.value,)
            return Done([one for one in values if isinstance(one, Payload)])
    return result


def wanted(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Ask the agent's filter about the data as the handler gets it: upcast, of a stray, or of another routing key."""
    agent, event = attempt.agent, attempt.context.event
    filter, asks = agent.filter, attempt.filtering
    if filter is None or asks is False:
        return call_next()
    if asks is None and (reads_as_published(agent, event) or filter.envelope_only or event.targets):
        return call_next()
    result = filter.test(attributes_read(agent, event, attempt.bus.types))
    return call_next() if result is True else Filtered(str(result) if isinstance(result, Failed) else NO_MATCH)


def gathered(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Let the events of an agent that takes many at once wait for each other, and call on with all of them.

    What somebody has asked for, or waits for the result of, comes alone.
    """
    agent, context = attempt.agent, attempt.context
    if agent.batch is None:
        return call_next()
    is_alone = attempt.asked or attempt.keeps_result
    others = () if is_alone else aside(partial(others_in_batch, attempt.bus, agent, context))
    if isinstance(others, Wait):
        return Parks(others, emitted=context.emitted_before)
    context.batch = (context.event, *(member.event for member in others))
    first, *more = attempt.arguments
    attempt.arguments = ([first, *(member.payload for member in others)], *more)
    return call_next()


def debounced(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Let an event wait until no other one of its key has come for a while; what somebody has asked for need not."""
    debounce, context, bus = attempt.agent.debounce, attempt.context, attempt.bus
    if debounce is None or attempt.asked or attempt.in_canvas or not bus.has_ledger:
        return call_next()
    if aside(partial(bus.ledger.waiting.series.is_over, context.delivery_id)):
        return call_next()
    return Parks(quiet_for(attempt.agent, debounce, context.event))


def limited(attempt: Attempt, call_next: Callable[[], Result]) -> Result:
    """Let only those go on that have their turns: what limits over all workers keep back, holds no worker."""
    parks = None if attempt.take is None else attempt.take()
    return call_next() if parks is None else parks


def response_to(
    event: Event, agent: str, delivery: str, status: Literal["success", "failure"], result: Any, seconds: float
) -> AgentResponse:
    """Return what an agent answers to an event, after so many seconds."""
    return AgentResponse(
        response_id=derived_id(delivery, "response"),
        original_event_id=event.key,
        agent_id=agent,
        status=status,
        result=result,
        time=utc_now(),
        processing_time_ms=seconds * 1000,
    )


def asker(event: Event, bus: Bus) -> tuple[str, ...]:
    """Return the agent that an event came from, which alone gets the answer if it listens to answers; else none."""
    source, subscribers = event.source, bus.ledger.subscribers if bus.has_ledger else None
    _, is_agents, name = source.rpartition("/agent/")
    if not is_agents and is_did(source):
        here = bus.agents[source].name if source in bus.agents else ""
        name = here or ("" if subscribers is None else subscribers.named([source]).get(source, ""))
    elif not is_agents:
        return ()
    patterns = None if subscribers is None else subscribers.known().get(name)
    if patterns is None:
        patterns = bus.agents[name].patterns if name in bus.agents else ()
    return (name,) if wants(patterns, AgentResponse.event_type or "") else ()


STEPS: tuple[Step, ...] = (
    observe,
    bounded,
    within_bounds,
    unpaused,
    contract,
    wanted,
    debounced,
    gathered,
    limited,
    unbroken,
    responding,
    capable,
)
#: Those of an agent that declares nothing which the others are for: each costs half a microsecond.
FEW: tuple[Step, ...] = (observe, bounded, unpaused, contract, wanted)


def run(attempt: Attempt, steps: tuple[Step, ...] | None = None) -> Result:
    """Take an attempt through the steps, and at their end call the handler."""
    agent = attempt.agent
    if steps is None:
        steps = FEW if agent.is_plain else STEPS
    call_next: Callable[[], Result] = partial(_handle, attempt)
    for step in reversed(steps):
        call_next = partial(step, attempt, call_next)
    return call_next()


def _handle(attempt: Attempt) -> Result:
    before = HANDLING.set(context := attempt.context)
    try:
        value = call(attempt.agent, attempt.arguments, attempt.bus.loop)
    except (Parked, BaseExceptionGroup) as exc:
        if not isinstance(exc, Parked) and exc.split(Parked)[1] is not None:
            raise  # of several tasks of an async handler one has failed
        assert context.begun_wait is not None
        effects = context.end()
        context.close()
        return Parks(context.begun_wait, effects, context.emitted)
    finally:
        HANDLING.reset(before)
    if context.waiting is not None and context.begun_wait is not None:
        raise InvalidStep(
            f"agent {attempt.agent.name!r} has caught what ends its handler while it {context.begun_wait.reason}: let "
            "BaseException pass, or catch Exception"
        )
    return Done(value)
