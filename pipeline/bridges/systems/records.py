"""Records of Kafka that were taken: how far those of each partition are done, and what of it the group keeps.

The group keeps one place for each partition. It is behind the records that are done without a gap, and is kept when a
batch is done, before a partition goes to another process, and at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from ...core.errors import BridgeAway, ConfigError
from ...core.times import monotonic
from ..bridge import MOST, PATIENCE
from ..wire import quoted
from .rdkafka import FORBIDDEN, Told, away, consumer_of, expressions_of, matching

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, TopicPartition
    from confluent_kafka import Message as Taken

    from ..bridge import Message
    from .rdkafka import Cluster

T = TypeVar("T")
Aside = Callable[["Record", str], Awaitable[None]]

#: What stands before an attribute's name in a header: here, and in the bindings of Kafka.
_OURS, _THEIRS = "ce-", "ce_"
#: The header of a dead record with what is wrong with it.
REASON = "reason"
#: Seconds between two signs of life while nothing is taken, and that leaving may take.
SIGN, LEAVING = 0.5, 10.0
#: What is said of a place that this process may not keep any more: the partition is another one's by now, or soon.
NOT_OURS = frozenset(
    (
        "ILLEGAL_GENERATION",
        "UNKNOWN_MEMBER_ID",
        "REBALANCE_IN_PROGRESS",
        "_NO_OFFSET",
        "_ASSIGNMENT_LOST",
        "_MAX_POLL_EXCEEDED",
    )
)


def headers_of(headers: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Return an event's headers as records have them: UTF-8, and nothing percent-encoded."""
    return [
        (_THEIRS + name.removeprefix(_OURS), unquote(text).encode())
        if name.startswith(_OURS)
        else (name, text.encode())
        for name, text in headers.items()
    ]


