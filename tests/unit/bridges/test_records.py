"""How far the records of a partition are done, and what their headers look like."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.bridges.systems.rdkafka import expressions_of
from pipeline.bridges.systems.records import Part, _headers, headers_of
from pipeline.bridges.wire import outgoing
from pipeline.core.event import new_event


@given(st.permutations(range(8)), st.integers(0, 8))
def test_a_place_is_behind_what_is_done_without_a_gap(order: list[int], number: int) -> None:
    part = Part()
    assert part.place == -1
    for offset in range(8):
        part.take(100 + offset)
    done = set(order[:number])
    for offset in order[:number]:
        part.done(100 + offset)
    assert part.place == 100 + next((offset for offset in range(8) if offset not in done), 8)


def test_headers_of_a_record_are_what_kafkas_binding_says() -> None:
    event = new_event("stock.low", 1, source="/shop", subject="50 % Körbchen")
    sent = outgoing(event, "binary", "a:b")
    theirs = dict(headers_of(sent.headers))
    assert theirs["ce_subject"] == "50 % Körbchen".encode()
    assert theirs["content-type"] == b"application/json"
    assert not any(name.startswith("ce-") for name in theirs)
    found = _headers([*theirs.items(), ("X-Else", None), ("broken", b"\xff")])
    assert found.keys() == {*sent.headers, "x-else", "broken"}
    assert (found["ce-subject"], found["x-else"], found["broken"]) == (sent.headers["ce-subject"], "", "\ufffd")


def test_patterns_are_regular_expressions_of_topics() -> None:
    assert expressions_of(["shop.order.*", "a-b.>", ">"]) == [r"^shop\.order\.[^.]+$", r"^a-b\..+$", "^.+$"]
