"""Replay: events once more for one agent or one function, on every ledger."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import Event, Pipeline
from pipeline.core.errors import (
    BrokerUnavailable,
    InvalidAgent,
    InvalidPattern,
    InvalidSelection,
    QueueConflict,
    UnknownEvent,
)
from pipeline.core.event import Encoded, new_event
from pipeline.ledger.database.tables import events as log
from pipeline.operations import replay as module
from pipeline.operations.replay import ReplayInterrupted
from tests.records import AWAY, Order, make_app, messages, order, rows

pytestmark = pytest.mark.usefixtures("agents")


class Clock:
    """A clock that moves on when somebody sleeps, or does something that takes time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "sleep", self.take)

    def take(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def sent(app: Pipeline, agent: str) -> list[str]:
    """Take what is in an agent's queue and return the ids."""
    return [body["id"] for _, body in messages(app, agent)]


# -- to an agent


def test_an_agent_gets_the_events_that_it_listens_to_in_order_and_nobody_else_does(app: Pipeline) -> None:
    events = app.publish_many([order(1), ("other.thing", {}), ("order.paid", {"n": 1}), order(2)])
    found = app.replay(to="billing", all=True, id="r-1")
    assert (found.id, found.number, found.skipped) == ("r-1", 3, 1)
    taken = messages(app, "billing")
    assert [body for _, body in taken] == [json.loads(events[n].encode()) for n in (0, 2, 3)]
    marks = {"replay": "r-1", "broadcast": False, "ledger": app.ledger.id, "direct": True}
    assert len({bus.pop("signature") for bus, _ in taken}) == 3
    assert [bus for bus, _ in taken] == [marks] * 3
    assert messages(app, "stock") == []
    assert rows(app, agent="billing") == [], "the ordinary deliveries are not touched"


def test_what_the_agent_emits_is_sent_to_others_only_when_that_is_wanted(app: Pipeline) -> None:
    app.publish(order())
    assert app.replay(to=app.agents["billing"], all=True, broadcast=True).number == 1
    assert messages(app, "billing")[0][0]["broadcast"] is True


def test_events_for_other_agents_only_are_left_out(app: Pipeline) -> None:
    app.publish(order(), targets=("stock",))
    mine = app.publish(order(), targets=("billing", "stock"))
    assert sent(app, "billing") == [mine.id], "when it was published"
    assert app.replay(to="billing", all=True)[1:3] == (1, 1)
    assert sent(app, "billing") == [mine.id]


def test_an_agent_that_listens_to_nothing_gets_what_named_it(app: Pipeline) -> None:
    app.ledger.subscribers.register({"member": ((), None)})
    app.publish(order())
    mine = app.publish("anything.at-all", {}, targets=("member",))
    assert sent(app, "member") == [mine.id], "when it was published"
    assert app.replay(to="member", all=True)[1:3] == (1, 1)
    assert sent(app, "member") == [mine.id]


def test_an_agent_of_another_program_is_known_from_the_ledger(app: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    event = app.publish(order())
    stranger = make_app(ledger_url, tmp_path, agents=False)
    assert stranger.replay(to="stock", all=True).number == 1
    assert sent(app, "stock") == [event.id]
    stranger.close()


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({"type": "order.placed"}, [0, 2]),
        ({"type": "order.*"}, [0, 1, 2]),
        ({"type": Order}, [0, 2]),
        ({"correlation": "c"}, [1]),
        ({"agent_id": "shop"}, [2]),
        ({"agent_id": "shop", "type": "order.paid"}, []),
        ({"all": True}, [0, 1, 2]),
    ],
)
def test_events_are_chosen_as_in_the_history(app: Pipeline, filters: dict[str, Any], numbers: list[int]) -> None:
    events = [
        app.publish(order(1)),
        app.publish("order.paid", {}, correlation_id="c"),
        app.publish(order(2), subject="shop"),
    ]
    assert app.replay(to="billing", **filters).number == len(numbers)
    assert sent(app, "billing") == [events[n].id for n in numbers]


