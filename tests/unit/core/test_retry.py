"""Retries: pure decisions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import EventTooLarge, InvalidAgent, InvalidEvent, Retry
from pipeline.core.retry import Again, Dead, backoff, decide

PLAIN = Retry(max=3, base=1.0, cap=10.0, jitter=0.0)
POLICIES = st.builds(
    lambda max, base, more, jitter: Retry(max=max, base=base, cap=base + more, jitter=jitter),
    max=st.integers(0, 1000),
    base=st.floats(0, 1e6),
    more=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
CHANCES = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("retries", "error", "policy", "expected"),
    [
        (0, RuntimeError(), PLAIN, Again(1.0)),
        (1, RuntimeError(), PLAIN, Again(2.0)),
        (2, RuntimeError(), PLAIN, Again(4.0)),
        (3, RuntimeError(), PLAIN, Dead("4 of 4 attempts failed")),
        (4, RuntimeError(), PLAIN, Dead("5 of 4 attempts failed")),
        (0, RuntimeError(), Retry(max=0), Dead("1 of 1 attempts failed")),
        (0, InvalidEvent("data"), PLAIN, Dead("InvalidEvent is permanent")),
        (0, EventTooLarge("data"), PLAIN, Dead("EventTooLarge is permanent")),
        (0, PermissionError(), Retry(give_up_on=(OSError,)), Dead("PermissionError is permanent")),
        (0, ValueError(), Retry(base=1, jitter=0, give_up_on=(OSError,)), Again(1.0)),
        (0, TimeoutError(), PLAIN, Again(1.0)),
    ],
)
def test_a_failed_attempt_is_decided(retries: int, error: Exception, policy: Retry, expected: object) -> None:
    assert decide(retries, error, policy, 0.0) == expected


@given(st.integers(0, 10_000), POLICIES, CHANCES)
def test_a_wait_is_never_negative_and_never_longer_than_the_cap(retries: int, policy: Retry, chance: float) -> None:
    assert 0 <= backoff(retries, policy, chance) <= policy.cap


@given(st.integers(0, 100), POLICIES)
def test_without_chance_waits_never_get_shorter(retries: int, policy: Retry) -> None:
    assert backoff(retries, policy, 0.0) <= backoff(retries + 1, policy, 0.0)


@given(st.integers(0, 100), POLICIES, CHANCES)
def test_jitter_takes_at_most_its_share_of_the_wait(retries: int, policy: Retry, chance: float) -> None:
    full = backoff(retries, policy, 0.0)
    assert backoff(retries, policy, chance) >= full * (1 - policy.jitter) * (1 - 1e-9)


@given(st.integers(0, 2000), POLICIES, CHANCES)
def test_a_delivery_is_tried_exactly_as_often_as_the_policy_says(retries: int, policy: Retry, chance: float) -> None:
    again = isinstance(decide(retries, RuntimeError(), policy, chance), Again)
    assert again == (retries < policy.max)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max": -1}, r"Retry\(max=-1\): retries must be between 0 and 1000"),
        ({"max": 1001}, r"Retry\(max=1001\)"),
        ({"base": -0.1}, "need 0 <= base <= cap"),
        ({"base": 5, "cap": 4}, r"Retry\(base=5, cap=4\)"),
        ({"base": float("nan")}, "need 0 <= base <= cap"),
        ({"jitter": 1.1}, r"Retry\(jitter=1.1\)"),
        ({"jitter": -0.1}, "a share between 0 and 1"),
    ],
)
def test_a_number_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidAgent, match=message):
        Retry(**options)  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PLAIN.max = 5  # type: ignore[misc]
