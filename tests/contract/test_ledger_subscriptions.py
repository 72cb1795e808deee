"""The subscriptions' table on each database: whoever changes it at the same time, nothing is overlooked or lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.core.errors import InvalidSubscription, UnknownSubscription
from pipeline.ledger.ledger import Ledger
from tests.records import rows

URL = "https://example.com/hook"


def at_once(calls: Iterable[Callable[[], Any]]) -> list[Exception]:
    """Do several things in threads of their own; return what they raised."""
    errors: list[Exception] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_each_change_makes_another_version_of_the_table_whoever_commits_first(app: Pipeline, ledger: Ledger) -> None:
    table = ledger.subscriptions
    assert table.version() == 0
    names = [f"crm{n}" for n in range(8)]
    assert at_once([lambda name=name: app.subscriptions.add(name, on="a.b", url=URL) for name in names]) == []  # type: ignore[misc]
    assert table.version() == 8
    changes = [lambda n=n: app.subscriptions.change("crm0", on=["a.b", f"n{n}.#"]) for n in range(4)]  # type: ignore[misc]
    assert at_once([*changes, *(lambda n=n: app.subscriptions.change("crm0", retry=n) for n in range(4))]) == []  # type: ignore[misc]
    assert (table.version(), app.subscriptions.get("crm0").version) == (16, 9)
    app.subscriptions.remove("crm1")
    assert table.version() == 17
    app.subscriptions.add("crm1", on="a.b", url=URL)
    assert table.version() == 18


def test_of_several_who_add_or_remove_the_same_one_succeeds(app: Pipeline) -> None:
    errors = at_once([lambda: app.subscriptions.add("crm", on="a.b", url=URL)] * 6)
    assert len(errors) == 5
    assert {type(error) for error in errors} == {InvalidSubscription}
    app.publish("a.b", {})
    errors = at_once([lambda: app.subscriptions.remove("crm")] * 4)
    assert len(errors) == 3
    assert {type(error) for error in errors} == {UnknownSubscription}
    assert [row["outcome"] for row in rows(app, agent="crm")] == ["dead"]


@pytest.mark.parametrize("since", [None, 3])
def test_what_was_published_for_it_and_never_begun_is_dead_when_it_is_removed(app: Pipeline, since: int | None) -> None:
    early = [app.publish("a.b", {"n": n}) for n in range(4)]
    app.subscriptions.add("crm", on="a.*", url=URL, where="n != 7", since=since)
    late = [app.publish("a.b", {"n": n}) for n in range(4, 9)]
    app.publish("other.type", {})
    assert app.subscriptions.remove("crm").dead == (6 if since else 4)
    letters = {letter.event.id for letter in app.dead_letters.list(agent="crm")}
    wanted = {event.id for event in late if event.data["n"] != 7} | (
        {event.id for event in early[2:]} if since else set()
    )
    assert letters == wanted
    announced = list(app.get_events(type="delivery.dead"))
    assert {one.event.data["event_id"] for one in announced} == wanted


def test_versions_that_no_worker_runs_are_known_of_those_that_the_ledger_declares(
    app: Pipeline, ledger: Ledger
) -> None:
    app.subscriptions.add("crm", on="a.*", url=URL, where="n = 1")
    (version,) = ledger.subscribers.versions(["crm", "other"])
    assert version["crm"].patterns == ("a.*",)
    assert '"payload.n"' in version["crm"].filters
    assert ledger.subscribers.is_wanted("crm", "a.b")
    app.subscriptions.change("crm", on="c.*", where=None)
    assert not ledger.subscribers.is_wanted("crm", "a.b")
    assert ledger.subscribers.versions(["other"]) == []
    ledger.subscribers.register({"billing": (("a.b",), None)}, "w1")  # as any worker does all the time
    assert ledger.subscribers.all() == {"crm": ("c.*",), "billing": ("a.b",)}
    app.subscriptions.remove("crm")
    assert ledger.subscribers.versions(["crm"]) == [{"billing": version_of(ledger)}]


def version_of(ledger: Ledger) -> Any:
    (found,) = ledger.subscribers.versions(())
    return found["billing"]
