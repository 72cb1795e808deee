"""What the socket has is handed over in one go, and what is written meanwhile leaves in one piece, in order."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from kombu.asynchronous import Hub

from pipeline.brokers.amqp import connection as connections
from pipeline.brokers.amqp.transport import Transport
from pipeline.brokers.amqp.wire import TLSTransport
from pipeline.core import times
from tests.amqp import (
    ACK,
    CANCEL_OK,
    CLOSE,
    CONSUME_OK,
    HEARTBEAT,
    OPEN_OK,
    QOS_OK,
    TAG,
    Line,
    acked,
    event,
    method,
    said,
)
from tests.tls import certificate

MakeLine = Callable[..., Line]
#: How a cancel of TAG goes on behind its frame's head.
CANCEL_TAG = b"\x00\x3c\x00\x1e\x07agents1"


@pytest.fixture
def line() -> Iterator[MakeLine]:
    """Make lines that are closed with the test."""
    made: list[Line] = []

    def make(*args: Any, **options: Any) -> Line:
        made.append(Line(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a burst take as long as it wants, and every consumer be quick once it is known, however slow the machine."""
    monkeypatch.setattr(connections, "SLICE", 60)
    monkeypatch.setattr(times, "QUICK", 60)


def attend(one: Line, hub: Hub) -> None:
    """Let a loop read what comes."""
    transport = object.__new__(Transport)
    transport.register_with_event_loop(one.connection, hub)


def tags(one: Line) -> list[int]:
    return [message.delivery_tag for message in one.got]


def test_the_acks_of_a_burst_leave_in_one_piece_and_in_order(line: MakeLine) -> None:
    one = line(lambda message: message.ack())
    one.burst(said(event()))
    assert acked(one.sent) == [[1]]
    one.sent.clear()
    one.burst(said(*[event()] * 50, first=2))
    assert acked(one.sent) == [list(range(2, 52))]


def test_an_ack_outside_of_a_burst_leaves_at_once(line: MakeLine) -> None:
    one = line()
    one.burst(said(event()))
    assert one.sent == []
    one.got[0].ack()
    assert acked(one.sent) == [[1]]


def test_what_is_acked_together_leaves_in_one_piece_also_within_a_burst(line: MakeLine) -> None:
    one = line()
    one.burst(said(event(), event()))
    with one.connection.together():
        for message in one.got:
            message.ack()
    assert acked(one.sent) == [[1, 2]]
    one.sent.clear()

    def ack(message: Any) -> None:
        with one.connection.together():
            message.ack()

    one.listen(TAG, ack)
    one.burst(said(event(), event(), first=3))
    assert acked(one.sent) == [[3, 4]]


def test_an_event_of_the_bus_is_decoded_in_one_go_and_anything_else_by_py_amqp(line: MakeLine) -> None:
    one = line()
    decoded = []
    decode = one.connection.on_inbound_frame
    one.connection.on_inbound_frame = lambda frame: decoded.append(frame) or decode(frame)
    signed = event(causationid="c", bus={"ledger": "l", "signature": "s"})
    one.burst(said(event(), signed, event("x" * 10_000)))
    assert (tags(one), decoded) == ([1, 2, 3], [])
    one.burst(said(event(attempts=2), first=4))
    assert (tags(one), len(decoded)) == ([1, 2, 3, 4], 3)


def test_who_waits_for_an_answer_lets_everything_leave_that_was_written_before(line: MakeLine) -> None:
    def work(message: Any) -> None:
        message.ack()
        if message.delivery_tag == 3:
            one.channel.basic_cancel(TAG)

    def answer(data: Any) -> None:
        one.sent.append(bytes(data))
        if CANCEL_TAG in one.sent[-1]:
            one.say(method(CANCEL_OK, b"\x07agents1"))

    one = line(work)
    one.transport._write = answer
    one.burst(said(event()))
    one.sent.clear()
    one.burst(said(event(), event(), first=2))
    assert acked(one.sent) == [[2, 3]]