def test_events_are_chosen_by_time_and_by_number(app: Pipeline) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    events = [new_event(order(n), source="/t").evolve(time=start + timedelta(hours=n)) for n in range(4)]
    app.publish_many(events)
    app.replay(to="billing", since=start + timedelta(hours=1), up_to=start + timedelta(hours=2))
    assert sent(app, "billing") == [events[1].id, events[2].id]
    last = rows(app, log, id=events[3].id)[0]["seq"]
    app.replay(to="billing", since=last)
    assert sent(app, "billing") == [events[3].id]


def test_single_events_are_replayed_in_the_order_of_the_log(app: Pipeline) -> None:
    one, two, three = app.publish_many([order(1), order(2), order(3)])
    assert app.replay(to="billing", ids=[three.id, one.id, three.id]).number == 2
    assert sent(app, "billing") == [one.id, three.id]
    with pytest.raises(UnknownEvent, match="nothing"):
        app.replay(to="billing", ids=[two.id, "nothing"])
    assert sent(app, "billing") == []


def test_what_another_replay_emitted_is_no_history(app: Pipeline) -> None:
    event = new_event(order(9), source="/t/agent/billing")
    app.ledger.append([Encoded(event, event.encode(), delivery="d", replay="r-0")], due_in=None)
    assert app.replay(to="billing", all=True).number == 0


def test_a_replay_ends_though_what_it_does_makes_the_log_longer(app: Pipeline) -> None:
    app.publish_many([order(n) for n in range(3)])
    seen = []

    def follow(event: Event) -> None:
        seen.append(event.id)
        app.publish(order(len(seen)))

    assert app.replay(to=follow, all=True).number == len(seen) == 3


def test_the_same_id_stands_for_the_same_deliveries(app: Pipeline) -> None:
    app.publish_many([order(1), order(2)])
    first, again = (app.replay(to="billing", all=True, id="r-1") for _ in range(2))
    assert first.number == again.number == 2
    taken = messages(app, "billing")
    assert taken[:2] == taken[2:], "the inbox sees the same ids, and runs nothing twice"
    assert app.replay(to="billing", all=True).id != app.replay(to="billing", all=True).id


