"""What a broker hands over in one burst: what is claimed and recorded together, and what alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import current_task
from celery.concurrency.solo import TaskPool

from pipeline.core.errors import LedgerUnavailable
from pipeline.delivery.delivery import NotRecordedError
from pipeline.delivery.short import runs, way
from tests.bursts import Site, working
from tests.records import rows


@pytest.fixture
def site(tmp_path: Path, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with working(tmp_path, TaskPool()) as site:
        monkeypatch.setattr(runs, "monotonic", lambda: site.clock)
        yield site


ALONE = ("flush", "claim", "{}", "succeed", "ack")


def alone(*data: str) -> list[str]:
    """Return what is done for deliveries that go alone."""
    return [step.format(one) for one in data for step in ALONE]


def together(*data: str) -> list[str]:
    """Return what is done for deliveries that go together."""
    number = len(data)
    return [f"claim_all {number}", *data, f"succeed_all {number}", *["ack"] * number]


def alone_of_group(*data: str) -> list[str]:
    """Return what is done for deliveries that were claimed with others, and then go alone."""
    return [step for one in data for step in (one, "succeed_all 1", "ack")]


def outcomes(site: Site) -> set[str]:
    return {row["outcome"] for row in rows(site.app)}


def test_an_agent_is_known_to_be_quick_when_it_has_run(site: Site) -> None:
    assert site.take("1", "2", "3") == [*alone("1"), *together("2", "3")]
    assert site.take("4", "5", "6") == together("4", "5", "6")
    assert site.take("7", agent="other") == alone("7")
    assert outcomes(site) == {"succeeded"}
    assert current_task._get_current_object() is None


def test_what_several_agents_get_in_a_burst_goes_together(site: Site) -> None:
    site.take("1")
    site.take("1", agent="other")
    site.hand_over("2", "3")
    assert site.take("4", agent="other") == together("2", "3", "4")


def test_a_handler_that_has_become_slow_runs_alone_until_it_is_quick_again(site: Site) -> None:
    site.take("1")
    done = site.take("2", 0.01, "3", "4")
    assert done == ["claim_all 4", "2", "0.01", "succeed_all 2", "ack", "ack", *alone_of_group("3", "4")]
    assert site.take("5", "6") == alone("5", "6")
    site.take(*"789abcdefg")
    assert site.take("8", "9") == together("8", "9")


def test_an_outcome_waits_a_few_milliseconds_for_others_at_most(site: Site) -> None:
    site.take("1")
    done = site.take("2", 0.002, "3", 0.004, "4", "5")
    assert done == ["claim_all 6", "2", "0.002", "3", "0.004", "succeed_all 4", *["ack"] * 4, *together("4", "5")[1:]]


def test_a_delivery_without_a_second_attempt_is_claimed_alone(site: Site) -> None:
    site.take("1", agent="once")
    assert site.take("2", "3", agent="once") == alone("2", "3")


def test_what_fails_goes_the_long_way_when_what_has_ended_is_recorded(site: Site) -> None:
    site.take("1")
    assert site.take("2", "fail", "3") == [
        "claim_all 3", "2", "fail", "succeed_all 1", "ack", "long way", "3", "succeed_all 1", "ack"
    ]  # fmt: skip
    ((_, begun),) = site.long
    assert begun is not None
    assert (begun.attempt, str(begun.outcome)) == (1, "told to fail")
    assert outcomes(site) == {"succeeded", "running"}


def test_what_a_handler_writes_in_its_session_is_committed_with_its_own_outcome_alone(site: Site) -> None:
    site.take("1")
    done = site.take("2", "write", "3")
    assert done == ["claim_all 3", "2", "write", "succeed", "ack", "3", "succeed_all 2", "ack", "ack"]
    assert outcomes(site) == {"succeeded"}


def test_what_a_burst_emits_is_sent_at_once_when_it_is_recorded(site: Site) -> None:
    site.take("1")
    done = site.take("emit", "2", "emit")
    assert done == ["claim_all 3", "emit", "2", "emit", "succeed_all 3", "send 2", "ack", "ack", "ack"]


def test_what_goes_the_long_way_waits_for_what_came_before_it(site: Site) -> None:
    site.take("1")
    site.hand_over("2")
    site.hand_over("again", redelivered=True)
    assert site.take("3") == [*together("2"), "long way", *together("3")]


def test_what_is_in_the_ledger_already_goes_the_long_way(site: Site) -> None:
    site.take("1")
    site.hand_over("2")
    site.app.ledger.workers.heartbeat("another")
    (waiting,) = site.way._waiting  # type: ignore[attr-defined]
    site.app.ledger.claim(site.way._delivery(waiting), worker="another")  # type: ignore[arg-type]
    assert site.take("3") == ["claim_all 2", "long way", "3", "succeed_all 1", "ack"]
    assert [begun for _, begun in site.long] == [None]


def test_a_worker_that_ends_leaves_to_the_broker_what_has_not_begun(site: Site) -> None:
    assert site.take("stop", "1", "2") == alone("stop")
    assert site.take("3") == []
    assert outcomes(site) == {"succeeded"}


def test_a_group_is_not_larger_than_what_may_run_again(site: Site) -> None:
    site.take("1")
    done = site.take(*map(str, range(way.MOST * 2 + 1)))
    assert [step for step in done if step.startswith("claim")] == ["claim_all 100", "claim_all 100", "claim_all 1"]


def test_a_ledger_that_is_away_sends_the_whole_burst_the_long_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.take("1")
    site.hand_over("2", "3")

    def away(*_: object, **__: object) -> Any:
        raise LedgerUnavailable("it is away")

    monkeypatch.setattr(site.app.ledger, "claim_all", away)
    assert site.take() == ["claim_all 2", "long way", "long way"]
    assert [(begun.attempt, type(begun.outcome)) for _, begun in site.long if begun] == [(0, NotRecordedError)] * 2
    monkeypatch.undo()
    monkeypatch.setattr(site.app.ledger, "succeed_all", away)
    site.long.clear()
    assert site.take("4", "5") == ["claim_all 2", "4", "5", "succeed_all 2", "long way", "long way"]
    assert [(begun.attempt, type(begun.outcome)) for _, begun in site.long if begun] == [(1, NotRecordedError)] * 2


def test_what_cannot_be_sent_without_a_ledger_goes_back_to_its_queue(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.take("1")

    def send(_: object) -> None:
        raise NotRecordedError("the broker is away")

    monkeypatch.setattr(site.app.celery.tasks["agent.quick"].books, "send", send, raising=False)
    assert site.take("emit", "2") == ["claim_all 2", "emit", "2", "succeed_all 2", "long way", "long way"]
    assert [(begun.attempt, type(begun.outcome)) for _, begun in site.long if begun] == [(1, NotRecordedError)] * 2
