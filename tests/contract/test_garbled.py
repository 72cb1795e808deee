"""A network that changes what RabbitMQ says: the connection ends with a line in the log, and nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from pipeline import Pipeline
from tests.harness import Broker, Worker
from tests.proxy import Proxy
from tests.servers import wait_for

GARBLED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a frame with another end": (lambda data: data[:-1] + b"\x00", "ends with 0x00 instead of 0xce"),
    "a frame that is too large": (lambda data: data[:3] + b"\x7f" + data[4:], "were agreed on"),
    "a method that nobody knows": (
        lambda data: data.replace(b"\x00\x3c\x00\x3c", b"\x00\x3c\x00\x63"),
        "Unknown AMQP method|expecting type",
    ),
    "a frame that is cut": (lambda data: data[: len(data) // 2], "closed connection|Connection reset|Broken pipe"),
}


@pytest.mark.parametrize("name", GARBLED)
def test_what_rabbitmq_would_not_say_ends_the_connection_and_loses_nothing(
    bus: Pipeline, broker: Broker, proxy: Proxy, behind: Broker, name: str
) -> None:
    if broker.name != "rabbitmq":
        pytest.skip("frames are RabbitMQ's")
    garble, said = GARBLED[name]
    one = Worker(behind).start()
    garbled: list[bytes] = []

    def change(data: bytes) -> bytes:
        if b"task.created" not in data or garbled:
            return data
        garbled.append(data)
        return garble(data)

    try:
        bus.publish("task.created", {"n": 0})
        broker.journal.wait(3)  # the worker's loop turns
        proxy.change = change
        bus.publish_many([("task.created", {"n": n}) for n in range(1, 10)])
        broker.journal.wait(30)
        wait_for(lambda: "Connection to broker lost" in one.output(), "the line in the log")
    finally:
        one.stop()
    assert set(broker.journal.count().values()) == {3}
    assert re.search(said, one.output())
