"""A connection to RabbitMQ that hands over in bursts what it reads, and on which no wait is without an end."""

from __future__ import annotations

import contextlib
import select
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from amqp.exceptions import FrameSyntaxError, RecoverableConnectionError
from kombu.transport import pyamqp

from ...core.times import Pace, monotonic
from ..bell import Bell
from .channel import Channel, Patient
from .frames import HEARTBEAT, UNDECODED, Delivery, Frame, Unread, is_py_amqps, without_properties
from .wire import LEAST, TCPTransport, TLSTransport

#: A heartbeat.
ALIVE = b"\x08\x00\x00\x00\x00\x00\x00\xce"
#: Seconds of the loop that a burst may take.
SLICE = 0.005


class Connection(Patient, pyamqp.Connection):  # type: ignore[misc]  # kombu's classes are untyped
    """A connection with such channels, on which no wait for an answer is without an end.

    What a worker's loop finds to read is handed over as one burst, in so far as that takes no longer than SLICE; what
    is written meanwhile, in the loop's thread, leaves at the burst's end in one piece: acks above all. It leaves
    earlier where somebody waits for an answer, and before a delivery whose consumer is not known to be quick.

    Attributes:
        patience: seconds within which the broker has to answer whatever it is asked; None for no limit.
        deadline: the time (monotonic) at which everything that is asked now has to be over; it goes before `patience`.
        after_burst: called, one after the other, when a burst was handed over, even if that has failed; what they write
            leaves with the burst's acks. Without a loop each message is a burst of its own. Who has written something
            and goes on to what may take long, calls flush().

    """

    Channel = Channel

    def __init__(self, *args: Any, patience: float | None = None, **kwargs: Any) -> None:
        self.patience = patience
        self.deadline: float | None = None
        self.after_burst: list[Callable[[], object]] = []
        self._bell: Bell | None = None
        self._hands_over = False
        self._is_between = True  # messages: nothing of one is still to come
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)  # of consumers, by their tags
        super().__init__(*args, **kwargs)

    def Transport(  # noqa: N802  # py-amqp calls it so
        self,
        host: str,
        connect_timeout: float | None,
        ssl: Any,
        read: float | None,
        write: float | None,
        **options: Any,
    ) -> Any:
        """Return the socket that is to be connected."""
        kind = TLSTransport if ssl else TCPTransport
        return kind(host, connect_timeout, read_timeout=read, write_timeout=write, ssl=ssl, **options)

    def connect(self, callback: Any = None) -> Any:
        """Connect within `connect_timeout`, the handshake included."""
        if self.connect_timeout is None:
            return super().connect(callback)
        with self.until(monotonic() + self.connect_timeout):
            return super().connect(callback)

    @contextlib.contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Let whatever is asked meanwhile end by the deadline (monotonic time)."""
        before, self.deadline = self.deadline, deadline
        try:
            yield
        finally:
            self.deadline = before

    def limit(self, deadline: float) -> None:
        """Let whatever is asked from now on end by the deadline (monotonic time), writing included."""
        self.deadline = deadline
        if self.connected:
            self.sock.settimeout(max(deadline - monotonic(), LEAST))

    def attend(self, loop: Any) -> None:
        """Let a loop hand over, too, what was read while somebody waited for an answer: nothing else shows it."""
        self._bell = Bell(loop, self.hand_over)
        self._bell.ring()

    def read_burst(self) -> None:
        """Read what has come, without waiting, and hand it over."""
        if not self.connected:
            raise RecoverableConnectionError("the socket was disconnected")
        with contextlib.suppress(TimeoutError):
            self.transport.look()
        self.hand_over()

    def hand_over(self) -> None:
        """Hand over what was read; what is left after a while follows at the loop's next turn."""
        if self.connected and not self._hands_over:
            with self.transport.gathering(), self._burst():
                self._hand_over(self.transport.unread)

    def _hand_over(self, unread: Unread) -> None:
        now = monotonic()
        until = now + SLICE
        while now < until and self.connected:
            delivery = unread.delivery() if self._is_between else None
            if delivery and (take := self._taker(delivery)):
                unread.at = delivery.end
                self.bytes_recv += 3
                now = self._timed(take, delivery, now)
            elif (frame := unread.cut()) is not None:
                self.transport.flush()
                self._take(frame)
                now = monotonic()
            else:
                break

    def _taker(self, delivery: Delivery) -> Any:
        channel = self.channels.get(delivery.channel)
        return channel and channel.taker(delivery)

    def _timed(self, take: Callable[[Delivery], object], delivery: Delivery, before: float) -> float:
        """Hand over a delivery; nothing that is gathered waits for a consumer that is slow, or that nobody knows."""
        pace = self._paces[delivery.delivery_info["consumer_tag"]]
        if not pace.is_quick:
            self.transport.flush()
        take(delivery)
        now = monotonic()
        pace.took(now - before)
        return now

    @contextlib.contextmanager
    def _burst(self) -> Iterator[None]:
        self._hands_over = True
        try:
            try:
                yield
            finally:
                for call in tuple(self.after_burst):
                    call()
        finally:
            self._hands_over = False
            self._ring()

    def _ring(self) -> None:
        """Let the loop come back for what was read: no poll shows that."""
        if self._bell and self.connected and self.transport.unread.has_frame():
            self._bell.ring()

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Keep deliveries until what is asked meanwhile is answered: no handler runs within a wait."""
        try:
            with self.transport.unread.without_deliveries():
                yield
        finally:
            self._ring()

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for something, and hand it over; raise TimeoutError when nothing comes within so many seconds."""
        if self._hands_over or not (self.after_burst or self._bell):
            super().drain_events(timeout)
        else:
            with self._burst():
                super().drain_events(timeout)

    def blocking_read(self, timeout: float | None = None) -> Any:
        """Take one frame; raise ConnectionError when a deadline passes in which somebody waits for an answer."""
        frame = self.transport.unread.cut()
        if frame is not None:
            return self._take(frame)
        self.transport.flush()
        if self.deadline is None:
            return self._take(self._wait(timeout))
        left = max(self.deadline - monotonic(), LEAST)
        if timeout is not None:
            return self._take(self._wait(min(timeout, left)))
        try:
            frame = self._wait(left)
        except TimeoutError:
            self.transport.connected = False
            raise ConnectionError("the broker did not answer in time") from None
        return self._take(frame)

    def _wait(self, timeout: float | None) -> Frame:
        until = None if timeout is None else monotonic() + timeout
        unread: Unread = self.transport.unread
        while (frame := unread.cut()) is None:
            if timeout is not None and timeout < 0:  # what has come meanwhile were deliveries, which wait
                raise TimeoutError
            with self.transport.having_timeout(timeout):
                self.transport.read_more()
            timeout = until if until is None else until - monotonic()
        return frame

    def _take(self, frame: Frame) -> Any:
        """Let py-amqp decode a frame; raise FrameSyntaxError, which ends the connection, when it cannot."""
        try:
            done = self.on_inbound_frame(frame)
        except (*UNDECODED, FrameSyntaxError) as exc:
            if not is_py_amqps(exc):
                raise
            readable = without_properties(frame)
            if readable is None:
                raise FrameSyntaxError(f"the broker has sent what cannot be read: {exc!r}") from exc
            # Any publisher may have written that: it is a consumer's to set aside, or the broker would send it again.
            return self._take(readable)
        if frame[0] != HEARTBEAT:
            self._is_between = bool(done)
        return done

    def together(self) -> AbstractContextManager[None]:
        """Return what lets all that is written meanwhile leave in one piece."""
        gathering: AbstractContextManager[None] = self.transport.gathering()
        return gathering

    def flush(self) -> None:
        """Write what was gathered while a burst is handed over."""
        self.transport.flush()

    def _on_tune(self, *args: Any, **kwargs: Any) -> None:
        super()._on_tune(*args, **kwargs)
        self.transport.unread.largest = self.frame_max

    def collect(self) -> None:
        """Let go of everything, without a word to the broker."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        super().collect()

    def has_unread(self) -> bool:
        """Say whether something has come that nobody has read yet."""
        decrypted = getattr(self.sock, "pending", int)()
        return self.transport.unread.has_frame() or bool(decrypted) or _is_readable(self.sock)

    def keep_alive(self) -> None:
        """Send a heartbeat: from any thread, while nobody reads."""
        if self.connected:
            self.transport.write_now(ALIVE)

    def heartbeat_tick(self, rate: float = 2) -> None:
        """Send a heartbeat when it is time; raise when none has come, and nothing that waits to be read either."""
        if self.connected and self.has_unread():  # the loop was busy elsewhere
            self.prev_recv = None
        super().heartbeat_tick(rate)


def _is_readable(sock: Any) -> bool:
    """Say whether reading would not wait."""
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()  # unlike select(), it takes any number of descriptors
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
