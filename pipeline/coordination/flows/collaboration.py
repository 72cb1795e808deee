"""Collaborations: one of five patterns with participants that are chosen at run time, as the flow that it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import InvalidCollaboration, nearest
from ...core.event import Event
from ...core.times import moment, now
from ...families import CollaborationComplete
from ...ledger.flows.rows import COMPENSATED, COMPLETED, FAILED
from ..graphs.flow import Definition, End
from ..graphs.graph import Graph

REQUEST, PUBLISH, CHOREOGRAPHY, SAGA, WORKFLOW = PATTERNS = (
    *("request-response", "publish-subscribe", "choreography"),
    *("saga", "workflow"),
)
#: Other names that people have for them.
_ALIASES = {
    "request": REQUEST, "request-reply": REQUEST, "pubsub": PUBLISH, "pub-sub": PUBLISH, "publish": PUBLISH,
    "orchestration": WORKFLOW, "workflow-orchestration": WORKFLOW,
}  # fmt: skip
#: The participant under whose name an error stands that is nobody's, such as the deadline.
NOBODY = "collaboration"
TOO_LARGE = "the results are too large for one event: keep what is large in blobs"


def pattern_of(name: str) -> str:
    """Return the pattern that a name stands for; raise InvalidCollaboration with the nearest one."""
    plain = str(name).strip().lower().replace("_", "-").replace(" ", "-")
    if (found := _ALIASES.get(plain, plain)) not in PATTERNS:
        raise InvalidCollaboration(f"pattern: there is no {name!r}; {nearest(plain, PATTERNS)}")
    return found


def of_payload(cause: Event | None, graph: Graph) -> Event | None:
    """Return the event that a flow works on: of a collaboration its request, with the payload as its data."""
    if cause is None or not graph.participants:
        return cause
    said = cause.data if isinstance(cause.data, dict) else {}  # it may have been erased
    return cause.evolve(data=said.get("payload"))


def completions(
    id: str,
    definition: Definition | Graph,
    end: End,
    results: Mapping[str, Any],
    errors: Mapping[str, str],
    started: int,
) -> Sequence[Any]:
    """Return what tells that a collaboration has ended: with all that is known, then with less."""
    status = end.status if end.status in (COMPLETED, COMPENSATED) else FAILED
    told = dict(errors) if errors or status == COMPLETED else {NOBODY: end.reason}
    about: dict[str, Any] = {"collaboration_id": id, "pattern": definition.name, "status": status}
    about |= {"participants": tuple(definition.participants), "start": moment(started), "end": moment(now())}
    less = {**errors, NOBODY: TOO_LARGE} if len(str(errors)) < 10_000 else {NOBODY: TOO_LARGE}
    return CollaborationComplete(**about, results=dict(results), errors=told), CollaborationComplete(
        **about, errors=less
    )
