"""What an app tells about its agents: read from what is declared, and from nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Context, Event, Payload, Pipeline
from pipeline.contracts.graph import AgentNode, ScheduleNode, TypeNode, mermaid


class Placed(Payload, type="order.placed"):
    order_id: str


class Paid(Payload, type="order.paid", version="2.0.0"):
    order_id: str


class Nameless(Payload):
    n: int


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    app = Pipeline("shop", namespace="eu", directory=tmp_path, ledger_url="")
    yield app
    app.close()


def only(app: Pipeline) -> AgentNode:
    (agent,) = app.system.agents
    return agent


PLACED, PAID = TypeNode("order.placed", Placed, "1.0.0"), TypeNode("order.paid", Paid, "2.0.0")


def test_an_agent_is_told_with_its_queue_its_patterns_and_its_documentation(app: Pipeline) -> None:
    @app.agent(on=[Placed, "order.*"], did="did:web:example.com:billing")
    def billing(order: Placed) -> Paid:
        """Send bills."""
        return Paid(order_id=order.order_id)

    assert only(app) == AgentNode(
        "billing", "eu.agent.billing", ("order.placed", "order.*"), (PLACED,), (PAID,), (),
        "did:web:example.com:billing", "Send bills.",
    )  # fmt: skip
    assert (app.system.name, app.system.events) == ("shop", "eu.events")


@pytest.mark.parametrize(
    ("annotation", "sends"),
    [
        (Paid, (PAID,)),
        (Paid | None, (PAID,)),
        (list[Paid | Placed], (PAID, PLACED)),
        (tuple[Paid, Paid], (PAID,)),
        (None, ()),
        (dict, ()),
        (Nameless, ()),
        (Any, ()),
    ],
)
def test_what_it_returns_is_sent_where_its_annotation_says_so(app: Pipeline, annotation: Any, sends: Any) -> None:
    def handle(event: Event) -> Any: ...

    handle.__annotations__["return"] = annotation
    app.agent(on="#")(handle)
    assert only(app).sends == sends
    assert only(app).reads == ()


def test_a_handler_that_says_nothing_sends_nothing_that_is_known(app: Pipeline) -> None:
    @app.agent(on="#")
    async def handle(event, ctx: Context): ...  # type: ignore[no-untyped-def]

    assert only(app).sends == ()


def test_a_payload_class_describes_its_own_type_and_those_that_are_listened_to_by_name(app: Pipeline) -> None:
    @app.agent(on=["order.#", "order.old"])
    def handle(order: Placed) -> None: ...

    assert only(app).reads == (TypeNode("order.old", Placed, "1.0.0"), PLACED)


def test_another_annotation_describes_the_types_by_name_in_all_versions(app: Pipeline) -> None:
    @app.agent(on=["order.*", "order.placed"])
    def handle(order: dict[str, int]) -> None: ...

    assert only(app).reads == (TypeNode("order.placed", dict[str, int], ""),)


def test_a_join_sends_what_it_emits_and_its_members_answer_to_it(app: Pipeline) -> None:
    @app.agent()
    def stock(order: Placed) -> Paid: ...

    @app.agent(on="order.checked")
    def credit(order: Placed) -> Paid: ...

    app.join("checks", on=Placed, agents=[stock, credit], emits=Paid)
    app.join("more", on=Placed, agents=[stock, credit], emits="order.seen", fails="order.unseen")

    first, second, checks, more = app.system.agents
    assert (first.sends, second.sends) == ((), (PAID,))
    assert checks.sends == (PAID, TypeNode("order.failed", None, "1.0.0"))
    assert checks.members == ("stock", "credit")
    assert more.sends == (TypeNode("order.seen", None, "1.0.0"), TypeNode("order.unseen", None, "1.0.0"))


def test_an_object_that_is_called_has_no_documentation_of_its_own(app: Pipeline) -> None:
    app.agent(on="#", name="part")(Handler())
    assert only(app).about == ""


class Handler:
    """What all of them share."""

    def __call__(self, data: dict[str, int]) -> None: ...


def test_an_agent_that_only_targets_reach_sends_what_it_returns(app: Pipeline) -> None:
    @app.agent()
    def billing(order: Placed) -> Paid: ...

    assert only(app).sends == (PAID,)


def test_schedules_send_payloads_or_types(app: Pipeline) -> None:
    app.schedule("daily", 60, Placed(order_id="A"))
    app.schedule("hourly", 60, "digest.due", {})
    assert app.system.schedules == (
        ScheduleNode("daily", PLACED), ScheduleNode("hourly", TypeNode("digest.due", None, "1.0.0")),
    )  # fmt: skip


def test_the_document_of_an_app_is_one_verb(app: Pipeline) -> None:
    @app.agent(on=Placed)
    def billing(order: Placed) -> Paid: ...

    made = app.asyncapi(version="7.1.0")
    assert made["info"] == {"title": "shop", "version": "7.1.0"}
    assert made["channels"]["queue:eu.agent.billing"]["bindings"]["amqp"]["queue"]["name"] == "eu.agent.billing"
    assert made["channels"]["order.paid"]["bindings"]["amqp"]["exchange"]["name"] == "eu.events"
    assert list(made["components"]["messages"]) == ["order.placed-1.0.0", "order.paid-2.0.0"]


@pytest.mark.usefixtures("no_settings")
def test_the_page_shows_the_graph_of_its_own_example() -> None:
    page = (Path(__file__).parents[3] / "docs" / "asyncapi.md").read_text()
    example, picture = (re.search(rf"```{name}\n(.*?)```", page, re.DOTALL) for name in ("python", "mermaid"))
    assert example
    assert picture
    module: dict[str, Any] = {"__name__": "shop_of_the_page"}
    exec(example[1], module)
    assert picture[1] == mermaid(module["app"].system)
    assert {"billing.receive", "billing.receive.order.placed", "billing.send.order.paid-1.2.0"} <= {
        *module["contract"]["operations"]
    }
    assert "queue:agent.billing" in module["contract"]["channels"]
