"""What every ledger promises about what handlers say while they work: its order, how much is kept, and how long."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from pipeline import Pipeline
from pipeline.core.errors import LedgerUnavailable
from pipeline.ledger.database.waiting import notices
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.notices import notices as module
from pipeline.ledger.notices.notice import LONGEST, Speaker
from pipeline.ledger.notices.notices import EVERY, KEPT, MOST_UNSAID, Notices
from tests.ledgers import move
from tests.servers import wait_for

pytestmark = pytest.mark.pooled

ADA = Speaker("order-1", "d-1", "ada", 1)


def number(ledger: Ledger) -> int:
    return ledger.database.read(lambda own: own.execute(select(func.count()).select_from(notices)).scalar_one())


def text(ledger: Ledger, speaker: Speaker = ADA, name: str = "answer") -> str:
    said = ledger.notices.of(speaker.correlation)
    return "".join(one.text for one in said if (one.delivery, one.name) == (speaker.delivery, name))


def test_pieces_become_one_text_and_of_progress_only_the_newest_counts(ledger: Ledger) -> None:
    for n in range(1000):
        ledger.notices.add(ADA, "answer", f"{n} ")
        ledger.notices.progress(ADA, n / 1000, f"page {n}")
    wait_for(lambda: text(ledger).endswith("999 "), "what was said to be written")  # without being asked
    ledger.notices.flush()
    said = ledger.notices.of("order-1")
    assert text(ledger) == "".join(f"{n} " for n in range(1000))
    progress = [one for one in said if one.kind == "progress"]
    assert (progress[-1].fraction, progress[-1].text) == (0.999, "page 999")
    assert len(said) < 200  # a look takes some of them together
    assert [one.seq for one in said] == sorted({one.seq for one in said})


def test_what_is_said_is_written_at_once_when_that_is_asked(ledger: Ledger) -> None:
    ledger.notices.add(ADA, "answer", "x" * (LONGEST + 1))
    ledger.notices.add(Speaker("order-2", "d-2", "bob", 3), "\udc80.pdf", "\ud800y")
    ledger.notices.flush()
    assert [len(one.text) for one in ledger.notices.of("order-1")] == [LONGEST, 1]
    (other,) = ledger.notices.of("order-2")
    assert (other.agent, other.attempt, other.name, other.text) == ("bob", 3, "?.pdf", "?y")
    assert other.as_data().keys() == {"seq", "at", "correlation", "delivery", "agent", "attempt", "name", "text"}
    assert [one.correlation for one in ledger.notices.since(0, 2)] == ["order-1"] * 2
    assert ledger.notices.end() == other.seq


def test_who_is_in_a_hurry_has_all_written_at_once_that_was_said(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 3600.0)
    assert ledger.notices.hurry().done(), "nothing was said"
    ledger.notices.add(ADA, "answer", "all of it")
    ledger.notices.progress(ADA, 1.0, "done")
    ledger.notices.hurry().result(60)
    assert [one.text for one in ledger.notices.of("order-1")] == ["all of it", "done"]
    assert ledger.notices.hurry().result(60) is None


def test_who_is_in_a_hurry_hears_that_what_was_said_is_left_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_: object) -> None:
        raise LedgerUnavailable("the ledger is away")

    monkeypatch.setattr(ledger.database, "run", away)
    ledger.notices.add(ADA, "answer", "all of it")
    assert ledger.notices.hurry().result(60) is None
    assert "is left out: LedgerUnavailable: the ledger is away" in caplog.text


def test_of_each_correlation_the_newest_are_kept_for_ten_minutes(ledger: Ledger) -> None:
    for n in range(KEPT + 20):
        ledger.notices.add(Speaker("order-1", f"d-{n}", "ada", 1), "answer", str(n))
    ledger.notices.add(Speaker("order-2", "d", "bob", 1), "answer", "alone")
    ledger.notices.flush()
    assert [int(one.text) for one in ledger.notices.of("order-1", most=5000)] == [*range(20, KEPT + 20)]
    assert [one.text for one in ledger.notices.of("order-2")] == ["alone"]
    move(ledger, notices, 601, "at")
    assert ledger.notices.of("order-2") == ledger.notices.since(0, 10) == []
    last = ledger.notices.end()
    assert ledger.notices.forget() == KEPT + 1
    ledger.notices.add(ADA, "answer", "later")
    ledger.notices.flush()
    assert ledger.notices.forget() == 0
    assert ledger.notices.of("order-1")[0].seq > last  # those who have read until there hear of it


def test_those_who_read_along_miss_nothing_though_many_write(ledger: Ledger, app: Pipeline) -> None:
    writers = [ledger.notices, *(Notices(ledger.database) for _ in range(3))]
    heard: list[int] = []

    def say(n: int) -> None:
        for piece in range(50):
            writers[n].add(Speaker(f"order-{n}", "d", "ada", 1), "answer", f"{piece} ")
            writers[n].flush()

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(say, n) for n in range(4)]
        while not all(one.done() for one in running) or len(heard) < number(ledger):
            heard += [one.seq for one in ledger.notices.since(heard[-1] if heard else 0, 7)]
        for one in running:
            one.result()
    assert number(ledger) == len(heard) == len(set(heard))
    for n in range(4):
        assert text(ledger, Speaker(f"order-{n}", "d", "ada", 1)) == "".join(f"{piece} " for piece in range(50))


def test_a_ledger_that_is_away_costs_the_handler_nothing_and_is_said_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        raise LedgerUnavailable("the ledger is away")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.database, "run", away)
        for _ in range(3):
            ledger.notices.add(ADA, "answer", "lost")
            ledger.notices.flush()
    ledger.notices.add(ADA, "answer", "x" * (MOST_UNSAID + 1))
    ledger.notices.add(ADA, "answer", "heard")
    ledger.notices.flush()
    assert text(ledger) == "heard"
    assert caplog.text.count("is left out") == 1


def test_a_child_leaves_to_its_parent_what_was_not_written(ledger: Ledger) -> None:
    ledger.notices.add(ADA, "answer", "parent ")
    child = os.fork()
    if not child:
        ledger.notices.add(ADA, "answer", "child ")
        ledger.notices.flush()
        os._exit(0)
    os.waitpid(child, 0)
    ledger.notices.flush()
    wait_for(lambda: sorted(text(ledger).split()) == ["child", "parent"], "both", seconds=10 * EVERY + 10)


def test_who_is_erased_has_said_nothing(app: Pipeline, ledger: Ledger) -> None:
    event = app.publish("order.placed", {"name": "Ada"}, subject="ada")
    for id in (event.id, "order-1"):
        ledger.notices.add(ADA._replace(correlation=id), "answer", "Ada lives here")
    ledger.notices.flush()
    app.erase(subject="ada", dry_run=True)
    assert app.notices(event)
    app.erase(subject="ada")
    assert app.notices(event) == []
    assert [one.delivery for one in app.notices("order-1")] == ["d-1"]
