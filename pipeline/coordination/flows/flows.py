"""The one who moves flows on: in the transaction that records what became of a step, and for those whose time is over.

There is no coordinator: whoever records a step's outcome has the flow's row locked, sees whether the flow ends with it,
and writes what follows into the log and the outbox. So a flow moves once for each fact, whatever is killed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ...agents.filters.filter import parse
from ...core.errors import EventTooLarge, InvalidEvent, LedgerUnavailable, line_of
from ...core.event import Encoded, Event, Payload, new_event
from ...core.ids import caused_id, derived_id, member_id
from ...core.observe import Log
from ...core.outcome import OPEN
from ...core.times import SECOND, now
from ...ledger.bounding.trees import stop
from ...ledger.facts import MayFollowError
from ...ledger.flows.flows import FAILED
from ...ledger.flows.items import is_undo, needless
from ...ledger.flows.rows import ACTIVE, CANCELLED, COMPENSATING, COMPLETED, STUCK, Step
from ...ledger.flows.rows import FAILED as FLOW_FAILED
from ...publishing.outbox import GRACE
from ..graphs.flow import Counts, Definition, End, end_of
from ..graphs.graph import FUNCTIONS, Close, Graph, Hold
from ..graphs.plan import DEADLINE, Begun, Clocks, Plan, as_row, clocks_of, open_places, planned, rung, wound
from ..graphs.work import Makes
from .choreography import Looked, next_look, watch
from .collaboration import completions, of_payload
from .inner import definition_in, results_of

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row

    from ...bus import Bus
    from ...ledger.facts import Delivery, Run, Success

logger = Log(logging.getLogger(__name__))
NOT_NEEDED = "{} {} had ended ({})"
#: Seconds after which a step is looked at again that has not ended with its time.
LOOK_AGAIN = 5.0
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
        if success is not None and not (delivery.turns or delivery.leads):
            with suppress(MayFollowError):
                self._ledger.succeed(success)
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
        definition = self._definition_of(connection, row)
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
            self._flows.recount(connection, id, {"done": counts.done, "failed": counts.failed})
            return []
        record = self._event(connection, id, definition, end, results)
        if end.status == COMPLETED and record.event.type != definition.emits:
            end = End(FLOW_FAILED, TOO_LARGE)
        self._ledger.append([record], due_in=due_in, connection=connection)
        self._flows.finish(connection, id, end.status, end.reason)
        if definition.cancel_rest and any(step.outcome in OPEN for step in steps):
            told = NOT_NEEDED.format("its flow", definition.name, end.reason)
            inner = self._flows.inner(connection, id)
            stop(self._ledger.database, connection, self._flows.end_rest(connection, id, told))
            self._give_up_all(connection, inner.values(), told)
        return [record]

    def _event(
        self, connection: Connection, id: str, definition: Definition, end: End, results: dict[str, Any]
    ) -> Encoded:
        """Return the event that follows from the end of a flow; what is too large for one is a failure, too."""
        cause = self._flows.cause(connection, id)
        if definition.participants:
            return self._complete(connection, id, definition, end, results["results"], results["errors"])
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

    def _complete(
        self,
        connection: Connection,
        id: str,
        definition: Definition | Graph,
        end: End,
        results: Mapping[str, Any],
        errors: Mapping[str, str],
    ) -> Encoded:
        """Return the event that tells those who took part in a collaboration that it has ended."""
        started, cause = self._flows.started(connection, id), self._flows.cause(connection, id)
        whats = completions(id, definition, end, results, errors, started)
        (record,) = self._record(id, definition.source, cause, 0, *whats)
        return record

    # -- sagas and workflows

    def _move(
        self,
        connection: Connection,
        row: Any,
        graph: Graph,
        *,
        due_in: float,
        given_up: str | None = None,
        clocks: Clocks | None = None,
    ) -> list[Encoded]:
        """Do what is next in a flow that follows a graph; return the events that follow.

        Arguments:
            given_up: why it is to be undone from now on.
            clocks: when its time, and that of its steps, is over; default as its row says.

        """
        id, number = row.id, len(graph.nodes)
        rows = self._rows(connection, id)
        clocks = clocks_of(row.clocks, row.due) if clocks is None else clocks
        if row.status == COMPENSATING:
            given_up = row.reason
        if given_up is not None:
            if row.status != COMPENSATING:
                self._flows.mark(connection, id, COMPENSATING, given_up)
            clocks = {}  # what undoes it is given all the time that it takes
            self._stop(connection, id, open_places(rows, number), NOT_NEEDED.format(graph.kind, graph.name, given_up))
            rows = self._rows(connection, id)
        elif places := needless(rows, number, graph.collecting):
            self._stop(connection, id, places, "another item has failed")
            rows = self._rows(connection, id)
        cause = of_payload(self._flows.cause(connection, id), graph)
        plan = planned(graph, rows, cause, self.functions(graph.name), id, given_up)
        records = [one for begun in plan.begun for one in self._begin(connection, row, begun)]
        records += self._end_with(connection, row, plan)
        counts, clocks = plan.counts, wound(clocks, plan, now())
        changed: dict[str, Any] = {"members": counts.members, "done": counts.done, "failed": counts.failed}
        changed |= {"need": plan.need, **as_row(clocks)}
        if any(getattr(row, name) != value for name, value in changed.items()):
            self._flows.recount(connection, id, changed)
        if records:
            self._ledger.append(records, due_in=due_in, connection=connection)
        return records

    def _rows(self, connection: Connection, id: str) -> dict[int, Step]:
        return {step.pos: step for step in self._flows.steps(connection, id)}

    def functions(self, name: str) -> Mapping[str, Makes]:
        """Return the functions that make what steps get, as this process declares the flow."""
        agents = self._bus.agents
        return getattr(agents[name].handler, FUNCTIONS, {}) if name in agents else {}

    def _begin(self, connection: Connection, row: Any, begun: Begun) -> list[Encoded]:
        """Let a step begin, or what undoes one; return the event that tells of it."""
        graph, pos = begun.work.graph, begun.pos
        for place, member in begun.members.items():
            self._flows.begin(connection, row.id, row.event_id, member, place)
        if pos >= len(graph.nodes) and row.status != COMPENSATING:
            self._flows.mark(connection, row.id, COMPENSATING, begun.why)
        if graph.kind != "saga":
            return []
        told = begun.work.announced(row.id, pos, begun.why, begun.members.get(pos))
        return self._record(row.id, graph.source, begun.work.cause, 1 + pos, *told)

    def _end_with(self, connection: Connection, row: Any, plan: Plan) -> list[Encoded]:
        """Let a flow end, or wait for somebody, or go on after it has; return the event that follows."""
        graph = plan.work.graph
        match plan.end:
            case Close(status, reason):
                self._flows.finish(connection, row.id, status, reason)
                if graph.participants:
                    end, work = End(status, reason), plan.work
                    return [self._complete(connection, row.id, graph, end, work.results, work.errors)]
                return self._record(row.id, graph.source, plan.work.cause, 0, *plan.work.ended(status, reason))
            case Hold(reason):
                self._flows.mark(connection, row.id, STUCK, reason)
                if (row.status, row.reason) != (STUCK, reason):  # else somebody was told
                    logger.error("%s %s %s waits for somebody: %s", graph.kind, graph.name, row.id, reason)
            case None if row.status == STUCK:
                is_undoing = any(is_undo(pos, len(graph.nodes)) for pos in plan.rows)
                self._flows.mark(connection, row.id, COMPENSATING if is_undoing else ACTIVE, None)
        return []

    # -- stopping

    def _stop(self, connection: Connection, id: str, places: Collection[int], reason: str) -> None:
        """Let open steps of a graph end; those that are flows of their own are given up, and end when those have."""
        if not places:
            return
        inner = self._flows.inner(connection, id)
        ended = self._flows.end_rest(connection, id, reason, places, but=inner)
        stop(self._ledger.database, connection, ended)
        meant = {member_id(id, place) for place in places}
        self._give_up_all(connection, [flow for step, flow in inner.items() if step in meant], reason)

    def _give_up_all(self, connection: Connection, ids: Iterable[str], reason: str) -> None:
        """Give up flows that are steps of another one: what they have done is undone."""
        for id in ids:
            row = self._flows.read(connection, id)
            if row is None:
                continue
            definition = self._definition_of(connection, row)
            if isinstance(definition, Graph):
                self._move(connection, row, definition, due_in=0, given_up=reason)
            else:
                self._cancel(connection, row, reason)

    def _cancel(self, connection: Connection, row: Any, reason: str) -> None:
        """End a flow as it stands, and those that are steps of it: nothing is undone, and no event follows."""
        inner = self._flows.inner(connection, row.id)
        told = NOT_NEEDED.format(row.kind, row.name, reason)
        stop(self._ledger.database, connection, self._flows.end_rest(connection, row.id, told))
        self._flows.finish(connection, row.id, CANCELLED, reason)
        definition = self._definition_of(connection, row)
        if definition.participants:
            ended = self._complete(connection, row.id, definition, End(FLOW_FAILED, reason), {}, {})
            self._ledger.append([ended], due_in=0, connection=connection)
        for id in inner.values():
            if (one := self._flows.read(connection, id)) is not None:
                self._cancel(connection, one, reason)

    def _definition_of(self, connection: Connection, row: Any) -> Definition | Graph:
        return definition_in(self._flows.definition(connection, row.definition))

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
        """End the flows whose time is over, and choreographies that have settled; return how many did."""
        return _each(self._flows.due(), self._look_at)

    def _look_at(self, id: str) -> int:
        body = self._ledger.database.read(partial(self._flows.definition_of, id=id))
        definition = None if body is None else definition_in(body)
        if not isinstance(definition, Definition) or definition.watched is None:
            return self._ledger.database.run(partial(self._end, id, is_over=True))
        is_over = self._ledger.database.run(partial(self._take_look, id))
        if is_over is None:
            return 0
        # In a transaction of its own: what has settled stays so.
        end = (looked := watch(self._ledger, definition, briefly=not is_over)).end(is_over=is_over)
        return 0 if end is None else self._ledger.database.run(partial(self._watched, id, definition, looked, end))

    def _take_look(self, id: str, connection: Connection) -> bool | None:
        """Set when a choreography is to be looked at again; say whether its time is over, None if others look now."""
        row = self._flows.read(connection, id)
        if row is None or row.due is None or row.due > now():
            return None
        clocks = clocks_of(row.clocks, row.due)
        self._flows.recount(connection, id, {"due": next_look(row.started, now(), clocks)})
        return DEADLINE in rung(clocks, now())

    def _watched(self, id: str, definition: Definition, looked: Looked, end: End, connection: Connection) -> int:
        """End a choreography."""
        if self._flows.read(connection, id) is None:  # somebody has cancelled it meanwhile
            return 0
        self._flows.finish(connection, id, end.status, end.reason)
        ended = self._complete(connection, id, definition, end, looked.results, looked.errors)
        self._ledger.append([ended], due_in=0, connection=connection)
        return 1

    def mend(self) -> int:
        """End the flows of which no step is open: somebody has dropped or buried the last one."""
        run = self._ledger.database.run
        return _each(self._flows.stuck(), lambda id: run(partial(self._end, id, is_over=False)))

    def _end(self, id: str, connection: Connection, *, is_over: bool) -> int:
        row: Row[Any] | None = self._flows.read(connection, id)
        if row is None:  # another worker was at it
            return 0
        definition = self._definition_of(connection, row)
        if isinstance(definition, Graph):
            given_up, clocks = self._ring(connection, row, definition) if is_over else (None, None)
            return len(self._move(connection, row, definition, due_in=0, given_up=given_up, clocks=clocks))
        if definition.watched is not None:  # it has no steps that would say anything
            return 0
        return len(self._settle(connection, id, definition, due_in=0, is_over=is_over))

    def _ring(self, connection: Connection, row: Any, graph: Graph) -> tuple[str | None, Clocks]:
        """End the steps whose time is over; return why the whole is to be undone, if that is so, and the clocks."""
        clocks = clocks_of(row.clocks, row.due)
        over = rung(clocks, now())
        if DEADLINE in over:
            return "its time is over", {}
        rows = self._rows(connection, row.id)
        for pos in map(int, over):
            told = f"it was not done within {graph.nodes[pos].timeout:g} s"
            self._stop(connection, row.id, open_places(rows, len(graph.nodes), [pos]), told)
        # Who was recording something at this moment is looked at again, and so is a step that undoes what it has done.
        return None, clocks | dict.fromkeys(over, now() + round(LOOK_AGAIN * SECOND))


def _error(end: End, results: dict[str, Any]) -> str:
    """Return why a flow has failed, with the first error."""
    first = next(iter(results["errors"].items()), None)
    return end.reason if first is None else f"{end.reason}: {first[0]}: {first[1]}"


def _each(ids: Iterable[str], do: Callable[[str], int]) -> int:
    """Do something with flows, with each whatever becomes of the others; return the sum, or raise the first error."""
    done, trouble = 0, None
    for id in ids:
        try:
            done += do(id)
        except LedgerUnavailable:
            raise  # it is away for all of them
        except Exception as exc:
            trouble = trouble or exc
    if trouble is not None:
        raise trouble
    return done
