"""Jobs: how many there are, how they end, and what is said of those that fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from pipeline.core.errors import BrokerUnavailable
from pipeline.http import jobs as module
from pipeline.http.jobs import AT_ONCE, Job, Jobs, State
from pipeline.http.problems import Problem
from tests.servers import wait_for


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    one = Jobs()
    yield one
    one.end()


def new() -> Job:
    return Job("replay", "ops", {"to": "billing"})


def forever(jobs: Jobs) -> Job:
    """Begin a job that only ends when somebody stops it."""
    job = new()

    def work() -> dict[str, int]:
        job.rest(3600)
        return {"number": 1}

    return jobs.start(job, work)


def test_a_job_says_how_far_it_has_come_and_what_it_has_come_to(jobs: Jobs) -> None:
    job, go_on = new(), threading.Event()

    def work() -> dict[str, int]:
        job.reach(7)
        go_on.wait(60)
        return {"number": 8}

    assert jobs.start(job, work) is jobs.get(job.id)
    wait_for(lambda: job.done == 7, "the first batch")
    said = job.as_data()
    assert (said["state"], said["ended"], said["result"], said["by"]) == ("running", None, None, "ops")
    go_on.set()
    wait_for(lambda: job.state is State.DONE, "the job to end")
    said = job.as_data()
    assert (said["result"], said["error"], said["asked"]) == ({"number": 8}, None, {"to": "billing"})
    assert said["begun"] <= said["ended"]


def test_a_job_that_is_stopped_ends_between_two_batches(jobs: Jobs) -> None:
    job, batches = new(), []

    def work() -> dict[str, int]:
        for number in range(1, 10):
            batches.append(number)
            if number == 3:
                job.stop()
            job.reach(number)
        return {}

    jobs.start(job, work)
    wait_for(lambda: job.state is not State.RUNNING, "the job to end")
    assert (job.state, job.done, job.result, batches) == (State.STOPPED, 3, None, [1, 2, 3])


def test_a_job_that_fails_says_why_and_what_nobody_thought_of_is_in_the_log(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: Exception) -> Job:
        def work() -> dict[str, int]:
            raise error

        job = jobs.start(new(), work)
        wait_for(lambda: job.state is State.FAILED, "the job to fail")
        return job

    away = fail(BrokerUnavailable("the broker is away; go on with id=x"))
    assert away.as_data()["error"]["type"] == "urn:pipeline:problem:broker-unavailable"
    assert (away.as_data()["error"]["status"], away.error.detail) == (503, "the broker is away; go on with id=x")
    assert caplog.records[-1].levelno == logging.WARNING
    strange = fail(ZeroDivisionError("secret"))
    assert strange.as_data()["error"]["status"] == 500
    assert "secret" not in str(strange.as_data())
    assert "ZeroDivisionError: secret" in caplog.text


def test_more_jobs_than_may_run_at_once_are_refused_until_one_has_ended(jobs: Jobs) -> None:
    running = [forever(jobs) for _ in range(AT_ONCE)]
    with pytest.raises(Problem, match="4 jobs run already") as caught:
        forever(jobs)
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "5"})
    running[0].stop()
    wait_for(lambda: running[0].state is State.STOPPED, "one to end")
    forever(jobs)


def test_only_the_last_ones_are_remembered_and_those_that_run(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    first = forever(jobs)
    done = []
    for _ in range(4):
        done.append(jobs.start(new(), dict))
        wait_for(lambda: done[-1].state is State.DONE, "one to end")
    assert jobs.list() == [done[3], done[2], first]
    with pytest.raises(Problem, match="no job") as caught:
        jobs.get(done[0].id)
    assert caught.value.status == 404


def test_they_end_with_the_server_and_none_begins_then(jobs: Jobs) -> None:
    running = [forever(jobs) for _ in range(2)]
    jobs.end()
    assert [job.state for job in running] == [State.STOPPED] * 2
    with pytest.raises(Problem, match="the server ends") as caught:
        forever(jobs)
    assert caught.value.status == 503
    jobs.begin()
    assert forever(jobs).state is State.RUNNING, "a server that is started again takes jobs again"
