"""The one who moves flows on: in the transaction that records what became of a step, and for those whose time is over.

There is no coordinator: whoever records a step's outcome has the flow's row locked, sees whether the flow ends with it,
and writes what follows into the log and the outbox. So a flow moves once for each fact, whatever is killed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import orjson

from ..agents.filters.filter import parse
from ..core.errors import EventTooLarge, InvalidEvent, line_of
from ..core.event import Encoded, Event, Payload, new_event
from ..core.ids import caused_id, derived_id
from ..core.observe import Log
from ..core.outcome import Outcome
from ..ledger.bounding.trees import stop
from ..ledger.flows.flows import FAILED
from ..ledger.flows.rows import ACTIVE, BADLY, COMPENSATING, COMPLETED, STUCK, Step
from ..ledger.flows.rows import FAILED as FLOW_FAILED
from ..publishing.outbox import GRACE
from .flow import Counts, Definition, End, end_of
from .graph import Begin, Close, Command, Graph, Hold, Progress
from .work import Work

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from ..bus import Bus
    from ..ledger.facts import Delivery, Run, Success

logger = Log(logging.getLogger(__name__))
NOT_NEEDED = "{} {} had ended ({})"
TOO_LARGE = "the results of its members are too large for one event: keep what is large in blobs"


class Flows:
    """Moves flows on."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ledger = bus.ledger
        self._flows = bus.ledger.waiting.flows

    def ending(
        self,
        run: Run,
        delivery: Delivery,
        what: str,
        sent: list[Encoded],
        success: Success | None,
        work: Callable[[Connection], bool],
    ) -> bool:
        """Record that a step has ended, with what follows from that; say whether it was recorded.

        Arguments:
            run: what runs the transaction.
            what: DONE or FAILED.
            sent: gets the events that follow, which are to be sent then.
            success: what is recorded, where that is all: it is so without a look at the others while more are missing.
            work: records the step's outcome, and says whether it has.

        """
        assert delivery.flow is not None
        flow = delivery.flow
        is_all = success is not None and not (delivery.turns or delivery.leads)
        if is_all and success is not None and self._ledger.succeed_in_flow(success, flow):
            return True

        def whole(connection: Connection) -> bool:
            sent.clear()  # the transaction may be made once more
            self._flows.lock(connection, flow)
            recorded = work(connection)
            if recorded:
                sent.extend(self._follow(connection, delivery, what))
            return recorded

        return run(whole)

    def _follow(self, connection: Connection, delivery: Delivery, what: str) -> list[Encoded]:
        assert delivery.flow is not None
        row = self._flows.count(connection, delivery.flow, what)
        if row is None:
            if what != FAILED:
                self._ledger.deliveries.late(connection, delivery.id)
            return []
        definition = definition_in(self._flows.definition(connection, row.definition))
        if isinstance(definition, Graph):
            return self._move(connection, row, definition, due_in=GRACE)
        counts = Counts(row.members, row.done, row.failed)
        if definition.until is None and end_of(definition, counts) is None:
            return []
        return self._settle(connection, row.id, definition, due_in=GRACE)

    def _settle(
        self, connection: Connection, id: str, definition: Definition, *, due_in: float, is_over: bool = False
    ) -> list[Encoded]:
        """End a flow if its steps say so; return the event that follows."""
        steps = self._flows.steps(connection, id)
        counts = Counts.of(steps, len(steps))
        results = results_of(definition, steps)
        is_met = definition.until is not None and parse(definition.until).matches({"data": results})
        end = end_of(definition, counts, is_met=is_met, is_over=is_over)
        if end is None:
            self._flows.recount(connection, id, counts.done, counts.failed)
            return []
        record = self._event(connection, id, definition, end, results)
        if end.status == COMPLETED and record.event.type != definition.emits:
            end = End(FLOW_FAILED, TOO_LARGE)
        self._ledger.append([record], due_in=due_in, connection=connection)
        self._flows.finish(connection, id, end.status, end.reason)
        if definition.cancel_rest:
            told = NOT_NEEDED.format("its flow", definition.name, end.reason)
            stop(self._ledger.database, connection, self._flows.end_rest(connection, id, told))
        return [record]

    def _event(
        self, connection: Connection, id: str, definition: Definition, end: End, results: dict[str, Any]
    ) -> Encoded:
        """Return the event that follows from the end of a flow; what is too large for one is a failure, too."""
        cause = self._flows.cause(connection, id)
        about = {"original": cause and cause.data}
        if end.status == COMPLETED:
            first = definition.emits, {**about, "completed_by": end.reason, **results}
        else:
            first = definition.fails, {**about, "error": _error(end, results), **results}
        least: Any = (
            definition.fails,
            {"original": None, "error": TOO_LARGE, "results": None, "errors": {}, "missing": []},
        )
        (record,) = self._record(id, definition.source, cause, 0, first, least)
        return record

    # -- sagas and workflows

    def _move(
        self, connection: Connection, row: Any, graph: Graph, *, due_in: float, given_up: str | None = None
    ) -> list[Encoded]:
        """Do what is next in a flow that follows a graph; return the events that follow.

        Arguments:
            given_up: why it is to be undone from now on.

        """
        steps = {step.pos: step for step in self._flows.steps(connection, row.id)}
        if given_up is not None:
            told = NOT_NEEDED.format(graph.kind, graph.name, given_up)
            stop(self._ledger.database, connection, self._flows.end_rest(connection, row.id, told))
            self._flows.mark(connection, row.id, COMPENSATING, given_up, due=None)
            steps = {step.pos: step for step in self._flows.steps(connection, row.id)}
        elif row.status == COMPENSATING:
            given_up = row.reason
        work = Work(graph, steps, self._flows.cause(connection, row.id))
        commands = Progress(graph, steps, work.meets, given_up).next()
        records = [one for command in commands for one in self._do(connection, row, work, command)]
        if row.status == STUCK and not any(isinstance(command, Hold) for command in commands):
            self._flows.mark(connection, row.id, COMPENSATING if work.is_undoing(commands) else ACTIVE, None)
        counts = Counts.of([step for step in steps.values() if step.pos < row.members], row.members)
        if counts != (row.members, row.done, row.failed):
            self._flows.recount(connection, row.id, counts.done, counts.failed)
        if records:
            self._ledger.append(records, due_in=due_in, connection=connection)
        return records

    def _do(self, connection: Connection, row: Any, work: Work, command: Command) -> list[Encoded]:
        """Do one thing in a flow; return the events that tell of it, or that follow."""
        graph = work.graph
        emit = partial(self._record, row.id, graph.source, work.cause)
        match command:
            case Begin(pos, why):
                self._flows.begin(connection, row.id, row.event_id, work.member(pos), pos)
                if pos >= len(graph.nodes) and row.status != COMPENSATING:
                    self._flows.mark(connection, row.id, COMPENSATING, why)
                return [] if graph.kind != "saga" else emit(1 + pos, *work.announced(row.id, pos, why))
            case Close(status, reason):
                self._flows.finish(connection, row.id, status, reason)
                return emit(0, *work.ended(status, reason))
            case Hold(reason) if (row.status, row.reason) != (STUCK, reason):  # else somebody was told
                self._flows.mark(connection, row.id, STUCK, reason)
                logger.error("%s %s %s waits for somebody: %s", graph.kind, graph.name, row.id, reason)
        return []

    def _record(self, id: str, source: str, cause: Event | None, position: int, *whats: Any) -> list[Encoded]:
        """Return an event of a flow: the first of some that fits into one."""
        for what in whats:
            type, data = what if isinstance(what, tuple) else (what, None)
            try:
                event = new_event(
                    type,
                    data,
                    source=source,
                    cause=cause,
                    id=caused_id(derived_id(id, "flow"), position, self._ledger.secret),
                    version=self._bus.types.newest(type) if isinstance(type, str) else Payload.schema_version,
                )
                return [self._bus.outbox.encode([event])[0]._replace(delivery=id)]
            except (InvalidEvent, EventTooLarge) as exc:
                logger.warning("flow %s: what it tells makes no event: %s", id, line_of(exc))
        return []

    # -- what nobody records a step of

    def look(self) -> int:
        """End the flows whose time is over; return how many did."""
        return sum(self._ledger.database.run(partial(self._end, id, is_over=True)) for id in self._flows.due())

    def mend(self) -> int:
        """End the flows of which no step is open: somebody has dropped or buried the last one."""
        return sum(self._ledger.database.run(partial(self._end, id, is_over=False)) for id in self._flows.stuck())

    def _end(self, id: str, connection: Connection, *, is_over: bool) -> int:
        row: Row[Any] | None = self._flows.read(connection, id)
        if row is None:  # another worker was at it
            return 0
        definition = definition_in(self._flows.definition(connection, row.definition))
        if isinstance(definition, Graph):
            given_up = "its time is over" if is_over else None
            return len(self._move(connection, row, definition, due_in=0, given_up=given_up))
        return len(self._settle(connection, id, definition, due_in=0, is_over=is_over))

    def abort(self, id: str, reason: str) -> bool:
        """Give a saga or workflow up: what it has done is undone; say whether it had not ended before."""

        def work(connection: Connection) -> bool:
            row = self._flows.read(connection, id)
            definition = None if row is None else definition_in(self._flows.definition(connection, row.definition))
            if isinstance(definition, Graph):
                self._move(connection, row, definition, due_in=0, given_up=reason)
            return isinstance(definition, Graph)

        return self._ledger.database.run(work)


