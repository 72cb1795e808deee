"""A saga with a step for each item of a list and one that is a saga, in processes that kill themselves on the way."""

from __future__ import annotations

from typing import Any

from saga_crash_app import AGAIN, app, die, does, undoes, works  # type: ignore[import-not-found]

from pipeline import Context, step
from pipeline.ledger.waiting.wait import Parking
from pipeline.ledger.waiting.waits import Waits

parts = [step(does(name), undo=undoes(f"un-{name}")) for name in ("in-x", "in-y")]
inner = app.saga("inner", on="inner.asked", steps=parts)


@app.agent(name="un-pieces", retry=AGAIN)
def un_pieces(results: list[dict[str, str]], ctx: Context) -> None:
    assert results == [{"by": "piece"}] * 3
    works(ctx)


@app.agent(name="un-inner", retry=AGAIN)
def un_inner(results: dict[str, Any], ctx: Context) -> None:
    assert results == {"in-x": {"by": "in-x"}, "in-y": {"by": "in-y"}}
    works(ctx)


app.saga(
    "trip",
    on="trip.placed",
    steps=[
        step(does("first"), undo=undoes("un-first")),
        step(does("piece"), each="data.items", undo=un_pieces, name="pieces"),
        step(inner, undo=un_inner),
        does("last"),
    ],
)

app.saga("paid", on="paid.placed", steps=[step(does("begun"), final=True), step(inner), does("ended")])

_park, _park_in = Waits.park, Waits.park_in


def park_in(self: Waits, connection: Any, parking: Parking) -> bool:
    recorded = _park_in(self, connection, parking)
    if parking.wait.number:  # a step is done again: the flow that it is has been started anew
        die("parking", "inner", parking.delivery.event.data)
    return recorded


def park(self: Waits, parking: Parking, *args: Any) -> bool:
    recorded = _park(self, parking, *args)
    if parking.wait.number:
        die("parked", "inner", parking.delivery.event.data)
    return recorded


Waits.park, Waits.park_in = park, park_in  # type: ignore[method-assign]
