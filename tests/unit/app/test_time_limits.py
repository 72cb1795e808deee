"""How long something may take: what is no time, or has no end, is refused where it is said, whatever says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import (
    Agent,
    ConfigError,
    Debounce,
    InvalidAgent,
    InvalidCollaboration,
    InvalidEvent,
    InvalidStep,
    Pipeline,
    Retry,
    capability,
    step,
)
from pipeline.agents.pausing.ask import asked
from pipeline.bridges import Nats
from tests.records import making_apps

#: Never a limit, whoever has it.
WRONG: tuple[Any, ...] = (0, 0.0, -1, math.nan, math.inf, -math.inf, 10**400)
#: Nor these, where a limit may be a timedelta or a text.
WORSE: tuple[Any, ...] = (*WRONG, timedelta(0), timedelta.max, "0s", "-1s", "nans", "infs", "1e400d", "soon", "", True)


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    with making_apps(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False) as make:
        yield make()


def members(app: Pipeline) -> list[Agent]:
    return [app.agent(name=name, on="order.asked")(lambda data: None) for name in ("left", "right")]


def on_join(app: Pipeline, limit: Any) -> None:
    app.join("pair", on="order.placed", agents=members(app), emits="pair.done", deadline=limit)


def on_saga(app: Pipeline, limit: Any) -> None:
    app.saga("pair", on="order.placed", steps=members(app), deadline=limit)


def on_step(app: Pipeline, limit: Any) -> None:
    app.saga("pair", on="order.placed", steps=[step(one, timeout=limit) for one in members(app)])


def on_workflow(app: Pipeline, limit: Any) -> None:
    left, right = members(app)
    app.workflow("pair", on="order.placed", steps={"a": left, "b": right}, deadline=limit)


def on_collaboration(app: Pipeline, limit: Any) -> None:
    app.collaborate("saga", [one.name for one in members(app)], {}, deadline=limit)


def on_age(app: Pipeline, limit: Any) -> None:
    app.agent(name="late", on="order.placed", max_age=limit)(lambda data: None)


def on_ask(app: Pipeline, limit: Any) -> None:
    asked("pay", None, schema=None, message=None, expires=limit, n_of=1, who=(), veto="raise")


def on_capability(app: Pipeline, limit: Any) -> None:
    capability("pay", timeout=limit)


def on_bridge(app: Pipeline, limit: Any) -> None:
    app.bridge("wms", Nats(), out="order.*", timeout=limit)


def on_debounce(app: Pipeline, limit: Any) -> None:
    Debounce(limit)


def on_request(app: Pipeline, limit: Any) -> None:
    app.request("order.asked", {}, timeout=limit)


def on_gather(app: Pipeline, limit: Any) -> None:
    app.gather("order.asked", {}, timeout=limit)


FRONTS: tuple[tuple[Callable[[Pipeline, Any], None], type[Exception]], ...] = (
    (on_join, InvalidAgent),
    (on_saga, InvalidAgent),
    (on_step, InvalidAgent),
    (on_workflow, InvalidAgent),
    (on_collaboration, InvalidCollaboration),
    (on_age, InvalidAgent),
    (on_ask, InvalidStep),
    (on_capability, InvalidAgent),
    (on_bridge, ConfigError),
    (on_debounce, InvalidAgent),
    (on_request, InvalidEvent),
    (on_gather, InvalidEvent),
)


@pytest.mark.parametrize(("front", "error"), FRONTS)
def test_what_is_no_time_or_has_no_end_is_no_limit(app: Pipeline, front: Any, error: type[Exception]) -> None:
    for limit in WORSE:
        with pytest.raises(error, match=r"give (more than 0 )?seconds|between now and a hundred years") as caught:
            front(app, limit)
        assert type(caught.value) is error, f"{limit!r}: {caught.value}"
    assert not list(app.get_events())


def on_agent(app: Pipeline, limit: Any) -> None:
    app.agent(name="slow", on="order.placed", timeout=limit)(lambda data: None)


@pytest.mark.parametrize("limit", [*WRONG, True])
def test_nor_is_it_where_a_limit_is_a_number(app: Pipeline, limit: Any) -> None:
    with pytest.raises(InvalidAgent, match="must be more than 0 seconds, and less than a century"):
        on_agent(app, limit)


def test_a_retry_does_not_wait_without_an_end() -> None:
    for wait in (math.inf, 10**400):
        with pytest.raises(InvalidAgent, match="less than a century"):
            Retry(cap=wait)


@pytest.mark.parametrize("front", [on_join, on_saga, on_step, on_workflow, on_age, on_ask, on_capability, on_bridge])
@pytest.mark.parametrize("limit", [0.5, 30, "24h", timedelta(days=7)])
def test_what_is_some_time_is_one(app: Pipeline, front: Any, limit: Any) -> None:
    front(app, limit)
