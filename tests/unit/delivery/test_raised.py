"""Texts of errors: whatever they hold, they can be stored, sent and shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import LONGEST_LINE, LONGEST_TRACEBACK, line_of, traceback_of
from tests.apps.odd_errors import ODD

TEXTS = st.text(st.characters(exclude_categories=()))


def is_storable(text: str) -> bool:
    """Say whether every database and terminal takes a text."""
    text.encode()
    return not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in text.replace("\n", "").replace("\t", ""))


@given(TEXTS)
def test_any_text_becomes_one_line_that_can_be_stored(text: str) -> None:
    line = line_of(ValueError(text))
    assert is_storable(line)
    assert len(line) <= LONGEST_LINE
    assert len(line.splitlines()) == 1
    assert "\t" not in line


@given(TEXTS)
def test_any_text_becomes_a_traceback_that_can_be_stored(text: str) -> None:
    assert is_storable(traceback_of(ValueError(text)))


@pytest.mark.parametrize("name", ODD)
def test_every_error_has_a_line_and_a_traceback(name: str) -> None:
    try:
        raise ODD[name]()
    except BaseException as exc:
        error = exc
    assert line_of(error).startswith(type(error).__name__)
    assert is_storable(line_of(error))
    assert is_storable(traceback_of(error))
    assert 0 < len(traceback_of(error)) <= LONGEST_TRACEBACK


def test_an_ordinary_text_stays_as_it_is() -> None:
    assert line_of(ValueError("café ✓ 日本")) == "ValueError: café ✓ 日本"


def test_what_cannot_be_shown_is_written_as_python_writes_it() -> None:
    assert line_of(ValueError("a\0b\x1b[31m\ncaf\udce9")) == r"ValueError: a\x00b\x1b[31m\ncaf\udce9"
