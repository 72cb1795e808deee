"""An app with a schedule."""

from __future__ import annotations

import os
from typing import Any

from contract_app import journal  # type: ignore[import-not-found]

from pipeline import Context, Pipeline

app = Pipeline("scheduled")
app.schedule("every-second", 1, "tick.tock", {"n": 1})
app.schedule("hourly", 3600, "hour.struck")
app.celery.conf.redbeat_redis_url = os.environ["PIPELINE_BROKER_URL"]  # for those who run beat with that scheduler
app.celery.conf.redbeat_lock_timeout = 300  # seconds: a beat that stands still for five gives up by default


@app.agent(on="tick.*")
def tick(data: Any, ctx: Context) -> None:
    journal("tick", ctx, data)
