"""An app with a bridge to another system, as the environment describes it."""

from __future__ import annotations

import inspect
import json
import os
import signal
import time
from typing import Any

from contract_app import is_open, journal, once  # type: ignore[import-not-found]

from pipeline import Context, Pipeline, bridges
from pipeline.bridges.systems.kafka import KafkaLink
from pipeline.bridges.systems.nats import NatsLink, NatsMessage
from pipeline.bridges.systems.postgres import Row
from pipeline.bridges.systems.records import Record
from pipeline.bridges.systems.redis import RedisLink, RedisMessage

about = json.loads(os.environ["BRIDGE"])
app = Pipeline(about.get("app", "shop"))
made = getattr(bridges, about["system"])(**about["options"])
app.bridge("other", made, **about["ways"])


def dying(work: Any, before: str, after: str) -> Any:
    """Return what does the same, and dies once before or after that, where the test says so."""

    def die(mark: str) -> None:
        if os.environ.get("CRASH") == mark and once(mark.replace(" ", "-")):
            os.kill(os.getpid(), signal.SIGKILL)

    if inspect.iscoroutinefunction(work):

        async def awaited(*arguments: Any) -> Any:
            die(before)
            found = await work(*arguments)
            die(after)
            return found

        return awaited

    def called(*arguments: Any) -> Any:
        die(before)
        found = work(*arguments)
        die(after)
        return found

    return called


app.publish_many = dying(app.publish_many, "before publishing", "after publishing")
for message in (NatsMessage, RedisMessage, Record, Row):
    message.done = dying(message.done, "before acknowledging", "after acknowledging")
for link in (NatsLink, RedisLink, KafkaLink):
    link.send = dying(link.send, "before sending", "after sending")


@app.agent(on="stock.#")
def stocked(data: Any, ctx: Context) -> None:
    journal("stocked", ctx, data, key=ctx.event.key, via=(ctx.event.model_extra or {}).get("bridgedvia"))


@app.agent(on="lookup.item", respond=True)
def lookup(data: Any, ctx: Context) -> Any:
    journal("lookup", ctx, data)
    if data.get("fail"):
        raise ValueError("no such item")
    while data.get("wait") and not is_open("gate"):
        time.sleep(0.02)
    return {"found": data["n"]}
