"""What options say: times and ages."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer

from pipeline.cli.options import read_age, read_moment, read_time


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("120", 120),
        ("0", 0),
        ("2026-03-01T09:30:00Z", datetime(2026, 3, 1, 9, 30, tzinfo=UTC)),
        ("2026-03-01T09:30:00+02:00", datetime(2026, 3, 1, 7, 30, tzinfo=UTC)),
        (" 2026-03-01 ", datetime(2026, 3, 1).astimezone()),
    ],
)
def test_a_moment_is_a_number_or_a_time(text: str, found: Any) -> None:
    assert read_moment(text) == found


def test_a_time_without_a_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert read_time("2026-07-01T09:30") == datetime(2026, 7, 1, 13, 30, tzinfo=UTC)
        assert read_moment("2026-01-01T09:30") == datetime(2026, 1, 1, 14, 30, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1.5h", timedelta(hours=1.5)),
        ("7d", timedelta(days=7)),
        ("4w", timedelta(weeks=4)),
    ],
)
def test_an_age_is_a_number_and_a_unit(text: str, found: timedelta) -> None:
    assert read_age(text) == found
    assert abs(read_moment(text) - (datetime.now(UTC) - found)) < timedelta(seconds=10)  # type: ignore[operator]


@pytest.mark.parametrize(
    "text", ["", "soon", "2h30", "h", "-5", "2y", "9" * 19, "9" * 5000, "²", "999999999999d", "90000000d",
             "0001-01-01T00:00+14:00", "2026-13-01"]
)  # fmt: skip
def test_what_is_no_moment_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time; write an ISO time such as"):
        read_moment(text)


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "999999999999w"])
def test_what_is_no_age_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no age; write one such as"):
        read_age(text)
