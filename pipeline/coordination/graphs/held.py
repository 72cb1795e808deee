"""What keeps a flow from going on: the steps that somebody may do again, or go on without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...core.outcome import Outcome
from ...ledger.flows.items import FAILED, is_undo
from ...ledger.flows.rows import COMPENSATING, WELL, Step


def held_by(
    definition: Mapping[str, Any], status: str, steps: Sequence[Step], *, step: str | None = None, to_skip: bool = False
) -> list[Step]:
    """Return the rows that hold a saga or a workflow: what undoes a step and is dead, or a step that has failed.

    A step that has failed holds it only as long as nothing is undone. Without it, it goes on only after a point of no
    return: before, what is done is undone in any case.

    Arguments:
        step: only those of this step, by its name.
        to_skip: only those without which it could go on.

    """
    nodes = definition.get("nodes", ())
    number = len(nodes)
    if not number:
        return []
    meant = [one for one in steps if step in (None, nodes[one.pos % number]["name"])]
    undoing = [one for one in steps if is_undo(one.pos, number)]
    if undoing or status == COMPENSATING:
        return [one for one in meant if is_undo(one.pos, number) and one.outcome is Outcome.DEAD]
    is_final = any(nodes[one.pos % number].get("final") and one.outcome.value in WELL for one in steps)
    failed = [one for one in meant if one.outcome.value in FAILED and one.outcome is not Outcome.DROPPED]
    return failed if is_final or not to_skip else []
