"""Agents whose effects can be counted: each writes a row into a table of its own, which takes a second one as well."""

from __future__ import annotations

from contract_app import journal
from sqlalchemy import text

from pipeline import Context, Event, Payload, Pipeline, Retry

app = Pipeline("effects")
FAST = Retry(max=5, base=0.05, cap=0.2)
LOADED = ("one", "two", "three", "four", "five")


class Done(Payload, type="work.done"):
    key: str
    point: str


def take_effect(agent: str, key: str, ctx: Context) -> None:
    """Do what must happen once, in the transaction that records the delivery."""
    journal(agent, ctx, key)
    statement = text(f"INSERT INTO effects_{agent} VALUES (:event, :key)")
    ctx.session.execute(statement, {"event": ctx.event.id, "key": key})


@app.agent(on="work.asked", retry=FAST)
def work(event: Event, ctx: Context) -> Done:
    take_effect("work", event.data["key"], ctx)
    return Done(key=event.data["key"], point=event.data["point"])


@app.agent(on=Done, retry=FAST)
def follow(done: Done, ctx: Context) -> None:
    take_effect("follow", done.key, ctx)


def declare_loaded(name: str) -> None:
    @app.agent(on="load.#", name=name, retry=FAST)
    def loaded(event: Event, ctx: Context) -> None:
        take_effect(name, event.data["key"], ctx)


for name in LOADED:
    declare_loaded(name)