def test_a_dry_run_counts_and_sends_nothing(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    app.publish_many([order(1), ("other.thing", {}), order(2)])
    calls: list[Event] = []
    assert app.replay(to="billing", all=True, dry_run=True, rate=0.001)[1:3] == (2, 1)
    assert app.replay(to=calls.append, all=True, dry_run=True).number == 3
    assert clock.now == 1000, "and waits for nothing"
    assert calls == sent(app, "billing") == []


# -- to a function


def test_a_function_is_called_with_each_event(app: Pipeline) -> None:
    events = app.publish_many([order(1), ("other.thing", {"n": 1}), order(2)])
    seen: list[Event] = []
    assert app.replay(to=seen.append, all=True).number == 3
    assert seen == events
    assert sent(app, "billing") == []


def test_an_async_function_is_awaited(app: Pipeline) -> None:
    app.publish(order())
    seen: list[str] = []

    async def later(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.type)

    app.replay(to=later, all=True)
    assert seen == ["order.placed"]


def test_an_error_of_the_function_comes_through_and_names_the_event(app: Pipeline) -> None:
    _, two = app.publish_many([order(1), order(2)])

    def check(event: Event) -> None:
        assert event.id != two.id, "the test's own"

    with pytest.raises(AssertionError, match="the test's own") as caught:
        app.replay(to=check, all=True)
    assert caught.value.__notes__[-1] == f"while order.placed {two.id} was replayed"


# -- asked wrongly


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"all": True}, InvalidSelection, "to: say who"),
        ({"all": True, "to": ""}, InvalidSelection, "to: say who"),
        ({"all": True, "to": 3}, InvalidSelection, "to: say who"),
        ({"all": True, "to": "bilin"}, InvalidAgent, "did you mean 'billing'"),
        ({"to": "billing"}, InvalidSelection, "all=True"),
        ({"to": "billing", "all": True, "type": "order.*"}, InvalidSelection, "all=True"),
        ({"to": "billing", "ids": ["x"], "type": "order.*"}, InvalidSelection, "ids"),
        ({"to": "billing", "type": "order..x"}, InvalidPattern, "order..x"),
        ({"to": "billing", "since": datetime(2026, 1, 1)}, InvalidSelection, "time zone"),
        ({"to": "billing", "all": True, "rate": 0}, InvalidSelection, "rate=0"),
        ({"to": "billing", "all": True, "rate": float("nan")}, InvalidSelection, "rate=nan"),
        ({"to": "billing", "all": True, "rate": float("inf")}, InvalidSelection, "rate=inf"),
        ({"to": "billing", "all": True, "id": "a b"}, InvalidSelection, "id='a b'"),
        ({"to": "billing", "all": True, "id": ""}, InvalidSelection, "id=''"),
        ({"to": "billing", "all": True, "id": "x" * 101}, InvalidSelection, "100 at most"),
    ],
)
def test_a_replay_that_was_asked_for_wrongly_sends_nothing(
    app: Pipeline, arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    @app.agent()
    def member(payload: Any) -> None: ...

    app.publish(order())
    with pytest.raises(error, match=match):
        app.replay(**arguments)
    assert sent(app, "billing") == sent(app, "stock") == []


# -- its pace


def test_events_are_paced_evenly(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    app.publish_many([order(n) for n in range(5)])
    times: list[float] = []
    found = app.replay(to=lambda event: times.append(clock.now), all=True, rate=4)
    assert [time - 1000 for time in times] == [0, 0.25, 0.5, 0.75, 1.0]
    assert found.seconds == 1.0


def test_lost_time_is_not_made_up_for_in_a_rush(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    app.publish_many([order(n) for n in range(4)])
    times: list[float] = []

    def work(event: Event) -> None:
        times.append(clock.now - 1000)
        if len(times) == 1:
            clock.take(10)

    app.replay(to=work, all=True, rate=2)
    assert times == [0, 10, 10.5, 11]


def test_a_high_rate_is_kept_in_small_batches(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    app.publish_many([order(n) for n in range(250)])
    batches: list[tuple[float, int]] = []
    send = app.bus.publisher.send_encoded

    def watch(batch: Any, **options: Any) -> None:
        batches.append((clock.now - 1000, len(batch)))
        send(batch, **options)

    monkeypatch.setattr(app.bus.publisher, "send_encoded", watch)
    app.replay(to="billing", all=True, rate=1000)
    assert [size for _, size in batches] == [50] * 5
    assert [time for time, _ in batches] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


# -- stopped halfway


def test_an_interrupted_replay_says_how_far_it_came_and_goes_on_with_its_id(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module._ToAgent, "size", 2)
    events = app.publish_many([order(n) for n in range(5)])

    def stop(number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt

    with pytest.raises(ReplayInterrupted, match=r"stopped after 4 events; repeat it with id='r-7'") as caught:
        app.replay(to="billing", all=True, id="r-7", progress=stop)
    assert caught.value.replayed[:2] == ("r-7", 4)
    done: list[int] = []
    assert app.replay(to="billing", all=True, id="r-7", progress=done.append).number == 5
    assert done == [2, 4, 5]
    taken = messages(app, "billing")
    assert {body["id"] for _, body in taken} == {event.id for event in events}
    assert {bus["replay"] for bus, _ in taken} == {"r-7"}


def test_a_broker_that_is_away_stops_the_replay_with_a_summary(app: Pipeline, ledger_url: str, tmp_path: Path) -> None:
    app.publish(order())
    alone = make_app(ledger_url, tmp_path, broker_url=AWAY, publish_timeout=0.3)
    with pytest.raises(BrokerUnavailable, match=r"the replay r-1 stopped after 0 events; repeat it with id='r-1'"):
        alone.replay(to="billing", all=True, id="r-1")
    alone.close()


def test_a_queue_with_other_arguments_stops_the_replay_with_a_summary(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.publish(order())

    def conflict(*_: object, **__: object) -> None:
        raise QueueConflict("the queue has other arguments")

    monkeypatch.setattr(app.bus.publisher, "send_encoded", conflict)
    with pytest.raises(QueueConflict, match=r"arguments; the replay r-1 stopped after 0 events; repeat it"):
        app.replay(to="billing", all=True, id="r-1")
