"""Agents that write down what they see of Celery's task, and what Celery says of them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import current_task
from celery.signals import task_failure, task_postrun, task_retry, worker_process_init
from contract_app import app, is_open, journal, once  # type: ignore[import-not-found]

from pipeline import Context, Retry
from pipeline.core import times

if "QUICK" in os.environ:  # the seconds that what is quick takes at most
    times.QUICK = float(os.environ["QUICK"])

#: What a handler may read of its task's request.
READ = (
    "id", "retries", "delivery_info", "hostname", "root_id", "parent_id", "args", "kwargs", "argsrepr", "task", "group",
    "headers", "reply_to", "eta", "expires", "is_eager", "called_directly", "ignore_result", "timelimit", "callbacks",
)  # fmt: skip


@app.agent(on="way.seen")
def seen(data: Any, ctx: Context) -> None:
    request = current_task.request
    is_short = type(request).__name__ == "Current"
    read = {name: request.get(name) for name in READ}
    journal("seen", ctx, data, is_short=is_short, task=current_task.name, request=read)


@app.agent(on="way.held")
def held(data: Any, ctx: Context) -> None:
    journal("held", ctx, data)
    while not is_open("gate"):
        time.sleep(0.02)


@app.agent(on="way.failed", retry=Retry(max=1, base=0.05, cap=0.1))
def failed(data: Any, ctx: Context) -> None:
    journal("failed", ctx, data)
    raise RuntimeError("told to fail")


@app.agent(on="way.wrong", retry=0)
def wrong(data: Any, ctx: Context) -> Any:
    journal("wrong", ctx, data)
    return object()


@app.agent(on="way.heard")
def heard(data: Any, ctx: Context) -> None:
    journal("heard", ctx, data)


@app.agent(on="way.shared", retry=Retry(max=1, base=0.05, cap=0.1))
def shared(data: Any, ctx: Context) -> None:
    """Be quick, but for what the data says."""
    journal("shared", ctx, data, is_short=type(current_task.request).__name__ == "Current")
    match data.get("do"):
        case "die":
            if once(ctx.delivery_id):
                os.kill(os.getpid(), signal.SIGKILL)
        case "die always":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            raise SystemExit
        case "hang":
            time.sleep(600)
        case "fail":
            raise RuntimeError("told to fail")
        case "hold":
            while not is_open("gate"):
                time.sleep(0.02)


def tell(sender: Any, signal: Any, **more: Any) -> None:
    ended = [str(more.get(name)) for name in ("exception", "reason", "args", "kwargs") if name in more]
    app.publish("way.heard", {"of": sender.name, "ended": ended, "id": sender.request.id})


task_failure.connect(tell, weak=False)
task_retry.connect(tell, weak=False)


def instrument(**_: Any) -> None:
    """Hear of tasks in the processes of the pool, as tracers do."""
    task_postrun.connect(lambda **_: None, weak=False)


if "PROCESSES_WATCHED" in os.environ:
    worker_process_init.connect(instrument, weak=False)
