"""The statements of the hot path, built once; SQLAlchemy compiles each of them once too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Boolean, and_, bindparam, case, delete, func, literal_column, or_, select, update

from ...core.outcome import Outcome
from .database import Database
from .tables import deliveries, events, joins, outbox, timers, workers

#: Who runs a delivery.
RUNNER = ("worker", "process")


class Statements:
    """The statements of the hot path, built once."""

    def __init__(self, database: Database) -> None:
        insert = database.insert
        event = insert(events).on_conflict_do_nothing(index_elements=["id"])
        if not database.is_sqlite:
            event = event.values(tx=literal_column("txid_current()"))
        self.event = event
        self.outbox = insert(outbox).on_conflict_do_nothing()
        # A crash of PostgreSQL may undo a claim (with the event of another program, which its message still has) or a
        # mark, as both may be repeated: they do not wait for its disk.
        relaxed = [] if database.is_sqlite else [func.set_config("synchronous_commit", "off", True)]
        sent = delete(outbox).where(outbox.c.event_id == bindparam("event_id"))
        self.sent = sent.returning(outbox.c.event_id, *relaxed)
        self.delivery = insert(deliveries).on_conflict_do_nothing()
        timer = insert(timers)
        new = {"due": timer.excluded.due, "body": timer.excluded.body}
        self.timer = timer.on_conflict_do_update(index_elements=["id"], set_=new)
        self.timer_gone = delete(timers).where(timers.c.id == bindparam("timer"))
        self.join = insert(joins).on_conflict_do_nothing()
        self.claim = self._claim(database.insert).returning(deliveries.c.attempts, *relaxed)
        known = ("outcome", "result", "emitted", *RUNNER)
        self.inbox = select(*(deliveries.c[name] for name in known)).where(deliveries.c.id == bindparam("id"))
        mine = deliveries.c.id == bindparam("key")
        succeed = self._update(Outcome.SUCCEEDED, "ended", "emitted", "result", error=None, traceback=None).where(
            mine, deliveries.c.outcome != Outcome.SUCCEEDED.value
        )
        self.succeed = succeed.returning(deliveries.c.id)
        running = and_(mine, deliveries.c.outcome == Outcome.RUNNING.value)
        self.again = self._update(Outcome.RETRYING, "due", "error").where(
            running, deliveries.c.attempts == bindparam("attempt")
        )
        self.die = self._update(Outcome.DEAD, "ended", "error", "traceback").where(running)

    @staticmethod
    def _claim(insert: Callable[[Any], Any]) -> Any:
        names = ("id", "event_id", "agent", "outcome", "attempts", "started", *RUNNER, "replay", "broadcast")
        claim = insert(deliveries).values({name: bindparam(name) for name in names})
        found = deliveries.c
        # The database has taken this very claim, and its answer was lost: nobody runs it yet.
        unanswered = and_(
            found.outcome == Outcome.RUNNING.value,
            found.started == claim.excluded.started,
            found.worker == claim.excluded.worker,
        )
        # Not EXISTS: inside ON CONFLICT nothing ties its subquery to the row in question.
        alive = select(workers.c.id).where(workers.c.seen > bindparam("alive"))
        return claim.on_conflict_do_update(
            index_elements=["id"],
            set_={
                "attempts": case((unanswered, found.attempts), else_=found.attempts + 1),
                **{name: claim.excluded[name] for name in ("outcome", "started", *RUNNER)},
            },
            where=or_(
                unanswered,
                found.outcome == Outcome.WAITING.value,
                # Its worker or process has died; a second copy of a message whose handler still runs is none of ours.
                and_(
                    found.outcome == Outcome.RUNNING.value,
                    or_(
                        bindparam("redelivered", type_=Boolean),
                        found.worker.not_in(alive),
                        and_(found.worker == claim.excluded.worker, found.process == bindparam("gone")),
                    ),
                ),
                # A retry's message is good for that one attempt only.
                and_(found.outcome == Outcome.RETRYING.value, found.attempts == bindparam("expected")),
            ),
        )

    @staticmethod
    def _update(outcome: Outcome, *names: str, **fixed: Any) -> Any:
        return update(deliveries).values(outcome=outcome.value, **fixed, **{name: bindparam(name) for name in names})
