"""An app with a schedule."""

from __future__ import annotations

from typing import Any

from contract_app import journal  # type: ignore[import-not-found]

from pipeline import Context, Pipeline

app = Pipeline("scheduled")
app.schedule("every-second", 1, "tick.tock", {"n": 1})


@app.agent(on="tick.*")
def tick(data: Any, ctx: Context) -> None:
    journal("tick", ctx, data)
