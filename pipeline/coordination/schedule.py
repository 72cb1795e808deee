"""Scheduled events: beat publishes them itself, under an id that follows from the schedule and its due time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from celery import Task
from celery.schedules import BaseSchedule, crontab, schedule

from ..core.errors import InvalidAgent
from ..core.event import Event, Payload, new_event
from ..core.times import CENTURY

if TYPE_CHECKING:
    from ..bus import Bus

SCHEDULED = "pipeline.publish_scheduled"
#: When, and what: a payload, or an event type and its data.
Scheduled = tuple[BaseSchedule, Payload | str, Any]
#: Days after which every crontab has matched, the 29th of February on a certain weekday too.
LONGEST_GAP = 40 * 366
SCHEDULE_IDS = uuid5(UUID(int=0), "pipeline/schedules")


class PublishScheduled(Task):  # type: ignore[misc]  # celery's classes are untyped
    """The task of a scheduled event: instead of being sent to a worker, it publishes where it is called, in beat.

    That works with any scheduler that calls `apply_async`, such as the one of django-celery-beat.
    """

    name = SCHEDULED
    ignore_result = True

    bus: Bus
    schedules: Mapping[str, Scheduled]

    def run(self, name: str) -> str:
        """Publish what schedule `name` says is due now, and return the event's id."""
        namespace = self.bus.settings.namespace
        event = due_event(self.schedules, self.bus.source, name, self.app.now(), namespace=namespace)
        self.bus.outbox.publish([event])
        return event.id

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> None:
        """Publish; raises BrokerUnavailable, which beat logs before it goes on with the next entry."""
        self.run(*(args or ()), **(kwargs or {}))


def due_event(
    schedules: Mapping[str, Scheduled], source: str, name: str, now: datetime, *, namespace: str = ""
) -> Event:
    """Return the event that schedule `name` is due to publish at `now`; two beats of one app get the same one.

    Arguments:
        source: the CloudEvents source of the app.
        namespace: the app's, which tells it from others of its name.

    """
    if name not in schedules:
        raise InvalidAgent(f"no schedule is called {name!r}; declare it with app.schedule({name!r}, ...)")
    when, what, data = schedules[name]
    due = due_time(when, now)
    source = f"{source}/schedule/{name}"
    event = new_event(what, data, source=source, id=scheduled_id(source, due, namespace=namespace))
    return event.evolve(time=due)


def as_schedule(name: str, when: Any) -> BaseSchedule:
    """Return Celery's schedule for a crontab, a timedelta or a number of seconds."""
    if isinstance(when, BaseSchedule):
        return when
    if isinstance(when, (int, float)) and not isinstance(when, bool) and 1 <= when < CENTURY:
        when = timedelta(seconds=when)
    if not isinstance(when, timedelta) or when.total_seconds() < 1:
        raise InvalidAgent(f"schedule {name!r}: {when!r} is neither a crontab(...) nor an interval of 1 second or more")
    return schedule(when)


def due_time(when: BaseSchedule, now: datetime) -> datetime:
    """Return the due time that `now` belongs to: a crontab's last minute, or a multiple of the interval since 1970.

    Two beats that fire for the same occasion compute the same time, whenever each of them was started, and however
    late one of them looks at a crontab.
    """
    now = now.astimezone(UTC)
    if isinstance(when, crontab):
        return _last_match(when, now)
    interval = max(1, int(when.run_every.total_seconds())) if isinstance(when, schedule) else 1
    seconds = int(now.timestamp())
    return datetime.fromtimestamp(seconds - seconds % interval, UTC)


def _last_match(when: crontab, now: datetime) -> datetime:
    """Return the last minute at or before `now` that a crontab matches, in the time zone of its app."""
    local = now.astimezone(when.tz)
    for age in range(LONGEST_GAP):
        day = local.date() - timedelta(days=age)
        if (
            day.month in when.month_of_year
            and day.day in when.day_of_month
            and day.isoweekday() % 7 in when.day_of_week
            and (moments := [each for each in _moments(when, day) if each <= now])
        ):
            return max(moments)
    return now.replace(second=0, microsecond=0)  # Celery does not fire one that never matches


def _moments(when: crontab, day: date) -> Iterator[datetime]:
    """Yield the minutes of a day that a crontab matches; none is left out when the clock is put forward."""
    for hour, minute, fold in product(when.hour, when.minute, (0, 1)):
        wall = datetime.combine(day, time(hour, minute, fold=fold), when.tz)
        moment = wall.astimezone(UTC)
        # A time that the clock skips is one moment, one that comes twice is two.
        if fold == 1 or moment.astimezone(when.tz).replace(tzinfo=None) == wall.replace(tzinfo=None):
            yield moment


def scheduled_id(source: str, due: datetime, *, namespace: str = "") -> str:
    """Return the id of the event that the schedule with that CloudEvents source publishes for the due time."""
    return str(uuid5(SCHEDULE_IDS, f"{namespace}:{source}@{due.isoformat()}"))
