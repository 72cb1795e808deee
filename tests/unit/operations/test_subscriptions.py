"""Adding, changing, removing subscriptions: what is kept of them, and what is refused with a hint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core import errors
from pipeline.core.errors import InvalidSubscription, LedgerOff, UnknownSubscription, to_install

URL = "https://example.com/hook"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    app = Pipeline("t", directory=tmp_path / "state")

    @app.agent(on="order.*")
    def billing(data: dict) -> None: ...

    yield app
    app.close()


def test_what_was_added_is_kept_and_its_secret_is_not_shown(app: Pipeline) -> None:
    secret = app.subscriptions.new_secret()
    added = app.subscriptions.add(
        "crm", on=["order.*", "order.*", "invoice.#"], url=f"{URL}?token=tellnobody", where={"total": {"$gt": 5}},
        priority=2, max_concurrent=3, timeout=4, retry=5, since=6, secret=secret,
    )  # fmt: skip
    assert added == app.subscriptions.get("crm")
    assert app.subscriptions.list() == [added]
    assert (added.on, added.where) == (("order.*", "invoice.#"), {"payload.total": {"$gt": 5}})
    assert (added.priority, added.max_concurrent, added.timeout, added.retry, added.since) == (2, 3, 4.0, 5, 6)
    assert added.signed
    for shown in (str(added), str(added.as_data())):
        assert secret not in shown
    assert "tellnobody" not in str(added.as_data())
    assert "tellnobody" not in str(added)


def test_a_limit_that_was_changed_stays_so_though_what_had_begun_before_says_the_old_one(app: Pipeline) -> None:
    app.subscriptions.add("crm", on="order.*", url=URL, max_concurrent=3)
    assert app.bus.subscribed is not None
    app.bus.subscribed.look()
    (before,) = app.ledger.limits.rules.all()
    app.subscriptions.change("crm", max_concurrent=6)
    assert app.bus.subscribed.look()
    app.ledger.limits.rules.declare({before.name: before.declared})  # as a delivery does that takes a turn
    assert not app.bus.subscribed.look()
    (after,) = app.ledger.limits.rules.all()
    assert (before.rule.concurrent, after.rule.concurrent) == (3, 6)


def test_what_is_changed_is_that_and_nothing_else(app: Pipeline) -> None:
    secret = app.subscriptions.new_secret()
    first = app.subscriptions.add("crm", on="order.*", url=URL, where="total > 5", secret=secret)
    second = app.subscriptions.change("crm", retry=0)
    assert (second.retry, second.version) == (0, first.version + 1)
    assert (second.on, second.where, second.url, second.signed) == (first.on, first.where, first.url, True)
    third = app.subscriptions.change("crm", where=None, secret=None, on="invoice.#")
    assert (third.where, third.signed, third.on) == (None, False, ("invoice.#",))
    assert app.ledger.subscribers.all() == {"crm": ("invoice.#",)}
    assert {one.agent: one.gets for one in app.explain(app.publish("invoice.sent", {}))} == {
        "crm": True,
        "billing": False,
    }


def test_a_removed_one_is_gone_and_its_id_is_free(app: Pipeline) -> None:
    for _ in range(2):
        app.subscriptions.add("crm", on="order.*", url=URL, secret=app.subscriptions.new_secret())
        app.publish("order.placed", {})
        removed = app.subscriptions.remove("crm")
        assert (removed.id, removed.bound, removed.dead) == ("crm", ("order.*",), 1)
        assert app.subscriptions.list() == []
        assert "crm" not in app.ledger.subscribers.all()
    for call in (app.subscriptions.get, app.subscriptions.remove, lambda id: app.subscriptions.change(id, retry=1)):
        with pytest.raises(UnknownSubscription, match="there is no subscription 'crm'"):
            call("crm")
    app.subscriptions.add("crn", on="order.*", url=URL)
    with pytest.raises(UnknownSubscription, match="did you mean 'crn'"):
        app.subscriptions.get("crm")


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"id": "Crm"}, "InvalidAgent", "'Crm' is not an agent name"),
        ({"id": ""}, "InvalidAgent", "is not an agent name"),
        ({"id": "billing"}, "InvalidSubscription", "'billing' is the id of an agent that is declared in code"),
        ({"on": []}, "InvalidSubscription", "on: name a pattern"),
        ({"on": "order..placed"}, "InvalidPattern", "order..placed"),
        ({"on": [7]}, "InvalidAgent", "on=7 is neither a topic pattern"),
        ({"url": "ftp://example.com"}, "InvalidSubscription", "no http:// or https:// URL"),
        ({"url": "https://a:tellnobody@example.com"}, "InvalidSubscription", "it holds a name or a password"),
        ({"where": {"total": {"$gtt": 5}}}, "InvalidFilter", r"\$gtt"),
        ({"where": "total >"}, "InvalidFilter", "total >|character"),
        ({"priority": 11}, "InvalidAgent", "priority=11 must be between"),
        ({"max_concurrent": 0}, "InvalidAgent", "concurrent=0"),
        ({"max_concurrent": 10**9}, "InvalidSubscription", "max_concurrent=1000000000 is no number up to 1000"),
        ({"timeout": 0}, "InvalidAgent", "timeout=0 must be more than 0"),
        ({"timeout": "soon"}, "InvalidSubscription", "timeout='soon' is no number"),
        ({"retry": -1}, "InvalidAgent", "retries must be between"),
        ({"retry": True}, "InvalidSubscription", "retry=True is no number"),
        ({"since": -1}, "InvalidSubscription", "since=-1 is no sequence number"),
        ({"since": "2026-01-01"}, "InvalidSubscription", "is no sequence number"),
        ({"secret": "tellnobody"}, "InvalidSubscription", "secret: write 'whsec_'"),
    ],
)
def test_what_is_written_wrongly_is_refused_with_a_hint(
    app: Pipeline, wrong: dict[str, Any], error: str, says: str
) -> None:
    with pytest.raises(getattr(errors, error), match=says) as caught:
        app.subscriptions.add(**{"id": "crm", "on": "order.*", "url": URL, **wrong})
    assert "tellnobody" not in str(caught.value)
    assert app.subscriptions.list() == []
    assert app.ledger.subscribers.all() == {}
    if wrong.keys() & {"id", "since"}:
        return
    app.subscriptions.add("crm", on="order.*", url=URL)
    with pytest.raises(getattr(errors, error), match=says):
        app.subscriptions.change("crm", **wrong)
    assert app.subscriptions.get("crm").version == 1


def test_an_id_is_taken_by_another_subscription_or_an_agent_that_workers_have_run(app: Pipeline) -> None:
    app.subscriptions.add("crm", on="order.*", url=URL)
    with pytest.raises(InvalidSubscription, match="there is a subscription 'crm' already: change it"):
        app.subscriptions.add("crm", on="order.*", url=URL)
    app.ledger.subscribers.register({"elsewhere": (("a.b",), None)}, "w1")
    with pytest.raises(InvalidSubscription, match="is the id of an agent that is declared in code: choose another"):
        app.subscriptions.add("elsewhere", on="order.*", url=URL)
    assert [one.id for one in app.subscriptions.list()] == ["crm"]
    assert app.ledger.subscribers.all()["elsewhere"] == ("a.b",)


def test_without_what_makes_the_calls_it_is_said_where_one_is_added(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.bridges.webhooks.find_spec", lambda _: None)
    with pytest.raises(errors.ConfigError, match="subscriptions need the package httpcore") as caught:
        app.subscriptions.add("crm", on="order.*", url=URL)
    assert to_install("webhooks") in str(caught.value)


def test_without_a_ledger_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(LedgerOff):
        _ = Pipeline("t", ledger_url="", directory=tmp_path).subscriptions


def test_a_worker_that_cannot_run_one_says_so_and_runs_the_others(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app.subscriptions.add("crm", on="order.*", url=URL)
    app.subscriptions.add("shop", on="order.*", url=URL)

    @app.agent(on="order.*")
    def shop(data: dict) -> None: ...

    subscribed = app.bus.subscribed
    assert subscribed is not None
    assert subscribed.look()
    with caplog.at_level(logging.ERROR):
        change = subscribed.apply()
    assert change is not None
    assert [agent.name for agent in change.agents] == ["crm"]
    assert "subscription shop is not run by this worker: InvalidAgent: agent 'shop' is declared in code" in caplog.text
    assert not app.agents["shop"].in_ledger
    assert not subscribed.look()
    assert subscribed.apply() is None
    app.subscriptions.change("crm", retry=1)
    assert subscribed.look()
    change = subscribed.apply()
    assert change is not None
    assert [agent.retry.max for agent in change.agents] == [1]
    app.subscriptions.remove("crm")
    assert subscribed.look()
    change = subscribed.apply()
    assert change is not None
    assert [agent.name for agent in change.gone] == ["crm"]
    assert "crm" not in app.agents
