"""One at a time, and the last of many, as they are declared: what contradicts itself is said at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import Debounce, InvalidAgent, LedgerOff, Limit, Pipeline, Singleton
from pipeline.agents.declare import declare
from pipeline.core.errors import InvalidEvent
from pipeline.core.event import Event, new_event
from pipeline.core.limits.limit import reason_for
from pipeline.core.times import SECOND
from pipeline.delivery.turns.quiet import quiet_for
from pipeline.delivery.turns.turns import turns_of


def handler(data: dict[str, Any]) -> None: ...


def agent(**options: Any) -> Any:
    return declare(handler, on="a.b", **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Singleton(when="drop"), "'skip', 'queue' or 'cancel'"),  # type: ignore[arg-type]
        (lambda: Singleton(missing="drop"), "'shared' or 'error'"),  # type: ignore[arg-type]
        (lambda: Debounce(0), "more than 0 seconds"),
        (lambda: Debounce("soon"), "is no duration"),
        (lambda: Debounce("1m", "30s"), "shorter than the quiet time"),
        (lambda: Debounce("1m", missing="drop"), "'shared' or 'error'"),  # type: ignore[arg-type]
        (lambda: agent(singleton="drop"), "agent 'handler': .*'skip', 'queue' or 'cancel'"),
        (lambda: agent(singleton=1), "neither a Singleton"),
        (lambda: agent(singleton=Singleton(key="a..b")), "is no path"),
        (lambda: agent(singleton="skip", order_by="data.id"), "leave singleton= out, or order_by="),
        (lambda: agent(singleton="skip", limit=Limit(concurrent=3)), "leave one of them out"),
        (lambda: agent(debounce="soon"), "agent 'handler': .*is no duration"),
        (lambda: agent(debounce=True), "is no duration"),
        (lambda: agent(debounce=Debounce("1s", key="")), "is no path"),
        (lambda: agent(debounce="1s", order_by="data.id"), "leave one of them out"),
    ],
)
def test_what_contradicts_itself_is_refused_at_once(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidAgent, match=words):
        make()


@pytest.mark.parametrize("option", [{"singleton": "skip"}, {"debounce": "30s"}])
def test_without_a_ledger_there_is_none(tmp_path: Path, option: dict[str, Any]) -> None:
    app = Pipeline("t", ledger_url="", directory=tmp_path)
    with pytest.raises(LedgerOff, match="singleton= and debounce= count over all workers"):
        app.agent(on="a.b", **option)(handler)


def event(**more: Any) -> Event:
    return new_event("a.b", {"id": 7}, source="/test", **more)


def test_a_short_form_says_the_same() -> None:
    assert agent(singleton="queue").singleton == Singleton(when="queue")
    for quiet in (30, "30s", timedelta(seconds=30)):
        debounce = agent(debounce=quiet).debounce
        assert (debounce.quiet_time, debounce.most_time) == (30 * SECOND, 300 * SECOND)


def test_a_singleton_is_a_limit_of_one_beside_others() -> None:
    limits = [Limit(rate="1/s"), Limit(concurrent=5)]
    found = agent(singleton=Singleton(key="data.id"), limit=limits)
    assert {name: rule.concurrent for name, rule in found.rules.items()} == {
        "handler": None, "handler#2": 5, "handler#singleton": 1,
    }  # fmt: skip
    turns = turns_of(found, event())
    assert [turn.line for turn in turns] == ["handler:", "handler#2:", "handler#singleton:7"]
    assert [turn.kept for turn in turns] == [False, False, True]
    assert reason_for(turns[2].line) == "waits until the one that runs has ended for '7'"
    lenient = agent(singleton=Singleton(key="metadata.tenant"))
    assert [turn.key for turn in turns_of(lenient, event())] == [""]
    strict = agent(singleton=Singleton(key="metadata.tenant", missing="error"))
    assert [turn.key for turn in turns_of(strict, event())] == [None]


def test_what_waits_for_a_quiet_time_says_for_which() -> None:
    debounce = Debounce("30s", key="data.id")
    wait = quiet_for(agent(debounce=debounce), debounce, event())
    assert (wait.reason, wait.key) == ("waits for a quiet time of 30 s for '7'", "handler#debounce:7")
    strict = Debounce("30s", key="metadata.tenant", missing="error")
    with pytest.raises(InvalidEvent, match=r"goes by metadata\.tenant, which the event does not have"):
        quiet_for(agent(debounce=strict), strict, event())


def test_nothing_of_it_goes_beside_what_counts_it(tmp_path: Path) -> None:
    assert agent(singleton="skip").is_limited
    assert not agent(debounce="1s").is_limited
    app = Pipeline("t", directory=tmp_path)
    app.agent(on="a.b", singleton="skip")(handler)
    with pytest.raises(InvalidAgent, match="is one at a time"):
        app.limits.set("handler#singleton", concurrent=3)
    app.close()
