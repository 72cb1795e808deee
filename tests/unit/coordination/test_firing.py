"""What is due is said by the scheduler that fires: Celery's own, in this process, with clocks of ours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import VERSION, Celery
from celery.beat import Scheduler
from celery.schedules import BaseSchedule, crontab, schedule, solar

from pipeline import Event, InvalidAgent, Pipeline
from pipeline.coordination.schedule import due_time

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
TASK = "pipeline.publish_scheduled"


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Weekly(BaseSchedule):  # type: ignore[misc]  # celery's classes are untyped
    """A schedule as users write them: Celery asks it when the next time comes."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        week = timedelta(days=7)
        first = datetime(2026, 1, 1, 8, 30, tzinfo=UTC)
        following: datetime = first + week * ((last_run_at - first) // week + 1)
        return following - self.now()

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        left = self.remaining_estimate(last_run_at).total_seconds()
        return left <= 0, max(left, 0)


@pytest.fixture
def beat(app: Pipeline) -> Callable[[], Scheduler]:
    return lambda: Scheduler(app.celery, schedule={})


def fire(scheduler: Scheduler, name: str) -> None:
    scheduler.apply_entry(scheduler.schedule[name])


def at(when: BaseSchedule, now: datetime, app: Pipeline) -> BaseSchedule:
    when.nowfun, when.app = Clock(now), app.celery
    return when


@pytest.mark.parametrize(
    ("changed", "now", "due"),
    [
        (schedule(60), NOON + timedelta(seconds=130), NOON + timedelta(minutes=2)),
        (schedule(0.5), NOON + timedelta(seconds=1.7), NOON + timedelta(seconds=1.5)),
        (schedule(2.5), NOON + timedelta(seconds=8), NOON + timedelta(seconds=7.5)),
        (schedule(0), NOON + timedelta(seconds=1.7), NOON + timedelta(seconds=1)),
        (crontab(hour=9, minute=15), NOON, NOON.replace(hour=9, minute=15)),
        (Weekly(), NOON, datetime(2026, 4, 30, 8, 30, tzinfo=UTC)),
        (solar("sunset", 0, 0), NOON, datetime(2026, 5, 3, 18, 0, tzinfo=UTC)),
        pytest.param(
            solar("sunrise", 80, 0),
            datetime(2026, 12, 24, tzinfo=UTC),
            datetime(2026, 10, 21, 11, 23, tzinfo=UTC),
            marks=pytest.mark.skipif(VERSION[:2] < (5, 7), reason="Celery 5.6 waits in vain for a sun that stays down"),
        ),
    ],
)
def test_a_changed_entry_is_due_when_its_scheduler_says(
    changed: BaseSchedule, now: datetime, due: datetime, app: Pipeline, beat: Any, sent: list[Event]
) -> None:
    app.schedule("digest", 3600, "digest.due", {"n": 1})
    for late in (timedelta(0), timedelta(milliseconds=400)):  # two beats
        scheduler = beat()
        scheduler.schedule["digest"].schedule = at(changed, now + late, app)
        fire(scheduler, "digest")
    assert abs(sent[0].time - due) < timedelta(minutes=5 if isinstance(changed, solar) else 0, microseconds=1)
    if not (isinstance(changed, schedule) and changed.seconds < 1):
        assert sent[0].id == sent[1].id


def test_an_entry_that_nobody_declared_says_itself_what_is_published(
    app: Pipeline, beat: Any, sent: list[Event]
) -> None:
    app.celery.conf.beat_schedule = {
        "own": {"task": TASK, "schedule": at(schedule(60), NOON, app), "args": ("own", "own.due", {"n": 1})},
        "named": {"task": TASK, "schedule": 60, "kwargs": {"name": "named", "what": "named.due"}},
        "lost": {"task": TASK, "schedule": 60, "args": ("lost",)},
    }
    scheduler = beat()
    for name in ("own", "named", "lost"):
        fire(scheduler, name)
    assert [(event.type, event.source, event.data) for event in sent] == [
        ("own.due", "/test/schedule/own", {"n": 1}),
        ("named.due", "/test/schedule/named", None),
    ]
    assert sent[0].time == NOON
    with pytest.raises(InvalidAgent, match=r"no schedule is called 'lost'; .* args=\['lost', 'digest.due', \{\}\]"):
        app.celery.tasks[TASK].apply_async(("lost",))


def test_an_entry_by_hand_is_a_declared_schedule_at_other_times(app: Pipeline, beat: Any, sent: list[Event]) -> None:
    app.schedule("digest", crontab(hour=7, minute=0), "digest.due", {"n": 1})
    entry = {"task": TASK, "schedule": at(schedule(60), NOON + timedelta(seconds=90), app), "args": ("digest",)}
    app.celery.conf.beat_schedule["digest, often"] = entry
    fire(beat(), "digest, often")
    assert [(event.time, event.data) for event in sent] == [(NOON + timedelta(minutes=1), {"n": 1})]


def test_what_is_published_by_hand_is_published_each_time(app: Pipeline, sent: list[Event]) -> None:
    app.schedule("digest", crontab(hour=7, minute=0), "digest.due")
    for _ in range(2):
        app.celery.tasks[TASK].apply_async(("digest",))
    assert len({event.id for event in sent}) == 2
    assert all(datetime.now(UTC) - event.time < timedelta(minutes=5) for event in sent)


def test_the_due_time_is_in_the_schedules_own_clock(app: Pipeline, beat: Any, sent: list[Event]) -> None:
    naive = crontab(hour=7, minute=0, nowfun=lambda: datetime(2026, 5, 4, 7, 2))  # Celery takes it for UTC
    app.celery.conf.timezone = "Asia/Kolkata"
    app.schedule("digest", naive, "digest.due")
    fire(beat(), "digest")
    assert sent[0].time == datetime(2026, 5, 4, 1, 30, tzinfo=UTC)


def fired(when: BaseSchedule, begin: datetime, days: int) -> list[datetime]:
    """Return when a beat fires, which looks as Celery's does: at the latest every five minutes, and a little late."""
    clock = Clock(begin.astimezone(when.tz))
    when.nowfun, last, found = clock, clock.now, []
    while clock.now < begin + timedelta(days=days):
        due, following = when.is_due(last)
        if due:
            last = clock.now
            found.append(clock.now.astimezone(UTC))
        clock.now = (clock.now.astimezone(UTC) + timedelta(seconds=min(following, 300) + 0.03)).astimezone(when.tz)
    return found


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
@pytest.mark.parametrize(
    "fields", [{"hour": 2, "minute": 30}, {"minute": "*/20"}, {"hour": "1,2,3", "minute": 15}, {"hour": 0, "minute": 0}]
)
def test_each_time_that_celery_fires_has_a_due_time_of_its_own_when_the_clock_is_changed(
    zone: str, fields: Any
) -> None:
    celery = Celery("zoned", set_as_current=False)
    celery.conf.timezone = zone
    when = crontab(**fields, app=celery)
    for begin in ("03-07", "03-28", "04-04", "10-03", "10-24", "10-31"):
        times = fired(when, datetime.fromisoformat(f"2026-{begin}T12:00:00+00:00"), 2)
        due = [due_time(when, time) for time in times]
        assert due == sorted(set(due))
        assert all(
            timedelta(0) <= time - each < timedelta(hours=1, minutes=1) for time, each in zip(times, due, strict=True)
        )


def test_each_sunset_that_celery_fires_has_one_minute_however_late_one_looks() -> None:
    celery = Celery("zoned", set_as_current=False)
    when = solar("sunset", 52.5, 13.4, app=celery)
    times = fired(when, datetime(2026, 3, 20, 12, tzinfo=UTC), 14)
    due = [due_time(when, time) for time in times]
    assert len(times) == len(set(due)) == 14
    assert due == [due_time(when, time + timedelta(minutes=9)) for time in times]
