"""What handlers may say, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import Context, Pipeline
from pipeline.core.errors import InvalidStep, PipelineError
from pipeline.core.event import new_event


@pytest.fixture
def context(tmp_path: Path, no_settings: None) -> Any:
    app = Pipeline("t", directory=tmp_path)
    yield Context(new_event("a.b", source="/t"), "ada", "d-1", 1, "/t", None, ledger=app.ledger)
    app.close()


@pytest.mark.parametrize(
    ("fraction", "kept"), [(0, 0.0), (1, 1.0), (0.25, 0.25), (1.0001, 1.0), (-3, 0.0), (None, None)]
)
def test_a_fraction_is_between_nothing_and_all(context: Context, fraction: float | None, kept: float | None) -> None:
    context.progress(fraction, "x" * 10_000)
    context._ledger.notices.flush()
    (notice,) = context._ledger.notices.of(context.event.correlation_id)
    assert (notice.fraction, len(notice.text)) == (kept, 8192)


@pytest.mark.parametrize("fraction", [float("nan"), True, "0.5", [1]])
def test_what_is_no_fraction_is_said(context: Context, fraction: Any) -> None:
    with pytest.raises(InvalidStep, match=r"progress: .* is no fraction: write a number of 0 to 1, or None"):
        context.progress(fraction)


@pytest.mark.parametrize(
    ("name", "text", "said"), [("", "x", "is no name"), ("a" * 201, "x", "is no name"), ("a", b"x", "is no text")]
)
def test_what_is_no_text_is_said(context: Context, name: Any, text: Any, said: str) -> None:
    with pytest.raises(InvalidStep, match=said):
        context.stream(name, text)


def test_who_has_ended_says_nothing_more(context: Context) -> None:
    context.end()
    with pytest.raises(PipelineError, match="comes too late"):
        context.stream("answer", "x")
    with pytest.raises(PipelineError, match="comes too late"):
        context.progress(1)


def test_without_a_ledger_nobody_hears_it_and_nothing_fails() -> None:
    context = Context.for_test(new_event("a.b", source="/t"))
    context.progress(0.5, "half")
    context.stream("answer", "x")
    assert context.published == ()
