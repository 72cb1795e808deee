"""What is special about Kafka: partitions that move, keys, topics, and what a broker says.

The broker is librdkafka's mock (tests/kafkaserver.py), which is told what Apache's would say by itself.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline
from tests.bridges import Running, cloud_event
from tests.harness import Broker, Worker, dead_letters, run
from tests.kafkaserver import FORBIDDEN, GROUP_FORBIDDEN, JOIN, PRODUCE, TOO_LARGE, UNKNOWN
from tests.servers import PostgreSQL, Server, wait_for
from tests.tls import certificate
from tests.topics import Topics

pytestmark = [
    pytest.mark.parametrize("broker", ["embedded"], indirect=True),
    pytest.mark.parametrize("other", ["kafka"], indirect=True),
]

StartBridge = Callable[..., Running]
StartSender = Callable[..., Worker]


def taken(bus: Pipeline) -> list[int]:
    """Return the numbers of the events that have come in."""
    return [record.event.data["n"] for record in bus.get_events(type="stock.#")]


def spread(other: Topics, first: int, behind: int) -> None:
    """Send events with keys of their own, so that they are in all partitions."""
    for n in range(first, behind):
        other.produce("stock.low", cloud_event("stock.low", f"s{n}", {"n": n}), f"key{n}")
    other.flush()


def wait_until_done(other: Topics) -> None:
    wait_for(lambda: other.left() == 0, "all messages to be done", interval=0.1)


def ended(one: Running) -> str:
    """End a process, and return what it says that it has done."""
    one.signal(signal.SIGINT)
    return one.output().rpartition("ended: ")[2]


def test_a_process_that_comes_later_gets_partitions_and_gives_them_back(
    bus: Pipeline, other: Topics, bridge: StartBridge
) -> None:
    first = bridge()
    spread(other, 0, 100)
    wait_until_done(other)
    second = bridge()

    sent = [100]

    def has_some() -> int:
        """Send more while it joins, and what makes no event: that is named by who has its partition."""
        spread(other, sent[-1], sent[-1] + 20)
        sent.append(sent[-1] + 20)
        for n in range(20):
            other.produce("stock.low", b"{no json", f"key{n}")
        other.flush()
        wait_until_done(other)
        return second.said("put aside")

    wait_for(has_some, "the second one to have partitions")
    spread(other, sent[-1], sent[-1] + 20)
    wait_until_done(other)
    assert not ended(second).startswith("0 taken")
    number = sent[-1] + 40
    spread(other, number - 20, number)
    wait_until_done(other)
    assert sorted(taken(bus)) == list(range(number))
    assert first.said("disconnected") == 0


def test_what_a_killed_process_had_taken_others_get(bus: Pipeline, other: Topics, bridge: StartBridge) -> None:
    some = [bridge(), bridge()]
    spread(other, 0, 200)
    some[0].kill()
    spread(other, 200, 400)
    wait_until_done(other)
    assert sorted(taken(bus)) == list(range(400))


def test_partitions_that_move_while_nothing_is_accepted_lose_nothing(
    broker: Broker, other: Topics, bridge: StartBridge, servers: Callable[[str], Server]
) -> None:
    servers("postgresql")  # which skips the test where there is none
    server = PostgreSQL()
    try:
        server.start()
        broker.ledger = server.database()
        upgraded = run([sys.executable, "-m", "pipeline.cli.main", "ledger", "upgrade"], broker)
        assert upgraded.returncode == 0, upgraded.stderr
        # A member that gives no sign of life for this long is put out.
        options = {"settings": {"max.poll.interval.ms": 6000}}
        first = bridge(options=options)
        server.kill()
        spread(other, 0, 40)
        wait_for(lambda: first.said("nothing is accepted now"), "the first one to hold events")
        server.start()
        second = bridge(options=options)
        server.kill()
        spread(other, 40, 80)
        wait_for(
            lambda: first.said("nothing is accepted now") or second.said("nothing is accepted now"), "more to hold"
        )
        server.start()
        wait_until_done(other)
        app = Pipeline("shop", broker_url=broker.url, ledger_url=broker.ledger)
        try:
            assert sorted(taken(app)) == list(range(80))
        finally:
            app.close()
            app.celery.close()
        for one in (first, second):
            assert not one.said("disconnected")
    finally:
        server.stop()


def test_a_broker_that_is_frozen_is_away(bus: Pipeline, other: Topics, bridge: StartBridge) -> None:
    one = bridge()
    spread(other, 0, 5)
    wait_until_done(other)
    other.server.pause()
    wait_for(lambda: one.said("disconnected"), "the bridge to notice")
    other.server.resume()
    wait_for(lambda: one.said("reconnected"), "the bridge to be connected again")
    spread(other, 5, 10)
    wait_until_done(other)
    assert sorted(taken(bus)) == list(range(10))


@pytest.mark.parametrize("format", ["binary", "envelope"])
def test_records_are_what_cloudevents_say_of_kafka(
    bus: Pipeline, broker: Broker, other: Topics, sender: StartSender, bridge: StartBridge, format: str
) -> None:
    sender(ways={"out": "order.#", "format": format})
    bridge(ways={"into": "stock.#"})
    event = bus.publish("order.placed", {"name": "Zoë"}, subject="ein Körbchen, 50%")
    wait_for(other.got, "the event", interval=0.1)
    (found,) = other.read(other.topic("order"))
    headers = dict(found.headers())
    assert found.key() == "ein Körbchen, 50%".encode()
    if format == "binary":
        assert json.loads(found.value()) == {"name": "Zoë"}
        assert (headers["ce_id"], headers["ce_type"]) == (event.id.encode(), b"order.placed")
        assert headers["ce_subject"] == "ein Körbchen, 50%".encode()
        assert headers["content-type"] == b"application/json"
    else:
        told = json.loads(found.value())
        assert (told["Type"], told["Payload"], told["MessageID"]) == ("order.placed", {"name": "Zoë"}, event.id)
    # What it has written it reads, too; the way that it has gone is another bus's here.
    back = {name: text.decode() for name, text in headers.items() if name.startswith("ce_")}
    back |= {"ce_bridgedvia": "elsewhere:other", **({"ce_type": "stock.low"} if format == "binary" else {})}
    other.put("stock.low", found.value().replace(b"order.placed", b"stock.low"), headers=back)
    (line,) = broker.journal.wait(1, agent="stocked")
    assert (line["id"], line["type"], line["data"]) == (event.id, "stock.low", {"name": "Zoë"})
    assert line["via"].startswith("elsewhere:other,")


def test_events_of_one_key_are_in_one_partition(bus: Pipeline, other: Topics, sender: StartSender) -> None:
    sender()
    for n in range(30):
        bus.publish("order.placed", {"n": n}, subject=f"basket{n % 3}")
    wait_for(lambda: len(other.got()) == 30, "the events", interval=0.1)
    found = other.read(other.topic("order"))
    places = {(one.key(), one.partition()) for one in found}
    assert len(places) == 3
    assert {key for key, _ in places} == {b"basket0", b"basket1", b"basket2"}


def test_the_key_is_that_of_the_order_which_is_declared(bus: Pipeline, other: Topics, sender: StartSender) -> None:
    sender(ways={"out": "order.#", "order_by": "data.basket"})
    bus.publish_many([("order.placed", {"basket": f"b{n % 2}", "n": n}) for n in range(10)])
    wait_for(lambda: len(other.got()) == 10, "the events", interval=0.1)
    found = other.read(other.topic("order"))
    for key in (b"b0", b"b1"):
        numbers = [json.loads(one.value())["data"]["n"] for one in found if one.key() == key]
        assert numbers == sorted(numbers)
        assert len(numbers) == 5


def test_types_may_share_a_topic(bus: Pipeline, other: Topics, sender: StartSender, bridge: StartBridge) -> None:
    other.create("all")
    about = {"options": {"prefix": "", "topics": {"#": "all"}}}
    sender(**about)
    one = bridge(**about)
    bus.publish("order.placed", {"n": 1})
    wait_for(lambda: len(other.read("all")) == 1, "the event", interval=0.1)
    other.prefix = "all"
    other.topic = lambda type: "all"  # type: ignore[method-assign]
    other.put("all", cloud_event("stock.low", "s2", {"n": 2}))
    other.put("all", cloud_event("invoice.paid", "i1", {"n": 3}))
    other.put("all", b'{"n": 4}')
    wait_until_done(other)
    assert taken(bus) == [2]
    assert "1 taken, 0 answered, 1 were here before, 1 of other types, 1 put aside" in ended(one)


@pytest.mark.parametrize(
    ("error", "said"), [(TOO_LARGE, "takes no message of"), (FORBIDDEN, "does not let us write to shop.order.placed")]
)
def test_what_a_broker_refuses_is_a_dead_letter(
    bus: Pipeline, other: Topics, sender: StartSender, error: int, said: str
) -> None:
    sender()
    other.server.refuse(PRODUCE, error)
    bus.publish("order.placed", 1)
    wait_for(lambda: len(dead_letters(bus, "other")) == 1, "the dead letter")
    bus.publish("order.last", 2)
    wait_for(lambda: len(other.got()) == 1, "the other event", interval=0.1)
    (letter,) = bus.dead_letters.list(agent="other")
    assert said in str(letter.error)
    assert "BridgeRefused" in str(letter.error)


def test_an_event_whose_topic_is_not_there_is_a_dead_letter(bus: Pipeline, other: Topics, sender: StartSender) -> None:
    other.server.spoil("shop.order.none", UNKNOWN)
    sender()
    bus.publish("order.none", 1)
    wait_for(lambda: len(dead_letters(bus, "other")) == 1, "the dead letter")
    (letter,) = bus.dead_letters.list(agent="other")
    assert "has no topic shop.order.none, and does not make it" in str(letter.error)


def test_a_bridge_whose_topics_are_not_there_says_so(other: Topics, bridge: StartBridge) -> None:
    about = {"ways": {"into": "bill.#"}, "options": {"max_reconnects": 2, "reconnect_wait": 0.01}}
    one = bridge(ready=False, **about)
    wait_for(one.has_ended, "the bridge to give up")
    assert one.said("has no topic for bill.#")
    assert one.said("given up after 2 attempts")


def test_a_topic_that_is_made_later_is_found(bus: Pipeline, other: Topics, bridge: StartBridge) -> None:
    bridge(options={"settings": {"topic.metadata.refresh.interval.ms": 500}})
    other.create(other.topic("stock.new"))
    other.put("stock.new", b'{"n": 1}')
    wait_for(lambda: taken(bus) == [1], "the event")
    (record,) = other.read(other.topic("stock.new"))
    (found,) = bus.get_events(type="stock.new")
    # A topic that is made anew counts from 0 again.
    assert found.event.id == f"shop.stock.new-{record.partition()}-0-{record.timestamp()[1]}"


def test_who_may_not_listen_is_told_so(other: Topics, bridge: StartBridge) -> None:
    other.server.refuse(JOIN, GROUP_FORBIDDEN, 50)
    one = bridge(ready=False)
    wait_for(one.has_ended, "the bridge to end")
    assert one.said("does not let us listen")
    assert "Traceback" not in one.output()


def test_dead_records_stay_where_they_are_where_no_topic_is_named_for_them_and_are_not_taken_again(
    bus: Pipeline, other: Topics, bridge: StartBridge
) -> None:
    other.put("stock.low", b"{no json")
    one = bridge(options={"dead": ""})
    other.put("stock.low", b'{"n": 1}')
    wait_until_done(other)
    assert one.said("put aside: message shop.stock.low-") == 1
    assert other.aside() == []
    ended(one)
    # All topics, that of the dead records too: its own are not taken.
    every = bridge(ways={"into": "#"}, options={"prefix": "", "topics": {"stock.#": "shop.stock.#"}})
    other.put("stock.low", b"{again")
    wait_for(other.aside, "the dead record", interval=0.1)
    other.put("stock.low", b'{"n": 2}')
    wait_for(lambda: taken(bus) == [1, 2], "the event behind it")
    assert every.said("put aside") == 1


# -- who gets in


@contextmanager
def encrypting(path: Path, target: int) -> Iterator[int]:
    """Decrypt what comes to a port, and hand it on to another one, as a broker with TLS would."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, path.with_suffix(".key"))
    stopped = threading.Event()

    def pump(source: Any, sink: Any) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        outer = socket.create_connection(("127.0.0.1", target))
        with suppress(OSError), client, outer, context.wrap_socket(client, server_side=True) as inner:
            back = threading.Thread(target=pump, args=(outer, inner))
            back.start()
            pump(inner, outer)
            back.join()

    def accept(listener: socket.socket, threads: ThreadPoolExecutor) -> None:
        while not stopped.is_set():
            with suppress(TimeoutError):
                threads.submit(serve, listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(20) as threads:
        listener.settimeout(0.1)
        threads.submit(accept, listener, threads)
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()


def test_a_broker_is_verified_by_the_authority_that_is_named(
    bus: Pipeline, other: Topics, bridge: StartBridge, tmp_path: Path
) -> None:
    ours, theirs = certificate(tmp_path, "localhost"), certificate(tmp_path, "elsewhere")
    with encrypting(ours, other.server.port) as port:
        about = {"servers": f"localhost:{port}", "max_reconnects": 1, "reconnect_wait": 0.01}
        other.server.advertise(port, "localhost")
        refused = bridge(ready=False, options={**about, "tls_ca": str(theirs)})
        wait_for(refused.has_ended, "the bridge to give up")
        assert refused.said("certificate verify failed") or refused.said("certificate could not be verified")
        let_in = bridge(options={**about, "tls_ca": str(ours)})
        other.server.advertise(other.server.port)
        other.put("stock.low", b'{"n": 1}')
        other.server.advertise(port, "localhost")
        wait_for(lambda: taken(bus) == [1], "the event")
        let_in.kill()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_broker_without_tls_gets_no_password_that_is_to_be_encrypted(
    other: Topics, bridge: StartBridge, mechanism: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def heard() -> bytes:
            server.settimeout(60)
            with server.accept()[0] as client:
                client.settimeout(60)
                found = client.recv(10_000)
                client.sendall(b"\0\0\0\4none")
                with suppress(OSError):
                    while more := client.recv(10_000):
                        found += more
                return found

        sent = threads.submit(heard)
        about = {"servers": f"127.0.0.1:{server.getsockname()[1]}", "max_reconnects": 0, "tls": True}
        one = bridge(ready=False, options={**about, "user": "us3r", "password": "s3cret", "mechanism": mechanism})
        wait_for(one.has_ended, "the bridge to give up")
        found = sent.result()
        assert found.startswith(b"\x16\x03")  # the first bytes of TLS
        assert b"s3cret" not in found
        assert b"us3r" not in found
    assert one.said("does not let us in")
    assert not one.said("s3cret")
