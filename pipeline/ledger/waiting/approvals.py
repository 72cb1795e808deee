"""Approvals: an event that proposes an action makes one, and a decision ends it, with its own event and all that waits.

Whoever decides locks the row first: of several the first one counts. A row is looked at when it is due, and then says
itself what is to come next: rules at once, an event at half time, a veto when it expires.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from sqlalchemy import Connection, FromClause, Row, and_, delete, or_, select, update

from ...core.announcements import ActionApproved, ActionEscalated, ActionProposed, ActionVetoed
from ...core.errors import InvalidEvent, UnknownEvent, explain
from ...core.event import MAX_LENGTH, Encoded, Payload, new_event
from ...core.ids import caused_id
from ...core.observe import Log
from ...core.times import micros, moment, now
from ..aside import read
from ..database.fast import Statement
from ..database.leases import BATCH, locked
from ..database.rows import chunks
from ..database.tables import events
from ..database.waiting import approval_rules, approvals, waits
from .approval import APPROVED, CANCELLED, EXPIRED, PENDING, Decision, Proposal, Vote, decide
from .wait import APPROVAL

if TYPE_CHECKING:
    from ..database.database import Database
    from .waits import Waits

logger = Log(logging.getLogger(__name__))

#: Says whether the attributes of an event are what a rule's condition asks for.
Meets = Callable[[str, Mapping[str, Any]], bool | None]
#: The type of the events that propose something.
PROPOSED = ActionProposed.event_type
#: Positions of the events about an approval: their ids follow from its own.
_DECIDED, _ESCALATED = 0, 1


class Approvals:
    """The table of approvals, and that of the rules by which some need nobody."""

    def __init__(
        self, database: Database, waits: Waits, append: Callable[..., object], secret: Callable[[], bytes]
    ) -> None:
        self._database = database
        self._waits = waits
        self._append = append
        self._secret = secret
        self._insert = database.insert(approvals).on_conflict_do_nothing()

    # -- asking

    def proposed(self, records: Sequence[Encoded], at: int) -> list[Statement]:
        """Return what has to be run, in the transaction that logs events, for proposals to count."""
        rows = [_row(each, at) for each in records]
        return [(self._insert, found)] if (found := [row for row in rows if row is not None]) else []

    def get(self, id: str) -> Proposal | None:
        """Return an approval with all that is known of it; None when there is none."""
        row = self._database.read(lambda own: own.execute(select(approvals).where(approvals.c.id == id)).first())
        return None if row is None else proposal_of(row)

    def find(
        self,
        *,
        status: str | None = PENDING,
        agent: str | None = None,
        action: str | None = None,
        correlation: str | None = None,
        prefix: str | None = None,
        limit: int | None = 100,
    ) -> list[Proposal]:
        """Return approvals, the oldest first.

        Arguments:
            status: None for all.
            prefix: how their ids begin.
            limit: None for no limit.

        """
        among: FromClause = approvals
        if correlation is not None:  # materialized: databases prefer the index of what waits anywhere, in its order
            mine = select(approvals).where(approvals.c.correlation == correlation)
            among = mine.cte("mine").prefix_with("MATERIALIZED")
        query = select(among).order_by(among.c.asked, among.c.id).limit(limit if limit is None else max(limit, 0))
        for column, value in ((among.c.status, status), (among.c.agent, agent), (among.c.action, action)):
            query = query if value is None else query.where(column == value)
        if prefix is not None:
            query = query.where(among.c.id.startswith(prefix, autoescape=True))
        return [proposal_of(row) for row in self._database.read(lambda own: own.execute(query).all())]

    # -- deciding

    def decide(self, id: str, decision: Decision) -> Proposal:
        """Record what somebody says; with the last word goes its event, and what has waited for it goes on.

        Raises UnknownEvent, AlreadyDecided, NotAllowed, InvalidEvent (arguments that no event can hold).
        """
        at = moment(now())

        def work(connection: Connection) -> Proposal:
            row = connection.execute(select(approvals).where(approvals.c.id == id).with_for_update()).first()
            if row is None:
                raise UnknownEvent(f"there is no approval {id!r}; `pipeline approvals list` shows those that wait")
            before = proposal_of(row)
            if Vote(decision.by, at, decision.reason) in before.votes or (before.by, before.at) == (decision.by, at):
                return before  # it was written already, and the database's answer was lost
            after = decide(before, decision, at)
            self._write(connection, after)
            return after

        return self._database.run(work)

    def cancel(self, connection: Connection, event_ids: Sequence[str], by: str, reason: str | None = None) -> int:
        """End the approvals of a tree that was stopped, by the events that proposed them; return how many waited.

        Nothing is announced. It comes before the tree's waits and deliveries: a decision locks in this order.
        """
        over = {"status": CANCELLED, "due": None, "by": by, "reason": reason, "decided": now()}
        number = 0
        for some in chunks(sorted(event_ids)):
            mine = and_(approvals.c.event_id.in_(some), approvals.c.status == PENDING)
            number += connection.execute(update(approvals).where(mine).values(over)).rowcount
        return number

    def _write(self, connection: Connection, proposal: Proposal) -> None:
        """Write what has become of a proposal that is locked; when it is over, let everybody know, and go on."""
        is_over = proposal.status != PENDING
        values: dict[str, Any] = {
            "status": proposal.status,
            "votes": orjson.dumps([(vote.by, micros(vote.at), vote.reason) for vote in proposal.votes]).decode(),
            "args": None if proposal.args == proposal.proposed else orjson.dumps(proposal.args).decode(),
        }
        if is_over:
            decided = None if proposal.at is None else micros(proposal.at)
            values |= {"due": None, "by": proposal.by, "reason": proposal.reason, "decided": decided}
        connection.execute(update(approvals).where(approvals.c.id == proposal.id).values(values))
        if is_over:
            self._say(connection, proposal, _DECIDED, _decision(proposal))
            found = connection.execute(select(waits).where(waits.c.kind == APPROVAL, waits.c.key == proposal.id)).all()
            self._waits.release(connection, found, [orjson.dumps(proposal.answer.as_data()).decode()] * len(found))

    def _say(self, connection: Connection, proposal: Proposal, position: int, payload: Payload) -> None:
        """Publish an event about an approval; a relay sends it."""
        body = connection.execute(select(events.c.body).where(events.c.id == proposal.event)).scalar()
        cause = None if body is None else getattr(read(proposal.event, body), "event", None)
        options = {"correlation_id": proposal.correlation} if cause is None else {"cause": cause}
        id = caused_id(proposal.id, position, self._secret())
        event = new_event(payload, source="/approvals", id=id, **options)
        self._append([Encoded(event, event.encode())], due_in=0, connection=connection)

    # -- what comes by itself

    def look(self, meets: Meets, limit: int = BATCH) -> int:
        """Do what is due: apply rules, let others know at half time, veto what has expired; return how many were."""
        at = now()
        due = select(approvals).where(approvals.c.due <= at).order_by(approvals.c.due, approvals.c.id).limit(limit)

        def work(connection: Connection) -> int:
            rows = connection.execute(locked(due)).all()
            for row in rows:
                self._look(connection, row, at, meets)
            return len(rows)

        return self._database.run(work)

    def _look(self, connection: Connection, row: Row[Any], at: int, meets: Meets) -> None:
        proposal = proposal_of(row)
        if row.expires is not None and row.expires <= at:
            self._write(connection, replace(proposal, status=EXPIRED, reason="nobody has decided", at=moment(at)))
            return
        if row.due == 0:
            rule = self._rule_for(connection, proposal, at, meets)
            if rule is not None:
                approved = replace(proposal, status=APPROVED, by=f"rule {rule.id}", at=moment(at))
                self._write(connection, replace(approved, reason=f"a rule of {rule.by}" if rule.by else None))
                return
        half = None if proposal.half_time is None else micros(proposal.half_time)
        is_late = half is not None and half <= at
        if is_late and row.due != 0 and proposal.expires is not None:
            about = {"action_id": proposal.id, "agent_id": proposal.agent, "action": proposal.action}
            self._say(connection, proposal, _ESCALATED, ActionEscalated(**about, deadline=proposal.expires))
        following = row.expires if is_late and row.due != 0 else half
        connection.execute(update(approvals).where(approvals.c.id == row.id).values(due=following))

    # -- rules

    def _rule_for(self, connection: Connection, proposal: Proposal, at: int, meets: Meets) -> Row[Any] | None:
        query = select(approval_rules).where(approval_rules.c.action == proposal.action, _holds(at))
        query = query.where(or_(approval_rules.c.agent.is_(None), approval_rules.c.agent == proposal.agent))
        about = {"type": PROPOSED, "subject": proposal.action, "data": proposal.args}
        for rule in connection.execute(query.order_by(approval_rules.c.made, approval_rules.c.id)):
            theirs = rule.by in proposal.proposers  # nobody approves what they asked for, by a rule neither
            if not theirs and (rule.condition is None or meets(rule.condition, about)):
                return rule
        return None

    def add_rule(self, row: dict[str, Any]) -> None:
        """Add a rule (a row of its table), and let what waits already be looked at again."""

        def work(connection: Connection) -> None:
            connection.execute(self._database.insert(approval_rules).on_conflict_do_nothing(), row)
            mine = and_(approvals.c.status == PENDING, approvals.c.action == row["action"])
            connection.execute(update(approvals).where(mine).values(due=0))

        self._database.run(work)

    def rules(self) -> Sequence[Row[Any]]:
        """Return the rules that hold, the oldest first."""
        query = select(approval_rules).where(_holds(now())).order_by(approval_rules.c.made, approval_rules.c.id)
        return self._database.read(lambda connection: connection.execute(query).all())

    def remove_rule(self, id: str) -> bool:
        """Remove a rule by its id, and those that are over; say whether there was one."""

        def work(connection: Connection) -> bool:
            connection.execute(delete(approval_rules).where(~_holds(now())))
            return bool(connection.execute(delete(approval_rules).where(approval_rules.c.id == id)).rowcount)

        return self._database.run(work)

    # -- keeping

    def prune(self, connection: Connection, event_ids: Sequence[str]) -> int:
        """Delete what was decided of the proposals that some events were; return how many that were."""
        over = delete(approvals).where(approvals.c.status != PENDING)
        return sum(connection.execute(over.where(some)).rowcount for some in _of(event_ids))

    def erase(self, connection: Connection, event_ids: Sequence[str]) -> None:
        """Blank what the proposals say that some events were, of those that are decided."""
        over = update(approvals).where(approvals.c.status != PENDING)
        blank = {"proposal": "{}", "metadata": "{}", "args": None, "reason": None}
        for some in _of(event_ids):
            connection.execute(over.where(some).values(blank))


def _of(event_ids: Sequence[str]) -> Iterator[Any]:
    return (approvals.c.event_id.in_(some) for some in chunks(event_ids))


def _holds(at: int) -> Any:
    return or_(approval_rules.c.until.is_(None), approval_rules.c.until > at)


def _decision(proposal: Proposal) -> Payload:
    about: dict[str, Any] = {"action_id": proposal.id, "agent_id": proposal.agent, "action": proposal.action}
    about |= {"by": proposal.by, "reason": proposal.reason}
    if proposal.status == APPROVED:
        return ActionApproved(**about, params=proposal.args)
    return ActionVetoed(**about, expired=proposal.status == EXPIRED)


def check_proposal(data: Any) -> ActionProposed:
    """Return what the data of `action.proposed` says; raise InvalidEvent that names the wrong field."""
    try:
        wanted = ActionProposed.model_validate(data)
    except ValidationError as exc:
        raise InvalidEvent(explain(exc, ActionProposed.event_type)) from None
    for name in ("action_id", "agent_id", "action"):
        if not 0 < len(getattr(wanted, name)) <= MAX_LENGTH:
            raise InvalidEvent(f"{ActionProposed.event_type}: {name}: a text of 1 to {MAX_LENGTH} characters")
    return wanted


def _row(record: Encoded, at: int) -> dict[str, Any] | None:
    """Return the row of what an event proposes; None, with a word in the log, when nobody can say what that is."""
    event = record.event
    try:
        wanted = check_proposal(event.data)
    except InvalidEvent as exc:
        logger.error("event %s proposes nothing that could be approved: %s", event.key, exc)
        return None
    return {
        "id": wanted.action_id,
        "event_id": event.key,
        "agent": wanted.agent_id,
        "action": wanted.action,
        "correlation": event.correlation_id,
        "proposal": orjson.dumps(event.data).decode(),
        "metadata": orjson.dumps(event.metadata or {}).decode(),
        "asked": at,
        "expires": None if wanted.deadline is None else micros(wanted.deadline),
        "due": 0,
        "status": PENDING,
    }


def _time(at: int | None) -> datetime | None:
    return None if at is None else moment(at)


def proposal_of(row: Row[Any]) -> Proposal:
    """Return what a row says."""
    said = orjson.loads(row.proposal)
    params = said.get("params") or {}
    return Proposal(
        id=row.id,
        event=row.event_id,
        agent=row.agent,
        action=row.action,
        correlation=row.correlation,
        args=params if row.args is None else orjson.loads(row.args),
        proposed=params,
        asked=moment(row.asked),
        expires=_time(row.expires),
        message=said.get("message"),
        schema=said.get("response_schema"),
        n_of=max(1, said.get("n_of") or 1),
        who=tuple(said.get("who") or ()),
        metadata=orjson.loads(row.metadata),
        votes=tuple(Vote(by, moment(at), reason) for by, at, reason in orjson.loads(row.votes)),
        status=row.status,
        by=row.by or "",
        reason=row.reason,
        at=_time(row.decided),
    )
