"""The lane, in the worker's main process: which deliveries are with its host, and what follows when they end."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.utils.log import get_logger

from ...core.observe import Log
from ...core.times import monotonic
from ...ledger.subscribing.subscription import Subscription
from ..delivery import message_number
from ..raised import info_of
from .messages import Adopt, Cancel, End, How, Job, Line, Message, Ping

logger = Log(get_logger(__name__))
#: Seconds between two signs of life while the lane empties, that its host gets to end what was cancelled, and in which
#: a loop has to turn that holds a delivery whose time is up.
TICK, FAREWELL, PATIENCE = 1.0, 3.0, 3.0
#: How often the process has died in which a delivery ran, before it is thought to be the reason; and of how many
#: deliveries that is remembered, the latest ones.
SUSPECT, REMEMBERED = 2, 10_000


class Home:
    """A host, as the main process sees it.

    Attributes:
        given: the deliveries that are with it, each by its number.
        handed: how many it has ever got.
        pings: what it was asked and has not answered.
        is_killed: whether it was killed for one handler's sake.

    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.given: dict[int, Given] = {}
        self.handed = 0
        self.pings: set[int] = set()
        self.is_killed = False


class Given:
    """A delivery that is with a host.

    Attributes:
        cancelled_by: the signal of an operator who has cancelled it; 0 when the worker ends.
        next: further messages about the delivery, which wait for its end: its retry may be here before that is known.

    """

    __slots__ = ("cancelled_by", "home", "next", "number", "request")

    def __init__(self, request: Any, number: int, home: Home) -> None:
        self.request = request
        self.number = number
        self.home = home
        self.cancelled_by: int | None = None
        self.next: list[Any] = []

    def is_the_same(self, request: Any) -> bool:
        """Say whether a request is the one that runs here: its message has come again when its connection was lost."""
        redelivered = (request.delivery_info or {}).get("redelivered")
        return bool(redelivered) and _number(request) == _number(self.request)


def _number(request: Any) -> int:
    headers = request.request_dict
    return message_number(headers.get("bus") or {}, headers.get("retries") or 0)


