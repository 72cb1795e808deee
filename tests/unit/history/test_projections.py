"""Declaring read models."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from sqlalchemy.orm import Session

from pipeline.core.errors import InvalidAgent, InvalidPattern, InvalidSelection, PipelineError
from pipeline.core.event import Event, Payload
from pipeline.history.projections import Projection, Projections
from tests.readmodels import note, projection


class OrderPaid(Payload, type="order.paid"):
    n: int


def test_the_registry_knows_projections_by_name() -> None:
    registry = Projections()
    orders = projection()
    registry.add(orders)
    registry.add(projection())  # a module that is imported again

    assert [each.name for each in registry] == ["orders"]
    assert len(registry) == 1
    assert "orders" in registry
    assert repr(registry["orders"]) == "<Projection orders on order.*>"
    with pytest.raises(InvalidAgent, match="no projection is called 'order'; did you mean 'orders'"):
        registry["order"]
    with pytest.raises(InvalidAgent, match="name 'orders' is used twice"):
        registry.add(projection(handler=lambda event, session: None))


def test_patterns_are_what_agents_take() -> None:
    found = projection(["order.*", OrderPaid, "order.*"])

    assert found.patterns == ("order.*", "order.paid")
    assert Counter(found.matches(type) for type in ("order.made", "order.paid", "user.made")) == {True: 2, False: 1}


async def asynchronous(event: Event, session: Session) -> None:
    """Do what no projection can do."""


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("", "a", note), InvalidAgent, "'' is no name"),
        (("x" * 300, "a", note), InvalidAgent, "is no name"),
        (("x", "a..b", note), InvalidPattern, "'a..b' is not a topic pattern"),
        (("x", [], note), InvalidAgent, "listens to nothing"),
        (("x", [7], note), InvalidSelection, "7 is neither a topic pattern"),
        (("x", "a", None), InvalidAgent, "no plain function"),
        (("x", "a", asynchronous), InvalidAgent, "no plain function"),
    ],
)
def test_a_wrong_declaration_is_refused(arguments: Any, error: type[PipelineError], says: str) -> None:
    with pytest.raises(error, match=says):
        Projection(*arguments)
