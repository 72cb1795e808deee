"""What threads do with a burst: each gets a share of what is quick, and what may be slow has a thread of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery.concurrency.thread import TaskPool
from celery.worker import state

from pipeline.delivery.short import runs
from tests.bursts import Site, working
from tests.records import rows
from tests.servers import wait_for

THREADS = 3


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    pool = TaskPool(THREADS)
    yield pool
    pool.on_stop()


@pytest.fixture
def site(tmp_path: Path, no_settings: None, pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with working(tmp_path, pool) as site:
        monkeypatch.setattr(runs, "monotonic", lambda: site.clock)
        yield site


def done(site: Site, *data: str, acks: int | None = None) -> Counter[str]:
    """Return what is done for a burst."""
    first = site.take(*data)
    wanted = len(data) if acks is None else acks
    wait_for(
        lambda: site.done.count("ack") + first.count("ack") == wanted and not state.requests, "the end of the burst"
    )
    return Counter(first + site.take())


def test_what_is_quick_is_shared_out_among_the_threads(site: Site) -> None:
    found = done(site, "1", "2")
    assert (found["1"], found["2"], found["ack"]) == (1, 1, 2)
    # The thread that has the second one may know already that the first one was quick.
    assert found["claim"] + found["claim_all 1"] == found["succeed"] + found["succeed_all 1"] == 2
    names = [f"n{n}" for n in range(7)]
    assert done(site, *names) == Counter(
        {
            "claim_all 3": 1,
            "claim_all 2": 2,
            "succeed_all 3": 1,
            "succeed_all 2": 2,
            "ack": 7,
            **dict.fromkeys(names, 1),
        }
    )
    assert {row["outcome"] for row in rows(site.app)} == {"succeeded"}
    assert state.total_count["agent.quick"] >= 9
    assert not state.active_requests
    assert not state.reserved_requests


def test_what_fails_in_a_thread_goes_the_long_way_and_is_nobodys_any_more(site: Site) -> None:
    done(site, "1")
    found = done(site, "2", "fail", "3", acks=2)
    assert (found["long way"], found["ack"]) == (1, 2)
    ((_, begun),) = site.long
    assert begun is not None
    assert (begun.attempt, str(begun.outcome)) == (1, "told to fail")


def test_what_is_revoked_while_it_waits_for_a_thread_is_not_claimed(site: Site) -> None:
    done(site, "1")
    site.hand_over("2", "3")
    revoked = site.way._waiting[0].id  # type: ignore[attr-defined]
    state.revoked.add(revoked)
    found = done(site, acks=1)
    assert (found["long way"], found["claim_all 1"], found["3"]) == (1, 1, 1)
    assert [begun for _, begun in site.long] == [None]


def test_a_message_that_is_no_text_is_set_aside_and_hurts_nobody(site: Site) -> None:
    done(site, "1")
    site.hand_over("2", body=b"\xff")
    found = done(site, "3", acks=1)
    assert (found["set aside"], found["3"]) == (1, 1)
