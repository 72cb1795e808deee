"""Spans: who listens hears begin, end and error of each; unheard they are nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.core.observe import Spans


@pytest.fixture
def heard() -> list[tuple[Any, ...]]:
    return []


def listener(heard: list[tuple[Any, ...]], who: str) -> Any:
    @contextmanager
    def listen(name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
        heard.append((who, "begins", name, dict(attributes)))
        try:
            yield
        except ValueError as exc:
            heard.append((who, "fails", name, str(exc)))
            raise
        heard.append((who, "ends", name))

    return listen


def test_everybody_who_listens_hears_begin_and_end_the_last_one_first(heard: list[tuple[Any, ...]]) -> None:
    spans = Spans()
    for who in ("metrics", "traces"):
        spans.listen(listener(heard, who))
    assert spans.heard
    with spans.span("publish", type="order.placed"):
        heard.append(("the work",))
    assert heard == [
        ("metrics", "begins", "publish", {"type": "order.placed"}),
        ("traces", "begins", "publish", {"type": "order.placed"}),
        ("the work",),
        ("traces", "ends", "publish"),
        ("metrics", "ends", "publish"),
    ]


def test_an_error_is_heard_and_goes_on(heard: list[tuple[Any, ...]]) -> None:
    spans = Spans()
    spans.listen(listener(heard, "traces"))
    with pytest.raises(ValueError, match="boom"), spans.span("deliver"):
        raise ValueError("boom")
    assert heard[-1] == ("traces", "fails", "deliver", "boom")


def test_one_who_fails_while_listening_changes_nothing_for_anybody(
    heard: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def fails(name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
        if name == "publish":
            raise TypeError("at its begin")
        yield
        raise TypeError("at its end")

    spans = Spans()
    for one in (listener(heard, "before"), fails, listener(heard, "after")):
        spans.listen(one)
    for name in ("publish", "deliver", "deliver"):
        with spans.span(name):
            pass
    with pytest.raises(ValueError, match="boom"), spans.span("deliver"):
        raise ValueError("boom")
    assert [said[:2] for said in heard] == [
        *[("before", "begins"), ("after", "begins"), ("after", "ends"), ("before", "ends")] * 3,
        ("before", "begins"), ("after", "begins"), ("after", "fails"), ("before", "fails"),
    ]  # fmt: skip
    assert [caplog.text.count(f"TypeError: {words}") > 0 for words in ("at its begin", "at its end")] == [True, True]
    assert len(caplog.records) == 2, "each failure is said once"


def test_who_leaves_hears_nothing_more(heard: list[tuple[Any, ...]]) -> None:
    spans = Spans()
    leave = spans.listen(listener(heard, "metrics"))
    leave()
    assert not spans.heard
    with spans.span("publish"):
        pass
    assert heard == []


def test_an_unheard_span_is_always_the_same_nothing() -> None:
    spans = Spans()
    assert spans.span("publish", type="a.b") is spans.span("deliver")
