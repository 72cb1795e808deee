"""What a delivery waits for, as its handler says it; no database is needed to say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ...core.event import Encoded
    from ..database.rows import Write
    from ..facts import Delivery
    from ..log import Position

#: Kinds of waits.
TIME, EVENT, VERSION, APPROVAL, PAUSE = "time", "event", "version", "approval", "pause"
#: Of a step that is a flow of its own: until that has ended.
FLOW = "flow"
#: Of deliveries that are handled together: until there are enough of them, and until that is done.
GATHERS, MEMBER = "batch", "in batch"
#: Results of waits, as the steps that they are.
OVER = "null"
#: The name of the note that steps were forgotten, which no step has; its number says for the which time, from 1 on.
FORGOTTEN = ""


def waited_for(flow: str) -> str:
    """Return the result of a wait for the end of a flow."""
    return f'"{flow}"'


class Wait(NamedTuple):
    """What a delivery waits for.

    Attributes:
        kind: TIME, EVENT, VERSION, APPROVAL, PAUSE, SLOT, QUIET or GATHERS, or what else releases it.
        reason: the same for people: "sleeps", "waits for order.paid".
        name: the step that the wait's end is the result of; None when it waits before its handler is called.
        number: the n-th use of that name.
        due: when it ends in any case (microseconds).
        key: what it waits for among those of its kind: an event's type, the id of an approval or a flow, a scope.
        correlation: the only correlation whose events end it; None for all.
        condition: the filter that an event has to match, as JSON.
        after: an event has to come after this place in the log; None for the one that `back` says. Of a wait for a
            quiet time the place of its own event.
        back: seconds before now from which on an event counts; None for all since the delivery's own event.
        most: how many deliveries that wait for the key are a batch.

    """

    kind: str
    reason: str
    name: str | None = None
    number: int = 0
    due: int | None = None
    key: str = ""
    correlation: str | None = None
    condition: str | None = None
    after: Position | None = None
    back: float | None = None
    most: int | None = None


class Parking(NamedTuple):
    """A delivery that is to be parked, with what it has emitted until then.

    Attributes:
        emitted: events that are sent now.
        later: timers of the events that are due later.
        total: how many events it has emitted so far, those before an earlier wait included.
        due_in: seconds after which the relay sends what nobody has sent; None for what is only recorded.
        rows: what else is written with it, such as the flow that it waits for.

    """

    delivery: Delivery
    attempt: int
    wait: Wait
    emitted: Sequence[Encoded] = ()
    later: Sequence[dict[str, Any]] = ()
    total: int = 0
    due_in: float | None = None
    rows: Sequence[Write] = ()
