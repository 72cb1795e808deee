"""Declaring read models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from pipeline.core.errors import InvalidAgent, InvalidPattern, InvalidSelection, PipelineError, ProjectionFailed
from pipeline.core.event import Event, Payload, new_event
from pipeline.history.projections import Projection, Projections, catch_up
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.log import BEGIN
from tests.readmodels import note, position, projection


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


def generator(event: Event, session: Session) -> Iterator[None]:
    """Do nothing when it is called."""
    yield


class Asynchronous:
    """The same as an object."""

    async def __call__(self, event: Event, session: Session) -> None: ...


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
        (("x", "a", generator), InvalidAgent, "no plain function"),
        (("x", "a", Asynchronous()), InvalidAgent, "no plain function"),
    ],
)
def test_a_wrong_declaration_is_refused(arguments: Any, error: type[PipelineError], says: str) -> None:
    with pytest.raises(error, match=says):
        Projection(*arguments)


async def forgetful(session: Session) -> None:
    """Empty nothing."""


def test_a_reset_function_that_would_not_run_is_refused() -> None:
    with pytest.raises(InvalidAgent, match=r"projection 'orders': .*forgetful.* is no plain function of a session"):
        projection().reset(forgetful)


@pytest.mark.parametrize("hidden", [asynchronous, generator, Asynchronous()])
def test_a_handler_that_does_not_run_is_no_success(hidden: Any, tmp_path: Path) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        ledger.append([new_event("order.made", {"n": 1}, source="/t").encoded(10_000)], due_in=None)
        with pytest.raises(ProjectionFailed, match=r"TypeError: it returned a .*, so nothing has run"):
            catch_up(
                ledger,
                projection(
                    handler=lambda *both: hidden(*both)  # noqa: PLW0108  # it hides what it calls
                ),
            )
        assert position(ledger) == BEGIN
