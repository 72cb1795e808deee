"""Flows that are steps of others: such a step waits, without a worker, until its flow has ended, and has its results.

The delivery that is the step starts the flow, whose id is its own, and is parked in the same transaction; the
transaction that ends the flow lets it go on. Where there is one for each business key, the step waits for the one that
is there, whoever has started it.

A step that is done again starts another one instead of one that has ended badly, whose id follows from that one's:
whoever starts it, and however often, starts the same.
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
from ...ledger.flows.rows import BADLY, COMPLETED, Step, instead_of
from ...ledger.waiting.wait import FLOW, Wait
from ..graphs.flow import Definition
from ..graphs.graph import Graph
from ..graphs.work import Work

if TYPE_CHECKING:
    from sqlalchemy import Row

    from ...ledger.flows.flows import Flows
    from ...ledger.flows.inner import Behind


def as_step(flows: Callable[[], Flows], ctx: Context, first: str, start: Callable[[str, str | None], Any]) -> Any:
    """Start a flow and wait for its end, or return its results when that has come.

    Arguments:
        flows: opens the ledger's flows.
        first: the id of the first one: the step's, or one for a business key, which others may have started.
        start: writes what starts it, by its id, and by the first of those that it is started instead of; what needs
            no flow has its results at once.

    Raises FlowFailed for one that did not complete.

    """
    found = aside(lambda: flows().behind(ctx.delivery_id, first))
    row = found.row
    if row is not None and row.status == COMPLETED:
        return _results(found)
    id = row.id if row is not None and row.ended is None else _anew(found, first)
    if row is None or id != row.id:
        ctx.begin_anew()
        if (results := start(id, None if id == first else first)) is not None:
            return results
    return ctx.park(Wait(FLOW, f"waits for the end of flow {id}", FLOW, found.runs, key=id))


def _anew(found: Behind, first: str) -> str:
    """Return the id of the flow that a step starts which has none that goes on; raise FlowFailed where it may not."""
    row, outer, waited = found.row, found.outer, found.waited
    if waited and row is None:
        raise FlowFailed(f"flow {waited[0]} has ended, and the ledger does not have it any more")
    if row is not None and (waited or not found.runs):
        raise FlowFailed(f"{_told(row)} is {row.status}: {row.reason}")
    if found.runs and outer is not None and outer.ended is not None:
        raise FlowFailed(f"{_told(outer)} has ended ({outer.status}): no step of it begins anew")
    return first if row is None else instead_of(row.id)


def _told(row: Row[Any]) -> str:
    return f"{row.kind} {row.name} {row.id}"


def _results(found: Behind) -> Any:
    definition = definition_in(found.definition)
    if isinstance(definition, Graph):
        return Work(definition, {step.pos: step for step in found.steps}, None).results
    return results_of(definition, found.steps)["results"]


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
