"""What a bridge takes: the process that lets messages in as events, and answers requests, until it is stopped.

A message is done when its event is accepted: in the ledger, or without one confirmed by the broker. A crash between the
two has it come again, and the ledger knows its event by then. What no event can be made of is put aside and never stops
the others; what cannot be accepted now is held, in its order, until it can.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ..core.errors import (
    BridgeAway,
    EventRefused,
    InvalidEvent,
    LedgerRefused,
    LedgerUnavailable,
    NoResponder,
    PipelineError,
    QueueConflict,
    RequestFailed,
    RequestTimeout,
    TreeWasCancelled,
    line_of,
)
from ..core.event import VIA, Event, new_event
from ..core.observe import Fact, Log
from ..core.routing import wants
from .bridge import Answered, Bridge, Link, Message, Source
from .outgoing import here_of
from .wire import arrived, incoming

logger = Log(logging.getLogger(__name__))

#: Takes what is to be counted.
Count = Callable[[Iterable[Fact]], None]
#: Seconds until what could not be accepted is tried again.
AGAIN = 1.0
#: What is wrong with an event, and stays so.
REFUSED = (InvalidEvent, TreeWasCancelled, LedgerRefused, EventRefused)
#: What went wrong with a request, as a status of HTTP; the first class that fits counts.
CODES: tuple[tuple[type[Exception], int], ...] = (
    *((InvalidEvent, 400), (NoResponder, 404), (RequestFailed, 500), (RequestTimeout, 504)),
    (PipelineError, 503),
)


class Door(NamedTuple):
    """The way into a bus.

    Attributes:
        check: raises InvalidEvent for an event that its classes could not read.
        publish: publishes all of some events, or none.
        ask: publishes an event and returns what an agent returns.
        id: what tells the bus apart from others.
        source: of what is no CloudEvent.
        limit: bytes that an event may have.

    """

    check: Callable[[Event], None]
    publish: Callable[[Sequence[Event]], object]
    ask: Callable[..., Awaitable[Any]]
    id: Callable[[], str]
    source: str
    limit: int


@dataclass
class Counts:
    """What has become of the messages of a bridge."""

    taken: int = 0
    cut: int = 0
    others: int = 0
    aside: int = 0
    answered: int = 0

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"{self.taken:,} taken, {self.answered:,} answered, {self.cut:,} were here before, "
            f"{self.others:,} of other types, {self.aside:,} put aside"
        )


class Runner:
    """Runs a bridge.

    Arguments:
        say: told when it is connected, disconnected, and what it puts aside.
        count: told what is counted for others; None where nobody does.

    """

    def __init__(self, bridge: Bridge, door: Door, say: Callable[[str], None], count: Count | None = None) -> None:
        self._bridge, self._door, self._tell, self._count = bridge, door, say, count
        self._here, self._source = "", f"{door.source}/{bridge.name}"
        self._stop = asyncio.Event()
        self._failed = 0  # times in a row that nothing was taken, and nothing found to be there
        self.counts = Counts()
        self._count_aside(0)  # who watches a counter has to see it before it grows

    def stop(self) -> None:
        """Let it end when what it has taken is done."""
        self._stop.set()

    async def run(self) -> None:
        """Run until it is stopped; raise BridgeAway when the other system stays away."""
        system, ever = self._bridge.system, False
        await self._find_out()
        while not self._stop.is_set():
            try:
                link = await system.connect(self._bridge.group)
                try:
                    sources = await self._begin(link)
                    self._say(f"{'reconnected' if ever else 'connected'} to {system}")
                    ever = True
                    if not sources:  # else it has to be of use first
                        self._failed = 0
                    await self._work(link, sources)
                finally:
                    await link.close()
            except BridgeAway as exc:
                self._failed += 1
                most = system.max_reconnects
                if 0 <= most < self._failed:
                    raise BridgeAway(
                        f"bridge {self._bridge.name}: {_why(exc)}; given up after {most} attempts"
                    ) from None
                of = "" if most < 0 else f" of {most}"
                self._say(f"disconnected: {_why(exc)}; attempt {self._failed}{of} in {system.reconnect_wait:g} s")
                await self._pause(system.reconnect_wait)

    async def _find_out(self) -> None:
        """Find out what the event's way gets, when the ledger is there."""
        waiting = False
        while not (self._here or self._stop.is_set()):
            try:
                self._here = here_of(await asyncio.to_thread(self._door.id), self._bridge)
            except LedgerUnavailable as exc:
                if not waiting:
                    self._say(f"the ledger is away, and is asked again: {_why(exc)}")
                waiting = True
                await self._pause(AGAIN)

    async def _begin(self, link: Link) -> Sequence[Source]:
        if self._bridge.answer:
            await link.answer(self._bridge.answer, self._answer)
        return await link.sources(self._bridge.into) if self._bridge.into else ()

    async def _work(self, link: Link, sources: Sequence[Source]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for source in sources:
                    group.create_task(self._take_all(source))
                group.create_task(self._watch(link))
        except BaseExceptionGroup as several:
            raise next(
                (one for one in several.exceptions if not isinstance(one, BridgeAway)), several.exceptions[0]
            ) from None

    async def _watch(self, link: Link) -> None:
        """Notice that a link has gone which nobody waits at, and that all is to end."""
        while not self._stop.is_set():
            if not link.is_open:
                raise BridgeAway(f"{self._bridge.system} has gone away")
            await self._pause(0.2)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # -- messages

    async def _take_all(self, source: Source) -> None:
        while not self._stop.is_set():
            await self._take(await source())
            self._failed = 0

    async def _take(self, batch: Sequence[Message]) -> None:
        """Publish what some messages say, in their order."""
        ready: list[tuple[Message, Event]] = []
        for message in batch:
            try:
                event = self._event(message)
            except Exception as exc:  # whatever a stranger's message does to who reads it
                await self._put_aside(message, exc)
                continue
            if event is None:
                await message.done()
            else:
                ready.append((message, event))
        if ready:
            await self._publish(ready)

    def _event(self, message: Message) -> Event | None:
        """Return what a message says; None when it is not for this bus, which is counted."""
        into = self._bridge.into
        event = incoming(message, self._source, self._door.limit)
        arriving = arrived(event, self._here)
        if arriving is None:
            self.counts.cut += 1
        elif wants(into, event.type):
            self._door.check(arriving)
            return arriving
        elif wants(into, message.type):  # its place is one that this bridge has asked for
            raise InvalidEvent(f"type: {event.type!r} is none that this bridge takes: {', '.join(into)}")
        else:
            self.counts.others += 1
        return None

    async def _publish(self, ready: Sequence[tuple[Message, Event]]) -> None:
        waiting = False
        while True:
            try:
                await asyncio.to_thread(self._door.publish, [event for _, event in ready])
                break
            except REFUSED as exc:
                if len(ready) == 1:
                    return await self._put_aside(ready[0][0], exc)
                return await self._one_by_one(ready)
            except PipelineError as exc:  # the ledger or the broker is away, or somebody has too much
                if isinstance(exc, QueueConflict) and exc.accepted:
                    break  # in the ledger, from where it is sent when somebody has mended the queue
                if self._stop.is_set():
                    return None  # they come again
                if not waiting:
                    self._say(f"nothing is accepted now, and is tried again: {_why(exc)}")
                waiting = True
                for message, _ in ready:
                    await message.hold()
                await self._pause(AGAIN)
        for message, _ in ready:
            await message.done()
        self.counts.taken += len(ready)
        return None

    async def _one_by_one(self, ready: Sequence[tuple[Message, Event]]) -> None:
        for one in ready:
            await self._publish([one])

    async def _put_aside(self, message: Message, error: Exception) -> None:
        self.counts.aside += 1
        self._count_aside(1)
        reason = line_of(error)
        self._say(f"put aside: message {message.id}: {reason}")
        await message.put_aside(reason)

    def _count_aside(self, number: int) -> None:
        if self._count is not None:
            self._count([Fact("aside", (self._bridge.name,), number)])

    # -- requests

    async def _answer(self, message: Message) -> Answered:
        bridge, door = self._bridge, self._door
        try:
            asked = incoming(message, self._source, door.limit)
            if not wants(bridge.answer, asked.type):
                raise InvalidEvent(f"type: {asked.type!r} is none that this bridge answers")
            here = arrived(asked, self._here)
            if here is None:
                return _wrong(508, RequestFailed("the request has been on this bus before"))
            event = new_event(here.type, here.data, source=door.source, version=here.schema_version)
            event = event.evolve(**{VIA: (here.model_extra or {})[VIA]})
            door.check(event)
            found = await door.ask(event, timeout=bridge.timeout)
            self.counts.answered += 1
            return Answered(orjson.dumps(found.result))
        except Exception as exc:
            code = next((code for kind, code in CODES if isinstance(exc, kind)), 500)
            if not isinstance(exc, PipelineError):
                logger.exception("bridge %s: a request cannot be answered", bridge.name)
            return _wrong(code, exc)

    def _say(self, text: str) -> None:
        self._tell(f"bridge {self._bridge.name}: {text}")


def run_all(bridges: Sequence[Bridge], door: Door, say: Callable[[str], None], count: Count | None = None) -> bool:
    """Run bridges in this process until it is told to end; say whether that was Ctrl-C.

    Raises BridgeAway when the other system of one of them stays away: the others end, too.
    """
    return asyncio.run(_run_all(bridges, door, say, count))


async def _run_all(bridges: Sequence[Bridge], door: Door, say: Callable[[str], None], count: Count | None) -> bool:
    runners = [Runner(bridge, door, say, count) for bridge in bridges]
    told: list[int] = []

    def end(number: int) -> None:
        told.append(number)
        for runner in runners:
            runner.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    ended = await asyncio.gather(*(_ending(runner, end) for runner in runners), return_exceptions=True)
    for bridge, runner in zip(bridges, runners, strict=True):
        say(f"bridge {bridge.name}: ended: {runner.counts}")
    for error in ended:
        if isinstance(error, BaseException):
            raise error
    return signal.SIGINT in told


async def _ending(runner: Runner, end: Callable[[int], None]) -> None:
    """Run one; when it gives up, all end."""
    try:
        await runner.run()
    except BaseException:
        end(0)
        raise


def _why(error: BaseException) -> str:
    """Return what is wrong, without the name of the error's class."""
    return line_of(error).partition(": ")[2]


def _wrong(code: int, error: Exception) -> Answered:
    about = {"error": {"code": type(error).__name__, "message": line_of(error)}}
    return Answered(orjson.dumps(about), code, line_of(error).encode("ascii", "replace").decode()[:500])
