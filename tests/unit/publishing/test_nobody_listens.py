"""Publishing what nobody gets: said once for each type, with the reason that the ledger knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Event, InvalidEvent, Payload, Pipeline

pytestmark = pytest.mark.usefixtures("no_settings")


class Placed(Payload, type="order.placed"):
    order_id: str


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    app = Pipeline("web", directory=tmp_path)
    yield app
    app.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "nobody gets" in one.getMessage()]


def test_it_is_said_once_for_each_type(app: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    app.publish("order.placed")
    app.publish_many([("order.placed", 1), ("order.paid", 2), ("order.paid", 3)])
    assert [line.split(",")[0] for line in said(caplog)] == ["nobody gets order.placed", "nobody gets order.paid"]


def test_in_a_transaction_it_is_said_too(app: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    with app.ledger.database.session() as session:
        app.publish("order.placed", session=session)
        session.commit()
    assert len(said(caplog)) == 1


def test_without_any_agent_the_ledger_and_what_to_compare_are_named(
    app: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    app.publish("order.placed")
    (line,) = said(caplog)
    assert str(app.ledger) in line
    assert "no agent has ever run on it" in line
    assert "the same PIPELINE_DIRECTORY and PIPELINE_LEDGER_URL" in line


@pytest.mark.parametrize(
    ("type", "hint"),
    [("order.plaecd", "did you mean 'order.placed'?"), ("x.y", "agents listen to order.placed, user.*")],
)
def test_a_type_that_is_misspelt_is_compared_with_what_agents_listen_to(
    app: Pipeline, caplog: pytest.LogCaptureFixture, type: str, hint: str
) -> None:
    app.ledger.subscribers.register({"billing": (("order.placed",), None), "audit": (("user.*",), None)})
    app.publish("user.asked")
    app.publish("order.placed")
    assert said(caplog) == []
    app.publish(type)
    assert hint in said(caplog)[0]


# -- data that an agent of the same app does not take


def test_data_that_no_delivery_could_read_is_an_error_where_it_is_published(app: Pipeline) -> None:
    @app.agent(on="order.#")
    def billing(order: Placed) -> None: ...

    wrong = "order.placed for agent 'billing' does not validate: order_id: Field required"
    with pytest.raises(InvalidEvent, match=wrong):
        app.publish("order.placed", {})
    with pytest.raises(InvalidEvent, match=wrong):
        app.publish_many([("order.placed", {})])
    with pytest.raises(InvalidEvent, match=wrong):
        app.publish_on_commit("order.placed", {}, on_commit=lambda call: call())
    assert list(app.get_events()) == []
    app.publish("order.placed", {"order_id": "A1"})
    app.publish("order.paid", {})  # another type, which the agent's class says nothing about
    app.publish(Event(id="e1", type="order.placed", source="/theirs", data={}))  # as it came


def test_an_agent_that_does_not_get_the_event_is_not_asked(app: Pipeline) -> None:
    app.ledger.subscribers.register({"audit": (("#",), None)})

    @app.agent(on="order.placed")
    def billing(order: Placed) -> None: ...

    @app.agent()
    def member(order: Placed) -> None: ...

    app.publish("order.placed", {}, targets=("audit",))
