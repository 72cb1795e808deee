"""Events of a newer major version: how long they wait, who is told, and when they are given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline import InvalidEvent
from pipeline.contracts import newer
from pipeline.contracts.newer import NewerMajor, Told
from pipeline.contracts.versions import version_of
from pipeline.core.event import new_event

EVENT = new_event("order.placed", {}, source="/t", version="2.1.0")


def pause(waited: float, is_new: Callable[[str, str], bool] = lambda agent, type: False) -> float:
    found = NewerMajor(EVENT, "billing", version_of("2.1.0"), version_of("1.4.0"))
    return newer.pause(found, waited, is_new)


def test_pauses_grow_with_what_it_has_waited_between_half_a_minute_and_five() -> None:
    waited = (-5, 0, 100, 400, 900, 3600, newer.DEAD - 1)
    assert [pause(seconds) for seconds in waited] == [30, 30, 30, 100, 225, 300, 300]


def test_after_ten_minutes_an_error_is_logged_where_nobody_was_told(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[str, str]] = []

    def is_new(agent: str, type: str) -> bool:
        asked.append((agent, type))
        return len(asked) == 1

    pause(newer.ALERT - 1, is_new)
    assert (asked, caplog.records) == ([], [])
    for _ in range(3):
        pause(newer.ALERT, is_new)
    assert asked == [("billing", "order.placed")] * 3
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    for word in ("billing", "order.placed", EVENT.id, "for 10 minutes", "2.1.0", "1.4.0", "2.x", "24 h"):
        assert word in said


def test_without_a_ledger_a_process_tells_each_agent_and_type_once_until_nothing_has_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, at = Told(), [0.0]
    monkeypatch.setattr(newer, "monotonic", lambda: at[0])
    assert [told.is_new(agent, "order.placed") for agent in ("billing", "billing", "audit")] == [True, False, True]
    assert told.is_new("billing", "order.paid")
    at[0] = newer.OVER
    assert not told.is_new("billing", "order.placed")
    at[0] += newer.OVER
    assert not told.is_new("billing", "order.placed"), "looked at since"
    at[0] += newer.OVER + 1
    assert told.is_new("billing", "order.placed")


def test_what_is_remembered_as_told_has_an_end_whatever_types_messages_have() -> None:
    told = Told()
    for number in range(newer.REMEMBERED + 10):
        told.is_new("billing", f"order.{number}")
    assert len(told._seen) == 10


def test_after_a_day_it_is_given_up_with_both_versions_and_what_to_do() -> None:
    with pytest.raises(InvalidEvent) as caught:
        pause(newer.DEAD)
    assert not isinstance(caught.value, NewerMajor)
    for word in ("'billing'", "2.1.0", "1.4.0", "within 24 h", "2.x", "pipeline dead requeue"):
        assert word in str(caught.value)
