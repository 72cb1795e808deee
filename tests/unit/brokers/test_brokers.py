"""What differs between the brokers."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from kombu import Connection, transport
from kombu.exceptions import ContentDisallowed
from kombu.message import Message

from pipeline.brokers import kinds
from pipeline.brokers.amqp.channel import BatchRefused
from pipeline.brokers.amqp.channel import Message as AmqpMessage
from pipeline.core.errors import to_install


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
    assert kinds.kind_of_url(f"{driver}://").priority(priority) == expected


@pytest.mark.parametrize("driver", ["amqp", "redis", "sqlite"])
def test_every_priority_has_a_number_of_its_own_that_brokers_know(driver: str) -> None:
    numbers = [kinds.kind_of_url(f"{driver}://").priority(priority) for priority in range(1, 11)]
    assert sorted(numbers) == list(range(10))


def test_registering_twice_changes_nothing() -> None:
    kinds.register()
    once, cached = dict(transport.TRANSPORT_ALIASES), transport.resolve_transport("sqlite")
    kinds.register()
    assert once == transport.TRANSPORT_ALIASES
    assert transport.resolve_transport("sqlite") is cached


@pytest.mark.parametrize(
    ("url", "module"),
    [
        ("amqp://", "pipeline.brokers.amqp.transport"),
        ("pyamqp://", "pipeline.brokers.amqp.transport"),
        ("amqps://", "pipeline.brokers.amqp.transport"),
        ("redis://", "pipeline.brokers.redis"),
        ("rediss://", "pipeline.brokers.redis"),
        ("sqlite:///x.db", "pipeline.brokers.embedded.transport"),
    ],
)
def test_registered_addresses_get_the_hardened_transports(url: str, module: str) -> None:
    kinds.register()
    assert Connection(url).get_transport_cls().__module__ == module


@pytest.mark.parametrize("package", ["redis", "packaging"])
def test_a_package_that_redis_lacks_is_named_with_what_brings_it(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from pipeline import ConfigError, Pipeline\n"
        "try: Pipeline('t', broker_url='redis://localhost:1/0', ledger_url='').publish('a.b')\n"
        "except ConfigError as exc: print(exc)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"redis:// needs the package {package}")
    assert said.endswith(f"; {to_install('redis')}\n")


def test_other_transports_are_left_alone() -> None:
    kinds.register()
    assert Connection("memory://").get_transport_cls().__module__ == "kombu.transport.memory"


#: All that a message wants of its channel.
CHANNEL = SimpleNamespace(decode_body=lambda body, encoding=None: body, no_ack_consumers=None)
BODY = zlib.compress(b"x" * 10_000)


def virtual_message(url: str, **headers: Any) -> Message:
    """Return a message as a channel of that broker makes it."""
    kinds.register()
    properties = {"delivery_tag": 1, "delivery_info": {"exchange": "", "routing_key": "q"}}
    raw = {"body": BODY, "headers": headers, "properties": properties, "content-type": "text/plain"}
    message: Message = Connection(url).get_transport_cls().Channel.Message(raw, channel=CHANNEL)
    return message


def amqp_message(**headers: Any) -> Message:
    """Return a message as RabbitMQ's channel makes it."""
    raw = amqp.Message(BODY, application_headers=headers, content_type="text/plain")
    raw.delivery_info = {"delivery_tag": 1}
    return AmqpMessage(raw, channel=CHANNEL)


MAKERS = {
    "embedded": partial(virtual_message, "sqlite:///x.db"),
    "redis": partial(virtual_message, "redis://"),
    "rabbitmq": amqp_message,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_compressed_message_is_an_error_instead_of_a_gigabyte(make: Callable[..., Message]) -> None:
    message = make(compression="application/x-gzip")
    assert message.body == BODY, "nothing was inflated"
    with pytest.raises(ContentDisallowed, match="compressed messages are refused"):
        message._reraise_error()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_uncompressed_message_is_fine(make: Callable[..., Message]) -> None:
    assert not make().errors


def test_a_refused_batch_says_which_messages_were_refused() -> None:
    error = BatchRefused([0, 2])
    assert error.positions == [0, 2]
    assert "refused 2 messages" in str(error)
