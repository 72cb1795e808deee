"""What differs between the brokers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection, transport
from kombu.exceptions import ContentDisallowed
from kombu.transport import virtual

from pipeline import brokers
from pipeline.brokers.amqp import BatchRefused
from pipeline.embedded.transport import Message as EmbeddedMessage


@pytest.mark.parametrize(
    ("priority", "driver", "expected"),
    [
        (1, "amqp", 9),
        (5, "amqp", 5),
        (10, "amqp", 0),
        (1, "sqlite", 9),
        (10, "sqlite", 0),
        (1, "redis", 0),
        (10, "redis", 9),
    ],
)
def test_the_most_urgent_priority_is_the_brokers_first(priority: int, driver: str, expected: int) -> None:
    assert brokers.wire_priority(priority, driver) == expected


@pytest.mark.parametrize("driver", ["amqp", "redis", "sqlite"])
def test_every_priority_has_a_number_of_its_own_that_brokers_know(driver: str) -> None:
    numbers = [brokers.wire_priority(priority, driver) for priority in range(1, 11)]
    assert sorted(numbers) == list(range(10))


def test_registering_twice_changes_nothing() -> None:
    brokers.register()
    once, cached = dict(transport.TRANSPORT_ALIASES), transport.resolve_transport("sqlite")
    brokers.register()
    assert once == transport.TRANSPORT_ALIASES
    assert transport.resolve_transport("sqlite") is cached


@pytest.mark.parametrize(
    ("url", "module"),
    [
        ("amqp://", "pipeline.brokers.amqp"),
        ("pyamqp://", "pipeline.brokers.amqp"),
        ("amqps://", "pipeline.brokers.amqp"),
        ("redis://", "pipeline.brokers.redis"),
        ("rediss://", "pipeline.brokers.redis"),
        ("sqlite:///x.db", "pipeline.embedded.transport"),
    ],
)
def test_registered_addresses_get_the_hardened_transports(url: str, module: str) -> None:
    brokers.register()
    assert Connection(url).get_transport_cls().__module__ == module


def test_other_transports_are_left_alone() -> None:
    brokers.register()
    assert Connection("memory://").get_transport_cls().__module__ == "kombu.transport.memory"


#: All that a message wants of its channel.
CHANNEL = SimpleNamespace(decode_body=lambda body, encoding=None: body, no_ack_consumers=None)


def raw(**headers: Any) -> dict[str, Any]:
    properties = {"delivery_tag": 1, "delivery_info": {"exchange": "", "routing_key": "q"}}
    return {"body": b"x" * 10, "headers": headers, "properties": properties, "content-type": "text/plain"}


@pytest.mark.parametrize("kind", [EmbeddedMessage])
def test_a_compressed_message_is_an_error_instead_of_a_gigabyte(kind: type[virtual.Message]) -> None:
    message = kind(raw(compression="application/x-gzip"), channel=CHANNEL)
    assert message.body == b"x" * 10, "nothing was inflated"
    with pytest.raises(ContentDisallowed, match="compressed messages are refused"):
        message._reraise_error()


def test_an_uncompressed_message_is_fine() -> None:
    assert not EmbeddedMessage(raw(), channel=CHANNEL).errors


def test_a_refused_batch_says_which_messages_were_refused() -> None:
    error = BatchRefused([0, 2])
    assert error.positions == [0, 2]
    assert "refused 2 messages" in str(error)
