"""GCRA: never more than the burst and what the rate brings, in any window, and all of that while there is work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.limits import gcra

INTERVALS = st.integers(1, 10_000)
BURSTS = st.integers(1, 20)
PAUSES = st.lists(st.integers(0, 30_000), min_size=1, max_size=60)


def begun(pauses: list[int], interval: int, burst: int) -> list[int]:
    """Return when turns begin that are asked for after these pauses, whoever has to wait a while for one."""
    tat, at, starts = 0, 1_000_000, []
    for pause in pauses:
        at += pause
        start, tat = gcra.starts(tat, at, interval, (burst - 1) * interval)
        assert start >= at
        starts.append(start)
    return starts


@given(PAUSES, INTERVALS, BURSTS)
def test_no_window_has_more_turns_than_the_burst_and_what_the_rate_brings(
    pauses: list[int], interval: int, burst: int
) -> None:
    starts = begun(pauses, interval, burst)
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            assert last - first + 1 <= burst + (starts[last] - starts[first]) // interval


@given(st.integers(1, 100), INTERVALS, BURSTS)
def test_while_there_is_work_all_of_the_rate_is_used(number: int, interval: int, burst: int) -> None:
    starts = begun([0] * (burst + number), interval, burst)
    assert starts[:burst] == [1_000_000] * burst
    assert starts[burst:] == [1_000_000 + turn * interval for turn in range(1, number + 1)]


@given(PAUSES, INTERVALS, BURSTS, st.integers(0, 50_000))
def test_so_many_turns_begin_within_a_time_as_are_said_to(
    pauses: list[int], interval: int, burst: int, ahead: int
) -> None:
    tolerance = (burst - 1) * interval
    tat, at = 0, 1_000_000
    for pause in pauses:
        at += pause
        _, tat = gcra.starts(tat, at, interval, tolerance)
    number = gcra.within(tat, at, interval, tolerance, ahead)
    later, starts = tat, []
    for _ in range(number + 1):
        start, later = gcra.starts(later, at, interval, tolerance)
        starts.append(start)
    assert all(start <= at + ahead for start in starts[:number])
    assert starts[number] > at + ahead
    assert starts[number] == max(at, gcra.after(number, tat, at, interval, tolerance))
