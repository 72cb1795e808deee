"""Agents that raise what they are told to."""

from __future__ import annotations

from odd_errors import ODD  # type: ignore[import-not-found]

from pipeline import Event, Pipeline

app = Pipeline("odd")


@app.agent(on="odd.sync", retry=0)
def plain(event: Event) -> None:
    raise ODD[event.data]()


@app.agent(on="odd.async", retry=0)
async def asynchronous(event: Event) -> None:
    raise ODD[event.data]()
