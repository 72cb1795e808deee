"""The statements of the hot path, built once; the others that change deliveries stand with their transitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    Connection,
    String,
    and_,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from ...core.outcome import Outcome
from .database import Database
from .fast import Statement
from .leases import lives
from .rows import MEMBER, Write, chunks
from .tables import definitions, deliveries, events, flows, outbox, tags, timers, workers
from .waiting import attempts, cancelled, reservations, steps

#: Who runs a delivery.
RUNNER = ("worker", "process")
#: By what a claim knows the trees that its delivery belongs to: the event's correlation, cause and id.
TREE = ("tree", "cause", "own")
_starter, _started = deliveries.alias("starter"), flows.alias("started")
_RUNNING: Any = literal_column(f"'{Outcome.RUNNING.value}'")


class Statements:
    """The statements of the hot path, built once."""

    def __init__(self, database: Database) -> None:
        insert = database.insert
        event = insert(events).on_conflict_do_nothing(index_elements=["id"])
        if not database.is_sqlite:
            event = event.values(tx=literal_column("txid_current()"))
        self.event = event
        #: Of deliveries, which another file writes.
        self.member: Any = None
        self.keyed: Any = None
        place = select(bindparam("name", type_=String), bindparam("value", type_=String), events.c.tx, events.c.seq)
        tag = insert(tags).from_select(
            ["name", "value", "tx", "seq"], place.where(events.c.id == bindparam("event_id"))
        )
        self.tag = tag.on_conflict_do_nothing()
        self.logged = select(events.c.body).where(events.c.id == bindparam("id"))
        self.delayed = select(timers.c.body).where(timers.c.id == bindparam("id"))
        self.outbox = insert(outbox).on_conflict_do_nothing()
        self.gone = delete(outbox).where(outbox.c.event_id == bindparam("event_id"))
        self.sent = self.gone.returning(outbox.c.event_id, *relaxed(database))
        timer = insert(timers)
        self.timer_new = timer.on_conflict_do_nothing(index_elements=["id"]).returning(timers.c.id)
        new = {"due": timer.excluded.due, "body": timer.excluded.body}
        self.timer = timer.on_conflict_do_update(index_elements=["id"], set_=new)
        self.timer_gone = delete(timers).where(timers.c.id == bindparam("timer"))
        self.flow = insert(flows).on_conflict_do_nothing()
        self.definition = insert(definitions).on_conflict_do_nothing()
        #: Of all ids in one list, which SQLite does not know.
        sent_all = delete(outbox).where(outbox.c.event_id == any_(bindparam("ids", type_=ARRAY(String))))
        self.sent_all = sent_all.returning(outbox.c.event_id, *relaxed(database))
        attempt = insert(attempts)
        more = {name: attempts.c[name] + attempt.excluded[name] for name in ("made", "failed")}
        self.attempt = attempt.on_conflict_do_update(index_elements=["agent", "minute"], set_=more)

    def of(self, rows: Sequence[Write]) -> list[Statement]:
        """Return what writes rows: those that follow each other with one statement have it together."""
        return [(getattr(self, name), [row for _, row in some]) for name, some in groupby(rows, key=itemgetter(0))]


def relaxed(database: Database) -> list[Any]:
    """Return what lets a statement return before PostgreSQL has it on its disk.

    A crash may undo a claim (with the event of another program, which its message still has) or a mark: both may be
    repeated.
    """
    return [] if database.is_sqlite else [func.set_config("synchronous_commit", "off", True)]


def keyed_with(insert: Any) -> Any:
    """Return the statement that adds a step of a flow that there is one of for a key, if it is started with this one.

    Of two that start one at once the second has lost, and its steps may be others.

    Arguments:
        insert: of deliveries.

    """
    row = flows.c
    mine = and_(
        row.id == bindparam("flow", type_=String),
        row.event_id == bindparam("event_id", type_=String),
        func.coalesce(row.step, "") == bindparam("starter", type_=String),
    )
    step = select(*(bindparam(name, type_=deliveries.c[name].type) for name in MEMBER)).where(exists().where(mine))
    return insert.from_select(MEMBER, step).on_conflict_do_nothing()


def claim_with(insert: Any) -> Any:
    """Return the statement that counts an attempt, unless somebody makes one, or the delivery has ended.

    What belongs to a tree that was stopped is cancelled instead.

    Arguments:
        insert: of deliveries.

    """
    names = ("id", "event_id", "agent", "attempts", "started", *RUNNER, "message", "replay", "broadcast")
    mine = or_(*(cancelled.c.key == bindparam(name, type_=String) for name in TREE))
    # Where nothing was ever stopped the first look, which takes no key, is the only one.
    stopped = and_(exists(select(cancelled.c.key)), exists(select(cancelled.c.key).where(mine)))
    outcome = case((stopped, literal_column(f"'{Outcome.CANCELLED.value}'")), else_=_RUNNING)
    claim = insert.values({**{name: bindparam(name) for name in names}, "outcome": outcome})
    row = deliveries.c
    # The database has taken this very claim, and its answer was lost: nobody runs it yet.
    unanswered = and_(
        row.outcome == Outcome.RUNNING.value, row.started == claim.excluded.started, row.worker == claim.excluded.worker
    )
    # Not EXISTS: inside ON CONFLICT nothing ties its subquery to the row in question.
    alive = select(workers.c.id).where(lives())
    return claim.on_conflict_do_update(
        index_elements=["id"],
        set_={
            "attempts": case((unanswered, row.attempts), else_=row.attempts + 1),
            **{name: claim.excluded[name] for name in ("outcome", "started", *RUNNER, "message")},
        },
        where=or_(
            unanswered,
            row.outcome == Outcome.QUEUED.value,
            # Its worker or process has died; a second copy of a message whose handler still runs is none of ours.
            and_(
                row.outcome == Outcome.RUNNING.value,
                or_(
                    # Of an attempt that another message has brought, this one says nothing: it may have been parked
                    # or failed with this one, whose worker died before it could ack it, and go on elsewhere.
                    and_(bindparam("redelivered", type_=Boolean), row.message == claim.excluded.message),
                    row.worker.not_in(alive),
                    and_(row.worker == claim.excluded.worker, row.process == bindparam("gone")),
                ),
            ),
            # A retry's message is good for that one attempt only.
            and_(row.outcome == Outcome.RETRYING.value, row.attempts == bindparam("expected")),
        ),
    )


# -- what is forgotten with deliveries, or before they begin anew


def blank_steps(connection: Connection, event_ids: Sequence[str]) -> None:
    """Blank what the steps of the deliveries of some events have come to; that they were done stays."""
    for some in chunks(event_ids):
        theirs = select(deliveries.c.id).where(deliveries.c.event_id.in_(some))
        connection.execute(update(steps).values(result="null").where(steps.c.delivery.in_(theirs)))


def drop_steps(connection: Connection, ids: Sequence[str]) -> None:
    """Delete what some deliveries have done, and reserved; what they have spent stays so."""
    for some in chunks(ids):
        connection.execute(delete(steps).where(steps.c.delivery.in_(some)))
    drop_reservations(connection, ids)


def drop_reservations(connection: Connection, ids: Sequence[str]) -> None:
    """Forget what deliveries have reserved whose attempts are counted anew: those reserve again."""
    for some in chunks(ids):
        connection.execute(delete(reservations).where(reservations.c.delivery.in_(some)))


def started_with(flow: Any, event_id: Any) -> Any:
    """Return the query for the event as the delivery got it that has started a flow, where that is not the log's.

    That delivery is the step that the flow is, or has the flow's id, unless there is one flow for each business key.

    Arguments:
        flow, event_id: the columns with the flow's id, and with that of the event that it works on.

    """
    row = _starter.c
    keyed = and_(row.agent == _started.c.name, row.flow.is_(None), row.replay.is_(None), _started.c.step.is_(None))
    own = row.id == func.coalesce(_started.c.step, _started.c.id)
    found = select(row.body).where(_started.c.id == flow, row.event_id == event_id, or_(own, keyed))
    return found.order_by(row.flow.is_(None)).limit(1).scalar_subquery()  # a step that is a flow first
