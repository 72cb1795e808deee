"""How much each caller may send."""

from __future__ import annotations

import pytest

from pipeline.http import rates
from pipeline.http.problems import Problem
from pipeline.http.rates import BURST, Rates


class Clock:
    now = 1_000_000

    def __call__(self) -> int:
        return self.now


def wait(limit: Rates, caller: str) -> int:
    """Send a request; return after how many seconds there is room where it is too much."""
    try:
        limit.take(caller)
    except Problem as exc:
        return int(exc.headers["Retry-After"])
    return 0


def taken(limit: Rates, caller: str, tries: int) -> int:
    """Return how many of some requests are let through."""
    return sum(wait(limit, caller) == 0 for _ in range(tries))


def test_a_caller_may_send_what_the_rate_brings_and_the_others_as_much() -> None:
    clock = Clock()
    limit = Rates(2, clock)
    assert taken(limit, "one", 30) == 2 * BURST
    assert taken(limit, "two", 30) == 2 * BURST
    clock.now += 1_000_000
    assert taken(limit, "one", 30) == 2


@pytest.mark.parametrize("rate", [0.01, 0.5, 3, 10_000])
def test_who_waits_as_long_as_he_is_told_may_send_again(rate: float) -> None:
    clock = Clock()
    limit = Rates(rate, clock)
    while not (seconds := wait(limit, "one")):
        pass
    clock.now += seconds * 1_000_000
    assert wait(limit, "one") == 0


def test_without_a_rate_nobody_is_counted() -> None:
    assert taken(Rates(0), "one", 1000) == 1000


def test_of_many_callers_those_are_remembered_who_were_here_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_CALLERS", 3)
    limit = Rates(0.2, Clock())
    assert [taken(limit, caller, 2) for caller in "abcd"] == [1] * 4
    assert len(limit._arrivals) == 3
    assert [taken(limit, caller, 1) for caller in "dcb"] == [0] * 3
    assert taken(limit, "a", 1) == 1
