"""Schedules on the days on which the clock is changed, as docs/questions.md has them: beat's own check, each minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
import time_machine
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab

BERLIN = ZoneInfo("Europe/Berlin")
SPRING, AUTUMN = date(2026, 3, 29), date(2026, 10, 25)


def fired(day: date, **fields: int) -> list[str]:
    """Return when beat fires a crontab from one hour before the day on, by the clock on a wall in Berlin."""
    app = Celery("berlin", set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    begin = datetime.combine(day, time(), BERLIN).astimezone(UTC) - timedelta(hours=1)
    found = []
    with time_machine.travel(begin, tick=False) as clock:
        entry = ScheduleEntry(name="it", task="it", schedule=crontab(**fields, app=app), app=app)
        for minute in range(26 * 60):
            now = begin + timedelta(minutes=minute)
            clock.move_to(now)
            if entry.is_due().is_due:
                found.append(now.astimezone(BERLIN).strftime("%d. %H:%M"))
                entry = next(entry)
    return [moment for moment in found if moment.startswith(f"{day.day}.")]


@pytest.mark.parametrize(("day", "times"), [(SPRING, ["29. 07:00"]), (AUTUMN, ["25. 07:00"])])
def test_what_is_due_in_the_morning_comes_once(day: date, times: list[str]) -> None:
    assert fired(day, hour=7, minute=0) == times


def test_a_time_that_is_skipped_comes_an_hour_later_and_one_that_comes_twice_comes_once() -> None:
    assert fired(SPRING, hour=2, minute=30) == ["29. 03:30"]
    assert fired(AUTUMN, hour=2, minute=30) == ["25. 02:30"]


def test_of_each_hour_that_is_skipped_or_comes_twice_there_is_one_event_less() -> None:
    hours = [f"{hour:02}:00" for hour in range(24)]
    assert [moment.split()[1] for moment in fired(SPRING, minute=0)] == [hour for hour in hours if hour != "02:00"]
    assert [moment.split()[1] for moment in fired(AUTUMN, minute=0)] == hours
