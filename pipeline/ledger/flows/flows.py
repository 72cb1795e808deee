"""The table of flows: how far each has come, and its end. What follows from what, is decided above.

A flow's row is locked before the delivery that is recorded with it, and before those that end with it: so facts come
one after the other, and nobody waits for somebody who waits for him.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, func, not_, select, update

from ...core.errors import UnknownFlow
from ...core.event import Event
from ...core.outcome import OPEN, Outcome
from ...core.times import now
from ..aside import read
from ..database.fast import Statement
from ..database.leases import BATCH, locked, runs_on
from ..database.rows import chunks
from ..database.statements import started_with
from ..database.tables import ACTIVE, definitions, deliveries, events, flows
from ..database.waiting import waits
from ..waiting.wait import FLOW, waited_for
from .inner import Behind, instance_of, run_of, waited_in
from .items import folded
from .rows import CANCELLED, COLLABORATION, GOING, FlowView, Going, Member, Step, by_flow

if TYPE_CHECKING:
    from ..database.database import Database
    from ..database.fast import Hot
    from ..deliveries import Deliveries
    from ..waiting.waits import Waits

#: Counted as done, and as failed.
DONE, FAILED = "done", "failed"
#: Definitions that a process remembers.
MOST_KEPT = 1024
#: Flows that are looked at in one go.
LOOKED_AT = 1000
_OPEN = tuple(outcome.value for outcome in OPEN)


class Flows:
    """The table of flows."""

    def __init__(self, database: Database, inbox: Deliveries, waiting: Waits) -> None:
        self._database = database
        self._deliveries = inbox
        self._waits = waiting
        self._definitions: dict[str, str] = {}
        #: Up to which id the flows that go on were looked at.
        self._seen = ""
        self._counting = (
            update(flows)
            .where(flows.c.id == bindparam("flow"), flows.c.ended.is_(None))
            .where(flows.c.done + flows.c.failed + bindparam("number") < flows.c.need)
            .values(done=flows.c.done + bindparam("number"))
            .returning(flows.c.id)
        )
        mine = flows.c.id == bindparam("flow")
        free = select(flows.c.id).where(mine).with_for_update(key_share=True, skip_locked=True)
        self._counting_free = self._counting.where(flows.c.id.in_(free))
        counted = [flows.c[name] for name in Going._fields]
        self._count = {
            column: update(flows).where(mine, flows.c.ended.is_(None)).values({column: flows.c[column] + 1})
            for column in (DONE, FAILED)
        }
        self._count = {column: each.returning(*counted) for column, each in self._count.items()}
        self._lock = select(flows.c.id).where(mine).with_for_update(key_share=True)
        self._recount = update(flows).where(mine)
        self._mark = self._recount.where(flows.c.ended.is_(None))
        of_flow = deliveries.c.flow == bindparam("flow")
        self._steps = select(*(deliveries.c[name] for name in Step._fields)).where(of_flow).order_by(deliveries.c.pos)
        body = func.coalesce(started_with(flows.c.id, flows.c.event_id), events.c.body)
        self._cause = select(events.c.id, body).join(flows, flows.c.event_id == events.c.id).where(mine)
        self._awaited = select(waits.c.delivery).where(waits.c.kind == FLOW, waits.c.key == bindparam("flow")).limit(1)

    def _fast(self, connection: Connection) -> Any:
        return self._database.fast.on(connection)

    # -- what belongs to the transaction that records a step

    def lock(self, connection: Connection, id: str) -> None:
        """Let no other fact about a flow be recorded until the transaction ends; SQLite has one writer in any case."""
        if not self._database.is_sqlite:
            self._fast(connection).execute(self._lock, {"flow": id}).fetchone()

    def count(self, connection: Connection, id: str, what: str) -> Going | None:
        """Count one more step as done or failed, which locks the flow; None when it has ended."""
        row = self._fast(connection).execute(self._count[what], {"flow": id}).fetchone()
        return None if row is None else Going(*row)

    def counting(self, id: str, number: int = 1) -> Statement:
        """Return what counts steps as done from which nothing follows yet; else it answers with nothing."""
        return self._counting, {"flow": id, "number": number}

    def count_all(self, connection: Hot, steps: Mapping[int, str]) -> set[int]:
        """Count steps as done from which nothing follows yet; return the others.

        Arguments:
            steps: the flow of each.

        """
        left: set[int] = set()
        count = self._counting
        for flow, places in by_flow(steps, steps).items():
            for _ in range(2):  # if something follows with the last one, the others are counted all the same
                row = {"flow": flow, "number": len(places)}
                if not places or connection.execute(count, row).fetchone() is not None:
                    break
                left.add(places.pop())
            else:
                left.update(places)
            # Who holds one flow waits for no other: some lock an outer one before its inner.
            count = self._counting_free
        return left

    def count_back(self, connection: Hot, steps: Mapping[int, str], missing: Iterable[int]) -> None:
        """Take back that some of them were counted, whose success was not recorded."""
        for flow, places in by_flow(steps, missing).items():
            connection.execute(*self.counting(flow, -len(places)))

    def recount(self, connection: Connection, id: str, numbers: Mapping[str, Any]) -> None:
        """Let the numbers say what the rows say: a dead letter may have been requeued."""
        self._fast(connection).execute(self._recount, {"flow": id, **numbers})

    def begin(self, connection: Connection, id: str, event_id: str, step: Member, pos: int) -> None:
        """Let a step begin, unless it has: the next sweep sends its delivery."""
        self._fast(connection).execute(self._deliveries.insert, step.row(id, event_id, pos))

    def mark(self, connection: Connection, id: str, status: str, reason: str | None) -> None:
        """Record what a flow that goes on is, and why."""
        self._fast(connection).execute(self._mark, {"flow": id, "status": status, "reason": reason})

    def steps(self, connection: Connection, id: str) -> list[Step]:
        """Return the steps of a flow, in their order."""
        rows = self._fast(connection).execute(self._steps, {"flow": id}).fetchall()
        return [Step(id, pos, agent, Outcome(outcome), *more) for id, pos, agent, outcome, *more in rows]

    def definition(self, connection: Connection, digest: str) -> str:
        """Return what a flow follows, as JSON."""
        if digest not in self._definitions:
            if len(self._definitions) >= MOST_KEPT:
                self._definitions.clear()
            query = select(definitions.c.body).where(definitions.c.id == digest)
            self._definitions[digest] = connection.execute(query).scalar_one()
        return self._definitions[digest]

    def definition_of(self, connection: Connection, id: str) -> str | None:
        """Return what a flow that goes on follows, as JSON."""
        digest = connection.execute(
            select(flows.c.definition).where(flows.c.id == id, flows.c.ended.is_(None))
        ).scalar()
        return None if digest is None else self.definition(connection, digest)

    def cause(self, connection: Connection, id: str) -> Event | None:
        """Return the event that a flow works on; None when it cannot be read any more."""
        row = self._fast(connection).execute(self._cause, {"flow": id}).fetchone()
        return None if row is None else getattr(read(*row), "event", None)

    def finish(self, connection: Connection, id: str, status: str, reason: str) -> None:
        """Record that a flow has ended, and why; a step of another one that has waited for that goes on."""
        self.recount(connection, id, {"status": status, "reason": reason, "ended": now()})
        if self._fast(connection).execute(self._awaited, {"flow": id}).fetchone() is None:
            return
        waiting = select(waits).where(waits.c.kind == FLOW, waits.c.key == id).order_by(waits.c.delivery)
        if found := connection.execute(locked(waiting)).all():
            self._waits.release(connection, found, [waited_for(id)] * len(found))

    def let_go(self, connection: Connection, ids: Sequence[str]) -> None:
        """Let steps of other trees go on that wait for the end of flows which were cancelled with theirs."""
        for some in chunks(ids):
            waiting = select(waits).where(waits.c.kind == FLOW, waits.c.key.in_(some)).order_by(waits.c.delivery)
            found = connection.execute(locked(waiting)).all()
            self._waits.release(connection, found, [waited_for(row.key) for row in found])

    def inner(self, connection: Connection, id: str) -> dict[str, str]:
        """Return the flows that go on and that open steps of a flow are, by the deliveries that are those steps."""
        step = and_(deliveries.c.id == flows.c.step, deliveries.c.flow == id, deliveries.c.outcome.in_(_OPEN))
        query = select(flows.c.step, flows.c.id).join(deliveries, step).where(flows.c.ended.is_(None))
        return {row.step: row.id for row in connection.execute(query.order_by(flows.c.id))}

    def end_rest(
        self,
        connection: Connection,
        id: str,
        reason: str,
        only: Collection[int] | None = None,
        but: Collection[str] = (),
    ) -> list[Any]:
        """Let those steps not run that have not ended; return them as they were.

        Who records his end at this moment is left out: he comes late by himself.

        Arguments:
            only: the positions of those that are meant; default all.
            but: the ids of those that are not.

        """
        query = select(deliveries.c.id, deliveries.c.pos)
        rows = connection.execute(query.where(deliveries.c.flow == id, deliveries.c.outcome.in_(_OPEN))).all()
        some = sorted(row.id for row in rows if (only is None or row.pos in only) and row.id not in but)
        ended: list[Any] = []
        for ids in chunks(some):
            ended += self._end(connection, ids, reason)
        return ended

    def _end(self, connection: Connection, some: Sequence[str], reason: str) -> list[Any]:
        parked = select(waits.c.delivery).where(waits.c.delivery.in_(some))
        waiting = connection.execute(locked(parked.order_by(waits.c.delivery))).scalars().all()
        if waiting:
            connection.execute(delete(waits).where(waits.c.delivery.in_(waiting)))
        free = and_(deliveries.c.id.in_(some), deliveries.c.outcome.in_(_OPEN))
        free = and_(free, deliveries.c.outcome != Outcome.PARKED.value)
        query = select(deliveries.c.id).where(free).order_by(deliveries.c.id)
        ids = sorted({*waiting, *connection.execute(locked(query)).scalars()})
        return self._deliveries.cancel(connection, ids, reason, Outcome.LATE)

    def forget(self, connection: Connection, ids: Sequence[str]) -> None:
        """Take steps away that are to begin anew."""
        self._deliveries.prune(connection, ids)

    def running_on(self, id: str) -> dict[str, str]:
        """Return those steps of a flow whose handlers run although they were stopped, each with its worker."""
        query = select(deliveries.c.id, deliveries.c.worker).where(deliveries.c.flow == id, runs_on())
        return {row.id: row.worker for row in self._database.read(lambda own: own.execute(query).all())}

    def again(self, connection: Connection, ids: Sequence[str]) -> None:
        """Let steps run again that were stopped; Celery may remember the messages that they had."""
        self._deliveries.requeue(connection, ids)
        self._deliveries.ask_again(connection, ids)

    def drop(self, connection: Connection, ids: Sequence[str]) -> None:
        """Decide that steps are gone without, which are no dead letters: they were stopped, or could not begin."""
        self._deliveries.drop(connection, ids)

    # -- flows that nobody else moves on

    def due(self, limit: int = BATCH) -> list[str]:
        """Return flows whose time, or that of a step, is over, and choreographies that are to be looked at."""
        query = select(flows.c.id).where(flows.c.ended.is_(None), flows.c.due <= now()).order_by(flows.c.due)
        return self._ids(query.limit(limit))

    @staticmethod
    def started(connection: Connection, id: str) -> int:
        """Return when a flow has started (microseconds)."""
        return int(connection.execute(select(flows.c.started).where(flows.c.id == id)).scalar_one())

    def stuck(self) -> list[str]:
        """Return flows of which no step is open, and that have not ended: one was buried, or dropped, by somebody.

        Each call looks at the next LOOKED_AT flows that go on, and in the end begins anew: there may be any number.
        """
        with_steps = flows.c.members > 0  # as a choreography has none
        going_on = select(flows.c.id).where(flows.c.ended.is_(None), with_steps, flows.c.id > self._seen)
        some = self._ids(going_on.order_by(flows.c.id).limit(LOOKED_AT))
        self._seen = some[-1] if len(some) == LOOKED_AT else ""
        step = and_(deliveries.c.flow == flows.c.id, deliveries.c.outcome.in_(_OPEN))
        found: list[str] = []
        for ids in chunks(some):
            found += self._ids(select(flows.c.id).where(flows.c.id.in_(ids), not_(exists().where(step))))
        return found

    @staticmethod
    def prune(connection: Connection, before: int) -> None:
        """Forget flows that ended before a time (microseconds), and the definitions that no other flow can have."""
        old = flows.c.ended < before
        own = select(flows.c.definition).where(old, flows.c.kind == COLLABORATION, flows.c.members == 0)
        connection.execute(
            delete(definitions).where(definitions.c.id.in_(own))
        )  # that of a choreography names its event
        connection.execute(delete(flows).where(old))

    def _ids(self, query: Any) -> list[str]:
        return list(self._database.read(lambda connection: connection.execute(query).scalars().all()))

    def read(self, connection: Connection, id: str) -> Row[Any] | None:
        """Return the row of a flow that goes on, with its lock."""
        query = select(flows).where(flows.c.id == id, flows.c.ended.is_(None))
        return connection.execute(query.with_for_update(key_share=True)).first()

    def cancel(self, connection: Connection, event_ids: Sequence[str], reason: str) -> list[str]:
        """Record that flows have ended because the tree of the events that they work on was stopped; return those."""
        ended: list[str] = []
        for some in chunks(event_ids):
            mine = and_(flows.c.event_id.in_(some), flows.c.ended.is_(None))
            values = {"status": CANCELLED, "ended": now(), "reason": reason}
            ended += connection.execute(update(flows).where(mine).values(values).returning(flows.c.id)).scalars()
        return ended

    # -- for those who look

    def is_there(self, id: str) -> bool:
        """Say whether there is a flow of that id, or was one."""
        query = select(flows.c.id).where(flows.c.id == id)
        return self._database.read(lambda connection: connection.execute(query).first()) is not None

    def going_on(self) -> list[tuple[Row[Any], str, list[str]]]:
        """Return the flows that have not ended, each with its definition and the agents of its open steps."""
        query = select(flows, definitions.c.body).join(definitions, definitions.c.id == flows.c.definition)
        step = and_(deliveries.c.flow == flows.c.id, deliveries.c.outcome.in_(_OPEN))
        steps = select(flows.c.id, deliveries.c.agent).join(deliveries, step).where(flows.c.ended.is_(None)).distinct()

        def work(connection: Connection) -> list[tuple[Row[Any], str, list[str]]]:
            agents: dict[str, list[str]] = {}
            for id, agent in connection.execute(steps):
                agents.setdefault(id, []).append(agent)
            rows = connection.execute(query.where(flows.c.ended.is_(None)).order_by(flows.c.started)).all()
            return [(row, row.body, sorted(agents.get(row.id, ()))) for row in rows]

        return self._database.read(work)

    def view(self, id: str) -> FlowView:
        """Return a flow as its steps see it."""
        row, definition, steps = self.show(id)
        cause = self._database.read(lambda connection: self.cause(connection, id))
        nodes = orjson.loads(definition).get("nodes", ())
        if nodes:
            collecting = {pos for pos, node in enumerate(nodes) if node.get("collect")}
            steps = list(folded({step.pos: step for step in steps}, len(nodes), collecting).values())
        done = [s for s in steps if s.outcome is Outcome.SUCCEEDED and not (nodes and s.pos >= len(nodes))]
        results = {nodes[s.pos]["name"] if nodes else s.agent: orjson.loads(s.result or "null") for s in done}
        original = None if cause is None else cause.data
        if row.kind == COLLABORATION:
            original = original.get("payload") if isinstance(original, dict) else None
        return FlowView(row.id, row.name, row.kind, original, results)

    def behind(self, step: str, first: str) -> Behind:
        """Return the flow that a step of another one is, as it stands.

        Arguments:
            step: the delivery that is the step.
            first: the id of the first instance of that flow.

        """

        def work(connection: Connection) -> Behind:
            runs, outer = run_of(connection, step)
            waited = waited_in(connection, step, runs)
            row = instance_of(connection, first, waited)
            if row is None:
                return Behind(runs, outer, waited)
            about = self.definition(connection, row.definition), self.steps(connection, row.id)
            return Behind(runs, outer, waited, row, *about)

        return self._database.read(work)

    def around(self, id: str) -> tuple[str | None, tuple[str, ...]]:
        """Return the flow that a flow is a step of, if it is one, and the flows that are, or were, steps of it."""
        outer = select(deliveries.c.flow).join(flows, flows.c.step == deliveries.c.id).where(flows.c.id == id)
        steps = select(deliveries.c.id).where(deliveries.c.flow == id)
        inner = select(flows.c.id).where(flows.c.step.in_(steps)).order_by(flows.c.started, flows.c.id)

        def work(connection: Connection) -> tuple[str | None, tuple[str, ...]]:
            return connection.execute(outer).scalar(), tuple(connection.execute(inner).scalars())

        return self._database.read(work)

    def recent(
        self,
        *,
        name: str | None = None,
        statuses: Collection[str] | None = None,
        kind: str | None = None,
        limit: int = 100,
    ) -> list[Row[Any]]:
        """Return flows, the newest first."""
        query = select(flows).order_by(flows.c.started.desc(), flows.c.id).limit(limit)
        for column, value in ((flows.c.name, name), (flows.c.kind, kind)):
            query = query if value is None else query.where(column == value)
        if statuses is not None:
            query = query.where(flows.c.status.in_(statuses))
            query = query.where(ACTIVE) if GOING.issuperset(statuses) else query  # which has an index
        return list(self._database.read(lambda connection: connection.execute(query).all()))

    def show(self, id: str, *, prefix: bool = False) -> tuple[Row[Any], str, list[Step]]:
        """Return a flow, its definition as JSON, and its steps.

        Arguments:
            prefix: whether the id may be the beginning of one.

        Raises UnknownFlow when there is none, or several begin so.

        """
        mine = flows.c.id.startswith(id, autoescape=True) if prefix else flows.c.id == id

        def work(connection: Connection) -> tuple[Row[Any], str, list[Step]]:
            rows = connection.execute(select(flows).where(mine).limit(2)).all()
            if len(rows) != 1:
                what = "several flows" if rows else "no flow"
                raise UnknownFlow(f"the ledger has {what} {id!r}; `pipeline flows list` shows those that it has")
            (row,) = rows
            return row, self.definition(connection, row.definition), self.steps(connection, row.id)

        return self._database.read(work)
