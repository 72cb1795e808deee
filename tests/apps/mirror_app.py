"""An agent that writes down what it was given, and publishes it again."""

from __future__ import annotations

from contract_app import journal

from pipeline import Context, Event, Pipeline

app = Pipeline("mirror")


@app.agent(on=["mirror.first"], retry=0)
def mirror(event: Event, ctx: Context) -> None:
    journal("mirror", ctx, event.encode().decode())
    ctx.publish("mirror.second", event.data, subject=event.subject)


@app.agent(on="mirror.second", retry=0)
def again(event: Event, ctx: Context) -> None:
    journal("again", ctx, event.encode().decode())
