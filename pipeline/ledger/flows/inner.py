"""Flows that are steps of others: which instance of one a step has, as it may have been started more than once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, or_, select

from ..database.tables import deliveries, flows
from ..database.waiting import steps
from ..waiting.wait import FLOW
from .rows import Step, instead_of


class Behind(NamedTuple):
    """The flow that a step of another one is, as it stands.

    Attributes:
        runs: how often the step was given back to its agent.
        outer: the flow that it is a step of.
        waited: whether it has waited for the end of an instance since then.
        row, definition, steps: that instance, else the newest one; None where there is none.

    """

    runs: int
    outer: Row[Any] | None
    waited: tuple[str | None] | None
    row: Row[Any] | None = None
    definition: str = ""
    steps: Sequence[Step] = ()


def run_of(connection: Connection, step: str) -> tuple[int, Row[Any] | None]:
    """Return how often a step was given back to its agent, and the flow that it is a step of."""
    runs = connection.execute(select(deliveries.c.requeued).where(deliveries.c.id == step)).scalar()
    outer = select(flows).join(deliveries, deliveries.c.flow == flows.c.id).where(deliveries.c.id == step)
    return runs or 0, connection.execute(outer).first()


def waited_in(connection: Connection, step: str, runs: int) -> tuple[str | None] | None:
    """Return the instance whose end a step has waited for since it was given back so often; None for none.

    It is unknown which one that was where the data of the events around were erased.
    """
    mine = (steps.c.delivery == step, steps.c.name == FLOW, steps.c.number == runs)
    found = connection.execute(select(steps.c.result).where(*mine)).scalar()
    return None if found is None else (orjson.loads(found),)


def instance_of(connection: Connection, first: str, waited: tuple[str | None] | None) -> Row[Any] | None:
    """Return an instance of a flow: the one that was waited for, else the newest; None where there is none.

    Arguments:
        first: the id that the first one has.

    """
    meant = flows.c.id == waited[0] if waited and waited[0] else or_(flows.c.id == first, flows.c.origin == first)
    found = connection.execute(select(flows).where(meant)).all()
    ids = {row.id for row in found}
    return next((row for row in found if instead_of(row.id) not in ids), None)
