"""Schedulers of other projects: what their databases say now is due, not what was declared."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import Broker, run
from tests.servers import wait_for

#: Changes rows of django-celery-beat as its admin does: in another process, while beats run.
IN_DJANGO = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"
import django
django.setup()
from django_celery_beat.models import *
"""
CHANGED = """
often = IntervalSchedule.objects.create(every=1, period="seconds")
entry = PeriodicTask.objects.get(name="digest")
entry.interval = often
entry.save()
"""
DISABLED_AND_ADDED = """
entry = PeriodicTask.objects.get(name="digest")
entry.enabled = False
entry.save()
PeriodicTask.objects.create(
    name="extra", task="pipeline.publish_scheduled", args='["extra", "extra.due", {"n": 2}]', interval=entry.interval)
"""
#: The same in Redis, as redbeat's documentation shows it.
IN_REDIS = """
from scheduled_app import app
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry
entry = RedBeatSchedulerEntry.from_key("redbeat:hourly", app=app.celery)
"""


@pytest.fixture
def embedded(tmp_path: Path) -> Broker:
    return Broker("embedded", f"sqlite:///{tmp_path / 'state' / 'broker.db'}", tmp_path)


@pytest.fixture
def published(no_settings: None) -> Iterator[Callable[[Broker], Callable[[str], list[Any]]]]:
    """Read the events of a type from a broker's ledger."""
    with ExitStack() as opened:

        def reader(broker: Broker) -> Callable[[str], list[Any]]:
            app = Pipeline("reader", broker_url=broker.url, directory=broker.directory / "state")
            opened.callback(app.close)
            return lambda type: [each.event for each in app.get_events(type=type)]

        yield reader


@contextmanager
def beats(broker: Broker, app: str, number: int, *options: str) -> Iterator[list[Path]]:
    """Run some beats, and give their logs."""
    logs = [broker.directory / f"beat{n}.log" for n in range(number)]
    running = []
    try:
        for log in logs:
            python = [sys.executable, "-X", "faulthandler"]
            command = [*python, "-m", "celery", "-A", app, "beat", "--pidfile=", "-l", "INFO", *options]
            with log.open("wb") as out:
                running.append(
                    subprocess.Popen(command, env=broker.environment(), cwd=broker.directory, stdout=out, stderr=out)
                )
        yield logs
    finally:
        for beat in running:
            beat.terminate()
        try:
            for beat in running:
                beat.wait(timeout=30)
        except subprocess.TimeoutExpired:
            for beat in running:
                beat.send_signal(signal.SIGABRT)  # faulthandler says where it hangs
                beat.wait(timeout=10)
            said = "\n".join(log.read_text()[-4000:] for log in logs)
            pytest.fail(f"a beat did not end when it was told to:\n{said}")


def in_django(broker: Broker, code: str) -> str:
    done = run([sys.executable, "-W", "ignore", "-c", IN_DJANGO + code], broker)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_one_for_each_due_time(events: list[Any]) -> None:
    times = [event.time for event in events]
    assert len(set(times)) == len(times)
    assert all(time.microsecond == 0 for time in times)


def test_an_entry_that_is_changed_added_or_disabled_in_djangos_database_publishes_once_for_each_due_time(
    embedded: Broker, published: Callable[..., Any]
) -> None:
    in_django(embedded, "from django.core.management import call_command; call_command('migrate', verbosity=0)")
    events = published(embedded)
    with beats(embedded, "django_site", 2) as logs:
        for log in logs:
            wait_for(lambda log=log: "beat: Starting..." in log.read_text(), "beats to start", 60)
        wait_for(
            lambda: in_django(embedded, "print(PeriodicTask.objects.filter(name='digest').count())") == "1\n", "it"
        )
        in_django(embedded, CHANGED)
        wait_for(lambda: len(events("digest.due")) >= 4, "events of the changed entry")
        in_django(embedded, DISABLED_AND_ADDED)
        for log in logs:  # so each beat has read both
            wait_for(lambda log=log: "due task extra" in log.read_text(), "the added entry")
        disabled = len(events("digest.due"))
        wait_for(lambda: len(events("extra.due")) >= 3, "events of the added entry")
    assert len(events("digest.due")) == disabled
    assert {event.data["n"] for event in events("extra.due")} == {2}
    assert_one_for_each_due_time(events("digest.due"))
    assert_one_for_each_due_time(events("extra.due"))


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_an_entry_that_is_changed_in_redbeats_redis_publishes_once_for_each_due_time(
    broker: Broker, published: Callable[..., Any]
) -> None:
    events = published(broker)
    options = ("-S", "redbeat.RedBeatScheduler", "--max-interval", "1")
    with beats(broker, "scheduled_app", 1, *options) as logs:
        wait_for(lambda: "due task every-second" in logs[0].read_text(), "the beat to begin", 60)
        code = "entry.schedule = schedule(1, app=app.celery); entry.save()"
        done = run([sys.executable, "-W", "ignore", "-c", IN_REDIS + code], broker)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: len(events("hour.struck")) >= 5, "events of the changed entry")
    assert_one_for_each_due_time(events("hour.struck"))
