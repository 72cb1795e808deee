"""Waiting in virtual time for what an event causes ends, also where nothing else moves the clock."""

from __future__ import annotations

import pytest

from pipeline import Context, Event, Pipeline, SettleTimeout


@pytest.mark.parametrize("timeout", [0.7, 5.7, 0.1])
def test_a_handler_that_settles_what_does_not_end_is_told_so(timeout: float) -> None:
    app = Pipeline("shop")
    told: list[str] = []

    @app.agent(on="never.done")
    def sleeper(event: Event, ctx: Context) -> None:
        ctx.sleep("1h")

    @app.agent(on="look.now")
    def looking(event: Event) -> None:
        try:
            app.settle(app.publish("never.done", {}), timeout=timeout)
        except SettleTimeout as exc:
            told.append(str(exc))

    with app.testing() as bus:
        app.publish("look.now", {})
        bus.settle()
    assert len(told) == 1
    assert f"after {timeout:g} s" in told[0]
