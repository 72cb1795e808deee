"""Tokens and problems: what is kept, what is refused, and what is said."""

from __future__ import annotations

import inspect

import pytest

from pipeline.core import errors
from pipeline.core.errors import ConfigError, PipelineError
from pipeline.http import SCOPES, Token, new_token
from pipeline.http.access import is_local
from pipeline.http.problems import STATUS, field_of, problem_of


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a:read",
        "a:read:xyz",
        ":read:" + "0" * 64,
        "a::" + "0" * 64,
        "a:read:" + "g" * 64,
        "a:read:" + "0" * 63,
    ],
)
def test_what_is_no_token_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME:SCOPES:DIGEST") as found:
        Token.read(text)
    assert "0" * 20 not in str(found.value)


def test_a_scope_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'read'"):
        new_token("a", ["reed"])


def test_two_tokens_are_never_the_same_and_each_has_what_it_was_given() -> None:
    (one, kept), (two, _) = new_token("a", SCOPES), new_token("a", SCOPES)
    assert one != two
    assert (kept.name, kept.scopes) == ("a", frozenset(SCOPES))
    assert str(kept) == f"a:publish+read+operate:{kept.digest}"


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.com", False)],
)  # fmt: skip
def test_an_address_that_others_reach_is_not_local(address: str, local: bool) -> None:
    assert is_local(address) is local


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("event does not validate: time: Input should be a date", "time"),
        ("order.placed for agent 'billing' does not validate: order_id: Field required", "order_id"),
        ("data.items[3].name: it is too long", "data.items[3].name"),
        ("url: http://x is no URL", "url"),
        ("the broker is away: connection refused", None),
    ],
)
def test_the_field_is_the_one_that_the_message_names(message: str, field: str | None) -> None:
    assert field_of(message) == field


@pytest.mark.parametrize(
    "error",
    [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, PipelineError)],
)
def test_every_error_has_a_status_and_what_the_caller_has_done_wrong_is_not_ours(error: type[PipelineError]) -> None:
    status = next(STATUS[cls] for cls in error.__mro__ if cls in STATUS)
    assert 400 <= status < 600
    if issubclass(error, ValueError) and not issubclass(error, (errors.BlobAltered, errors.LedgerRefused)):
        assert status in (409, 413, 422)


def test_a_problem_shows_no_password() -> None:
    found = problem_of(errors.BrokerUnavailable("amqp://me:secret@host// is away"))
    assert (found.status, "secret" in found.detail, found.headers) == (503, False, {"Retry-After": "5"})
