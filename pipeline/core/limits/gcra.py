"""The generic cell rate algorithm: a rate with bursts, kept in one number for each key, without a clock of its own.

ITU-T I.371, and "GCRA" in Brandur Leach, "Rate Limiting, Cells, and GCRA" (2015). The number is the theoretical arrival
time: when the next turn would come if turns came evenly. All times are microseconds.
"""

from __future__ import annotations


def starts(tat: int, at: int, interval: int, tolerance: int) -> tuple[int, int]:
    """Return when the next turn begins, and the theoretical arrival time after it has been taken.

    Arguments:
        tat: the theoretical arrival time so far.
        at: now.
        interval: between two turns.
        tolerance: how far before its time a turn may begin: the burst but one, times the interval.

    """
    due = max(tat, at)
    return max(at, due - tolerance), due + interval


def within(tat: int, at: int, interval: int, tolerance: int, ahead: int) -> int:
    """Return how many turns begin until `ahead` after `at`, if all are taken as they come."""
    room = ahead + tolerance - (max(tat, at) - at)
    return 0 if room < 0 else room // interval + 1


def after(number: int, tat: int, at: int, interval: int, tolerance: int) -> int:
    """Return when a turn begins that has `number` others before it."""
    return max(tat, at) + number * interval - tolerance


def most(at: int, interval: int, tolerance: int, ahead: int) -> int:
    """Return the latest theoretical arrival time that turns can leave which begin until `ahead` after `at`."""
    return at + ahead + tolerance + interval
