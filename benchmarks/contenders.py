"""Who publishes: each contender keeps its connection open and publishes a number of events when told to."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any

import aio_pika
import orjson
from kombu import Connection, Producer

from pipeline.brokers.topology import Topology

from . import agents, bare
from .databases import POSTGRESQL, Database
from .servers import Broker
from .workload import Work, data

#: Events in one call of publish_many, and those that async code has in flight.
BATCH = 500
IN_FLIGHT = 100
TYPE = Work.event_type


class Contender(ABC):
    """One way to publish.

    Attributes:
        confirmed: whether the broker has taken an event when its call returns.
        burst: events in one measurement.

    """

    name: str
    confirmed: bool
    burst: int

    @abstractmethod
    def publish(self, count: int) -> None:
        """Publish `count` events."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class Kombu(Contender):
    """Kombu's Producer, as a program without this bus would use it: plain data, its JSON, no envelope."""

    def __init__(self, broker: Broker, *, confirmed: bool) -> None:
        self.name = f"kombu Producer.publish{', confirmed' if confirmed else ''}"
        self.confirmed = confirmed or broker.name == "embedded"
        self.burst = 1000 if self.confirmed else 5000
        options = {"confirm_publish": confirmed} if broker.name == "rabbitmq" else {}
        stock = bare.STOCK.get(broker.url.partition("://")[0])
        self._connection = Connection(broker.url, transport=stock, transport_options=options)
        self._producer = Producer(self._connection.channel())

    def publish(self, count: int) -> None:
        send = self._producer.publish
        for _ in range(count):
            send(data(), exchange=Topology().events.name, routing_key=TYPE, serializer="json")

    def close(self) -> None:
        self._connection.close()


class Bus(Contender):
    """This bus without a ledger: a typed payload per event, one event per call or BATCH."""

    def __init__(self, broker: Broker, *, confirmed: bool, many: bool = False, ledger_url: str = "") -> None:
        self.name = f"pipeline {_call(many)}{', confirmed' if confirmed else ''}"
        self.confirmed = confirmed or broker.name != "rabbitmq"
        self.burst = 5000 if many or not self.confirmed else 1000
        self._many = many
        self._app = agents.build(broker.url, 0, confirm=confirmed, ledger_url=ledger_url)

    def publish(self, count: int) -> None:
        if not self._many:
            for _ in range(count):
                self._app.publish(Work(**data()))
            return
        for start in range(0, count, BATCH):
            self._app.publish_many([Work(**data()) for _ in range(min(BATCH, count - start))])

    def close(self) -> None:
        self._app.close()


class Tasks(Bus):
    """This bus without a ledger in async code: IN_FLIGHT tasks, of which each publishes one event after the other."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker, confirmed=True)
        self.name = f"pipeline apublish, confirmed, {IN_FLIGHT} in flight"
        self.burst = 5000
        self._runner = asyncio.Runner()

    def publish(self, count: int) -> None:
        self._runner.run(_in_flight(count, lambda: self._app.apublish(Work(**data()))))

    def close(self) -> None:
        self._runner.close()
        super().close()


async def _in_flight(count: int, publish: Callable[[], Awaitable[object]]) -> None:
    """Publish so many events, each of IN_FLIGHT tasks one after the other."""
    turns = iter(range(count))

    async def one_after_the_other() -> None:
        for _ in turns:
            await publish()

    await asyncio.gather(*(one_after_the_other() for _ in range(IN_FLIGHT)))


class LoggedBus(Bus):
    """This bus with a ledger: each event is in the log before it is sent."""

    def __init__(self, broker: Broker, subscribers: int, database: Database, *, many: bool) -> None:
        self._ledger = ExitStack()
        address = self._ledger.enter_context(database.address())
        super().__init__(broker, confirmed=True, many=many, ledger_url=address)
        self.name = f"pipeline with {database.name} ledger: {_call(many)}, confirmed"
        # Else every event would also be noted as one that nobody wants.
        listening = {f"bench{number}": ((TYPE,), None) for number in range(subscribers)}
        self._app.ledger.subscribers.register(listening)

    def close(self) -> None:
        super().close()
        self._ledger.close()


def _call(many: bool) -> str:
    return f"publish_many, {BATCH} a call" if many else "publish"


class AioPika(Contender):
    """aio-pika with publisher confirms and IN_FLIGHT messages waiting for theirs."""

    confirmed = True
    burst = 5000

    def __init__(self, broker: Broker) -> None:
        self.name = f"aio-pika, confirmed, {IN_FLIGHT} in flight"
        self._runner = asyncio.Runner()
        self._runner.run(self._connect(broker.url))

    async def _connect(self, url: str) -> None:
        self._connection = await aio_pika.connect(url)
        channel = await self._connection.channel(publisher_confirms=True)
        self._exchange = await channel.get_exchange(Topology().events.name, ensure=False)

    def publish(self, count: int) -> None:
        self._runner.run(_in_flight(count, self._publish))

    async def _publish(self) -> None:
        message = aio_pika.Message(
            orjson.dumps(data()), content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        await self._exchange.publish(message, TYPE)

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


class ApplyAsync(Contender):
    """Celery's apply_async: one message for each of n tasks makes one event."""

    name = "celery apply_async to each task"

    def __init__(self, broker: Broker, subscribers: int) -> None:
        self.confirmed = broker.name != "rabbitmq"
        self.burst = max(2000 // subscribers, 100)
        self._app = bare.build(broker.url, subscribers)
        self._tasks = [self._app.tasks[f"bare.task{number}"] for number in range(subscribers)]

    def publish(self, count: int) -> None:
        for _ in range(count):
            for task in self._tasks:
                task.apply_async((data(),))

    def close(self) -> None:
        self._app.close()


def contenders(broker: Broker, subscribers: int, databases: Sequence[Database]) -> list[Contender]:
    """Return all that the broker allows, and with a ledger in each of the databases that goes with the broker."""
    found: list[Any] = [Kombu(broker, confirmed=False)]
    if broker.name == "rabbitmq":
        found += [Bus(broker, confirmed=False), Kombu(broker, confirmed=True)]
    found += [Bus(broker, confirmed=True), Bus(broker, confirmed=True, many=True)]
    for database in databases:
        if database.name != POSTGRESQL or broker.name == "rabbitmq":
            found += [LoggedBus(broker, subscribers, database, many=many) for many in (False, True)]
    if broker.name == "rabbitmq":
        found += [Tasks(broker), AioPika(broker)]
    return [*found, ApplyAsync(broker, subscribers)]
