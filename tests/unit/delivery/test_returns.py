"""The pause before something goes back to its queue."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.delivery.process import returns
from pipeline.delivery.process.returns import LONGEST, REMEMBERED, SHORTEST, Returns


class Clock:
    """A time that passes when told so, and what is to be called then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        self.calls: list[Callable[[], None]] = []

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self.pauses.append(seconds)
        self.calls.append(do)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(returns, "monotonic", lambda: one.now)
    return one


def test_each_pause_is_twice_as_long_as_the_one_before_up_to_the_longest(clock: Clock) -> None:
    one = Returns(clock.after)
    for _ in range(12):
        one.after_pause("a", lambda: None)
        clock.now += clock.pauses[-1]
    assert clock.pauses[:2] == pytest.approx([SHORTEST, SHORTEST])
    steps = list(zip(clock.pauses[1:], clock.pauses[2:], strict=False))
    assert all(later == pytest.approx(min(2 * pause, LONGEST)) for pause, later in steps)
    assert clock.pauses[-1] == LONGEST


def test_the_pause_of_one_delivery_is_not_that_of_another_and_ends_with_it(clock: Clock) -> None:
    one = Returns(clock.after)
    one.after_pause("a", lambda: None)
    clock.now += 5
    one.after_pause("b", lambda: None)
    one.after_pause("a", lambda: None)
    del one.since["a"]
    one.after_pause("a", lambda: None)
    assert clock.pauses == [SHORTEST, SHORTEST, 5, SHORTEST]


def test_what_waits_when_the_connection_is_lost_is_not_given_back_on_the_next_one(clock: Clock) -> None:
    one, given = Returns(clock.after), list[str]()
    one.after_pause("a", lambda: given.append("a"))
    one.forget_waiting()
    one.after_pause("b", lambda: given.append("b"))
    for call in clock.calls:
        call()
    assert given == ["b"]


def test_only_the_latest_deliveries_are_remembered(clock: Clock) -> None:
    one = Returns(clock.after)
    for number in range(REMEMBERED + 10):
        one.after_pause(str(number), lambda: None)
    assert len(one.since) == REMEMBERED
    assert str(REMEMBERED + 9) in one.since
