"""What somebody has to approve, and who may decide what about it; no database is needed to say it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from ...core.errors import AlreadyDecided, NotAllowed
from ...core.times import as_json_time

#: What an approval may have come to. Pending ones wait, all others are final.
PENDING, APPROVED, VETOED, EXPIRED, CANCELLED = "pending", "approved", "vetoed", "expired", "cancelled"
STATUSES = (PENDING, APPROVED, VETOED, EXPIRED, CANCELLED)
#: The names in an event's metadata that say whose work it is: nobody approves what they have asked for.
IDENTITIES = ("by", "user", "user_id")


class Unset(Enum):
    """The type of UNSET."""

    UNSET = "unset"


#: The arguments stay as they were proposed; None are ones.
UNSET = Unset.UNSET


class Vote(NamedTuple):
    """Somebody who has approved."""

    by: str
    at: datetime
    reason: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**self._asdict(), "at": as_json_time(self.at)}


class Decision(NamedTuple):
    """What somebody says about a proposal.

    Attributes:
        approve: whether it may be done.
        by: who says it; empty when that is not known.
        groups: the groups that they belong to.
        args: the arguments that it may be done with, where they are other ones.

    """

    approve: bool
    by: str = ""
    groups: tuple[str, ...] = ()
    reason: str | None = None
    args: Any = UNSET


@dataclass(frozen=True, slots=True)
class Approval:
    """The answer: what `ctx.ask` returns.

    Attributes:
        status: "approved"; with `veto="return"` also "vetoed", "expired" or "cancelled".
        payload: the arguments as JSON data, as they may be done.
        args: the same as the type that `schema=` names.
        by: who has decided, of several the last one.

    """

    id: str
    status: str
    payload: Any = None
    args: Any = None
    by: str = ""
    reason: str | None = None
    at: datetime | None = None

    def __bool__(self) -> bool:
        """Say whether it may be done."""
        return self.status == APPROVED

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data, with the names that AG-UI has for answers to interrupts."""
        return {"id": self.id, "status": self.status, "payload": self.payload}


@dataclass(frozen=True, slots=True)
class Proposal:
    """An action that somebody has to approve, and what has become of it so far.

    Attributes:
        event: the id of the event that has proposed it.
        agent: who wants to do it.
        args: the arguments that it may be done with, edited ones where somebody has edited them.
        proposed: the arguments that it was proposed with.
        schema: their JSON Schema.
        n_of: how many different people have to approve.
        who: names and groups of those who may decide; none for everybody.
        votes: those who have approved these arguments so far.
        status: one of STATUSES.
        by: who has decided; empty when nobody has, or nobody knows.

    """

    id: str
    event: str
    agent: str
    action: str
    correlation: str
    args: Any
    proposed: Any
    asked: datetime
    expires: datetime | None = None
    message: str | None = None
    schema: Any = None
    n_of: int = 1
    who: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None
    votes: tuple[Vote, ...] = ()
    status: str = PENDING
    by: str = ""
    reason: str | None = None
    at: datetime | None = None

    @property
    def half_time(self) -> datetime | None:
        """When somebody else is to hear of it; None when it does not expire."""
        return None if self.expires is None else self.asked + (self.expires - self.asked) / 2

    @property
    def proposers(self) -> frozenset[str]:
        """Who has asked for it, as far as that is known: the agent, and whose work it is."""
        named = (self.metadata or {}).get
        return frozenset({self.agent, *(str(named(name)) for name in IDENTITIES if named(name))})

    @property
    def answer(self) -> Approval:
        """What it has come to."""
        payload = self.args if self.status == APPROVED else None
        return Approval(self.id, self.status, payload, payload, self.by, self.reason, self.at)

    def as_data(self, *, whole: bool = False) -> dict[str, Any]:
        """Return it as JSON data, with the names that AG-UI has for interrupts.

        Arguments:
            whole: with the schema and all arguments.

        """
        about = {
            **{name: getattr(self, name) for name in ("agent", "action", "correlation", "event", "status", "n_of")},
            "args": self.args,
            "who": list(self.who),
            "votes": [vote.as_data() for vote in self.votes],
            "asked": as_json_time(self.asked),
            **({"proposed": self.proposed, "event_metadata": self.metadata or {}} if whole else {}),
        }
        decided = {"by": self.by, "reason": self.reason, "at": as_json_time(self.at), "answer": self.answer.as_data()}
        return {
            "id": self.id,
            "reason": self.action,
            "message": self.message,
            **({"responseSchema": self.schema} if whole else {}),
            "expiresAt": as_json_time(self.expires),
            "metadata": about if self.status == PENDING else {**about, "decision": decided},
        }


def told(proposal: Proposal) -> str:
    """Return who has decided what, and when, as a part of a sentence."""
    by = f" by {proposal.by}" if proposal.by else ""
    at = "" if proposal.at is None else f" at {proposal.at.isoformat(sep=' ', timespec='seconds')}"
    return f"{proposal.status}{by}{at}" + (f": {proposal.reason}" if proposal.reason else "")


def decide(proposal: Proposal, decision: Decision, at: datetime) -> Proposal:
    """Return what a proposal is after somebody has said something about it.

    Raises AlreadyDecided when it is too late for that, NotAllowed when it is not theirs to say.
    """
    name = f"{proposal.action} ({proposal.id})"
    if proposal.status != PENDING:
        raise AlreadyDecided(f"{name} was {told(proposal)}; the first decision counts")
    if proposal.expires is not None and proposal.expires <= at:
        raise AlreadyDecided(f"{name} has expired at {proposal.expires.isoformat(sep=' ', timespec='seconds')}")
    _check_allowed(proposal, decision, name)
    over: dict[str, Any] = {"by": decision.by, "reason": decision.reason, "at": at}
    if not decision.approve:
        return replace(proposal, status=VETOED, **over)
    is_edited = decision.args is not UNSET and decision.args != proposal.args
    if is_edited:  # who has approved before has approved something else
        proposal = replace(proposal, args=decision.args, votes=())
    earlier = next((vote for vote in proposal.votes if vote.by == decision.by), None)
    if earlier is not None:
        raise AlreadyDecided(
            f"{decision.by} has approved {name} at {earlier.at.isoformat(sep=' ', timespec='seconds')}; it takes "
            f"{proposal.n_of} different people"
        )
    proposal = replace(proposal, votes=(*proposal.votes, Vote(decision.by, at, decision.reason)))
    return replace(proposal, status=APPROVED, **over) if len(proposal.votes) >= proposal.n_of else proposal


def _check_allowed(proposal: Proposal, decision: Decision, name: str) -> None:
    if not decision.by and (proposal.who or proposal.n_of > 1):
        raise NotAllowed(f"{name}: not everybody may decide this alone; say who you are with by=, or --by")
    if decision.approve and decision.by in proposal.proposers:
        raise NotAllowed(f"{name}: {decision.by} has asked for it, and nobody approves what they asked for themselves")
    if proposal.who and not {decision.by, *decision.groups} & {*proposal.who}:
        raise NotAllowed(f"{name}: {decision.by} may not decide this; it is for {', '.join(proposal.who)}")
