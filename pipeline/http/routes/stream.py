"""The log as it grows, for any number of readers: server-sent events, which go on where a reader has lost them.

One task reads the log for all of them. A reader who is slower than that misses events, is told so, and can read them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse

from ...agents.filters import parse
from ...core.errors import PipelineError
from ...core.observe import Log
from ...core.topics import check_pattern
from ...history.events import Page, Recorded, Wanted, end_of_log, next_events, place_of, read_place
from ..access import READS, App
from ..answers import Json, encoded
from ..problems import Problem

if TYPE_CHECKING:
    from ...app.app import Pipeline
    from ...ledger.log import Position
    from ...ledger.notices.notice import Notice

logger = Log(logging.getLogger(__name__))

#: Seconds between two looks at the log while there is a reader, and between two comments that keep a line open.
EVERY, HEARTBEAT = 0.25, 15.0
#: Events that are read at once, and that wait for a reader before it misses some.
PAGE, MOST_WAITING = 500, 1000
#: Readers at once.
MOST_READERS = 100


class Place(NamedTuple):
    """How far somebody has read: in the log, and of what handlers say."""

    log: Position
    notice: int = 0

    def __str__(self) -> str:
        """Return what Last-Event-ID says of it."""
        return f"{place_of(self.log)}~{self.notice}" if self.notice else place_of(self.log)

    @classmethod
    def read(cls, text: str) -> Place:
        """Return the place that a text stands for; raise Problem for one that is none."""
        log, tilde, notice = text.partition("~")
        if tilde and not (notice.isdecimal() and len(notice) < 19):
            raise Problem(422, f"after: {text!r} is no place in the log", field="after")
        return cls(read_place(log), int(notice or 0))


@dataclass(eq=False)
class Reader:
    """Somebody who follows the log.

    Attributes:
        waiting: what it has not read yet; None is the end.
        missed: how much it has missed.

    """

    wanted: Wanted
    waiting: asyncio.Queue[_Shown | _Said | None] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))
    missed: int = 0

    def wants(self, shown: _Shown) -> bool:
        """Say whether an event is for it."""
        return self.wanted.takes(shown.record.event, shown.attributes)

    def give(self, shown: _Shown | _Said) -> None:
        """Let something wait for it; from the first that it misses on it misses all until it has read the others."""
        if self.missed or self.waiting.full():
            self.missed += 1
        else:
            self.waiting.put_nowait(shown)

    def forget(self) -> None:
        """Begin anew: what waits is read from the log."""
        self.missed = 0
        while not self.waiting.empty():
            self.waiting.get_nowait()


class _Shown:
    """An event of the log as readers get it, made once for all of them."""

    def __init__(self, record: Recorded) -> None:
        self.record = record

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """What filters look at."""
        return self.record.event.attributes()

    @cached_property
    def message(self) -> bytes:
        """What is written on the wire, after its id."""
        return b"event: event\ndata: " + encoded(self.record.as_answer()) + b"\n\n"

    def follows(self, last: Place) -> Place | None:
        """Return where a reader is after it; None when it was read before."""
        return last._replace(log=self.record.position) if self.record.position > last.log else None


class _Said:
    """Something that a handler says as readers get it."""

    def __init__(self, notice: Notice) -> None:
        self.notice = notice

    def is_for(self, reader: Reader) -> bool:
        """Say whether a reader wants to hear it."""
        return reader.wanted.correlation == self.notice.correlation

    @cached_property
    def message(self) -> bytes:
        """What is written on the wire, after its id."""
        return f"event: {self.notice.kind}\ndata: ".encode() + encoded(self.notice.as_data()) + b"\n\n"

    def follows(self, last: Place) -> Place | None:
        """Return where a reader is after it; None when it was read before."""
        return last._replace(notice=self.notice.seq) if self.notice.seq > last.notice else None


class Tail:
    """Reads the log as it grows, while somebody follows it."""

    def __init__(self, app: Pipeline) -> None:
        self._app = app
        self._readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None
        self._beginning = asyncio.Lock()
        #: The number of the last thing that was heard from handlers; None while nobody wants to hear any.
        self._heard: int | None = None
        self._is_over = False

    def enter(self, reader: Reader) -> bool:
        """Let somebody follow the log; say whether there was room."""
        if len(self._readers) >= MOST_READERS:
            return False
        self._readers.add(reader)
        return True

    def leave(self, reader: Reader) -> None:
        """Let a reader go; without one nobody reads the log."""
        self._readers.discard(reader)
        if not self._readers and self._task is not None:
            self._task.cancel()
            self._task = self._heard = None

    def end(self) -> None:
        """Let all readers go, who come back when the server does."""
        self._is_over = True
        for reader in self._readers:
            reader.forget()
            reader.waiting.put_nowait(None)

    @property
    def is_over(self) -> bool:
        """Whether all readers have been let go."""
        return self._is_over

    async def listen(self, reader: Reader) -> None:
        """Read the log from now on for a reader that has entered, and give what it wants to it."""
        async with self._beginning:
            if self._task is None or self._task.done():
                at = await asyncio.to_thread(end_of_log, self._app.ledger)
                self._task = asyncio.create_task(self._read(at))
            if reader.wanted.correlation and self._heard is None:
                self._heard = await asyncio.to_thread(self._app.ledger.notices.end)

    async def follow(self, reader: Reader, last: Place) -> AsyncIterator[bytes]:
        """Yield what a reader that has entered gets, as it is written on the wire.

        Arguments:
            last: the place after which it begins.

        """
        notices = self._app.ledger.notices
        try:
            await self.listen(reader)
            yield b"retry: 2000\n\n"
            more = True
            while more and not self._is_over:
                reader.forget()  # what has come until now is in the log, and is read from there
                page = await asyncio.to_thread(next_events, self._app.ledger, last.log, PAGE)
                for shown in filter(reader.wants, map(_Shown, page.records)):
                    last = last._replace(log=shown.record.position)
                    yield _written(last, shown)
                last, more = last._replace(log=page.end), page.more
            if reader.wanted.correlation:
                for notice in await asyncio.to_thread(notices.of, reader.wanted.correlation, last.notice):
                    last = last._replace(notice=notice.seq)
                    yield _written(last, _Said(notice))
            async for message in self._live(reader, last):
                yield message
        except PipelineError as exc:  # the answer has begun: the reader comes back, and is told then
            logger.warning("a reader of the log was let go: %s", exc)
        finally:
            self.leave(reader)

    async def _live(self, reader: Reader, last: Place) -> AsyncIterator[bytes]:
        """Yield what comes after a place."""
        while not self._is_over:
            if reader.missed and reader.waiting.empty():
                missed, reader.missed = reader.missed, 0
                yield b"event: gap\ndata: " + encoded({"missed": missed, "after": place_of(last.log)}) + b"\n\n"
            try:
                found = await asyncio.wait_for(reader.waiting.get(), HEARTBEAT)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            if found is None:
                return
            if (place := found.follows(last)) is not None:
                last = place
                yield _written(last, found)

    async def _read(self, at: Position) -> None:
        """Give to each reader what the log gets."""
        is_away = False
        while True:
            try:
                page, said = await asyncio.to_thread(self._next, at)
            except Exception as exc:  # whatever it is, readers would wait for ever
                if not is_away:
                    logger.warning("the log cannot be followed for now: %s", exc)
                is_away = True
                await asyncio.sleep(1)
                continue
            at, is_away = page.end, False
            for shown in map(_Shown, page.records):
                for reader in tuple(self._readers):
                    if reader.wants(shown):
                        reader.give(shown)
                await asyncio.sleep(0)  # others have their turn
            for one in map(_Said, said):
                self._heard = one.notice.seq
                for reader in filter(one.is_for, self._readers):
                    reader.give(one)
            if not any(reader.wanted.correlation for reader in self._readers):
                self._heard = None
            if not page.more and len(said) < PAGE:
                await asyncio.sleep(EVERY)

    def _next(self, at: Position) -> tuple[Page, list[Notice]]:
        """Return what the log has got, and what handlers have said."""
        ledger, heard = self._app.ledger, self._heard
        return next_events(ledger, at, PAGE), [] if heard is None else ledger.notices.since(heard, PAGE)


def _written(place: Place, what: _Shown | _Said) -> bytes:
    """Return something as it is written on the wire, with what a reader says that goes on after it."""
    return b"id: " + str(place).encode() + b"\n" + what.message


router = APIRouter(tags=["events"])


@router.get("/stream", dependencies=[READS], response_class=StreamingResponse)
async def stream(
    app: App,
    request: Request,
    type: Annotated[str | None, Query(description="A topic pattern, such as order.*")] = None,
    where: Annotated[str | None, Query(description="A filter, such as priority > 5")] = None,
    correlation: str | None = None,
    after: Annotated[str, Query(description="A place in the log: what comes after it comes first.")] = "",
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """Follow the log: each event as a server-sent event whose id is its place in the log.

    A client that connects again with Last-Event-ID misses nothing. One that is too slow gets a `gap`, which says
    how much it has missed, and after which place; a comment comes after 15 seconds in which nothing else does.
    Of one correlation comes, too, what its handlers say while they work: `progress`, and `chunk`s of texts.
    """
    if type is not None:
        check_pattern(type)
    reader = Reader(Wanted(type, correlation, parse(where).matches if where else None))
    given = Place.read(last_event_id or after) if last_event_id or after else None
    # Before the answer begins: what is published when a client has that is for it, and what is wrong is said.
    end = await asyncio.to_thread(lambda: end_of_log(app.ledger))
    tail = entered(request, reader)
    return Following(tail, reader, tail.follow(reader, given or Place(end)))


def entered(request: Request, reader: Reader) -> Tail:
    """Return who reads the log for a reader; raise Problem where there is no room."""
    tail: Tail = request.app.state.tail
    if not tail.enter(reader):
        raise Problem(429, f"{MOST_READERS} follow the log already", "too-many-readers", {"Retry-After": "5"})
    return tail


@router.get("/trees/{id}/notices", dependencies=[READS])
def notices(
    app: App, id: str, after: Annotated[int, Query(ge=0, le=2**63 - 1, description="Only later ones.")] = 0
) -> Response:
    """Return what handlers have said of a correlation in the last ten minutes, the oldest first."""
    return Json({"notices": [one.as_data() for one in app.notices(id, after)]})


class Following(StreamingResponse):
    """The answer to a reader, which leaves with it whether it was begun or not."""

    def __init__(self, tail: Tail, reader: Reader, said: AsyncIterator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(said, media_type="text/event-stream", headers=headers)
        self._leave = partial(tail.leave, reader)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()
