"""The crew's parts: what a model call does to the ledger and the budget, what the provider counts, and the bill."""

from __future__ import annotations

import gc
import json
import socket
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pipeline import Context
from pipeline.examples.crew import provider as providers
from pipeline.examples.crew.bill import Bill, Line
from pipeline.examples.crew.provider import Provider, answer, serving, think
from tests.llm import answers, handled
from tests.servers import wait_for

SEARCH = {
    "instructions": "", "prompt": "What are lambdas?", "found": None, "tools": ["look_up"], "output": "final",
    "wanted": ["answer"],
}  # fmt: skip
SECOND = {**SEARCH, "found": "Small functions. Without a name. And more."}
PLAN = {**SEARCH, "prompt": "lambdas, sets and modules", "tools": [], "wanted": ["questions"]}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(providers, "LATENCY", 0.0)
    monkeypatch.setattr(providers, "PAUSE", 0.5)
    with serving() as found:
        yield found


def post(provider: Provider, key: str, asked: dict[str, Any]) -> tuple[int, Any]:
    """Return the status, and the answer or the seconds to wait."""
    request = urllib.request.Request(provider.url, json.dumps(asked).encode(), {"Idempotency-Key": key})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, float(exc.headers["Retry-After"])


# -- the provider


def test_it_plans_a_question_for_each_part() -> None:
    assert think(PLAN)["args"] == {"questions": ["What are lambdas?", "What are sets?", "What are modules?"]}


def test_it_searches_before_it_answers() -> None:
    assert think(SEARCH) == {"tool": "look_up", "args": {"query": "What are lambdas?"}}
    assert think(SECOND) == {"tool": "final", "args": {"answer": "Small functions. Without a name."}}


def test_what_it_reads_and_writes_has_a_price() -> None:
    said = answer(PLAN)
    assert said["cost"] == 3 * said["read"] + 15 * said["written"] > 0


def test_the_first_search_is_refused_for_a_while_and_costs_nothing(provider: Provider) -> None:
    assert post(provider, "plan", PLAN)[0] == 200
    status, seconds = post(provider, "search", SEARCH)
    assert status == 429
    assert 0 < seconds <= 0.5
    wait_for(lambda: post(provider, "search", SEARCH)[0] == 200, "the end of the pause")
    assert provider.times == {"plan": 1, "search": 1}
    assert provider.refused >= 1


def test_a_call_that_is_answered_again_counts_twice(provider: Provider) -> None:
    provider.release()
    for _ in range(2):
        assert post(provider, "plan", PLAN)[0] == 200
    assert provider.times == {"plan": 2}


def test_who_goes_before_the_answer_has_paid_nothing(provider: Provider) -> None:
    post(provider, "search", SEARCH)
    wait_for(lambda: post(provider, "search", SEARCH)[0] == 200, "the end of the pause")
    host, _, port = provider.url.removeprefix("http://").partition(":")
    body = json.dumps(SECOND)
    with socket.create_connection((host, int(port))) as client:
        head = f"POST / HTTP/1.0\r\nIdempotency-Key: second\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(f"{head}{body}".encode())
        wait_for(lambda: provider.held == ["second"], "the call that is held back")
    wait_for(lambda: provider.held == [], "the end of the call")
    assert (provider.cut_off, provider.times) == (1, {"search": 1})


def test_while_one_is_held_back_nobody_is_answered_until_the_release(provider: Provider) -> None:
    post(provider, "search", SEARCH)
    wait_for(lambda: post(provider, "search", SEARCH)[0] == 200, "the end of the pause")
    waiting = [
        threading.Thread(target=post, args=(provider, key, asked)) for key, asked in (("2", SECOND), ("p", PLAN))
    ]
    waiting[0].start()
    wait_for(lambda: provider.held == ["2"], "the first")
    waiting[1].start()
    wait_for(lambda: provider.held == ["2", "p"], "the second")
    assert provider.times == {"search": 1}
    provider.release()
    for thread in waiting:
        thread.join(timeout=20)
    assert provider.times == {"search": 1, "2": 1, "p": 1}


# -- a real client


def test_a_real_client_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    from pipeline.examples.crew import model
    from pipeline.examples.crew.agents import plans
    from tests import openaiserver

    async def handler(ctx: Context) -> int:
        return len((await model.ask(plans, "lambdas", ctx)).questions)

    app = handled(handler)
    with openaiserver.serving() as answering, app.testing() as bus:
        monkeypatch.setattr(model, "NAME", "openai:gpt-5")
        for name, text in answering.environment.items():
            monkeypatch.setenv(name, text)
        gc.disable()  # which may end what nobody has closed, sooner or later
        try:
            app.publish("ask", {})
            bus.advance("1h")
            assert answers(bus) == [3], app.dead_letters.list()
            wait_for(lambda: answering.connections == 0, "the end of the connection", 10)
        finally:
            gc.enable()
        assert len(answering.answered) == 1


# -- the bill


def billed(answered: dict[str, int] | None) -> Bill:
    lines = [Line("planner", "d", number, 10, 100, 1) for number in (1, 2)]
    return Bill(lines, None if answered is None else Counter(answered), 0, 0, (0, 0), (0, 0))


@pytest.mark.parametrize(
    ("answered", "twice", "lost"),
    [
        ({"d/1": 1, "d/2": 1}, 0, 0),
        ({"d/1": 1, "d/2": 2}, 1, 0),
        ({"d/1": 1, "d/2": 1, "e/1": 1}, 0, 1),
        (None, 0, 0),
    ],
)
def test_a_bill_says_what_was_paid_twice_and_what_was_lost(
    answered: dict[str, int] | None, twice: int, lost: int
) -> None:
    bill = billed(answered)
    assert (bill.twice, bill.lost, bill.tokens, bill.cost) == (twice, lost, 20, 200)