class Lane:
    """What a worker has for async agents beside its pool. All of it is used by the main thread alone.

    Arguments:
        start: starts a host, and returns the line to it.
        in_pool: runs a request in the worker's pool instead.
        forget: what is told which process has died: its deliveries, unless one alone ran, get their attempt back.
        after: calls a function after some seconds.
        together: lets all that is acknowledged meanwhile leave in one piece.
        most: how many deliveries a host gets before another one takes its place; None for any number.

    """

    def __init__(
        self,
        start: Callable[[], Line],
        in_pool: Callable[[Any], None],
        forget: Callable[[int], None],
        after: Callable[[float, Callable[[], None]], object],
        together: Callable[[], AbstractContextManager[Any]] = nullcontext,
        most: int | None = None,
    ) -> None:
        self._start, self._in_pool, self._forget, self._after, self._most = start, in_pool, forget, after, most
        self._together = together
        self._hub: Any = None
        #: The last one gets what comes; those before it end what they have.
        self._homes = [Home(start())]
        self._by_id: dict[str, Given] = {}
        self._last = 0
        self._is_closing = False
        self._deaths: dict[str, int] = {}

    # -- deliveries

    def give(self, request: Any) -> None:
        """Let the host run a delivery, as Celery would let its pool."""
        if self._is_closing or request.revoked():
            return  # what is not acknowledged goes back to its queue
        if (given := self._by_id.get(request.id)) is not None:
            if given.is_the_same(request):
                given.request = request  # once is enough
                self._accept(given)
            else:
                given.next.append(request)
        elif self._is_suspect(request) and not request.task.agent.in_ledger:  # of which no process of the pool knows
            request.lane = None
            self._in_pool(request)
        else:
            self._hand_over(request)

    def _hand_over(self, request: Any) -> None:
        home, self._last = self._homes[-1], self._last + 1
        given = self._by_id[request.id] = home.given[self._last] = Given(request, self._last, home)
        home.handed += 1
        job = Job(
            given.number, request.name, request.id, request.request_dict, request.body, request.content_type,
            request.content_encoding, not request.ignore_result,
        )  # fmt: skip
        self._say(home, job)
        self._accept(given)
        if limit := request.time_limits[0] or request.task.time_limit:
            self._after(limit, lambda: self._overdue(given, limit))
        if home.handed == self._most:
            self._open()

    def _accept(self, given: Given) -> None:
        given.request.lane = self
        given.request.on_accepted(given.home.line.pid, monotonic())

    def cancel(self, request: Any, signal: int) -> bool:
        """Cancel a delivery; say whether it still runs. Its handler may end it in another way all the same."""
        for home in tuple(self._homes):
            self._receive(home)  # it may have ended already
        given = self._by_id.get(request.id)
        if given is None:
            return False
        given.cancelled_by = signal
        self._say(given.home, Cancel(given.number))
        return True

    def _overdue(self, given: Given, limit: float) -> None:
        """Give up a handler that has not ended at its time limit, and the host's process when it hangs in it."""
        home, number = given.home, given.number
        if self._taken_out(home, number) is None:
            return
        home.pings.add(number)
        self._say(home, Cancel(number))
        self._say(home, Ping(number))
        self._after(PATIENCE, lambda: self._kill_if_it_hangs(home, number))
        given.request.on_failure(info_of(TimeLimitExceeded(limit)))
        given.request.on_timeout(False, limit)

    def _kill_if_it_hangs(self, home: Home, number: int) -> None:
        if number not in home.pings:
            return
        if home.line.kill():
            logger.critical("the event loop hangs in a handler whose time is up: its process is killed")
            home.is_killed = True
        else:
            logger.critical("the event loop hangs in a handler whose time is up, and this pool cannot end it")

    def _taken_out(self, home: Home, number: int) -> Given | None:
        given = home.given.pop(number, None)
        if given is not None:
            self._by_id.pop(given.request.id, None)
            self._end_if_done(home)
            for request in given.next:
                self._after(0, partial(self.give, request))
        return given

    # -- hosts

    def adopt(self, wanted: Sequence[Subscription]) -> None:
        """Let the hosts have the agents that the ledger declares, before they get anything for them."""
        for home in self._homes:
            self._say(home, Adopt(wanted))

    def _open(self) -> None:
        """Let another host take the place of the one that there is."""
        old, home = self._homes[-1], Home(self._start())
        self._homes.append(home)
        self._listen(home)
        self._end_if_done(old)

    def _end_if_done(self, home: Home) -> None:
        if not home.given and home is not self._homes[-1]:
            self._say(home, End())

    def register(self, hub: Any) -> None:
        """Let the worker's loop read what the hosts say."""
        self._hub = hub
        for home in self._homes:
            self._listen(home)

    def _listen(self, home: Home) -> None:
        if self._hub is not None:
            self._hub.add_reader(home.line.fileno(), partial(self._receive, home))
            self._watch_writing(home)

    def _say(self, home: Home, message: Message) -> None:
        home.line.send(message)
        self._watch_writing(home)

    def _watch_writing(self, home: Home) -> None:
        if self._hub is not None and home.line.has_unsent():
            self._hub.add_writer(home.line.writer, partial(self._write, home))

    def _write(self, home: Home, *_: Any) -> None:
        home.line.flush()
        if not home.line.has_unsent():
            self._hub.remove_writer(home.line.writer)

    def _receive(self, home: Home, *_: Any) -> None:
        try:
            answers = home.line.receive()
        except EOFError:
            self._lost(home)
            return
        with self._together():
            for answer in answers:
                self._hear(home, *answer)

    def _hear(self, home: Home, number: int, how: How, what: Any) -> None:
        if how is How.PONG:
            home.pings.discard(number)
        elif (given := self._taken_out(home, number)) is None:
            return
        elif how is How.ENDED:
            given.request.on_success(what)
        elif given.cancelled_by:
            given.request._announce_revoked("terminated", True, given.cancelled_by, False)

    def _lost(self, home: Home) -> None:
        """Go on with another host: this one's process has ended, and what it ran runs again.

        Whoever ran alone has ended it. Of many nobody knows who it was, so no attempt counts; but those that ran in two
        processes which died go on in the pool, where each harms itself alone, the latest first.
        """
        lost = [given.request for given in home.given.values()]
        waiting = [request for given in home.given.values() for request in given.next]
        was_current = home is self._homes[-1]
        self._let_go(home)
        if not lost and not was_current:
            return  # as it was told
        error = WorkerLostError(f"process {home.line.pid}, which ran async handlers, has died")
        logger.error("%s, with %d of them running", error, len(lost))
        if self._is_closing:
            return  # what is not acknowledged goes back to its queue
        for request in waiting:
            self._after(0, partial(self.give, request))
        if was_current:
            if not home.handed:
                time.sleep(TICK)  # what ends a process before it has done anything ends the next one too
            self._homes.append(Home(self._start()))
            self._listen(self._homes[-1])
        if len(lost) == 1 and not home.is_killed:
            self._deaths[lost[0].id] = SUSPECT
            lost[0].on_failure(info_of(error))
            return
        self._forget(home.line.pid)
        for request in () if home.is_killed else lost:
            self._deaths[request.id] = self._deaths.get(request.id, 0) + 1
        suspects = [request for request in lost if self._is_suspect(request)]
        for request in (*(one for one in lost if one not in suspects), *reversed(suspects)):
            self.give(request)
        while len(self._deaths) > REMEMBERED:
            del self._deaths[next(iter(self._deaths))]

    def _is_suspect(self, request: Any) -> bool:
        return self._deaths.get(request.id, 0) >= SUSPECT

    def _let_go(self, home: Home) -> None:
        if self._hub is not None:
            self._hub.remove(home.line.fileno())
            self._hub.remove_writer(home.line.writer)
        self._homes.remove(home)
        home.line.close()
        for given in home.given.values():
            self._by_id.pop(given.request.id, None)

    # -- the end

    def finish(self, beat: Callable[[], None]) -> None:
        """Wait until what runs has ended, and let the hosts end.

        Arguments:
            beat: what is to be done every second meanwhile.

        """
        self._is_closing = True
        self._wait(None, beat)
        self._close()

    def kill(self) -> None:
        """Cancel what runs, wait a moment, and let the hosts end."""
        self._is_closing = True
        for given in tuple(self._by_id.values()):
            self._say(given.home, Cancel(given.number))
        self._wait(monotonic() + FAREWELL, lambda: None)
        for home in self._homes:
            if home.given:
                home.line.kill()
        self._close()

    def _close(self) -> None:
        for home in tuple(self._homes):
            self._let_go(home)

    def _wait(self, deadline: float | None, beat: Callable[[], None]) -> None:
        while self._by_id and (deadline is None or monotonic() < deadline):
            homes = {home.line.fileno(): home for home in self._homes}
            unsent = [number for number, home in homes.items() if home.line.has_unsent()]
            readable, writable, _ = select.select(list(homes), unsent, (), TICK)
            for number in writable:
                homes[number].line.flush()
            for number in readable:
                self._receive(homes[number])
            beat()
