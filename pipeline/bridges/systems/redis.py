"""Redis Streams: an entry is there until a process of the bridge's consumer group has acknowledged it.

Source: "Redis Streams" of redis.io, of which XAUTOCLAIM needs Redis 6.2.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ...core.errors import BridgeAway, ConfigError, line_of, without_passwords
from ...core.ids import new_id
from ...core.times import monotonic
from ..bridge import MOST, PATIENCE, library

if TYPE_CHECKING:
    from ..bridge import Answer, Bridge, Message, Outgoing, Source

#: The fields of an entry: its event, its type and its id; further ones are headers.
EVENT, TYPE, ID, REASON = "event", "type", "id", "reason"
#: What is put behind a stream's name for what no event can be made of.
DEAD = ".dead"


@dataclass(frozen=True)
class RedisStream:
    """A stream of a Redis server.

    Arguments:
        url: such as "redis://127.0.0.1:6379/0"; "rediss://" is encrypted.
        stream: its key, which events are added to and taken from.
        max_length: entries that are kept, about, when events are added; None for all.
        claim_after: seconds after which a process takes over what another one has not finished.
        reconnect_wait: seconds between two attempts to connect.
        max_reconnects: attempts in a row after which `pipeline bridge` gives up; -1 for none.
        connect_timeout: seconds for an attempt, and for an answer.

    """

    url: str = "redis://127.0.0.1:6379/0"
    stream: str = "events"
    max_length: int | None = None
    claim_after: float = 30.0
    reconnect_wait: float = 2.0
    max_reconnects: int = 10
    connect_timeout: float = 2.0

    @property
    def kind(self) -> str:
        """What it is called."""
        return "Redis Streams"

    @property
    def extra(self) -> tuple[str, str]:
        """The extra with its library, and that."""
        return "redis", "redis"

    def __str__(self) -> str:
        """Return where it is."""
        return f"{without_passwords(self.url)} {self.stream}"

    def check(self, bridge: Bridge) -> None:
        """Raise ConfigError for requests."""
        if bridge.ask or bridge.answer:
            raise ConfigError(f"bridge {bridge.name!r}: ask= and answer=: a Redis stream has no answers")

    async def connect(self, group: str) -> RedisLink:
        """Connect once."""
        library(self)
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        client = Redis.from_url(
            self.url,
            decode_responses=True,
            encoding_errors="replace",
            socket_connect_timeout=self.connect_timeout,
            socket_timeout=self.connect_timeout + PATIENCE,
            retry=Retry(NoBackoff(), 0),  # a second XADD is a second entry
            client_name=f"pipeline-{group}",
        )
        try:
            await client.ping()
        except (RedisError, OSError) as exc:
            await client.aclose()
            raise BridgeAway(f"{self} does not let us in: {line_of(exc)}") from None
        return RedisLink(self, group, client)


class RedisMessage:
    """An entry of a stream."""

    def __init__(self, link: RedisLink, entry: str, fields: Mapping[str, str]) -> None:
        self._link, self._entry, self._fields = link, entry, fields
        self.id = fields.get(ID) or entry
        self.type = fields.get(TYPE, "")
        self.headers = {name.lower(): value for name, value in fields.items() if name not in (EVENT, TYPE, ID)}
        about = (TYPE, ID)
        plain = {name: value for name, value in fields.items() if name not in about}
        self.body = fields[EVENT].encode() if EVENT in fields else orjson.dumps(plain)

    async def done(self) -> None:
        """Acknowledge it."""
        link = self._link
        await link.call(link.client.xack(link.stream, link.group, self._entry))

    async def hold(self) -> None:
        """Let no other process take it over yet."""
        link = self._link
        await link.call(link.client.xclaim(link.stream, link.group, link.consumer, 0, [self._entry], justid=True))

    async def put_aside(self, reason: str) -> None:
        """Move it to the stream of dead entries."""
        link = self._link
        pipe = link.client.pipeline(transaction=True)
        pipe.xadd(link.stream + DEAD, {**self._fields, REASON: reason})
        pipe.xack(link.stream, link.group, self._entry)
        await link.call(pipe.execute())


class RedisLink:
    """A connection to Redis."""

    def __init__(self, system: RedisStream, group: str, client: Any) -> None:
        self._system, self.client, self._open = system, client, True
        self.stream, self.group = system.stream, f"pipeline-{group}"
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{new_id()}"
        self._claimed = -system.claim_after

    @property
    def is_open(self) -> bool:
        """Whether it is of use."""
        return self._open

    async def call(self, work: Any) -> Any:
        """Return what Redis answers; raise BridgeAway for every error: what it does not take now it may take later."""
        from redis.exceptions import RedisError

        try:
            return await work
        except (RedisError, OSError) as exc:
            self._open = False
            raise BridgeAway(f"{self._system}: {line_of(exc)}") from None

    async def send(self, message: Outgoing) -> None:
        """Add an entry."""
        fields = {EVENT: message.body, TYPE: message.type, ID: message.id, **message.headers}
        await self.call(self.client.xadd(self.stream, fields, maxlen=self._system.max_length))

    async def ask(self, message: Outgoing, timeout: float) -> bytes:  # noqa: ASYNC109  # as the protocol has it
        """Refuse."""
        raise NotImplementedError

    async def answer(self, patterns: Sequence[str], answer: Answer) -> None:
        """Refuse."""
        raise NotImplementedError

    async def sources(self, patterns: Sequence[str]) -> Sequence[Source]:
        """Join the bridge's group, which begins with the first entry."""
        from redis.exceptions import ResponseError

        with suppress(ResponseError):  # it is there
            try:
                await self.client.xgroup_create(self.stream, self.group, id="0", mkstream=True)
            except ResponseError:
                raise
            except Exception as exc:
                raise BridgeAway(f"{self._system}: {line_of(exc)}") from None
        return [self._fetch]

    async def _fetch(self) -> Sequence[Message]:
        if monotonic() - self._claimed >= self._system.claim_after / 2:
            if left := await self._left():
                return left  # and look again: there may be more
            self._claimed = monotonic()
        wait = int(PATIENCE * 1000)
        read = self.client.xreadgroup(self.group, self.consumer, {self.stream: ">"}, count=MOST, block=wait)
        found = await self.call(read)
        entries = found.get(self.stream, ()) if isinstance(found, dict) else [e for _, some in found for e in some]
        entries = entries[0] if isinstance(found, dict) and entries and isinstance(entries[0], list) else entries
        return [RedisMessage(self, entry, fields) for entry, fields in entries]

    async def _left(self) -> Sequence[Message]:
        """Take over what other processes have not finished."""
        idle = int(self._system.claim_after * 1000)
        work = self.client.xautoclaim(self.stream, self.group, self.consumer, idle, "0-0", count=MOST)
        _, entries, *_ = await self.call(work)
        return [RedisMessage(self, entry, fields) for entry, fields in entries if fields]

    async def close(self) -> None:
        """Leave the group, unless something of ours is not done, which others take over."""
        from redis.exceptions import RedisError

        with suppress(RedisError, OSError):
            if self._open:
                consumers = await self.client.xinfo_consumers(self.stream, self.group)
                if any(one["name"] == self.consumer and not one["pending"] for one in consumers):
                    await self.client.xgroup_delconsumer(self.stream, self.group, self.consumer)
        self._open = False
        with suppress(RedisError, OSError):
            await self.client.aclose()
