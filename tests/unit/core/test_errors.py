"""Errors: one root, and hints."""

import inspect

import pytest

from pipeline.core import errors
from pipeline.core.errors import nearest, without_passwords

ALL = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, Exception)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_has_the_one_root_and_says_what_it_means(error: type[Exception]) -> None:
    assert issubclass(error, errors.PipelineError)
    assert (error.__doc__ or "").partition("\n\n")[0].endswith(".")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.InvalidEvent, ValueError),
        (errors.InvalidPattern, ValueError),
        (errors.InvalidAgent, ValueError),
        (errors.BrokerUnavailable, ConnectionError),
        (errors.EmbeddedBrokerError, OSError),
        (errors.EmbeddedBrokerBusy, errors.EmbeddedBrokerError),
        (errors.EventTooLarge, errors.InvalidEvent),
    ],
)
def test_errors_can_be_caught_as_what_they_are_in_plain_python(error: type, builtin: type) -> None:
    assert issubclass(error, builtin)


@pytest.mark.parametrize(
    ("unknown", "known", "hint"),
    [
        ("retri", ["retry", "timeout"], "did you mean 'retry'?"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("zzz", [], "none is known"),
        ("brokr_url", {"broker_url", "result_backend"}, "did you mean 'broker_url'?"),
    ],
)
def test_a_hint_names_the_nearest_known_word(unknown: str, known: list[str], hint: str) -> None:
    assert nearest(unknown, known) == hint


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://me:secret@host//", "amqp://me:**@host//"),
        ("redis://:secret@host/0 and smtp://a:b%40c@d", "redis://:**@host/0 and smtp://a:**@d"),
        ("amqp://me:s@cr:et@host//", "amqp://me:**@host//"),
        ("amqp://me:se/cr?e#t@host//", "amqp://me:**@host//"),
        ("amqp://me:12/34@host//", "amqp://me:**@host//"),
        ("postgresql+psycopg://h/x?user=me&password=secret&a=b", "postgresql+psycopg://h/x?user=me&password=**&a=b"),
        ("redis://h/0?ssl_password=secret;", "redis://h/0?ssl_password=**;"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("http://host:80/a@b sqlite:////tmp/x.db", "http://host:80/a@b sqlite:////tmp/x.db"),
    ],
)
def test_passwords_in_urls_are_hidden(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
