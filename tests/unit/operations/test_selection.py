"""Choosing what something is done to: in exactly one way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pipeline import InvalidSelection
from pipeline.history.events import EventQuery
from pipeline.operations.letters import LetterQuery
from pipeline.operations.selection import Selection, choose


@pytest.mark.parametrize(
    ("query", "ids", "all", "selection"),
    [
        (LetterQuery(), "a", False, Selection(LetterQuery(), ("a",))),
        (LetterQuery(), ["b", "a", "b"], False, Selection(LetterQuery(), ("b", "a"))),
        (LetterQuery(), [], False, Selection(LetterQuery(), ())),
        (LetterQuery(agent="x"), None, False, Selection(LetterQuery(agent="x"))),
        (EventQuery(), None, True, Selection(EventQuery())),
    ],
)
def test_a_choice_is_ids_or_a_query_or_everything(query: Any, ids: Any, all: bool, selection: Any) -> None:
    assert choose(query, ids, all=all, says="say it") == selection


@pytest.mark.parametrize(
    ("query", "ids", "all"),
    [
        (LetterQuery(), None, False),
        (LetterQuery(), "a", True),
        (LetterQuery(error=""), "a", False),
        (EventQuery(since=0), None, True),
        (EventQuery(type="#"), ["a"], True),
    ],
)
def test_what_is_chosen_not_at_all_or_twice_is_refused_in_the_callers_words(query: Any, ids: Any, all: bool) -> None:
    with pytest.raises(InvalidSelection, match=r"^say it$"):
        choose(query, ids, all=all, says="say it")


@pytest.mark.parametrize(
    "query", [LetterQuery("a"), LetterQuery(older_than=timedelta(0)), EventQuery("a"), EventQuery(up_to=0)]
)
def test_a_query_that_names_something_leaves_the_rest_out(query: Any) -> None:
    assert query.narrows


@pytest.mark.parametrize("query", [LetterQuery(), EventQuery(), EventQuery(replayed=True, batch=1)])
def test_a_query_that_names_nothing_finds_all(query: Any) -> None:
    assert not query.narrows
