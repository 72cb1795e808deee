"""What a flow follows, and when it has ended: data and a pure function, which no worker keeps anything for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from ...ledger.flows.rows import BADLY, COMPLETED, FAILED, WELL, Step

#: What a join may be complete by.
ALL, FIRST, QUORUM, UNTIL, DEADLINE = "all", "first", "quorum", "until", "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a flow was started with; it is kept with the flow, and newer versions of the code do not change it.

    Attributes:
        name: the agent's that starts it.
        emits: the type of the event that follows when it is complete.
        fails: the type of the event that follows when it has failed.
        source: the CloudEvents source of both.
        each: whether its steps are one agent's, for each item of a list.
        quorum: how many steps have to end well; None for all.
        first: whether that is one, and the field's word for it is "first".
        until: a filter (JSON data) on the results so far: what matches it completes the flow; None for none.
        collect: whether it goes on without the steps that fail.
        cancel_rest: whether steps that are not needed any more do not begin, and those that run are stopped.
        participants: of a collaboration the names of those who take part in it.
        watched: the event whose tree it waits for, where it has no steps.

    """

    name: str
    emits: str
    fails: str
    source: str
    each: bool = False
    quorum: int | None = None
    first: bool = False
    until: Any = None
    collect: bool = False
    cancel_rest: bool = True
    participants: tuple[str, ...] = ()
    watched: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Definition:
        """Return what as_data() has made; what a newer version has added to it is left out."""
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in data.items() if name in known}
        return cls(**{**found, "participants": tuple(data.get("participants", ()))})


class Counts(NamedTuple):
    """How far a flow has come: its steps, and how many of them have ended well, or are dead."""

    members: int
    done: int
    failed: int

    @classmethod
    def of(cls, steps: Sequence[Step], members: int) -> Counts:
        """Return what the rows of a flow's steps say."""
        outcomes = [step.outcome.value for step in steps]
        return cls(members, sum(one in WELL for one in outcomes), sum(one in BADLY for one in outcomes))

    @property
    def left(self) -> int:
        """How many steps have not ended."""
        return self.members - self.done - self.failed


class End(NamedTuple):
    """The end of a flow.

    Attributes:
        status: completed or failed.
        reason: what it is complete by, or why it has failed.

    """

    status: str
    reason: str


def end_of(definition: Definition, counts: Counts, *, is_met: bool = False, is_over: bool = False) -> End | None:
    """Return how a flow ends, as it stands; None when it goes on.

    Arguments:
        is_met: whether the results are what it waits for (`until`).
        is_over: whether its time is over.

    """
    if (by := _completed_by(definition, counts, is_met=is_met, is_over=is_over)) is not None:
        return End(COMPLETED, by)
    why = _failed_because(definition, counts, is_over=is_over)
    return None if why is None else End(FAILED, why)


def _completed_by(definition: Definition, counts: Counts, *, is_met: bool, is_over: bool) -> str | None:
    quorum = definition.quorum
    if is_met:
        return UNTIL
    if quorum is not None:
        return (FIRST if definition.first else QUORUM) if counts.done >= quorum else None
    if not counts.done or (counts.failed and not definition.collect):
        return None
    return ALL if counts.left <= 0 else DEADLINE if is_over else None


def _failed_because(definition: Definition, counts: Counts, *, is_over: bool) -> str | None:
    members, done, failed = counts
    quorum = definition.quorum
    needed = "" if quorum is None else f", and {quorum} are needed"
    if quorum is not None and members - failed < quorum:
        return f"{failed} of {members} have failed{needed}"
    if failed and quorum is None and not definition.collect:
        return f"{failed} of {members} have failed"
    if counts.left <= 0:
        return f"{done} of {members} were done{needed}"
    return f"{done} of {members} were done at the deadline{needed}" if is_over else None
