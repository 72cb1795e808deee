"""Two versions of a saga: the new one has another step between the first and the last, and another name for the end."""

from __future__ import annotations

import os
from typing import Any

from contract_app import is_open, journal  # type: ignore[import-not-found]

from pipeline import Context, Pipeline, Retry, step

app = Pipeline("rolled")
VERSION = os.environ.get("VERSION", "new")
ONCE = Retry(max=0)


def does(name: str) -> Any:
    def handler(data: Any, ctx: Context) -> dict[str, str]:
        assert ctx.flow is not None
        journal(name, ctx, data, version=VERSION, flow=ctx.flow.id)
        if ctx.flow.original.get(name) == "fail":
            raise RuntimeError(f"{name} was told to fail")
        if ctx.flow.original.get(name) == "sleep" and not is_open("gate"):
            ctx.sleep(0.3)
        return {"by": VERSION}

    return app.agent(name=name, retry=ONCE)(handler)


first, unfirst, last = does("first"), does("unfirst"), does("last")
steps = {
    "old": lambda: [step(first, undo=unfirst), step(does("legacy")), last],
    "new": lambda: [step(first, undo=unfirst, timeout=60), step(does("checked"), each="data.items"), last],
}[VERSION]()
app.saga("order", on="order.placed", steps=steps, emits=f"order.{VERSION}")


@app.agent(on=["order.old", "order.new", "order.failed"])
def outcome(data: Any, ctx: Context) -> None:
    journal("outcome", ctx, data)
