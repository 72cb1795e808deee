"""Flows that are steps of others: such a step waits, without a worker, until its flow has ended, and has its results.

The delivery that is the step starts the flow, whose id is its own, and is parked in the same transaction; the
transaction that ends the flow lets it go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from ...agents.context import Context
from ...agents.strand import aside
from ...core.errors import FlowFailed
from ...core.outcome import Outcome
from ...ledger.flows.rows import BADLY, COMPLETED, Step
from ...ledger.waiting.wait import FLOW, Wait
from ..graphs.flow import Definition
from ..graphs.graph import Graph
from ..graphs.work import Work

if TYPE_CHECKING:
    from ...ledger.flows.flows import Flows


def as_step(flows: Callable[[], Flows], ctx: Context, start: Callable[[], Any]) -> Any:
    """Start a flow and wait for its end, or return its results when that has come.

    Arguments:
        flows: opens the ledger's flows.
        start: writes what starts it; what needs no flow has its results at once.

    Raises FlowFailed for one that did not complete.

    """
    id = ctx.delivery_id
    found = aside(lambda: flows().find(id))
    if found is None:
        if (results := start()) is not None:
            return results
        ctx.park(Wait(FLOW, f"waits for the end of flow {id}", key=id))
    row, body, steps = found
    if row.ended is None:
        ctx.park(Wait(FLOW, f"waits for the end of flow {id}", key=id))
    if row.status != COMPLETED:
        raise FlowFailed(f"{row.kind} {row.name} {id} is {row.status}: {row.reason}")
    definition = definition_in(body)
    if isinstance(definition, Graph):
        return Work(definition, {step.pos: step for step in steps}, None).results
    return results_of(definition, steps)["results"]


# -- what a flow has come to


@lru_cache(maxsize=1024)
def definition_in(body: str) -> Definition | Graph:
    """Return the definition that a flow was started with."""
    data = orjson.loads(body)
    return Graph.of(data) if "nodes" in data else Definition.of(data)


def results_of(definition: Definition, steps: Sequence[Step]) -> dict[str, Any]:
    """Return what the steps of a flow have come to: results, errors, and what is missing.

    By the agents' names; where the steps are one agent's for each item of a list, by the items' positions.
    """
    done = {step.pos: orjson.loads(step.result or "null") for step in steps if step.outcome is Outcome.SUCCEEDED}
    key: Callable[[Step], Any] = (lambda step: step.pos) if definition.each else (lambda step: step.agent)
    return {
        "results": (
            [done.get(step.pos) for step in steps]
            if definition.each
            else {step.agent: done[step.pos] for step in steps if step.pos in done}
        ),
        "errors": {str(key(step)): step.error or step.outcome.value for step in steps if step.outcome.value in BADLY},
        "missing": [key(step) for step in steps if step.pos not in done and step.outcome.value not in BADLY],
    }
