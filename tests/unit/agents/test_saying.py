"""What handlers may say, and when."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from pipeline import Context, Pipeline
from pipeline.core.errors import InvalidStep, PipelineError
from pipeline.core.event import new_event
from tests.records import rows


@pytest.fixture
def context(tmp_path: Path, no_settings: None) -> Any:
    app = Pipeline("t", directory=tmp_path)
    yield Context(new_event("a.b", source="/t"), "ada", "d-1", 1, "/t", None, ledger=app.ledger)
    app.close()


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0, 0.0), (1, 1.0), (0.25, 0.25), (1.0001, 1.0), (-3, 0.0), (None, None)]
)
def test_a_fraction_is_between_nothing_and_all(context: Context, fraction: float | None, kept: float | None) -> None:
    context.progress(fraction, "x" * 10_000)
    context._ledger.notices.flush()
    (notice,) = context._ledger.notices.of(context.event.correlation_id)
    assert (notice.fraction, len(notice.text)) == (kept, 8192)


@pytest.mark.parametrize("fraction", [float("nan"), True, "0.5", [1]])
def test_what_is_no_fraction_is_said(context: Context, fraction: Any) -> None:
    with pytest.raises(InvalidStep, match=r"progress: .* is no fraction: write a number of 0 to 1, or None"):
        context.progress(fraction)


@pytest.mark.parametrize(
    ("name", "text", "said"), [("", "x", "is no name"), ("a" * 201, "x", "is no name"), ("a", b"x", "is no text")]
)
def test_what_is_no_text_is_said(context: Context, name: Any, text: Any, said: str) -> None:
    with pytest.raises(InvalidStep, match=said):
        context.stream(name, text)


def test_who_has_ended_says_nothing_more(context: Context) -> None:
    context.end()
    with pytest.raises(PipelineError, match="comes too late"):
        context.stream("answer", "x")
    with pytest.raises(PipelineError, match="comes too late"):
        context.progress(1)


def test_without_a_ledger_nobody_hears_it_and_nothing_fails() -> None:
    context = Context.for_test(new_event("a.b", source="/t"))
    context.progress(0.5, "half")
    context.stream("answer", "x")
    assert context.published == ()


@pytest.mark.usefixtures("no_settings")
def test_many_async_handlers_that_have_said_something_end_beside_an_open_transaction(tmp_path: Path) -> None:
    app, holds = Pipeline("t", directory=tmp_path), asyncio.Event()

    @app.agent(on="a.hold")
    async def hold(data: Any, ctx: Context) -> None:
        async with ctx.transaction() as session:
            session.execute(text("SELECT 1"))
            holds.set()
            await asyncio.sleep(0.3)  # in which the others end

    @app.agent(on="a.say")
    async def say(data: Any, ctx: Context) -> None:
        await holds.wait()
        ctx.stream("answer", "hello")

    number = 2 * ((os.cpu_count() or 1) + 4)  # more than the loop has threads
    with app.local():
        said = [app.publish("a.say", {"n": n}) for n in range(number)]
        holding = app.publish("a.hold", {})
        for event in (holding, *said):
            app.settle(event, timeout=60)
        assert {(row["outcome"], row["attempts"]) for row in rows(app)} == {("succeeded", 1)}
        assert [[one.text for one in app.notices(event)] for event in said] == [["hello"]] * number
