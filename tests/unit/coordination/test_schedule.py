"""Schedules: one event for one due time, however many beats there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab, schedule
from hypothesis import given
from hypothesis import strategies as st

from pipeline import InvalidAgent, InvalidEvent, Payload, Pipeline
from pipeline.coordination.schedule import as_schedule, due_event, due_time, scheduled_id
from pipeline.core.event import Event

IN_UTC = Celery("utc", set_as_current=False)
NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


class Digest(Payload, type="digest.due", version="2.0.0"):
    n: int = 1


@pytest.fixture
def app(tmp_path: Path) -> Pipeline:
    return Pipeline("test", directory=tmp_path, ledger_url="")


@pytest.mark.parametrize(
    ("when", "now", "expected"),
    [
        (crontab(), NOON, NOON),
        (crontab(hour=12, minute=0), NOON + timedelta(seconds=59, milliseconds=900), NOON),
        (crontab(hour=12, minute=0), NOON + timedelta(minutes=3), NOON),
        (crontab(), NOON + timedelta(seconds=60), NOON + timedelta(minutes=1)),
        (schedule(timedelta(seconds=10)), NOON + timedelta(seconds=9, milliseconds=999), NOON),
        (schedule(timedelta(seconds=10)), NOON + timedelta(seconds=10), NOON + timedelta(seconds=10)),
        (schedule(timedelta(hours=1)), NOON + timedelta(minutes=59), NOON),
        (schedule(timedelta(days=1)), NOON, NOON.replace(hour=0)),
        (BaseSchedule(), NOON + timedelta(milliseconds=300), NOON),
    ],
)
def test_a_moment_belongs_to_one_due_time(when: Any, now: datetime, expected: datetime) -> None:
    when.app = IN_UTC
    assert due_time(when, now) == expected


def test_the_due_time_does_not_depend_on_the_time_zone() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert due_time(crontab(), elsewhere) == NOON
    assert due_time(crontab(), elsewhere).tzinfo is UTC


MOMENTS = st.datetimes(timezones=st.just(UTC), min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1))


@given(st.integers(1, 10**6), MOMENTS)
def test_a_due_time_is_a_multiple_of_the_interval_at_most_one_interval_ago(seconds: int, now: datetime) -> None:
    due = due_time(schedule(timedelta(seconds=seconds)), now)
    assert int(due.timestamp()) % seconds == 0
    assert timedelta(0) <= now - due < timedelta(seconds=seconds + 1)


def test_two_beats_publish_one_and_the_same_event(app: Pipeline, tmp_path: Path) -> None:
    other = Pipeline("test", directory=tmp_path / "other")
    for one in (app, other):
        one.schedule("digest", 60, Digest(n=3))
    first = due_event(app.schedules, app.source, "digest", NOON + timedelta(seconds=1))
    second = due_event(other.schedules, other.source, "digest", NOON + timedelta(seconds=58))
    assert first == second
    assert (first.id, first.time) == (scheduled_id("/test/schedule/digest", NOON), NOON)
    assert (first.type, first.schema_version, first.data) == ("digest.due", "2.0.0", {"n": 3})
    assert first.source == "/test/schedule/digest"


@pytest.mark.parametrize(
    ("when", "late", "due"),
    [
        (crontab(hour=7, minute=0), "2026-03-02 07:03:10", "2026-03-02 07:00"),
        (crontab(hour=7, minute=0), "2026-03-02 06:59:59", "2026-03-01 07:00"),
        (crontab(hour="*/6", minute=30), "2026-03-02 00:29", "2026-03-01 18:30"),
        (crontab(minute="*/15"), "2026-03-02 10:44:59", "2026-03-02 10:30"),
        (crontab(minute=0, hour=9, day_of_week="mon-fri"), "2026-03-01 12:00", "2026-02-27 09:00"),
        (crontab(minute=0, hour=0, day_of_week="sun"), "2026-03-07 23:59", "2026-03-01 00:00"),
        (crontab(minute=0, hour=0, day_of_month=31), "2026-05-30 12:00", "2026-03-31 00:00"),
        (crontab(minute=0, hour=0, day_of_month=29, month_of_year=2), "2027-03-01 12:00", "2024-02-29 00:00"),
    ],
)
def test_a_crontab_is_due_at_its_last_minute_however_late_one_looks(when: crontab, late: str, due: str) -> None:
    when.app = IN_UTC
    assert due_time(when, datetime.fromisoformat(late).replace(tzinfo=UTC)) == datetime.fromisoformat(due + "+00:00")


def test_a_crontab_is_in_the_time_zone_of_its_app(app: Pipeline) -> None:
    app.celery.conf.timezone = "Europe/Berlin"
    app.schedule("digest", crontab(hour=7, minute=0), "digest.due", {})
    event = due_event(app.schedules, app.source, "digest", datetime(2026, 7, 1, 5, 40, tzinfo=UTC))
    assert event.time == datetime(2026, 7, 1, 5, 0, tzinfo=UTC)


def in_berlin(**fields: Any) -> crontab:
    berlin = Celery("berlin", set_as_current=False)
    berlin.conf.timezone = "Europe/Berlin"
    return crontab(**fields, app=berlin)


def test_no_due_time_is_lost_or_comes_back_when_the_clock_is_changed() -> None:
    for when in (in_berlin(hour=2, minute=30), in_berlin(minute="*/20")):
        for begin in (datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)):
            found = [due_time(when, begin + timedelta(minutes=each)) for each in range(36 * 60)]
            assert found == sorted(found)
            assert all(begin + timedelta(minutes=each) - due < timedelta(hours=26) for each, due in enumerate(found))
    skipped = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)  # 02:00 in Berlin is 03:00
    assert due_time(in_berlin(hour=2, minute=30), skipped) > skipped - timedelta(hours=2), "it is not yesterday's"


@given(MOMENTS, st.integers(0, 23), st.integers(0, 59), st.integers(0, 6))
def test_all_moments_between_two_due_times_belong_to_the_first(now: datetime, hour: int, minute: int, day: int) -> None:
    when = crontab(hour=hour, minute=minute, day_of_week=day, app=IN_UTC)
    due = due_time(when, now)
    assert (due.hour, due.minute, due.isoweekday() % 7) == (hour, minute, day)
    assert timedelta(0) <= now - due < timedelta(days=7)
    assert due_time(when, due) == due


def test_schedules_of_one_name_in_two_apps_publish_events_of_their_own(app: Pipeline, tmp_path: Path) -> None:
    other = Pipeline("other", directory=tmp_path, ledger_url="")
    for one in (app, other):
        one.schedule("digest", 60, "digest.due", {})
    ids = [
        due_event(one.schedules, one.source, "digest", NOON, namespace=namespace).id
        for one in (app, other)
        for namespace in ("", "blue")
    ]
    assert len(set(ids)) == 4


def test_what_beat_publishes_has_the_namespace_in_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for namespace in ("", "blue"):
        app = Pipeline("test", directory=tmp_path, ledger_url="", namespace=namespace)
        monkeypatch.setattr(app.bus.publisher, "send_encoded", lambda batch, **_: None)
        app.schedule("digest", crontab(hour=7, minute=0, day_of_month=1), "digest.due", {})
        found.append(app.celery.tasks["pipeline.publish_scheduled"].run("digest"))
    assert found[0] != found[1]


def test_the_next_due_time_and_another_schedule_give_other_events(app: Pipeline) -> None:
    for name in ("one", "two"):
        app.schedule(name, 60, "digest.due", {"n": 1})
    ids = {
        due_event(app.schedules, app.source, name, now).id
        for name in ("one", "two")
        for now in (NOON, NOON + timedelta(seconds=60))
    }
    assert len(ids) == 4


@pytest.mark.parametrize("when", [1, 2.5, timedelta(minutes=5)])
def test_an_interval_is_a_timedelta_or_seconds(when: Any) -> None:
    found = as_schedule("digest", when)
    assert found.run_every == (when if isinstance(when, timedelta) else timedelta(seconds=when))


def test_celerys_own_schedules_are_taken_as_they_are() -> None:
    given = crontab(hour=7)
    assert as_schedule("digest", given) is given


@pytest.mark.parametrize(
    "when", [0, 0.5, -1, True, None, "* * * * *", timedelta(milliseconds=10), float("nan"), float("inf"), 1e300]
)
def test_what_is_no_schedule_is_refused_by_name(when: Any) -> None:
    with pytest.raises(InvalidAgent, match=r"schedule 'digest': .* is neither a crontab"):
        as_schedule("digest", when)


def test_a_schedule_is_beats_own_entry(app: Pipeline) -> None:
    app.schedule("digest", crontab(hour=7), Digest())
    entry = app.celery.conf.beat_schedule["digest"]
    assert (entry["schedule"], entry["task"], tuple(entry["args"])) == (
        crontab(hour=7),
        "pipeline.publish_scheduled",
        ("digest",),
    )


def test_beat_publishes_by_itself_instead_of_sending_a_task(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Event] = []
    monkeypatch.setattr(app.bus.publisher, "send_encoded", lambda batch, **_: sent.extend(each.event for each in batch))
    app.schedule("digest", 3600, Digest())
    app.celery.tasks["pipeline.publish_scheduled"].apply_async(("digest",))
    assert [event.type for event in sent] == ["digest.due"]


def test_a_wrong_schedule_fails_when_it_is_declared(app: Pipeline) -> None:
    with pytest.raises(InvalidEvent, match="type"):
        app.schedule("digest", 60, "no type")
    with pytest.raises(InvalidEvent, match="data: a typed payload already is the data"):
        app.schedule("digest", 60, Digest(), {"n": 1})
    app.schedule("digest", 60, Digest())
    with pytest.raises(InvalidAgent, match="'digest' is declared twice"):
        app.schedule("digest", 60, Digest())


def test_a_schedule_that_is_gone_says_how_to_declare_it(app: Pipeline) -> None:
    with pytest.raises(InvalidAgent, match=r"no schedule is called 'old'; declare it with app\.schedule\('old'"):
        due_event(app.schedules, app.source, "old", NOON)
