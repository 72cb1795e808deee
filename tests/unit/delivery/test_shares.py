"""How what waits is shared out among the processes of a pool."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery.concurrency.prefork import TaskPool
from celery.exceptions import TaskRevokedError
from celery.worker import state

from pipeline.delivery.raised import info_of
from pipeline.delivery.short import processes, runs
from pipeline.delivery.short.processes import Job, Share, run_share
from pipeline.delivery.short.way import MOST
from tests.bursts import Site, working
from tests.records import rows

PROCESSES = 2


class Pool(TaskPool):  # type: ignore[misc]  # celery's classes are untyped
    """A pool whose processes wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__(PROCESSES)
        self.given: list[tuple[list[Job], dict[str, Any]]] = []
        self.told: list[tuple[int, int]] = []

    num_processes = PROCESSES  # type: ignore[assignment]  # a property of Celery's, which asks billiard

    def terminate_job(self, pid: int, number: int) -> None:
        """Note who is told to end."""
        self.told.append((pid, number))

    def apply_async(self, target: Any, args: Any, **options: Any) -> object:
        """Keep a job."""
        assert target is run_share
        self.given.append((args[0], options))
        return self


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def site(tmp_path: Path, no_settings: None, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with working(tmp_path, pool) as site:
        monkeypatch.setattr(runs, "monotonic", lambda: site.clock)
        monkeypatch.setattr(type(site.app.ledger.deliveries), "release", lambda _, __, pid: site.forgotten.append(pid))
        yield site
    state.reset_state()


def run(site: Site, pool: Pool) -> int:
    """Let a process run the share that was given first, as if it were this one; return how many it has."""
    jobs, how = pool.given.pop(0)
    how["accept_callback"](4711, 0.0)
    how["callback"](run_share(jobs))
    return len(jobs)


def sizes(pool: Pool) -> list[int]:
    return [len(jobs) for jobs, _ in pool.given]


def test_what_is_not_known_to_be_quick_goes_alone_and_then_in_shares(site: Site, pool: Pool) -> None:
    site.take("1", "2", "3")
    assert sizes(pool) == [1, 1], "a share for each process, and one waits"
    run(site, pool)
    assert sizes(pool) == [1, 1]
    run(site, pool)
    run(site, pool)
    site.take(*map(str, range(7)))
    assert sizes(pool) == [4, 3]
    site.take("a", "b", "c")
    assert sizes(pool) == [4, 3], "what comes meanwhile waits"
    assert run(site, pool) == 4
    assert sizes(pool) == [3, 3]
    assert "claim_all 4" in site.done
    assert "succeed_all 4" in site.done


def test_a_share_is_not_larger_than_what_may_run_again(site: Site, pool: Pool) -> None:
    site.take("1")
    run(site, pool)
    site.take(*map(str, range(PROCESSES * MOST + 5)))
    assert max(sizes(pool)) <= MOST
    while pool.given:
        run(site, pool)
    assert site.done.count("ack") == PROCESSES * MOST + 5


def test_what_may_be_slow_does_not_keep_what_is_quick(site: Site, pool: Pool) -> None:
    site.take("1")
    run(site, pool)
    site.take("x", agent="other")
    site.take("2", "3")
    assert sizes(pool) == [1, 2]


def test_a_failure_goes_the_long_way_in_its_process_and_its_neighbours_are_done(site: Site, pool: Pool) -> None:
    site.take("1")
    run(site, pool)
    site.take("2", "fail", "3", "4")
    run(site, pool)
    run(site, pool)
    assert not state.requests
    assert [site.done.count(one) for one in ("2", "fail", "3", "4")] == [1, 2, 1, 1], "the books note it, too"


def test_nothing_of_a_connection_that_has_ended_is_given_to_a_process(site: Site, pool: Pool) -> None:
    site.take("1", "2", "3")
    site.way.close()
    run(site, pool)
    run(site, pool)
    assert pool.given == []
    assert "3" not in site.done


def test_nothing_is_given_any_more_to_a_worker_that_ends(site: Site, pool: Pool) -> None:
    site.take("1", "2", "3")
    state.should_stop = 0
    run(site, pool)
    assert sizes(pool) == [1]


def test_a_share_of_which_all_is_revoked_leaves_its_place_to_another(
    site: Site, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.take("1", "2")
    site.hand_over("3")
    way: Any = site.way
    (waiting,) = way._waiting
    gone: list[int] = []
    monkeypatch.setattr(way, "ended", lambda: gone.append(1))
    state.revoked.add(waiting.id)
    with pytest.raises(TaskRevokedError):
        Share(way._consumer, way, [waiting]).execute_using_pool(pool)
    assert gone == [1]
    state.revoked.clear()


def test_who_is_lost_with_others_runs_again_alone_but_for_what_was_revoked(site: Site, pool: Pool) -> None:
    site.take("1")
    run(site, pool)
    site.take("2", "3", "4", "5", "6", "7")
    (jobs, how), again = pool.given[0], site.again
    how["accept_callback"](4711, 0.0)
    revoked = next(request for request in state.requests.values() if request.id == jobs[1].id)
    revoked._already_revoked = True
    how["error_callback"](info_of(WorkerLostError("killed")))
    assert [request.id for request in again] == [jobs[0].id, jobs[2].id]
    assert site.forgotten == [4711]


def test_an_answer_that_is_lost_on_its_way_costs_nobody_his_delivery(site: Site, pool: Pool) -> None:
    site.take("1")
    jobs, how = pool.given.pop(0)
    how["accept_callback"](4711, 0.0)
    how["error_callback"](info_of(ValueError("no such thing to read")))
    assert [request.id for request in site.again] == [jobs[0].id]
    assert (site.forgotten, site.done) == ([], [])


def lose(site: Site, pool: Pool, error: BaseException) -> list[Any]:
    """Let the process of the share die that was given first; return the requests of the share."""
    jobs, how = pool.given.pop(0)
    how["accept_callback"](4711, 0.0)
    found = [state.requests[job.id] for job in jobs]
    how["error_callback"](info_of(error))
    return found


def test_what_was_lost_runs_again_as_if_it_had_never_run(site: Site, pool: Pool) -> None:
    site.take("1")
    run(site, pool)
    site.take("2", "3", "4", "5")
    lost = lose(site, pool, WorkerLostError("killed"))
    assert site.again == lost
    assert not any(request in state.active_requests for request in lost)
    assert not any(request.time_start or request.worker_pid or request.delivery_info["redelivered"] for request in lost)


def test_what_is_lost_after_its_connection_is_others_by_now(site: Site, pool: Pool) -> None:
    site.take("1")
    run(site, pool)
    site.take("2", "3", "4", "5")
    site.way.close()
    lose(site, pool, WorkerLostError("killed"))
    lose(site, pool, WorkerLostError("killed"))
    assert site.again == []
    assert not state.requests


def test_what_begins_again_without_a_death_is_for_the_ledger_like_a_message_that_comes_again(
    site: Site, pool: Pool
) -> None:
    site.take("1")
    run(site, pool)
    site.take("2", "3", "4", "5")
    lost = lose(site, pool, ValueError("an answer that cannot be read"))
    assert [request.delivery_info["redelivered"] for request in site.again] == [True] * len(lost)


def test_a_process_is_told_once_to_end_and_never_only_interrupted(site: Site, pool: Pool) -> None:
    site.take("1")
    run(site, pool)
    site.take("2", "3", "4", "5")
    jobs, how = pool.given[0]
    how["accept_callback"](4711, 0.0)
    for job in jobs:
        state.requests[job.id].cancel(pool, "USR1", emit_retry=False)
    assert pool.told == [(4711, signal.SIGTERM)]


def test_a_process_in_which_a_share_ends_with_an_error_forgets_what_it_has_begun(
    site: Site, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.take("1")
    run(site, pool)
    site.take("2", "3")
    jobs, _ = pool.given.pop(0)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.undo()
    monkeypatch.setattr(processes.InChild, "_end", fail)
    monkeypatch.setattr(processes.InChild, "_go_long", fail)
    with pytest.raises(MemoryError):
        run_share([Job(*job) for job in jobs])
    assert {row["outcome"] for row in rows(site.app)} <= {"succeeded", "queued"}
