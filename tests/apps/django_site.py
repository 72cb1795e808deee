"""A Django project's Celery app as Django's users write it, with the bus on it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_settings")

from asgiref.sync import sync_to_async
from celery import Celery
from contract_app import is_open, journal  # type: ignore[import-not-found]

from pipeline import Context, Pipeline, Retry

celery = Celery("site")
celery.config_from_object("django.conf:settings", namespace="CELERY")
celery.autodiscover_tasks()
bus = Pipeline(celery)
bus.schedule("digest", 3600, "digest.due", {"n": 1})


@bus.agent(on="site.touched")
def touch(data: Any, ctx: Context) -> None:
    """Read and write through Django's own connection, which its fixup closes after the task."""
    from django.db import connection
    from django_celery_beat.models import ClockedSchedule

    was_closed = connection.connection is None
    ClockedSchedule.objects.create(clocked_time="2026-01-01T00:00:00Z")
    base = type(celery.tasks["agent.touch"].delay_on_commit.__self__).delay_on_commit.__module__
    journal("touch", ctx, {"was_closed": was_closed, "rows": ClockedSchedule.objects.count(), "task": base})


QUICK = Retry(max=3, base=0.1)


def backend() -> int:
    """Return which process of PostgreSQL serves this thread's connection."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@bus.agent(on="sync.asked", retry=QUICK)
def ask(data: Any, ctx: Context) -> None:
    """Use one connection twice, with whatever the test does between."""
    journal("ask", ctx, {"backend": backend(), "n": data["n"]})
    while not is_open(data["until"]):
        time.sleep(0.02)
    journal("asked", ctx, {"backend": backend(), "n": data["n"]})


@bus.agent(on="async.asked", retry=QUICK)
async def aask(data: Any, ctx: Context) -> None:
    """Do the same through Django's async side."""
    journal("ask", ctx, {"backend": await sync_to_async(backend)(), "n": data["n"]})
    while not is_open(data["until"]):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    journal("asked", ctx, {"backend": await sync_to_async(backend)(), "n": data["n"]})


@bus.agent(on="plain.asked")
async def plain(data: Any, ctx: Context) -> None:
    """Ask nothing of the ORM, and say how many threads there are."""
    journal("plain", ctx, {"threads": threading.active_count()})


@bus.agent(on="stuck.asked", retry=0, timeout=5)
async def stuck(data: Any, ctx: Context) -> None:
    """Hang in the thread of the ORM until the test says otherwise."""

    def hang() -> None:
        journal("stuck", ctx, data)
        while not is_open(data["until"]):
            time.sleep(0.02)
        journal("free", ctx, data)

    await sync_to_async(hang)()
