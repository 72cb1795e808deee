"""Bridges under test: the other system as a program of its own sees it, and the process that takes what comes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.harness import Broker
from tests.natsserver import Nats
from tests.servers import PostgreSQL, Redis, Server, wait_for

T = TypeVar("T")
Servers = Callable[[str], Server]


class Other(ABC):
    """Another system, as a program sees it that knows nothing of the bus.

    Attributes:
        system: the class that it is declared with.
        sends: whether events can go there, too.

    """

    system: str
    sends = True

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return what it is declared with."""

    #: What it is declared with too where others are to get within seconds what a process had that has died. Elsewhere
    #: one that is only slow would lose to them what it has in hand, and the counts tell of messages that came again.
    soon: Mapping[str, Any] = {}

    @property
    @abstractmethod
    def server(self) -> Server:
        """The server, which tests kill."""

    @abstractmethod
    def put(self, type: str, body: bytes, id: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Send a message to the bridge."""

    @abstractmethod
    def got(self) -> list[tuple[str, bytes]]:
        """Return what has come over the bridge, with the event types that its place stands for, in its order."""

    @abstractmethod
    def left(self) -> int:
        """Return how many messages to the bridge are not done."""

    @abstractmethod
    def aside(self) -> list[str]:
        """Return what was put aside, as far as the system keeps it: the reason of each."""

    def put_many(self, type: str, bodies: Mapping[str, bytes]) -> None:
        """Send messages by their ids, in their order."""
        for id, body in bodies.items():
            self.put(type, body, id)

    def close(self) -> None:  # noqa: B027
        """Clean up."""


class JetStream(Other):
    """NATS with a stream."""

    system = "Nats"
    soon = {"ack_wait": 2}

    def __init__(self, servers: Servers, directory: Path) -> None:
        self._server = Nats()
        self._servers = servers
        servers("nats")  # which skips the test where there is none
        self._server.start()
        self.run(
            lambda stream: stream.add_stream(
                name="SHOP", subjects=["shop.order.>", "shop.orders.>", "shop.stock.>", "shop.wms.>"]
            )
        )

    def run(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """Do something with JetStream."""
        return asyncio.run(self._run(work))

    async def _run(self, work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        import nats

        client = await nats.connect(self._server.url, allow_reconnect=False, connect_timeout=10)
        try:
            return await work(client.jetstream(timeout=10))
        finally:
            await client.close()

    def options(self) -> dict[str, Any]:
        return {
            "url": self._server.url,
            "stream": "SHOP",
            "prefix": "shop",
            "reconnect_wait": 0.2,
            "max_reconnects": 200,
        }

    @property
    def server(self) -> Server:
        return self._server

    def put(self, type: str, body: bytes, id: str = "", headers: Mapping[str, str] | None = None) -> None:
        given = {**({"Nats-Msg-Id": id} if id else {}), **(headers or {})}
        self.run(lambda stream: stream.publish(f"shop.{type}", body, headers=given or None))

    def got(self) -> list[tuple[str, bytes]]:
        async def read(stream: Any) -> list[tuple[str, bytes]]:
            last = (await stream.stream_info("SHOP")).state.last_seq
            found = [await stream.get_msg("SHOP", seq) for seq in range(1, last + 1)]
            return [(one.subject.removeprefix("shop."), one.data) for one in found if ".order" in one.subject]

        return self.run(read)

    def left(self) -> int:
        async def read(stream: Any) -> int:
            found = await stream.consumers_info("SHOP")
            if not found:  # nobody has come for any yet
                return int((await stream.stream_info("SHOP")).state.messages)
            return sum(one.num_pending + one.num_ack_pending for one in found)

        return self.run(read)

    def aside(self) -> list[str]:
        return []  # it is in the stream as ever, and not given again

    def put_many(self, type: str, bodies: Mapping[str, bytes]) -> None:
        async def publish(stream: Any) -> None:
            for id, body in bodies.items():
                await stream.publish(f"shop.{type}", body, headers={"Nats-Msg-Id": id})

        self.run(publish)

    def close(self) -> None:
        self._server.stop()


class Streams(Other):
    """A Redis stream."""

    system = "RedisStream"
    soon = {"claim_after": 2}

    def __init__(self, servers: Servers, directory: Path) -> None:
        servers("redis")
        self._server = Redis()
        self._server.start()

    @contextmanager
    def client(self) -> Iterator[Any]:
        from redis import Redis as Client

        with Client.from_url(self._server.url, decode_responses=True) as client:
            yield client

    def options(self) -> dict[str, Any]:
        return {"url": self._server.url, "stream": "shop", "reconnect_wait": 0.2, "max_reconnects": 200}

    @property
    def server(self) -> Server:
        return self._server

    def put(self, type: str, body: bytes, id: str = "", headers: Mapping[str, str] | None = None) -> None:
        with self.client() as client:
            client.xadd("shop", {"type": type, "id": id, "event": body, **(headers or {})})

    def got(self) -> list[tuple[str, bytes]]:
        with self.client() as client:
            found = [fields for _, fields in client.xrange("shop")]
            return [(one["type"], one["event"].encode()) for one in found if one["type"].startswith("order")]

    def left(self) -> int:
        with self.client() as client:
            found = client.xinfo_groups("shop")
            return sum(one["pending"] + (one["lag"] or 0) for one in found) if found else 1

    def aside(self) -> list[str]:
        with self.client() as client:
            return [fields["reason"] for _, fields in client.xrange("shop.dead")]

    def close(self) -> None:
        self._server.stop()


class Outbox(Other):
    """A table of PostgreSQL that a program writes to."""

    system = "PostgresOutbox"
    sends = False

    def __init__(self, servers: Servers, directory: Path) -> None:
        servers("postgresql")
        self._server = PostgreSQL()
        self._server.start()
        self._url = self._server.database().replace("+psycopg", "")
        self.execute(
            "CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, type text NOT NULL, "
            "data text NOT NULL, error text)"
        )

    def execute(self, statement: str, values: tuple[Any, ...] | None = None) -> list[Any]:
        import psycopg

        with psycopg.connect(self._url, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def options(self) -> dict[str, Any]:
        return {"url": self._url, "reconnect_wait": 0.2, "max_reconnects": 200}

    @property
    def server(self) -> Server:
        return self._server

    def put(self, type: str, body: bytes, id: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.execute("INSERT INTO outbox (type, data) VALUES (%s, %s)", (type, body.decode()))
        self.execute("NOTIFY outbox")

    def got(self) -> list[tuple[str, bytes]]:
        raise NotImplementedError

    def left(self) -> int:
        return int(self.execute("SELECT count(*) FROM outbox WHERE error IS NULL")[0][0])

    def aside(self) -> list[str]:
        return [row[0] for row in self.execute("SELECT error FROM outbox WHERE error IS NOT NULL ORDER BY id")]

    def close(self) -> None:
        self._server.stop()


class Running:
    """The process that takes what comes over a bridge."""

    def __init__(
        self, broker: Broker, environment: Mapping[str, str], name: str = "bridge", app: str = "bridged_app"
    ) -> None:
        self._app = app
        self._broker, self._environment, self.log = broker, dict(environment), broker.directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, ready: bool = True) -> Running:
        command = [sys.executable, "-m", "pipeline.cli.main", "-A", self._app, "bridge", "run", *arguments]
        before = self.said("connected to")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._broker.environment(**self._environment), cwd=self._broker.directory,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        if ready:
            wait_for(lambda: self.said("connected to") > before or self.has_ended(), "the bridge to be connected")
            assert not self.has_ended(), self.output()
        return self

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def said(self, text: str) -> int:
        """Return how often it has said something."""
        return self.output().count(text)

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def tell(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def signal(self, number: int) -> int:
        """Send it a signal, and return its exit code."""
        self.tell(number)
        assert self.process is not None
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)


def described(
    other: Other, *, crash: str = "", soon: bool = False, options: Mapping[str, Any] | None = None, **about: Any
) -> dict[str, str]:
    """Return the environment that describes a bridge to bridged_app.

    Arguments:
        crash: where the process dies, once.
        soon: whether others are to get within seconds what it had then.
        options: of the system, beside its own.

    """
    more = {**(other.soon if soon else {}), **(options or {})}
    ways = {"into": "stock.#", **({"out": "order.#"} if other.sends else {})}
    made = {"system": other.system, "options": {**other.options(), **more}, "ways": ways, **about}
    return {"BRIDGE": json.dumps(made), "CRASH": crash}


def cloud_event(type: str, id: str, data: Any, **more: Any) -> bytes:
    """Return an event of another program."""
    return json.dumps({"specversion": "1.0", "id": id, "source": "/wms", "type": type, "data": data, **more}).encode()


def numbered(number: int) -> dict[str, bytes]:
    """Return so many events of another program, by their ids."""
    return {f"s{n}": cloud_event("stock.low", f"s{n}", {"n": n}) for n in range(number)}
