"""The agents of the contract suite; what an attempt does is written in the event's data."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery.signals import task_prerun

from pipeline import Context, Payload, Pipeline, Retry

app = Pipeline("contract")
heard: list[str] = []
if "TASKS_WATCHED" in os.environ:
    task_prerun.connect(lambda task_id, **_: heard.append(task_id), weak=False)


class Step(Payload, type="step.done"):
    n: int


class Strict(Payload, type="strict.order", version="1.1.0"):
    n: int


def journal(agent: str, ctx: Context, data: Any = None, **more: Any) -> None:
    """Append one line; O_APPEND keeps lines of several processes apart."""
    event = ctx.event
    line = {
        "agent": agent, "id": event.id, "type": event.type, "attempt": ctx.attempt, "pid": os.getpid(), "data": data,
        "correlation": event.correlation_id, "causation": event.causation_id, "priority": event.priority,
        "source": event.source, "hops": event.hops, "delivery": ctx.delivery_id, "at": time.time(), **more,
    }  # fmt: skip
    append(line)


def append(line: dict[str, Any]) -> None:
    """Append a line to the journal."""
    fd = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, (json.dumps(line) + "\n").encode())
    os.close(fd)


def once(mark: str) -> bool:
    """Say whether this is the first time that anybody asks for `mark`."""
    try:
        (Path(os.environ["JOURNAL"]).parent / f"once-{mark}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def is_open(gate: str) -> bool:
    """Say whether the test has opened a gate."""
    return (Path(os.environ["JOURNAL"]).parent / gate).exists()


def perform(agent: str, data: Any, ctx: Context) -> Any:
    """Do what the data says for this agent: {"alpha": "fail 2"}."""
    journal(agent, ctx, data)
    orders = data.get(agent, "") if isinstance(data, dict) else ""
    for order in filter(None, orders.split(";")):
        verb, _, argument = order.strip().partition(" ")
        if verb == "fail" and ctx.attempt <= int(argument or 1000):
            raise RuntimeError(f"{agent} was told to fail")
        if verb == "give-up":
            raise PermissionError(f"{agent} gives up")
        if verb == "sleep":
            time.sleep(float(argument))
        if verb == "emit":
            ctx.publish(argument, {"from": agent})
        if verb == "tell":
            ctx.publish("told.something", {"from": agent}, targets=(argument,))
        if verb == "die" and once(f"{agent}-{ctx.event.id}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if verb == "die-always":
            os.kill(os.getpid(), signal.SIGKILL)
        if verb == "hold" or (verb == "hold-again" and ctx.attempt > 1):
            while not is_open(argument):
                time.sleep(0.02)
        if verb == "next":
            return Step(n=int(argument))
    return None


FAST = Retry(max=3, base=0.05, cap=0.2, give_up_on=(PermissionError,))


@app.agent(on="task.*", retry=FAST)
def alpha(data: Any, ctx: Context) -> Any:
    return perform("alpha", data, ctx)


@app.agent(on=["task.#", "extra.only"], retry=FAST)
def beta(data: Any, ctx: Context) -> Any:
    return perform("beta", data, ctx)


@app.agent(on="task.created", retry=FAST)
async def gamma(data: Any, ctx: Context) -> Any:
    await asyncio.sleep(0)
    return perform("gamma", data, ctx)


@app.agent(on=Step, retry=FAST)
def follow(step: Step, ctx: Context) -> None:
    journal("follow", ctx, step.n)


@app.agent(on=Strict, retry=FAST)
def strict(order: Strict, ctx: Context) -> None:
    journal("strict", ctx, order.n)


@app.agent(on="limited.#", rate_limit="2/s")
def limited(data: Any, ctx: Context) -> None:
    journal("limited", ctx, data)


@app.agent(on="slow.#", timeout=0.3, retry=Retry(max=1, base=0.01))
async def slow(data: Any, ctx: Context) -> None:
    journal("slow", ctx, data)
    await asyncio.sleep(30)


@app.agent(on="narrow.#", max_concurrent=2)
async def narrow(data: Any, ctx: Context) -> None:
    journal("narrow", ctx, data)
    await asyncio.sleep(0.1)
    journal("narrowed", ctx, data)
    if data.get("fail"):
        raise PermissionError("told to fail")


@app.agent(on="alone.#", max_concurrent=1)
def alone(data: Any, ctx: Context) -> Any:
    return perform("alone", data, ctx)


@app.agent(on="wait.#")
async def wait(data: Any, ctx: Context) -> None:
    journal("wait", ctx, data)
    while not is_open(data["until"]):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    journal("waited", ctx, data)


@app.agent(retry=FAST)
def left(data: Any, ctx: Context) -> Any:
    perform("left", data, ctx)
    return {"left": data.get("n")}


@app.agent(retry=FAST)
async def right(data: Any, ctx: Context) -> Any:
    perform("right", data, ctx)
    return Step(n=data.get("n", 0))


app.join("pair", on="pair.started", agents=[left, right], emits="pair.complete")


@app.agent(on="pair.*")
def outcome(data: Any, ctx: Context) -> None:
    journal("outcome", ctx, data)


@app.celery.task(name="plain.add", ignore_result=False)
def add(x: int, y: int) -> int:
    return x + y
