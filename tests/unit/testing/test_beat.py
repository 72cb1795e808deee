"""Schedules in virtual time: what beat would publish, once each, when it is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from celery.beat import SchedulingError
from celery.schedules import BaseSchedule, crontab, schedstate

from pipeline import Context, Event, Payload, Pipeline
from pipeline.testing import Simulation, TestedBus

START = datetime(2030, 1, 1, tzinfo=UTC)


class Digest(Payload, type="digest.due"):
    kind: str


@pytest.fixture
def app(tmp_path: Path) -> Pipeline:
    app = Pipeline("shop", directory=tmp_path)

    @app.agent(on="#")
    def hear(event: Event) -> None: ...

    return app


def times(bus: TestedBus, type: str) -> list[datetime]:
    return [event.time for event in bus.published(type)]


def test_an_hourly_event_is_published_24_times_a_day_at_its_times_and_handled(app: Pipeline) -> None:
    app.schedule("hourly", timedelta(hours=1), "digest.due", {"kind": "hourly"})
    with app.testing(start=START) as bus:
        bus.settle()
        assert not bus.published()
        bus.advance("1d")
        hours = [START + timedelta(hours=n) for n in range(1, 49)]
        assert times(bus, "digest.due") == hours[:24]
        bus.advance("12h")
        bus.advance("12h")
        assert times(bus, "digest.due") == hours
        (event,) = bus.published("digest.due")[:1]
        assert event.source.endswith("/schedule/hourly")
        assert [one.agent for one in app.trace(event).roots[0].deliveries] == ["hear"]


def test_a_crontab_is_in_the_time_zone_of_the_app_also_when_the_clock_is_changed(app: Pipeline) -> None:
    app.celery.conf.timezone = "Europe/Berlin"
    app.schedule("daily", crontab(hour="7", minute="30"), Digest(kind="daily"))
    with app.testing(start=datetime(2030, 3, 30, tzinfo=UTC)) as bus:
        bus.advance("2d")
        assert times(bus, "digest.due") == [
            datetime(2030, 3, 30, 6, 30, tzinfo=UTC),
            datetime(2030, 3, 31, 5, 30, tzinfo=UTC),
        ]


def test_waiting_within_a_time_takes_the_schedules_of_that_time_with_it(app: Pipeline) -> None:
    app.schedule("hourly", 3600, "digest.due", {})
    with app.testing(start=START) as bus:
        bus.settle(within="2h")
        assert len(bus.published("digest.due")) == 2


def test_what_was_taken_out_of_beats_settings_is_not_published(app: Pipeline) -> None:
    app.schedule("hourly", 3600, "digest.due", {})
    app.schedule("daily", timedelta(days=1), "day.begun", {})
    del app.celery.conf.beat_schedule["hourly"]
    with app.testing(start=START) as bus:
        bus.advance("1d")
        assert [event.type for event in bus.published()] == ["day.begun"]


def test_tasks_that_beat_sends_run_too(app: Pipeline) -> None:
    ran = list[int]()

    @app.celery.task(name="count")
    def count(number: int) -> None:
        ran.append(number)

    app.celery.conf.beat_schedule["counting"] = {"task": "count", "schedule": 600.0, "args": (7,)}
    with app.testing(start=START) as bus:
        bus.advance("1h")
    assert ran == [7] * 6


def test_a_schedule_of_your_own_is_asked_as_beat_asks_it(app: Pipeline) -> None:
    class Twice(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> Any:
            at = self.now()
            return schedstate(at.hour in {5, 17} and at - last_run_at > timedelta(hours=2), 1800)

        def remaining_estimate(self, last_run_at: datetime) -> timedelta:
            return timedelta(0)

    app.schedule("twice", Twice(), "digest.due", {})
    with app.testing(start=START) as bus:
        bus.advance("2d")
        assert len(bus.published("digest.due")) == 4


def test_a_killed_worker_changes_nothing_for_beat(app: Pipeline) -> None:
    app.schedule("hourly", 3600, "digest.due", {})
    with app.testing(start=START) as bus:
        bus.crash("hear", at="after_handler", times=3)
        bus.advance("6h")
        assert len(bus.published("digest.due")) == 6


def test_a_schedule_that_cannot_be_published_fails_the_test(app: Pipeline) -> None:
    app.celery.conf.beat_schedule["odd"] = {"task": "pipeline.publish_scheduled", "schedule": 60, "args": ("odd",)}
    with app.testing(start=START) as bus, pytest.raises(SchedulingError, match="no schedule is called 'odd'"):
        bus.advance("1h")


def test_the_apps_own_schedules_are_as_they_were(app: Pipeline) -> None:
    app.schedule("hourly", 3600, "digest.due", {})
    when = app.celery.conf.beat_schedule["hourly"]["schedule"]
    with app.testing(start=START) as bus:
        bus.advance("1h")
    assert when.nowfun is None
    assert abs(when.now() - datetime.now(UTC)) < timedelta(minutes=5)


def test_a_simulation_ends_although_schedules_never_do(app: Pipeline) -> None:
    @app.agent(on="order.placed")
    def wait(event: Event, ctx: Context) -> None:
        ctx.sleep("1d")

    app.schedule("hourly", 3600, "digest.due", {})
    seen = list[Event]()

    def look(bus: TestedBus) -> None:
        seen.extend(bus.published("digest.due"))

    def order(chance: Random, number: int) -> tuple[str, Any]:
        return "order.placed", {"number": number}

    Simulation(app, order, seed=1, invariants=[look]).run(events=20)
    assert 10 < len(seen) <= 20
