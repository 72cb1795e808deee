"""Agents that are paused: by somebody, by what their provider says, and by what becomes of their attempts."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from contract_app import is_open, journal, once  # type: ignore[import-not-found]

from pipeline import Breaker, Context, Pipeline, RateLimited, Retry

app = Pipeline("pauses")


@app.agent(on="work.wanted")
def sync_one(data: dict[str, Any], ctx: Context) -> None:
    while data.get("until") and not is_open(data["until"]):
        time.sleep(0.02)
    journal("sync_one", ctx, data)


@app.agent(on="work.wanted", max_concurrent=3)
async def async_one(data: dict[str, Any], ctx: Context) -> None:
    journal("async_one", ctx, data)


@app.agent(on="work.wanted")
def other(data: dict[str, Any], ctx: Context) -> None:
    journal("other", ctx, data)


class HTTPStatusError(Exception):
    """What a client raises that is not installed here."""

    __module__ = "httpx"
    response = SimpleNamespace(status_code=429, headers={"Retry-After": "0.3"})


@app.agent(on="question.asked", scope="gpt", retry=Retry(max=0))
def asker(data: dict[str, Any], ctx: Context) -> None:
    ctx.publish("question.passed", {})
    if not is_open("quota"):
        journal("refused", ctx, data)
        raise RateLimited(0.3)
    journal("asker", ctx, data)


@app.agent(on="question.asked", scope=["gpt", "db"], retry=Retry(max=0))
async def sharer(data: dict[str, Any], ctx: Context) -> None:
    if not is_open("quota"):
        journal("refused", ctx, data)
        raise HTTPStatusError
    journal("sharer", ctx, data)


@app.agent(on="letter.sent", retry=Retry(max=0))
def undeclared(data: dict[str, Any], ctx: Context) -> None:
    if not is_open("quota"):
        journal("refused", ctx, data)
        raise HTTPStatusError
    journal("undeclared", ctx, data)


@app.agent(on="part.wanted", retry=Retry(max=0), breaker=Breaker(min=4, pause=0.5))
def fragile(data: dict[str, Any], ctx: Context) -> None:
    journal("fragile", ctx, data)
    if any(once(f"fragile-{n}") for n in range(5)):
        raise RuntimeError("out of order")
    while not is_open("looked"):
        time.sleep(0.02)


@app.agent(on="reading.taken", max_waiting=20, overflow="shed-oldest")
def oldest(data: dict[str, Any], ctx: Context) -> None:
    journal("oldest", ctx, data)


@app.agent(on="reading.taken", max_waiting=20, overflow="shed-new")
def newest(data: dict[str, Any], ctx: Context) -> None:
    journal("newest", ctx, data)


@app.agent(on="price.quoted", max_age=3600)
def trader(data: dict[str, Any], ctx: Context) -> None:
    journal("trader", ctx, data)
