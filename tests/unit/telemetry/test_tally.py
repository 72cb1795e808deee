"""What is counted is bounded, arrives whole, and never in a delivery's way."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pipeline.core.observe import Fact
from pipeline.telemetry.tally import Tally
from tests.servers import wait_for


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally(3)
    yield made
    made.close()


def ended(agent: str) -> Fact:
    return Fact("ended", (agent, "succeeded"))


def in_child(work: object) -> None:
    """Run something in a process that is forked, and ends at once."""
    pid = os.fork()
    if not pid:
        work()  # type: ignore[operator]
        os._exit(0)
    os.waitpid(pid, 0)


def totals(tally: Tally, what: str = "ended") -> dict[str, float]:
    return {labels[0]: total for labels, total, _ in tally.series(what)}


def test_further_labels_are_counted_together(tally: Tally) -> None:
    for name in ("a", "b", "c", "d", "e", "a", "d"):
        tally.count([ended(name)])
    assert totals(tally) == {"a": 2, "b": 1, "c": 1, "other": 3}


def test_a_histogram_has_each_value_in_one_bucket(tally: Tally) -> None:
    tally.count([Fact("ran", ("a",), seconds) for seconds in (0.001, 0.002, 7.0, 10_000.0)])
    ((_, total, buckets),) = tally.series("ran")
    assert total == pytest.approx(10_007.003)
    assert (sum(buckets), buckets[0], buckets[1], buckets[-1]) == (4, 1, 1, 1)


def test_what_children_count_arrives_also_from_those_that_are_killed(tally: Tally) -> None:
    tally.start()

    def work() -> None:
        tally.count([Fact("ran", ("a",), 0.5, can_wait=True)])
        tally.count([ended("a")])
        tally.count([Fact("ran", ("a",), 0.5, can_wait=True)])  # of an attempt whose end is never recorded
        os.kill(os.getpid(), 9)

    for _ in range(5):
        in_child(work)
    wait_for(lambda: totals(tally) == {"a": 5}, "all to arrive", 10)
    assert totals(tally, "ran") == {"a": 2.5}


def test_a_child_waits_for_nobody_who_does_not_read(tally: Tally) -> None:
    number = 20_000  # more than a pipe holds

    def work() -> None:
        for _ in range(number):
            tally.count([ended("a")])

    in_child(work)
    tally.start()
    wait_for(lambda: totals(tally), "what the pipe had room for", 10)
    assert 100 < totals(tally)["a"] < number


def test_what_cannot_be_counted_harms_nobody(tally: Tally, caplog: pytest.LogCaptureFixture) -> None:
    tally.count([Fact("unknown", ("a",))])
    assert "could not be counted" in caplog.text
