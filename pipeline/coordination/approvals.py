"""What somebody has to approve: list, show, approve, veto, and the rules by which nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ..agents.filters import Where, parse
from ..contracts import arguments
from ..core.door.data import flaw
from ..core.errors import EventTooLarge, InvalidEvent, InvalidSelection, UnknownEvent, nearest
from ..core.event import MAX_LENGTH
from ..core.ids import new_id
from ..core.times import as_json_time, due_time, micros, moment, now
from ..ledger.waiting.approval import PENDING, STATUSES, UNSET, Decision, Proposal

if TYPE_CHECKING:
    from ..bus import Bus

#: The fewest characters of an id that stand for it.
SHORTEST_PREFIX = 8


class Rule(NamedTuple):
    """A rule by which an action is approved without asking anybody.

    Attributes:
        agent: whose actions; None for every agent's.
        where: the filter that the arguments have to match, in its canonical form; None for any.
        until: until when it holds; None for ever.
        by: who has made it.

    """

    id: str
    action: str
    agent: str | None
    where: Any
    until: datetime | None
    by: str
    made: datetime

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "until": as_json_time(self.until), "made": as_json_time(self.made)}


class Rules:
    """The rules of an app's ledger by which actions are approved without asking anybody."""

    def __init__(self, bus: Bus) -> None:
        self._approvals = bus.ledger.waiting.approvals

    def list(self) -> list[Rule]:
        """Return the rules that hold, the oldest first."""
        return [
            Rule(
                row.id,
                row.action,
                row.agent,
                None if row.condition is None else orjson.loads(row.condition),
                None if row.until is None else moment(row.until),
                row.by,
                moment(row.made),
            )
            for row in self._approvals.rules()
        ]

    def add(
        self,
        action: str,
        *,
        agent: str | None = None,
        where: Where = None,
        until: datetime | None = None,
        by: str = "",
    ) -> Rule:
        """Approve an action from now on without asking, also what waits already; return the rule.

        Arguments:
            action: its name.
            agent: only of this agent.
            where: a filter that its arguments have to match, such as "amount < 10".
            until: until when it holds, as an aware datetime; default until somebody removes it.
            by: who says so.

        Raises InvalidFilter, and InvalidSelection for an action or a time that is none.

        """
        for name, value in (("action", action), ("agent", agent)):
            if value is not None and not 0 < len(value) <= MAX_LENGTH:
                raise InvalidSelection(f"{name}: a text of 1 to {MAX_LENGTH} characters")
        try:
            end = None if until is None else micros(due_time(None, until) or until)
        except InvalidEvent as exc:
            raise InvalidSelection(f"until: {exc}") from None
        if end is not None and end <= now():
            raise InvalidSelection(f"until: {as_json_time(until)} is over; the rule would never hold")
        condition = parse(where)
        text = condition.text if condition.nodes else None
        row = {"id": new_id(), "action": action, "agent": agent, "condition": text, "until": end, "made": now()}
        self._approvals.add_rule({**row, "by": by[:MAX_LENGTH]})
        return next(rule for rule in self.list() if rule.id == row["id"])

    def remove(self, id: str) -> Rule:
        """Ask again what a rule has approved; return it. Raises UnknownEvent when there is none with that id."""
        is_short = len(id) < SHORTEST_PREFIX
        found = [rule for rule in self.list() if rule.id == id or (rule.id.startswith(id) and not is_short)]
        if len(found) != 1 or not self._approvals.remove_rule(found[0].id):
            raise UnknownEvent(f"there is no rule {id!r}; `pipeline approvals rules` lists them")
        return found[0]


class Approvals:
    """The approvals of an app's ledger."""

    def __init__(self, bus: Bus) -> None:
        """Take what the app's rooms share; raises LedgerOff when there is no ledger."""
        self._bus = bus
        self._approvals = bus.ledger.waiting.approvals

    @property
    def rules(self) -> Rules:
        """The rules by which actions are approved without asking anybody."""
        return Rules(self._bus)

    def list(
        self,
        *,
        status: str | None = PENDING,
        agent: str | None = None,
        action: str | None = None,
        correlation: str | None = None,
        limit: int = 100,
    ) -> list[Proposal]:
        """Return what waits for a decision, the oldest first.

        Arguments:
            status: "approved", "vetoed", "expired" or "cancelled" for what has had one, None for all.
            agent: only what this agent wants to do.
            action: only this action.
            correlation: only what is asked in this correlation.
            limit: how many to return at most.

        Raises InvalidSelection when there is no such status.

        """
        if status is not None and status not in STATUSES:
            raise InvalidSelection(f"status: {status!r} is none; {nearest(status, STATUSES)}")
        return self._approvals.find(status=status, agent=agent, action=action, correlation=correlation, limit=limit)

    def show(self, id: str) -> Proposal:
        """Return one by its id, or by the beginning of that; raise UnknownEvent when there is none, or are several."""
        found = self._approvals.get(id)
        if found is not None:
            return found
        near = self._approvals.find(status=None, prefix=id, limit=2) if len(id) >= SHORTEST_PREFIX else []
        if len(near) == 1:
            return near[0]
        if near:
            raise UnknownEvent(f"several approvals begin with {id!r}; write more of the id")
        raise UnknownEvent(f"there is no approval {id!r}; `pipeline approvals list` shows those that wait")

    def approve(
        self,
        id: str,
        *,
        by: str = "",
        groups: Iterable[str] = (),
        reason: str | None = None,
        edit: Any = UNSET,
    ) -> Proposal:
        """Say that it may be done; return what it is then: of several who have to, the last one's word counts.

        Arguments:
            id: its id, or the beginning of that.
            by: who says so.
            groups: the groups that they belong to, where those may decide.
            edit: all arguments that it may be done with, instead of those that were proposed. Whoever has approved of
                others before has to do it again.

        Raises UnknownEvent, AlreadyDecided (by whom and when), NotAllowed, and InvalidEvent that names what is wrong
        with the arguments.

        """
        found = self.show(id)
        if edit is not UNSET:
            edit = self._checked(found, edit)
        return self._decide(found.id, Decision(True, by, tuple(groups), reason, edit))

    def veto(self, id: str, *, by: str = "", groups: Iterable[str] = (), reason: str | None = None) -> Proposal:
        """Say that it must not be done; one veto suffices. Arguments and errors are those of approve()."""
        return self._decide(self.show(id).id, Decision(False, by, tuple(groups), reason))

    def _decide(self, id: str, decision: Decision) -> Proposal:
        if len(decision.by) > MAX_LENGTH:
            raise InvalidEvent(f"by: a name has at most {MAX_LENGTH} characters")
        for name in ("by", "reason"):
            if wrong := flaw(getattr(decision, name), name):
                raise InvalidEvent(wrong)
        spans = self._bus.spans
        spans.look()
        with spans.span("approval", id=id, by=decision.by, decision="approve" if decision.approve else "veto"):
            return self._approvals.decide(id, decision)

    def _checked(self, found: Proposal, edit: Any) -> dict[str, Any]:
        """Return arguments that somebody has edited, once it is sure that they are what the proposal's schema asks."""
        what = f"what {found.action} is to be done with"
        args = arguments.as_json(edit, what)
        size, most = len(orjson.dumps(args)), self._bus.settings.max_event_bytes // 2
        if size > most:
            raise EventTooLarge(f"{what} takes {size:,} bytes, and half of PIPELINE_MAX_EVENT_BYTES is {most:,}")
        if wrong := flaw(args):
            raise InvalidEvent(f"{what}: {wrong}")
        arguments.check(found.schema, args, what)
        return args
