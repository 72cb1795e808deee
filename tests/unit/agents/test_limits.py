"""Limits over all workers, as they are declared: what contradicts itself is said at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import InvalidAgent, LedgerOff, Limit, Pipeline
from pipeline.agents.declare import declare
from pipeline.core.errors import InvalidEvent
from pipeline.core.event import Event, new_event
from pipeline.delivery.turns.turns import take, turns_of


def handler(data: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Limit, "limits nothing"),
        (lambda: Limit(burst=5, concurrent=1), "without a rate"),
        (lambda: Limit(concurrent=0), "1 or more"),
        (lambda: Limit(concurrent=True), "1 or more"),
        (lambda: Limit(rate="1/s", burst=0), "1 or more"),
        (lambda: Limit(rate="30/x"), "not a rate such as"),
        (lambda: Limit(rate="0/s"), "not a rate such as"),
        (lambda: Limit(rate="30"), "not a rate such as"),
        (lambda: Limit(concurrent=1, weight={"gold": 3}), "needs fair_by"),
        (lambda: Limit(concurrent=1, fair_by="data.of", weight={"gold": 0}), "between 0.001 and 1000"),
        (lambda: Limit(concurrent=1, missing="drop"), "'shared' or 'error'"),  # type: ignore[arg-type]
        (lambda: Limit(concurrent=1, name="My limit"), "lower-case letter"),
        (lambda: declare(handler, on="a.b", limit="30/m"), "is not a Limit"),  # type: ignore[arg-type]
        (lambda: declare(handler, on="a.b", limit=Limit(concurrent=1, key="a..b")), "is no path"),
        (lambda: declare(handler, on="a.b", limit=[Limit(concurrent=1, name="x")] * 2), "are called 'x'"),
        (
            lambda: declare(handler, on="a.b", limit=[Limit(concurrent=1), Limit(rate="1/s", name="handler")]),
            "are called 'handler'",
        ),
        (lambda: declare(handler, on="a.b", order_by=""), "is no path"),
        (lambda: declare(handler, on="a.b", order_by="data.id", on_dead="stop"), "'hold' or 'skip'"),  # type: ignore[arg-type]
        (lambda: declare(handler, on="a.b", on_dead="hold"), "without order_by"),
    ],
)
def test_what_contradicts_itself_is_refused_at_once(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidAgent, match=words):
        make()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Limit(concurrent=1, name="shared"), Limit(concurrent=2, name="shared")),
        (Limit(rate="1/s"), Limit(rate="1/s", burst=2, name="handler")),
        (
            Limit(concurrent=1, fair_by="data.id", name="x"),
            Limit(concurrent=1, fair_by="data.id", weight={"a": 2}, name="x"),
        ),
    ],
)
def test_agents_that_share_a_limit_declare_it_alike(tmp_path: Path, one: Limit, other: Limit) -> None:
    app = Pipeline("t", directory=tmp_path)
    app.agent(on="a.b", limit=one)(handler)
    app.agent(on="a.b", limit=one)(handler), "the module was imported again"
    app.agent(on="a.b", name="alike", limit=replace(one, name=one.name or "handler", key="data.of"))(handler)
    with pytest.raises(InvalidAgent, match="declare it alike"):
        app.agent(on="a.b", name="second", limit=other)(handler)
    assert "second" not in app.agents
    app.close()


@pytest.mark.parametrize("option", [{"limit": Limit(rate="1/s")}, {"order_by": "data.id"}])
def test_without_a_ledger_nothing_is_counted_over_all_workers(tmp_path: Path, option: dict[str, Any]) -> None:
    app = Pipeline("t", ledger_url="", directory=tmp_path)
    with pytest.raises(LedgerOff, match="rate_limit= and max_concurrent= count in each worker"):
        app.agent(on="a.b", **option)(handler)


def event(**more: Any) -> Event:
    return new_event("a.b", {"id": 7, "of": {"long": "x" * 200}}, source="/test", **more)


def test_the_lines_of_an_event_are_named_by_what_it_says() -> None:
    limits = [Limit(rate="1/s", key="metadata.tenant"), Limit(concurrent=2, fair_by="data.id", name="all")]
    agent = declare(handler, on="a.b", limit=limits, order_by="payload.id")
    turns = turns_of(agent, event(metadata={"tenant": "acme"}, priority=2))
    assert [turn.line for turn in turns] == ["handler:acme", "all:", "handler#order:7"]
    assert [turn.share for turn in turns] == ["", "7", ""]
    assert {turn.first for turn in turns if not turn.ordered} == {2}
    assert turns_of(agent, event())[0].line == "handler:"  # all without a tenant share one key
    assert [turn.limit for turn in turns_of(agent, event(), is_replayed=True)] == ["handler", "all"]


def test_a_long_key_is_cut_to_what_tells_it_from_others() -> None:
    agent = declare(handler, on="a.b", limit=Limit(concurrent=1, key="data.of.long"))
    (turn,) = turns_of(agent, event())
    assert len(turn.line) < 150
    assert turn.line.startswith("handler:sha256-")


def test_an_event_without_the_key_is_an_error_where_the_limit_says_so(tmp_path: Path) -> None:
    app = Pipeline("t", directory=tmp_path)
    agent = app.agent(on="a.b", limit=Limit(concurrent=1, key="metadata.tenant", missing="error"))(handler)
    delivery: Any = type("Delivery", (), {"agent": "handler", "turns": turns_of(agent, event())})
    with pytest.raises(InvalidEvent, match="which the event does not have"):
        take(app.bus, delivery)
    app.close()