def _headers(given: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Return a record's headers as wire.py reads them."""
    found = {name.lower(): (value or b"").decode(errors="replace") for name, value in given}
    return {
        _OURS + name.removeprefix(_THEIRS) if name.startswith(_THEIRS) else name: quoted(text)
        if name.startswith((_THEIRS, _OURS))
        else text
        for name, text in found.items()
    }


class Part:
    """A partition that this process has, and which records of it are not done."""

    def __init__(self) -> None:
        self._open: dict[int, None] = {}
        self._next = -1
        self.kept = -1

    def take(self, offset: int) -> None:
        """Note that a record was taken; they come in their order."""
        self._open[offset] = None
        self._next = offset + 1

    def done(self, offset: int) -> None:
        """Note that a record is done."""
        self._open.pop(offset, None)

    @property
    def place(self) -> int:
        """The record that is to be given first when the partition is given to somebody; -1 for none that is known."""
        return next(iter(self._open), self._next)


class Record:
    """A record of Kafka."""

    def __init__(self, group: Group, part: Part, taken: Taken, type: str) -> None:
        self._group, self._part, self._offset, self.type = group, part, taken.offset() or 0, type
        self.key, self.value = taken.key(), taken.value()
        self.body = self.value or b""
        self.all_headers: list[Any] = list(taken.headers() or ())
        self.headers = _headers(self.all_headers)
        # A topic that is made anew counts from 0 again; when each was written tells them apart.
        self.id = f"{taken.topic()}-{taken.partition()}-{self._offset}-{taken.timestamp()[1]}"

    async def done(self) -> None:
        """Let the place go on behind it."""
        self._part.done(self._offset)
        await self._group.settled()

    async def hold(self) -> None:
        """Keep its partition."""
        await self._group.hold()

    async def put_aside(self, reason: str) -> None:
        """Copy it to the topic of dead records, if there is one, and let the place go on behind it."""
        await self._group.put_aside(self, reason)
        await self.done()


class Group:
    """A member of the bridge's consumer group.

    librdkafka's calls wait, so they are made in one thread, one after the other; it calls back from them only.
    """

    def __init__(self, system: Cluster, group: str, aside: Aside) -> None:
        self._system, self._name, self._told, self.put_aside = system, group, Told(), aside
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pipeline-kafka")
        self._consumer: Consumer | None = None
        self._parts: dict[tuple[str, int], Part] = {}
        self._early: list[Taken] = []
        self._unsettled = 0
        self._held: float | None = None

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something in the thread; raise BridgeAway where librdkafka cannot do it."""
        from confluent_kafka import KafkaException

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except KafkaException as exc:
            raise away(self._system, "does not answer", exc.args[0], self._told) from None

    # -- coming and going

    async def join(self, patterns: Sequence[str]) -> None:
        """Join it; raise BridgeAway where no topic has one of the event types."""
        await self._call(self._join, patterns)

    def _join(self, patterns: Sequence[str]) -> None:
        system = self._system
        wanted = expressions_of(system.mapping.subjects(patterns))
        self._consumer = consumer = consumer_of(system, self._name, self._told)
        topics = consumer.list_topics(timeout=system.connect_timeout).topics
        if not matching(wanted, topics, system):
            raise BridgeAway(f"{system} has no topic for {', '.join(patterns)}: none matches {' or '.join(wanted)}")
        consumer.subscribe(wanted, on_assign=self._gained, on_revoke=self._losing, on_lost=self._lost)

    async def leave(self) -> None:
        """Keep how far it has come, and leave."""
        if self._consumer is not None:
            ending = asyncio.ensure_future(self._call(self._consumer.close))
            await asyncio.wait({ending}, timeout=LEAVING)
            if ending.done():
                with suppress(Exception):  # it has gone
                    ending.result()
        self._thread.shutdown(wait=False)

    def _gained(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._parts |= {(one.topic, one.partition): Part() for one in partitions}
        consumer.assign(list(partitions))
        if self._held is not None:
            consumer.pause(list(partitions))
        else:  # it may have been paused when it was lost
            consumer.resume(list(partitions))

    def _losing(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        if not self._told.gone:  # nobody would hear it
            with suppress(BridgeAway, ConfigError):
                self._keep([(one.topic, one.partition) for one in partitions])
        self._lost(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        for one in partitions:
            self._parts.pop((one.topic, one.partition), None)
        # What was on its way is given once more to whoever gets its partition, in its order.
        self._early = [one for one in self._early if (one.topic(), one.partition()) in self._parts]

    # -- records

    async def fetch(self) -> Sequence[Message]:
        """Wait for records, and return those that are there."""
        found = await self._call(self._take)
        self._unsettled = len(found)
        return found

    def _take(self) -> list[Record]:
        consumer = self._joined()
        if self._held is not None:
            self._held = None
            consumer.resume(consumer.assignment())
        taken, self._early = self._early, []
        if not taken and (first := consumer.poll(PATIENCE)) is not None:
            self._early = [first]  # as a partition that moves now takes it along
            more = consumer.consume(MOST - 1, 0)  # which would wait for all of them
            taken, self._early = [*self._early, *more], []
        self._check()
        return [record for one in taken if (record := self._record(one)) is not None]

    def _record(self, taken: Taken) -> Record | None:
        if (error := taken.error()) is not None:
            self._tell(error)
            return None
        topic, offset = taken.topic() or "", taken.offset() or 0
        part = self._parts.get((topic, taken.partition() or 0))
        if part is None:  # another process has it, and takes it, too
            return None
        self._told.forget()
        part.take(offset)
        return Record(self, part, taken, self._system.mapping.type_of(topic))

    async def settled(self) -> None:
        """Keep the places when the last record of a batch is done."""
        self._unsettled -= 1
        if not self._unsettled:
            await self._call(self._keep, list(self._parts))

    def _keep(self, wanted: Iterable[tuple[str, int]]) -> None:
        """Have the group keep how far partitions are done; what it does not keep comes again."""
        from confluent_kafka import KafkaException, TopicPartition

        parts = {name: self._parts[name] for name in wanted if name in self._parts}
        places = {name: part.place for name, part in parts.items() if part.place != part.kept}
        if not places:
            return
        offsets = [TopicPartition(*name, place) for name, place in places.items()]
        try:
            answers = self._joined().commit(offsets=offsets, asynchronous=False) or ()
        except KafkaException as exc:
            self._tell(exc.args[0])
            return
        for one in answers:  # each partition may be refused by itself
            if one.error is None:
                parts[one.topic, one.partition].kept = places[one.topic, one.partition]
            else:
                self._tell(one.error)

    async def hold(self) -> None:
        """Give a sign of life, and take nothing: a member that asks for nothing would lose its partitions."""
        if self._held is None or monotonic() - self._held >= SIGN:
            await self._call(self._hold)

    def _hold(self) -> None:
        consumer = self._joined()
        self._held = monotonic()
        consumer.pause(consumer.assignment())
        if (taken := consumer.poll(0)) is not None:  # it was on its way
            self._early.append(taken)
        self._check()

    def _joined(self) -> Consumer:
        assert self._consumer is not None
        return self._consumer

    def _check(self) -> None:
        if self._told.gone:
            raise BridgeAway(f"{self._system} has gone away: {self._told}")

    def _tell(self, error: KafkaError) -> None:
        """Raise what an error means for the whole; a topic that is not there, or not any more, may come."""
        name = error.name()
        if name in FORBIDDEN:
            raise ConfigError(f"{self._system} does not let us listen as {self._name}: {error.str()}")
        if name not in NOT_OURS and name not in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_PARTITION_EOF"):
            raise away(self._system, "gives nothing now", error, self._told)
