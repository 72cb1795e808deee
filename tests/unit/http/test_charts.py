"""Small charts: bars that stand on each other, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pipeline.history.traffic import Counts
from pipeline.http.page.charts import HEIGHT, MOST_AGENTS, WIDTH, backlog_of, chart_of
from pipeline.operations.standing import Standing


def counts(*numbers: int) -> Counts:
    return Counts(datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=15), numbers)


def heights(bars: Sequence[tuple[str, float, float, float, float]]) -> list[float]:
    return [round(height) for *_, height in bars]


def test_bars_stand_on_each_other_within_the_chart_and_the_numbers_are_said() -> None:
    chart = chart_of("Work", {"succeeded": ("done", counts(0, 3, 0)), "dead": ("failed", counts(0, 1, 2))})
    assert chart.said == "3 done, 3 failed; at most 4 in 15 s"
    done, failed, later = chart.bars
    assert [bar.kind for bar in chart.bars] == ["succeeded", "dead", "dead"]
    assert done.y + done.height == HEIGHT
    assert failed.y + failed.height == done.y
    assert failed.y >= 0
    assert later.y + later.height == HEIGHT
    assert WIDTH / 3 <= done.x == failed.x < later.x < WIDTH
    assert heights(chart.bars) == [42, 14, 28]


def test_what_is_there_is_seen_beside_much_more() -> None:
    few, _ = chart_of("Events", {"event": ("events", counts(1, 100_000))}).bars
    assert few.height == 2


def test_nothing_is_an_empty_chart() -> None:
    chart = chart_of("Events", {"event": ("events", counts(0, 0))})
    assert (chart.bars, chart.said) == ([], "0 events; at most 0 in 15 s")


def test_a_backlog_has_those_with_the_most_first_and_whoever_has_none_is_not_in_it() -> None:
    stands = {f"a{n}": Standing(waiting=n) for n in range(MOST_AGENTS + 3)}
    busy = Standing(waiting=None, running=30, retrying=2, parked={"time": 5, "event": 3})
    first, second, *others = backlog_of({**stands, "busy": busy})
    assert (first.agent, first.said) == ("busy", "30 running, 2 retrying, 8 parked")
    assert [(bar.kind, bar.x, bar.width) for bar in first.bars] == [
        ("running", 0, 75), ("retrying", 75, 5), ("parked", 80, 20),
    ]  # fmt: skip
    assert (second.agent, second.bars[0].width) == ("a10", 25)
    assert len(others) == MOST_AGENTS - 2
    assert backlog_of({"idle": Standing(waiting=0), "unknown": Standing()}) == []
