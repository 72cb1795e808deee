"""Scheduled events: beat publishes them itself, under an id that follows from the schedule and its due time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from celery import Task
from celery.schedules import BaseSchedule, crontab, schedule, solar

from ..contracts.blobs.blob import may_hold_blobs
from ..core.errors import InvalidAgent
from ..core.event import Event, Payload, new_event
from ..core.times import CENTURY, as_json_time

if TYPE_CHECKING:
    from ..bus import Bus

SCHEDULED = "pipeline.publish_scheduled"
#: When, and what: a payload, or an event type and its data.
Scheduled = tuple[BaseSchedule, Payload | str, Any]
#: Days after which every crontab has matched, the 29th of February on a certain weekday too.
LONGEST_GAP = 40 * 366
#: What a schedule's two answers for one due time may lie apart.
ROUNDING = timedelta(seconds=0.5)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEDULE_IDS = uuid5(UUID(int=0), "pipeline/schedules")


class PublishScheduled(Task):  # type: ignore[misc]  # celery's classes are untyped
    """The task of a scheduled event: instead of being sent to a worker, it publishes where it is called, in beat.

    That works with every scheduler of Celery's, such as the one of django-celery-beat, whose entries change while it
    runs: what is due, and when, the entry says that fires.
    """

    name = SCHEDULED
    ignore_result = True

    bus: Bus
    schedules: Mapping[str, Scheduled]

    def run(self, name: str, what: str | None = None, data: Any = None) -> str:
        """Publish the event that schedule `name` was declared with, and return its id.

        Arguments:
            name: the schedule's; with the due time it determines the event's id.
            what: the event type, for an entry of beat that says itself what is published; then no schedule of that
                name has to be declared.
            data: the data that goes with it.

        """
        schedules, when = self.schedules, firing()
        if what is not None:
            schedules = {name: (when or BaseSchedule(app=self.app), what, data)}
        now = when.maybe_make_aware(when.now()) if when else self.app.now()
        if when is None and self.request.called_directly:
            when = ByHand()
        bus = self.bus
        event = due_event(
            schedules,
            bus.source,
            name,
            now,
            when=when,
            namespace=bus.settings.namespace,
            newest=bus.types.newest,
            context=bus.blobs.context,
        )
        self.bus.outbox.publish([event])
        return event.id

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> None:
        """Publish; raises BrokerUnavailable, which beat logs before it goes on with the next entry."""
        self.run(*(args or ()), **(kwargs or {}))


class ByHand(BaseSchedule):  # type: ignore[misc]  # celery's classes are untyped
    """When somebody who is no beat says so, such as the admin of django-celery-beat: now, and again the next time."""


def firing() -> BaseSchedule | None:
    """Return the schedule of the entry that beat is about to publish; None when it is not beat that calls.

    An entry is what its database says now, not what was declared. Celery passes it to the scheduler's methods and to
    nobody else, so it is looked up there.
    """
    beat = sys.modules.get("celery.beat")
    frame = sys._getframe(1) if beat else None
    while frame is not None:
        entry = frame.f_locals.get("entry")
        if beat is not None and isinstance(entry, beat.ScheduleEntry) and isinstance(entry.schedule, BaseSchedule):
            return entry.schedule
        frame = frame.f_back
    return None


def due_event(
    schedules: Mapping[str, Scheduled],
    source: str,
    name: str,
    now: datetime,
    *,
    when: BaseSchedule | None = None,
    namespace: str = "",
    newest: Callable[[str], str] = lambda type: Payload.schema_version,
    context: dict[str, Any] | None = None,
) -> Event:
    """Return the event that schedule `name` is due to publish at `now`; two beats of one app get the same one.

    Arguments:
        source: the CloudEvents source of the app.
        when: the schedule of the entry that fires; default the one that was declared.
        namespace: the app's, which tells it from others of its name.
        newest: says which version data without a class is of.
        context: what the payload's serializers are handed (see new_event).

    """
    if name not in schedules:
        raise InvalidAgent(
            f"no schedule is called {name!r}; declare it with app.schedule({name!r}, ...), or give the entry an event "
            f"type and data: args=[{name!r}, 'digest.due', {{}}]"
        )
    declared, what, data = schedules[name]
    due = due_time(when or declared, now)
    source = f"{source}/schedule/{name}"
    id = scheduled_id(source, due, namespace=namespace)
    version = newest(what) if isinstance(what, str) else what.schema_version
    event = new_event(what, data, source=source, id=id, version=version, context=context)
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

    Of other schedules, a sunset's or a class of the user's, it is the last time that their `remaining_estimate` names.
    Two beats that fire for the same occasion compute the same time, whenever each of them was started, and however
    late one of them looks at a crontab.
    """
    now = now.astimezone(UTC)
    if isinstance(when, crontab):
        return _last_match(when, now)
    if isinstance(when, schedule):
        interval = when.run_every if when.run_every > timedelta(0) else timedelta(seconds=1)
        return now - (now - EPOCH) % interval
    if isinstance(when, ByHand):
        return now
    return _last_estimate(when, now) or now.replace(microsecond=0)


def next_due(when: BaseSchedule, now: datetime) -> datetime | None:
    """Return when a schedule is due next; None where only beat knows, as an interval begins when beat does."""
    return None if isinstance(when, (schedule, ByHand)) else _following(when, now, now)


def shown(schedules: Mapping[str, Scheduled], now: datetime) -> list[dict[str, Any]]:
    """Return schedules as JSON data: when each is due, in Celery's words, and what is published, without blobs."""
    found = []
    for name, (when, what, data) in schedules.items():
        about = {"name": name, "schedule": repr(when).strip("<>"), "next": as_json_time(next_due(when, now))}
        if isinstance(what, Payload) and may_hold_blobs(type(what)):  # whose content would be read for it
            found.append({**about, "type": what.event_type, "data": None})
            continue
        event = new_event(what, data, source="/")
        found.append({**about, "type": event.type, "data": event.data})
    return found


def _following(when: BaseSchedule, start: datetime, now: datetime) -> datetime | None:
    """Return when a schedule is due next after `start`, asked at `now`; None when it cannot say."""
    asked = copy(when)
    asked.nowfun = lambda: now
    try:
        left = asked.remaining_estimate(start)
    except NotImplementedError:
        return None
    return None if left is None else (now + left).astimezone(UTC)


def _last_estimate(when: BaseSchedule, now: datetime) -> datetime | None:
    """Return the last due time of a schedule that can only be asked for the next one; None when it cannot say."""
    found, age = None, timedelta(seconds=1)
    while found is None and age.days < LONGEST_GAP:
        due = _following(when, now - age, now)
        while due is not None and due <= now + ROUNDING and (found is None or due > found):
            found, due = due, _following(when, due + ROUNDING, now)
        age *= 2
    if found is None or not isinstance(when, solar):
        return found
    # The sun's times come out some milliseconds apart, depending on where their calculation begins.
    again = _following(when, found.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1), now)
    return (again or found).replace(second=0, microsecond=0)


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
