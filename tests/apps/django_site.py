"""A Django project's Celery app as Django's users write it, with the bus on it."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_settings")

from celery import Celery
from contract_app import journal  # type: ignore[import-not-found]

from pipeline import Context, Pipeline

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
