"""Batches, as they are declared: what cannot work is said at once, with what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import Batch, Context, Event, InvalidAgent, LedgerOff, Limit, Payload, Pipeline
from pipeline.agents.declare import declare
from pipeline.delivery.short.ordinary import is_simple


class Page(Payload, type="page.seen"):
    n: int


def many(pages: list[Page], ctx: Context) -> None: ...
def one(page: Page) -> None: ...
def plain(pages: list[dict[str, Any]]) -> None: ...
def bare(pages: list) -> None: ...  # type: ignore[type-arg]
def untyped(pages): ...  # type: ignore[no-untyped-def]
def whole(events: Sequence[Event]) -> None: ...


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Batch(most=1), "a number from 2 to 10,000; leave batch= out"),
        (lambda: Batch(most=True), "a number from 2"),
        (lambda: Batch(most=20_000), "a number from 2"),
        (lambda: Batch(wait="soon"), "is no duration"),
        (lambda: Batch(wait=-1), "not between now"),
        (lambda: declare(many, on=Page, batch=100), "is not a Batch"),  # type: ignore[arg-type]
        (lambda: declare(many, on=Page, batch=Batch(key="a..b")), r"Batch\(key=...\).*is no path|a\.\.b"),
        (lambda: declare(one, on=Page, batch=Batch()), r"write `def one\(payloads: list\[Page\]\)`"),
        (lambda: declare(many, on=Page, batch=Batch(), order_by="data.n"), "one event at a time, and batch= many"),
        (lambda: declare(many, on=Page, batch=Batch(), rate_limit="30/m"), r"use limit=Limit\(rate='30/m'\)"),
        (
            lambda: declare(many, on=Page, batch=Batch(), limit=Limit(concurrent=1, key="data.n")),
            r"use Batch\(key='data.n'\)",
        ),
        (
            lambda: declare(many, on=Page, batch=Batch(key="data.n"), limit=Limit(concurrent=1, fair_by="data.m")),
            r"use Batch\(key='data.m'\), or leave fair_by out",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidAgent, match=words):
        make()


@pytest.mark.parametrize(
    ("handler", "payload", "wants_event"),
    [
        (many, Page, False),
        (plain, dict[str, Any], False),
        (bare, None, False),
        (untyped, None, False),
        (whole, None, True),
    ],
)
def test_what_is_in_the_list_is_what_each_event_is_read_as(handler: Any, payload: Any, wants_event: bool) -> None:
    agent = declare(handler, on="page.seen", batch=Batch())
    assert (agent.payload, agent.wants_event) == (payload, wants_event)


def test_limits_that_count_calls_go_with_batches() -> None:
    limits = [Limit(rate="30/m", name="a"), Limit(concurrent=2, key="data.n")]
    assert declare(many, on=Page, batch=Batch(key="data.n"), limit=limits).batch == Batch(key="data.n")


def test_without_a_ledger_nothing_gathers(tmp_path: Path) -> None:
    app = Pipeline("t", ledger_url="", directory=tmp_path)
    with pytest.raises(LedgerOff, match=r"batch=, .* count over all workers"):
        app.agent(on=Page, batch=Batch())(many)


def test_an_agent_with_batches_does_not_go_the_short_way(tmp_path: Path) -> None:
    app = Pipeline("t", directory=tmp_path)
    app.agent(on=Page, name="batched", batch=Batch())(many)
    app.agent(on=Page, name="single")(one)
    tasks = {name: app.celery.tasks[f"agent.{name}"] for name in ("batched", "single")}
    assert [is_simple(app.bus.agents[name], task, app.celery) for name, task in tasks.items()] == [False, True]
    app.close()


def test_a_handler_knows_all_its_events() -> None:
    ctx = Context.for_test(Page(n=1))
    assert ctx.events == (ctx.event,)
    ctx = Context.for_test([Page(n=1), Page(n=2)])
    assert [event.data["n"] for event in ctx.events] == [1, 2]
    assert ctx.event is ctx.events[0]
