"""Answers for models: whatever there is to say, it has a size, and says what was left off."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mcp.fitting import MOST, Page, clipped, text_of

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(min_size=1).map(lambda text: text * 99),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def nested(depth: int) -> Any:
    found: Any = "bottom"
    for _ in range(depth):
        found = {"in": [found]}
    return found


@settings(max_examples=200, deadline=None)
@given(ANYTHING, st.integers(min_value=100, max_value=2000))
def test_whatever_it_is_it_fits_and_what_fits_is_whole(data: Any, most: int) -> None:
    shown = clipped(data, most)
    assert len(text_of(shown)) <= most
    assert shown == data or (len(text_of(data)) > most and "left off" in text_of(shown).replace("_", " "))


@pytest.mark.parametrize(
    "data",
    ["x" * 10**6, ["x"] * 10**6, {str(n): n for n in range(10**5)}, {"x" * 10**6: 1}, nested(400), ["\ud800" * 10**5]],
    ids=["text", "list", "mapping", "name", "depth", "half_a_character"],
)
def test_what_is_too_much_in_one_way_is_cut_in_that_way(data: Any) -> None:
    assert len(text_of(clipped(data, 5000))) <= 5000


def test_of_a_list_what_fits_is_shown_and_the_rest_is_the_next_page() -> None:
    rows = [({"n": n, "text": "x" * 5000}, str(n)) for n in range(50)]
    shown = Page("rows", rows, beside={"counts": 50}).fitted()
    number = len(shown["rows"])
    assert 0 < number < 50
    assert len(text_of(shown)) <= MOST
    assert shown["next"] == str(number - 1)
    assert f"{50 - number} of 50" in shown["left_off"]
    rest = Page("rows", rows[-3:]).fitted()
    assert rest == {"rows": [row for row, _ in rows[-3:]], "next": None}
    assert Page("rows", rows[:3], more=True).fitted()["next"] == "2"
    assert Page("rows", []).fitted() == {"rows": []}
