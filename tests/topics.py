"""Kafka as a program sees it that knows nothing of the bus."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.bridges import Other, Servers
from tests.kafkaserver import Kafka


class Topics(Other):
    """Kafka with a topic for each type: a mock, or the broker that TESTS_KAFKA names, which tests do not kill."""

    system = "Kafka"

    def __init__(self, servers: Servers, directory: Path) -> None:
        self._real = os.environ.get("TESTS_KAFKA", "")
        self._server = Kafka()
        self.prefix = f"shop-{uuid.uuid4().hex[:8]}" if self._real else "shop"
        self._clients: dict[str, Any] = {}
        if not self._real:
            servers("kafka")
            self._server.start()
        self.dead = f"{self.prefix}-dead"
        self.create(self.dead, *map(self.topic, ("order.placed", "order.last", "stock.low", "stock.out")))

    @property
    def address(self) -> str:
        return self._real or self._server.url

    def topic(self, type: str) -> str:
        return f"{self.prefix}.{type}"

    def create(self, *topics: str) -> None:
        if not self._real:
            for one in topics:
                self._server.create(one)
            return
        from confluent_kafka.admin import AdminClient, NewTopic

        made = AdminClient({"bootstrap.servers": self._real}).create_topics([NewTopic(one, 4, 1) for one in topics])
        for one in made.values():
            one.result(timeout=30)

    def options(self) -> dict[str, Any]:
        about = {"reconnect_wait": 0.2, "max_reconnects": 200, "session_timeout": 6}
        return {"servers": self.address, "prefix": self.prefix, "dead": self.dead, **about}

    @property
    def server(self) -> Kafka:
        if self._real:
            pytest.skip("the broker that TESTS_KAFKA names is not the tests' own")
        return self._server

    def consumer(self, group: str) -> Any:
        """Return a consumer that is no member of the group, and tells what that has done."""
        from confluent_kafka import Consumer

        options = {"bootstrap.servers": self.address, "group.id": group, "log_level": 0, "enable.auto.commit": False}
        return self._clients.setdefault(group, Consumer(options))

    def put(self, type: str, body: bytes, id: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.put_many(type, {id: body}, headers)

    def put_many(self, type: str, bodies: Mapping[str, bytes], headers: Mapping[str, str] | None = None) -> None:
        for body in bodies.values():
            self.produce(type, body, type, headers)
        self.flush()

    def produce(self, type: str, body: bytes, key: str, headers: Mapping[str, str] | None = None) -> None:
        from confluent_kafka import Producer

        if "" not in self._clients:
            self._clients[""] = Producer({"bootstrap.servers": self.address, "log_level": 0, "linger.ms": 50})
        given = [(name.replace("ce-", "ce_"), text.encode()) for name, text in (headers or {}).items()]
        self._clients[""].produce(self.topic(type), body, key, headers=given)

    def flush(self) -> None:
        assert self._clients[""].flush(30) == 0

    def partitions(self, consumer: Any, start: str) -> list[Any]:
        from confluent_kafka import TopicPartition

        found = consumer.list_topics(timeout=10).topics
        return [
            TopicPartition(name, number, 0)
            for name, about in found.items()
            if name.startswith(start)
            for number in about.partitions
        ]

    def read(self, start: str) -> list[Any]:
        """Return all records of the topics that begin so, in the order in which they were written."""
        consumer = self.consumer("reader")
        wanted = self.partitions(consumer, start)
        left = sum(consumer.get_watermark_offsets(one, timeout=10)[1] for one in wanted)
        consumer.assign(wanted)
        found: list[Any] = []
        while len(found) < left:
            one = consumer.poll(10)
            assert one is not None, f"{len(found)} of {left} records"
            assert one.error() is None, one.error()
            found.append(one)
        consumer.unassign()
        return sorted(found, key=lambda one: (one.timestamp()[1], one.partition(), one.offset()))

    def got(self) -> list[tuple[str, bytes]]:
        return [(one.topic().removeprefix(f"{self.prefix}."), one.value()) for one in self.read(self.topic("order"))]

    def left(self) -> int:
        lags = [self._lag(f"pipeline-{app}-other") for app in ("shop", "one", "two")]
        return sum(filter(None, lags)) if any(one is not None for one in lags) else 1

    def _lag(self, group: str) -> int | None:
        """Return how far a group is behind in topics that it has taken from, and in those of the stock."""
        consumer = self.consumer(group)
        kept = consumer.committed(self.partitions(consumer, self.topic("")), timeout=10)
        known = {one.topic for one in kept if one.offset >= 0}
        if not known:
            return None
        wanted = [one for one in kept if one.topic in known or one.topic.startswith(self.topic("stock"))]
        return sum(consumer.get_watermark_offsets(one, timeout=10)[1] - max(one.offset, 0) for one in wanted)

    def aside(self) -> list[str]:
        return [dict(one.headers())["reason"].decode() for one in self.read(self.dead)]

    def close(self) -> None:
        for name, one in self._clients.items():
            if name:
                one.close()
        self._clients.clear()
        self._server.stop()