def test_nothing_waits_for_a_consumer_that_is_slow_or_unknown(line: MakeLine, monkeypatch: pytest.MonkeyPatch) -> None:
    one = line(lambda message: message.ack())
    seen: list[list[list[int]]] = []
    one.listen("slow", lambda message: (seen.append(acked(one.sent)), message.ack()))
    quick, slow = said(event(), event()), said(event(), first=3, tag="slow")
    one.burst(quick + slow)
    assert seen[-1] == [[1], [2]] or seen[-1] == [[1, 2]], "nobody knows how long the slow one takes"
    one.sent.clear()
    one.burst(quick + slow)
    assert seen[-1] == [], "it was quick"
    monkeypatch.setattr(times, "QUICK", 0)
    one.sent.clear()
    one.burst(quick + slow)
    assert [tag for tags in seen[-1] for tag in tags] == [1, 2]


def test_a_heartbeat_of_another_thread_takes_along_what_is_gathered(line: MakeLine) -> None:
    def work(message: Any) -> None:
        message.ack()
        if message.delivery_tag == 2:
            beat = threading.Thread(target=one.connection.keep_alive)
            beat.start()
            beat.join()

    one = line(work)
    one.burst(said(event(), event(), event()))
    assert acked(one.sent)[-2][-1] == 2
    assert one.sent[-2].endswith(HEARTBEAT)
    assert acked(one.sent)[-1] == [3]


