"""NATS, with JetStream where a stream is named: then a message is there until its event is accepted.

Sources: nats-py; "Headers for Publishing" and "Consumer" of docs.nats.io; ADR-32 for the errors of answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import (
    BridgeAway,
    BridgeRefused,
    ConfigError,
    NoResponder,
    RequestFailed,
    RequestTimeout,
    line_of,
)
from ...core.ids import new_id
from ..bridge import MOST, PATIENCE, library
from ..subjects import Subjects, covers
from .access import connected, place_of

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from nats.js import JetStreamContext

    from ..bridge import Answer, Bridge, Message, Outgoing, Source

#: What JetStream says of a subject that the stream has not.
NOT_IN_STREAM = 10093
#: Requests that are answered at once.
AT_ONCE = 100
ERROR, CODE = "Nats-Service-Error", "Nats-Service-Error-Code"
_ODD = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Nats:
    """A NATS server, or the servers of a cluster.

    Arguments:
        url: such as "nats://127.0.0.1:4222"; several with commas between them.
        stream: the stream of JetStream that has the subjects; without one, messages of core NATS, which keeps none for
            whoever is away.
        prefix: what stands before an event's type in its subject.
        subjects: subjects by event types, both as patterns, such as {"order.#": "wms.orders.>"}.
        user, password, token: what the server wants to know.
        credentials: a file of NATS credentials (.creds).
        tls: whether the connection is encrypted; "tls://" says so, too.
        tls_ca, tls_cert, tls_key: files of the authority that has signed the server's certificate, and of an own one.
        name: what the server shows for the connection; default `pipeline APP-NAME`.
        reconnect_wait: seconds between two attempts to connect.
        max_reconnects: attempts in a row after which `pipeline bridge` gives up; -1 for none.
        connect_timeout: seconds for an attempt, and for the answer to what is sent.
        ack_wait: seconds after which JetStream gives a message again that nobody has finished.

    """

    url: str = field(default="nats://127.0.0.1:4222", repr=False)
    stream: str = ""
    prefix: str = ""
    subjects: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials: str | Path | None = None
    tls: bool = False
    tls_ca: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    name: str = ""
    reconnect_wait: float = 2.0
    max_reconnects: int = 10
    connect_timeout: float = 2.0
    ack_wait: float = 30.0

    @property
    def kind(self) -> str:
        """What it is called."""
        return "NATS"

    @property
    def extra(self) -> tuple[str, str]:
        """The extra with its library, and that."""
        return "nats", "nats"

    def __str__(self) -> str:
        """Return where it is."""
        return place_of(self.url)

    @cached_property
    def mapping(self) -> Subjects:
        """Which subject an event type has."""
        return Subjects(self.prefix, self.subjects)

    def check(self, bridge: Bridge) -> None:
        """Raise ConfigError for patterns that NATS has not, and for what is no stream."""
        self.mapping.listened(bridge.into)
        self.mapping.listened(bridge.answer)
        if _ODD.search(self.stream):
            raise ConfigError(f"stream: {self.stream!r} is no name of a stream")

    async def connect(self, group: str) -> NatsLink:
        """Connect once: the bridge says when to try again."""
        library(self)
        client, told = await connected(self, group)
        return NatsLink(self, group, client, told)


class NatsMessage:
    """A message of NATS."""

    def __init__(self, message: Msg, type: str, id: str, *, kept: bool) -> None:
        self._message, self._kept = message, kept
        self.type, self.id = type, id
        self.body = bytes(message.data)
        self.headers = {name.lower(): value for name, value in (message.headers or {}).items()}

    async def done(self) -> None:
        """Acknowledge it: at worst it comes again, when that is lost."""
        await self._tell("ack")

    async def hold(self) -> None:
        """Let it not come again yet."""
        await self._tell("in_progress")

    async def put_aside(self, reason: str) -> None:
        """Let it not be given again: it stays in the stream, where its sequence finds it."""
        await self._tell("term")

    async def _tell(self, what: str) -> None:
        from nats.errors import Error

        if self._kept:
            with suppress(Error, OSError):  # the connection has gone, and with it what it would be told
                await getattr(self._message, what)()


class NatsLink:
    """A connection to NATS."""

    def __init__(self, system: Nats, group: str, client: Client, told: deque[Exception]) -> None:
        self._system, self._client, self._told = system, client, told
        self._group = f"pipeline-{_ODD.sub('-', group)}"
        self._subjects = system.mapping
        self._stream: JetStreamContext | None = None
        if system.stream:
            self._stream = client.jetstream(timeout=system.connect_timeout)
        self._answering: set[asyncio.Task[None]] = set()
        self._asked: list[Subscription] = []

    @property
    def is_open(self) -> bool:
        """Whether it is of use."""
        return bool(self._client.is_connected)

    async def send(self, message: Outgoing) -> None:
        """Publish, and wait for the stream's answer, or until core NATS has read it."""
        from nats.errors import Error, MaxPayloadError
        from nats.js.errors import APIError, NoStreamResponseError

        system, subject = self._system, self._subjects.subject_of(message.type)
        headers = {**message.headers, "Nats-Msg-Id": message.id}
        try:
            if self._stream is None:
                await self._client.publish(subject, message.body, headers=headers)
                await self._flushed()
                if self._is_denied("publish", subject):
                    raise BridgeRefused(f"{system} does not let us send to {subject}: its permissions forbid that")
                return
            await self._stream.publish(subject, message.body, headers=headers, stream=system.stream)
        except MaxPayloadError:
            raise BridgeRefused(f"{system} takes no message of {len(message.body):,} bytes") from None
        except NoStreamResponseError:
            if await self._is_elsewhere(subject):
                raise BridgeRefused(f"stream {system.stream} of {system} does not have the subject {subject}") from None
            raise BridgeAway(f"JetStream of {system} is not ready for {subject}") from None
        except APIError as exc:
            if exc.code is not None and 400 <= exc.code < 500:
                raise BridgeRefused(f"{system} does not take {subject}: {exc.description}") from None
            raise BridgeAway(f"{system} takes nothing now: {exc.description}") from None
        except (Error, OSError, TimeoutError) as exc:
            if self._is_denied("publish", subject):
                raise BridgeRefused(
                    f"{system} does not let us send to {subject}: its permissions forbid that"
                ) from None
            raise BridgeAway(f"{system} does not answer: {line_of(exc)}") from None

    async def _flushed(self) -> None:
        """Return when the server has read what was sent: the first ping of nats-py overtakes what waits."""
        for _ in range(2):
            await self._client.flush(timeout=self._system.connect_timeout)  # type: ignore[arg-type]  # as in access.py

    async def _is_elsewhere(self, subject: str) -> bool:
        """Say whether the stream is there and does not have a subject, so that another attempt would not help."""
        from nats.errors import Error

        assert self._stream is not None
        try:
            found = await self._stream.stream_info(self._system.stream)
        except (Error, OSError, TimeoutError):
            return False
        return not any(covers(one, subject) for one in found.config.subjects or ())

    def _is_denied(self, what: str, subject: str) -> bool:
        """Say whether the server has told that its permissions forbid something; it tells before it answers a ping."""
        wanted = f'permissions violation for {what} to "{subject}"'.lower()
        return any(wanted in str(error).lower() for error in self._told)

    async def _subscribe(self, subjects: Sequence[str], **options: Any) -> list[Subscription]:
        """Subscribe in the bridge's group, and return when the server knows it."""
        from nats.errors import Error

        try:
            found = [await self._client.subscribe(one, queue=self._group, **options) for one in subjects]
            await self._flushed()
        except (Error, OSError, TimeoutError) as exc:
            raise BridgeAway(f"{self._system} does not answer: {line_of(exc)}") from None
        if denied := [one for one in subjects if self._is_denied("subscription", one)]:
            raise ConfigError(
                f"{self._system} does not let us listen to {', '.join(denied)}: its permissions forbid that"
            )
        return found

    async def ask(self, message: Outgoing, timeout: float) -> bytes:  # noqa: ASYNC109  # it travels
        """Send a request to whoever answers the subject."""
        from nats.errors import Error, MaxPayloadError, NoRespondersError
        from nats.errors import TimeoutError as Late

        subject = self._subjects.subject_of(message.type)
        try:
            found = await self._client.request(subject, message.body, timeout=timeout, headers=dict(message.headers))
        except NoRespondersError:
            raise NoResponder(f"nobody in {self._system} answers {subject} now") from None
        except Late:
            raise RequestTimeout(f"{subject} was not answered within {timeout:g} s") from None
        except MaxPayloadError:
            raise BridgeRefused(f"{self._system} takes no request of {len(message.body):,} bytes") from None
        except (Error, OSError) as exc:
            raise BridgeAway(f"{self._system} does not answer: {line_of(exc)}") from None
        if (error := (found.headers or {}).get(ERROR)) is not None:
            code = (found.headers or {}).get(CODE, "")
            raise RequestFailed(f"{subject}: {error[:200]}", code=code, retryable=code.startswith("5"))
        return bytes(found.data)

    async def sources(self, patterns: Sequence[str]) -> Sequence[Source]:
        """Subscribe in the bridge's group, or share a durable consumer for each subject."""
        subjects = self._subjects.listened(patterns)
        if self._stream is None:
            # Subscribed before anything is said to be ready: core NATS keeps nothing for later.
            return [partial(self._next, one) for one in await self._subscribe(subjects)]
        found = [await self._pulled(subject) for subject in subjects]
        if not any(found):
            raise BridgeAway(f"stream {self._system.stream} of {self._system} has none of {', '.join(subjects)}")
        return [partial(self._fetch, one) for one in found if one is not None]

    async def _pulled(self, subject: str) -> JetStreamContext.PullSubscription | None:
        from nats.errors import Error
        from nats.js.api import AckPolicy, ConsumerConfig
        from nats.js.errors import APIError

        assert self._stream is not None
        # Its words are for who looks at the consumers; two subjects may have the same ones.
        words = _ODD.sub("_", subject.replace("*", "any").replace(">", "rest"))
        digest = hashlib.sha256(subject.encode()).hexdigest()[:8]
        config = ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT, ack_wait=self._system.ack_wait, max_ack_pending=10 * MOST
        )
        try:
            return await self._stream.pull_subscribe(
                subject, durable=f"{self._group}-{words}-{digest}", stream=self._system.stream, config=config
            )
        except APIError as exc:
            if exc.err_code == NOT_IN_STREAM:
                return None
            raise BridgeAway(f"stream {self._system.stream} of {self._system}: {exc.description}") from None
        except (Error, OSError, TimeoutError) as exc:
            raise BridgeAway(f"{self._system} does not answer: {line_of(exc)}") from None

    async def _fetch(self, pulled: JetStreamContext.PullSubscription) -> Sequence[Message]:
        from nats.errors import Error
        from nats.errors import TimeoutError as Late

        try:
            found = await pulled.fetch(MOST, timeout=PATIENCE)
        except (Late, TimeoutError):
            self._check()
            return []
        except (Error, OSError, asyncio.CancelledError) as exc:
            raise self._gone(exc) from None
        return [self._kept(one) for one in found]

    def _kept(self, message: Msg) -> Message:
        about = message.metadata
        # A stream that is made anew numbers its messages from 1 again; when each was stored tells them apart.
        stored = int(about.timestamp.timestamp() * 1_000_000)
        id = (message.headers or {}).get("Nats-Msg-Id") or f"{about.stream}-{about.sequence.stream}-{stored}"
        return NatsMessage(message, self._subjects.type_of(message.subject), id, kept=True)

    async def _next(self, subscription: Subscription) -> Sequence[Message]:
        from nats.errors import Error
        from nats.errors import TimeoutError as Late

        found: list[Msg] = []
        try:
            found.append(await subscription.next_msg(PATIENCE))
            while subscription.pending_msgs and len(found) < MOST:
                found.append(await subscription.next_msg(PATIENCE))
        except (Late, TimeoutError):
            if not found:
                self._check()
        except (Error, OSError, asyncio.CancelledError) as exc:
            if not found or (isinstance(exc, asyncio.CancelledError) and self.is_open):
                raise self._gone(exc) from None
        return [self._passing(one) for one in found]

    def _passing(self, message: Msg) -> Message:
        id = (message.headers or {}).get("Nats-Msg-Id") or new_id()
        return NatsMessage(message, self._subjects.type_of(message.subject), id, kept=False)

    def _check(self) -> None:
        if not self.is_open:
            raise self._gone(self._client.last_error)

    def _gone(self, error: BaseException | None) -> BaseException:
        """Return what ends the work with this link: nats-py cancels who waits when the connection ends."""
        if isinstance(error, asyncio.CancelledError) and self.is_open:
            return error
        why = self._client.last_error or error
        return BridgeAway(f"{self._system} has gone away" + (f": {line_of(why)}" if why and str(why) else ""))

    async def answer(self, patterns: Sequence[str], answer: Answer) -> None:
        """Answer requests in the bridge's group, so that each is answered once."""
        room = asyncio.Semaphore(AT_ONCE)

        async def respond(message: Msg) -> None:
            from nats.errors import Error, MaxPayloadError

            asked = NatsMessage(message, self._subjects.type_of(message.subject), new_id(), kept=False)
            found = await answer(asked)
            wrong = {ERROR: found.error, CODE: str(found.code)} if found.error else None
            with suppress(Error, OSError):  # whoever has asked sees that nobody answers
                try:
                    await self._client.publish(message.reply, found.body, headers=wrong)
                except MaxPayloadError:
                    wrong = {ERROR: f"the answer has {len(found.body):,} bytes, which are too many", CODE: "500"}
                    await self._client.publish(message.reply, b"", headers=wrong)

        def answered(task: asyncio.Task[None]) -> None:
            self._answering.discard(task)
            room.release()

        async def begin(message: Msg) -> None:
            if message.reply:
                await room.acquire()
                task = asyncio.create_task(respond(message))
                self._answering.add(task)
                task.add_done_callback(answered)

        self._asked = await self._subscribe(self._subjects.listened(patterns), cb=begin)

    async def close(self) -> None:
        """Answer what was asked, and leave."""
        from nats.errors import Error

        with suppress(Error, OSError):
            for one in self._asked:
                await one.unsubscribe()  # so that others of the group get what is asked from now on
        if self._answering:  # a request has an end, which is the bridge's timeout; nobody hears it when we are cut off
            await asyncio.wait(self._answering, timeout=None if self.is_open else PATIENCE)
        with suppress(Error, OSError, TimeoutError):
            await self._client.close()