@lru_cache(maxsize=1024)
def definition_in(body: str) -> Definition | Graph:
    """Return the definition that a flow was started with."""
    data = orjson.loads(body)
    return Graph.of(data) if "nodes" in data else Definition.of(data)


def results_of(definition: Definition, steps: Sequence[Step]) -> dict[str, Any]:
    """Return what the steps of a flow have come to: results, errors, and what is missing.

    By the agents' names; where the steps are one agent's for each item of a list, by the items' positions.
    """
    done = {step.pos: orjson.loads(step.result or "null") for step in steps if step.outcome is Outcome.SUCCEEDED}
    key: Callable[[Step], Any] = (lambda step: step.pos) if definition.each else (lambda step: step.agent)
    return {
        "results": (
            [done.get(step.pos) for step in steps]
            if definition.each
            else {step.agent: done[step.pos] for step in steps if step.pos in done}
        ),
        "errors": {str(key(step)): step.error or step.outcome.value for step in steps if step.outcome.value in BADLY},
        "missing": [key(step) for step in steps if step.pos not in done and step.outcome.value not in BADLY],
    }


def _error(end: End, results: dict[str, Any]) -> str:
    """Return why a flow has failed, with the first error."""
    first = next(iter(results["errors"].items()), None)
    return end.reason if first is None else f"{end.reason}: {first[0]}: {first[1]}"