def test_a_burst_that_takes_long_lets_the_loop_turn_and_goes_on(
    line: MakeLine, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SLICE", 0.0001)
    one = line(lambda message: (one.got.append(message), time.sleep(0.001)))
    attend(one, hub)
    one.say(said(*[event()] * 5))
    turns = 0
    while len(one.got) < 5:
        before = len(one.got)
        hub.run_once()
        turns += 1
        assert len(one.got) - before <= 2, "one by the bell, one by the socket"
    assert turns >= 3
    assert tags(one) == [1, 2, 3, 4, 5]


def test_what_somebody_has_read_who_waited_for_an_answer_is_handed_over_by_the_loop(line: MakeLine, hub: Hub) -> None:
    one = line()
    attend(one, hub)
    hub.run_once()
    one.say(method(CANCEL_OK, b"\x07unknown") + said(event(), event()))
    one.channel.basic_cancel("unknown")
    assert one.got == []
    assert not select.select([one.connection.sock], [], [], 0)[0], "no poll would show what was read"
    hub.run_once()
    assert tags(one) == [1, 2]


def test_no_handler_runs_while_somebody_asks_and_what_has_come_meanwhile_follows_in_order(
    line: MakeLine, hub: Hub
) -> None:
    one = line()
    attend(one, hub)
    hub.run_once()
    one.transport.unread.largest = 4096
    early = said(event(), event("x" * 10_000), event(attempts=2), frame_max=4096)
    half = said(event(), first=4)
    cut = half.index(b"{}") - 3  # within the frame of the body
    one.say(early + method(CONSUME_OK, b"\x05other") + half[:cut])
    assert one.channel.basic_consume("q", "other") == "other"
    assert one.got == []
    one.say(half[cut:] + method(QOS_OK))
    one.channel.basic_qos(0, 10, False)
    assert one.got == []
    assert not select.select([one.connection.sock], [], [], 0)[0], "no poll would show what was read"
    hub.run_once()
    assert tags(one) == [1, 2, 3, 4]


def test_the_rest_of_a_delivery_that_has_begun_does_not_wait(line: MakeLine) -> None:
    one = line()
    said_half = said(event("x" * 10_000))
    head = said_half[: said_half.index(b"\x03\x00\x01")]  # up to the frame of the body
    one.burst(head)
    one.say(said_half[len(head) :] + method(QOS_OK))
    one.channel.basic_qos(0, 10, False)  # py-amqp takes nothing else on that channel before
    assert tags(one) == [1]


def test_who_asks_waits_no_longer_for_his_answer_because_deliveries_come(line: MakeLine) -> None:
    one = line()
    one.connection.patience = 0.5
    is_over = threading.Event()

    def talk() -> None:
        number = 0
        while not is_over.wait(0.05):
            number += 1
            one.say(said(event(), first=number))

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        with pytest.raises(ConnectionError, match="in time"):
            one.channel.basic_qos(0, 10, False)
    finally:
        is_over.set()
        talking.join()


def test_who_asks_amid_a_burst_is_answered_before_the_rest_of_it(line: MakeLine) -> None:
    def work(message: Any) -> None:
        one.got.append(message)
        if message.delivery_tag == 1:
            one.channel.basic_qos(0, 10, False)
            one.got.append(SimpleNamespace(delivery_tag="asked"))

    one = line(work)
    one.burst(said(event(), event()) + method(QOS_OK) + said(event(), first=3))
    assert tags(one) == [1, "asked", 2, 3]


def test_what_is_between_an_answer_and_who_asked_is_no_deliverys(line: MakeLine) -> None:
    one = line()
    told = []
    one.channel.events["basic_return"].add(lambda *said: told.append(said))
    one.say(said(event()) + HEARTBEAT + method(ACK, pack(">QB", 7, 0)) + said(event(), first=2) + method(QOS_OK))
    one.channel.events["basic_ack"].add(lambda *said: told.append(said))
    one.channel.basic_qos(0, 10, False)
    assert (told, one.got) == ([(7, False)], [])
    one.connection.hand_over()
    assert tags(one) == [1, 2]


def test_a_refusal_of_what_was_asked_loses_nothing_that_came_before(line: MakeLine) -> None:
    one = line()
    refused = pack(">HB", 404, 2) + b"no" + pack(">HH", 60, 20)
    other = one.another(2)
    one.say(said(event(), event()) + method(CLOSE, refused, channel=2) + method(OPEN_OK, pack(">I", 0), channel=2))
    with pytest.raises(amqp.NotFound):
        other.basic_consume("q", "other")
    one.connection.hand_over()
    assert tags(one) == [1, 2]


def test_what_was_read_counts_as_a_sign_of_life_and_half_a_frame_does_not(line: MakeLine) -> None:
    one = line()
    one.burst(said(event())[:-1])
    assert not one.connection.has_unread()
    one.say(b"\xce")
    assert one.connection.has_unread()
    one.connection.transport.look()
    assert one.connection.has_unread()
    one.connection.hand_over()
    assert not one.connection.has_unread()


def test_after_a_burst_hooks_run_and_their_acks_leave_with_the_others(line: MakeLine) -> None:
    one = line()
    runs: list[int] = []
    one.connection.after_burst.append(lambda: (runs.append(len(one.got)), [m.ack() for m in one.got]))
    one.burst(said(event(), event()))
    assert runs == [2]
    assert acked(one.sent) == [[1, 2]]
    one.got.clear()
    one.say(said(event(), first=3))
    one.connection.drain_events(timeout=1)  # as workers without a loop do
    assert runs == [2, 1]
    assert acked(one.sent) == [[1, 2], [3]]


def test_hooks_run_and_acks_leave_also_when_a_consumer_fails(line: MakeLine) -> None:
    def work(message: Any) -> None:
        if message.delivery_tag == 2:
            raise SystemExit
        message.ack()

    one = line(work)
    runs: list[int] = []
    one.connection.after_burst.append(lambda: runs.append(1))
    with pytest.raises(SystemExit):
        one.burst(said(event(), event(), event()))
    assert runs == [1]
    assert acked(one.sent) == [[1]]
    one.connection.hand_over()
    assert acked(one.sent) == [[1], [3]]


def test_a_consumer_that_ends_the_connection_ends_the_burst(line: MakeLine) -> None:
    one = line(lambda message: (one.got.append(message), one.connection.collect()))
    one.burst(said(event(), event()))
    assert tags(one) == [1]


def test_with_tls_a_burst_is_as_large_as_what_has_come_and_leaves_nothing_decrypted(
    line: MakeLine, tmp_path: Path
) -> None:
    own = certificate(tmp_path, "localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(own, own.with_suffix(".key"))
    near, far = socket.socketpair()
    spoken: list[ssl.SSLSocket] = []
    answering = threading.Thread(target=lambda: spoken.append(server.wrap_socket(far, server_side=True)))
    answering.start()
    ours = ssl.create_default_context(cafile=str(own)).wrap_socket(near, server_hostname="localhost")
    answering.join()
    one = line(ours=ours, transport=TLSTransport)
    one.broker = spoken[0]
    messages = [event("x" * 1000)] * 60  # several records
    one.say(said(*messages))
    one.connection.transport.look()
    ours.settimeout(None)
    one.connection.hand_over()
    while len(one.got) < len(messages):
        one.connection.read_burst()
    assert tags(one) == list(range(1, 61))
    assert ours.gettimeout() is None
    assert not ours.pending()
    one.connection.read_burst()  # nothing is there, and nothing is waited for
    one.transport.connected = False  # so that nobody says goodbye to somebody who does not read
