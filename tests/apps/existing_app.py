"""A Celery app with tasks, queues and routes of its own, to which the bus was added later."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from contract_app import journal  # type: ignore[import-not-found]
from kombu import Queue

from pipeline import Context, Pipeline

celery = Celery("existing")
celery.conf.update(
    broker_url=os.environ.get("EXISTING_BROKER_URL", os.environ["PIPELINE_BROKER_URL"]),
    result_backend="sqlite:///" + os.environ["PIPELINE_DIRECTORY"] + "/results.db",
    task_queues=[Queue("mine")],
    task_default_queue="mine",
    task_routes={"existing.*": {"queue": "mine"}},
    task_compression=os.environ.get("EXISTING_TASK_COMPRESSION"),
    task_protocol=int(os.environ.get("EXISTING_TASK_PROTOCOL", "2")),
)


@celery.task(name="existing.double")
def double(x: int) -> int:
    return 2 * x


bus = Pipeline(celery)


@bus.agent(on="order.placed")
def added(data: Any, ctx: Context) -> None:
    journal("added", ctx, data)
