"""A trace as bars: where they begin, how long they are, and what is said beside them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.core.outcome import Outcome
from pipeline.history.tree import DeliveryNode, EventNode, StepNode, Trace
from pipeline.http.page.waterfall import NARROWEST, lines_of, seconds, span_of
from pipeline.ledger.bounding.budget import Amounts

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(after: float) -> datetime:
    return START + timedelta(seconds=after)


def event(id: str, after: float, *children: DeliveryNode) -> EventNode:
    return EventNode(
        id, f"type.{id}", "/shop", 5, at(after), at(after), (0, 1), None, None, (), None, id, children=list(children)
    )


def delivery(
    outcome: Outcome, started: float | None, ended: float | None, due: float | None = None, error: str | None = None
) -> DeliveryNode:
    times = [None if one is None else at(one) for one in (started, ended, due)]
    return DeliveryNode("d", "agent", outcome, 2 if error else 1, times[0], times[1], times[2], None, error, None)


def test_bars_stand_on_one_scale_and_steps_within_their_delivery() -> None:
    done = delivery(Outcome.SUCCEEDED, 1, 4)
    done.steps = [StepNode("charge", 0, at(2), at(3)), StepNode("charge", 1, at(3), at(4))]
    done.children = [event("b", 4, delivery(Outcome.SUCCEEDED, 5, 10))]
    lines = lines_of(Trace("c", [event("a", 0, done)], []))
    assert [(one.kind, one.label, one.depth) for one in lines] == [
        ("event", "type.a", 0),
        ("delivery", "agent", 1),
        ("step", "charge", 2),
        ("step", "charge (2)", 2),
        ("event", "type.b", 2),
        ("delivery", "agent", 3),
    ]
    assert [(one.x, one.width) for one in lines] == [
        (0, NARROWEST), (10, 30), (20, 10), (30, 10), (40, NARROWEST), (50, 50),
    ]  # fmt: skip
    assert lines[1].note == "3.0 s"


def test_what_runs_reaches_until_now_and_what_waits_says_for_what() -> None:
    runs = delivery(Outcome.RUNNING, 1, None)
    waits = delivery(Outcome.PARKED, 0, 1, due=3600, error="waits for an approval")
    trace = Trace("c", [event("a", 0, runs, waits)], [])
    assert span_of(trace, at(5)) == (at(0), at(5))
    _, running, waiting = lines_of(trace, at(5))
    assert (running.x, running.width) == (20, 80)
    assert waiting.note == "1.0 s, 2 attempts, due 01:00:00, waits for an approval"
    assert waiting.said.startswith("agent parked 1.0 s")


def test_what_a_delivery_has_cost_stands_beside_its_bar() -> None:
    trace = Trace("c", [event("a", 0, delivery(Outcome.SUCCEEDED, 1, 2))], [])
    _, line = lines_of(trace, at(2), {"d": Amounts(tokens=1200, cost=34_500, events=0)})
    assert line.note == "1.0 s, 1,200 tokens, cost 0.0345"


def test_no_bar_is_outside_of_the_picture() -> None:
    early = delivery(Outcome.SUCCEEDED, -5, 20)  # clocks differ
    for line in lines_of(Trace("c", [event("a", 0, early)], []), at(1)):
        assert 0 <= line.x <= 100
        assert 0 < line.width <= 100 - line.x


@pytest.mark.parametrize(
    ("value", "said"), [(0.0004, "0 ms"), (0.25, "250 ms"), (3.44, "3.4 s"), (119, "119.0 s"), (300, "5 min")]
)
def test_times_are_said_in_words(value: float, said: str) -> None:
    assert seconds(value) == said
