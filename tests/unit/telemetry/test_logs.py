"""A line of JSON is written whatever a record has."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.core.observe import Spans
from pipeline.telemetry import JsonFormatter


@pytest.fixture(autouse=True)
def nobody_listens_afterwards() -> Iterator[None]:
    """Let the process be as it was: a formatter listens for as long as that lives."""
    before = Spans._everywhere
    yield
    Spans._set_everywhere(before)


@pytest.mark.parametrize("said", ["half of a character: \ud800", "plain"])
@pytest.mark.parametrize("process", [7, 2**70])
def test_what_json_cannot_have_is_written_too(said: str, process: Any) -> None:
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, "%s", (said,), None, sinfo="where it was said")
    record.process = process
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["process"], line["stack"]) == (said, process, "where it was said")
