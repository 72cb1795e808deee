"""What only NATS has: subjects, requests and their answers, core NATS, binary mode, and how one gets in."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline import Pipeline, RequestFailed
from tests.bridges import JetStream, Running
from tests.harness import Broker, Worker, dead_letters
from tests.natsserver import Nats
from tests.servers import wait_for

pytestmark = [
    pytest.mark.parametrize("broker", ["embedded"], indirect=True),
    pytest.mark.parametrize("other", ["jetstream"], indirect=True),
]

StartBridge = Callable[..., Running]
StartSender = Callable[..., Worker]
CORE = {"options": {"stream": "", "prefix": ""}}


def within(url: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Do something with a client of core NATS."""

    async def run() -> Any:
        import nats

        client = await nats.connect(url, allow_reconnect=False)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.fixture
def listening(other: JetStream) -> Iterator[Callable[..., Any]]:
    """Listen to a subject in a thread; call what is returned for the first message."""
    with ThreadPoolExecutor(4) as threads:

        def listen(subject: str, respond: Callable[[Any], tuple[bytes, dict[str, str] | None]] | None = None) -> Any:
            ready = threads.submit(lambda: None)
            started: list[bool] = []

            async def work(client: Any) -> Any:
                subscription = await client.subscribe(subject)
                await client.flush()
                started.append(True)
                message = await subscription.next_msg(30)
                if respond is not None:
                    body, headers = respond(message)
                    await client.publish(message.reply, body, headers=headers)
                    await client.flush()
                return message.subject, message.data, message.headers or {}

            ready.result()
            found = threads.submit(within, other.server.url, work)  # type: ignore[attr-defined]
            wait_for(lambda: started, "the subscription")
            return lambda: found.result(timeout=40)

        yield listen


def test_core_nats_has_both_directions(
    bus: Pipeline, broker: Broker, other: JetStream, sender: StartSender, bridge: StartBridge, listening: Any
) -> None:
    sender(**CORE)
    bridge(**CORE)
    found = listening("order.>")
    event = bus.publish("order.placed", {"n": 1})
    subject, body, headers = found()
    assert (subject, json.loads(body)["id"]) == ("order.placed", event.id)
    assert headers["Nats-Msg-Id"] == event.id
    within(other.server.url, lambda client: client.publish("stock.low", b'{"n": 2}'))  # type: ignore[attr-defined]
    (line,) = broker.journal.wait(1, agent="stocked")
    assert (line["type"], line["data"]) == ("stock.low", {"n": 2})


def test_processes_of_a_bridge_to_core_nats_get_each_message_once(
    bus: Pipeline, other: JetStream, bridge: StartBridge
) -> None:
    some = [bridge(**CORE), bridge(**CORE)]

    async def publish(client: Any) -> None:
        for n in range(100):
            await client.publish("stock.low", json.dumps({"n": n}).encode())

    within(other.server.url, publish)  # type: ignore[attr-defined]
    wait_for(lambda: len(list(bus.get_events(type="stock.#"))) >= 100, "the events")
    for one in some:
        one.signal(signal.SIGINT)
    assert sorted(record.event.data["n"] for record in bus.get_events(type="stock.#")) == list(range(100))


def test_subjects_are_what_the_bridge_says(
    bus: Pipeline, broker: Broker, other: JetStream, sender: StartSender, bridge: StartBridge
) -> None:
    about = {"options": {"subjects": {"order.#": "shop.orders.>", "stock.*": "shop.wms.*.stock"}, "prefix": ""}}
    about = {**about, "ways": {"out": "order.#", "into": "stock.*"}}
    sender(**about)
    bridge(**about)
    bus.publish("order.placed.late", {"n": 1})
    wait_for(lambda: "orders.placed.late" in [type for type, _ in other.got()], "the event")
    other.put("wms.low.stock", b'{"n": 2}')
    (line,) = broker.journal.wait(1, agent="stocked")
    assert line["type"] == "stock.low"


@pytest.mark.parametrize("format", ["binary", "envelope"])
def test_events_go_out_and_come_in_in_other_formats(
    bus: Pipeline,
    broker: Broker,
    other: JetStream,
    sender: StartSender,
    bridge: StartBridge,
    listening: Any,
    format: str,
) -> None:
    sender(ways={"out": "order.#", "format": format})
    bridge(ways={"into": "stock.#"})
    found = listening("shop.order.>")
    event = bus.publish("order.placed", {"name": "Zoë"}, subject="ein Körbchen")
    _, body, headers = found()
    if format == "binary":
        assert json.loads(body) == {"name": "Zoë"}
        assert (headers["ce-id"], headers["ce-type"], headers["ce-specversion"]) == (event.id, "order.placed", "1.0")
        assert headers["ce-subject"] == "ein%20K%C3%B6rbchen"
    else:
        told = json.loads(body)
        assert (told["Type"], told["Payload"], told["MessageID"]) == ("order.placed", {"name": "Zoë"}, event.id)
        assert told["Timestamp"].startswith(event.time.isoformat()[:19])
    # What it has written it reads, too; the way that it has gone is another bus's here.
    headers = {name: value for name, value in headers.items() if name.lower().startswith("ce-")}
    headers = {**headers, "ce-type": "stock.low", "ce-bridgedvia": "elsewhere:other"}
    body = body.replace(b"order.placed", b"stock.low")
    other.put("stock.low", body, headers=headers if format == "binary" else {"ce-bridgedvia": "elsewhere:other"})
    (line,) = broker.journal.wait(1, agent="stocked")
    assert (line["id"], line["type"], line["data"]) == (event.id, "stock.low", {"name": "Zoë"})
    assert line["via"].startswith("elsewhere:other,")


def test_a_request_of_nats_is_answered_by_an_agent(other: JetStream, sender: StartSender, bridge: StartBridge) -> None:
    sender()
    one = bridge(ways={"answer": ["lookup.*"], "timeout": 20})

    async def ask(client: Any) -> list[tuple[Any, dict[str, str]]]:
        bodies = (b'{"n": 5}', b'{"fail": 1}', b"{no json")
        wanted = [client.request("shop.lookup.item", body, timeout=30) for body in bodies]
        wanted.append(client.request("shop.lookup.nothing", b"{}", timeout=30))
        return [(json.loads(one.data), one.headers or {}) for one in await asyncio.gather(*wanted)]

    good, failed, broken, nobody = within(other.server.url, ask)  # type: ignore[attr-defined]
    assert good == ({"found": 5}, {})
    assert failed[0]["error"]["code"] == "RequestFailed"
    assert failed[1]["Nats-Service-Error-Code"] == "500"
    assert broken[1]["Nats-Service-Error-Code"] == "400"
    assert nobody[1]["Nats-Service-Error-Code"] == "404"
    assert one.signal(signal.SIGINT) == 130
    assert "1 answered" in one.output()


def test_a_request_of_ours_is_answered_by_a_program_on_nats(bus: Pipeline, sender: StartSender, listening: Any) -> None:
    sender(ways={"ask": "price.#", "timeout": 20})
    found = listening("shop.price.quote", lambda message: (b'{"price": 7}', None))
    assert bus.request("price.quote", {"sku": "a"}, timeout=30).result == {"price": 7}
    assert json.loads(found()[1])["data"] == {"sku": "a"}
    refused = {"Nats-Service-Error": "no such thing", "Nats-Service-Error-Code": "404"}
    found = listening("shop.price.quote", lambda message: (b"", refused))
    with pytest.raises(RequestFailed, match="no such thing") as failed:
        bus.request("price.quote", {"sku": "b"}, timeout=30)
    assert failed.value.code == "RequestFailed"
    found()


def test_that_nobody_answers_a_request_and_that_nobody_does_in_time_are_different_errors(
    bus: Pipeline, sender: StartSender, listening: Any
) -> None:
    patient = sender(ways={"ask": "price.#", "timeout": 60})
    with pytest.raises(RequestFailed) as failed:
        bus.request("price.quote", {"sku": "a"}, timeout=60)
    assert failed.value.code == "NoResponder"
    patient.stop()
    sender(ways={"ask": "price.#", "timeout": 0.1})
    silent = listening("shop.price.slow")
    assert silent is not None
    with pytest.raises(RequestFailed) as failed:
        bus.request("price.slow", {"sku": "a"}, timeout=60)
    assert failed.value.code in ("RequestTimeout", "NoResponder")
    silent()


def test_what_the_server_refuses_is_a_dead_letter(bus: Pipeline, other: JetStream, sender: StartSender) -> None:
    other.run(lambda stream: stream.update_stream(name="SHOP", subjects=["shop.order.>"], max_msg_size=500))
    sender()
    bus.publish("order.placed", "x" * 1000)
    bus.publish("order.placed", "y")
    wait_for(lambda: len(dead_letters(bus, "other")) == 1, "the dead letter")
    wait_for(lambda: len(other.got()) == 1, "the other event")
    (letter,) = bus.dead_letters.list(agent="other")
    assert "BridgeRefused" in str(letter.error)


def test_a_server_that_wants_a_password_lets_in_who_has_it(
    other: JetStream, broker: Broker, bridge: StartBridge
) -> None:
    class Guarded(Nats):
        def command(self) -> list[str]:
            return [*super().command(), "--user", "shop", "--pass", "s3cret"]

    server = Guarded()
    try:
        server.start()
        # The server says why and hangs up, which may overtake what it has said: one of some attempts hears it.
        about = {"url": server.url, "stream": "", "max_reconnects": 10, "reconnect_wait": 0.01}
        refused = bridge(ready=False, options={**about, "user": "shop", "password": "wr0ng"})
        wait_for(refused.has_ended, "the bridge to give up")
        assert "Authorization Violation" in refused.output()
        let_in = bridge(options={**about, "user": "shop", "password": "s3cret"})
        named = server.url.replace("//", "//shop:s3cret@")
        by_url = bridge(options={**about, "url": named})
        for one in (refused, let_in, by_url):
            assert not one.said("s3cret")
            assert not one.said("wr0ng")
    finally:
        server.stop()


def test_an_event_whose_subject_no_stream_has_is_a_dead_letter(
    bus: Pipeline, other: JetStream, sender: StartSender
) -> None:
    sender(ways={"out": ["order.#", "invoice.#"]})
    bus.publish("invoice.paid", 1)
    wait_for(lambda: len(dead_letters(bus, "other")) == 1, "the dead letter")
    bus.publish("order.placed", 2)
    wait_for(lambda: len(other.got()) == 1, "the other event")
    (letter,) = bus.dead_letters.list(agent="other")
    assert "does not have the subject shop.invoice.paid" in str(letter.error)


@pytest.mark.parametrize(
    "about", [{"user": "shop", "password": "s3cret"}, {"token": "s3cret"}, "s3cret", "shop:s3cret"]
)
def test_a_server_without_tls_gets_no_password_that_is_to_be_encrypted(bridge: StartBridge, about: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as threads:

        def heard() -> bytes:
            server.settimeout(60)
            with server.accept()[0] as client:
                client.settimeout(60)
                client.sendall(b'INFO {"server_id": "x", "auth_required": true, "max_payload": 1000}\r\n')
                found = b""
                while more := client.recv(1000):
                    found += more
                return found

        sent = threads.submit(heard)
        user = f"{about}@" if isinstance(about, str) else ""
        url = f"nats://{user}127.0.0.1:{server.getsockname()[1]}"
        given = {} if isinstance(about, str) else about
        options = {"url": url, "stream": "", "tls": True, "max_reconnects": 0, **given}
        one = bridge(ready=False, options=options)
        wait_for(one.has_ended, "the bridge to give up")
        assert sent.result() == b""
    assert one.said("secure connection not available")
    assert not one.said("s3cret")


def test_what_permissions_forbid_is_said(
    other: JetStream, bus: Pipeline, bridge: StartBridge, sender: StartSender, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.conf"
    rules.write_text(
        'authorization { default_permissions: {publish: "_INBOX.>", subscribe: "_INBOX.>"}, '
        "users: [{user: a, password: b}]}"
    )

    class Guarded(Nats):
        def command(self) -> list[str]:
            return [*super().command(), "-c", str(rules)]

    server = Guarded()
    try:
        server.start()
        about = {"url": server.url, "stream": "", "user": "a", "password": "b"}
        sender(options=about)
        bus.publish("order.placed", 1)
        wait_for(lambda: len(dead_letters(bus, "other")) == 1, "the dead letter")
        one = bridge(ready=False, options=about)
        wait_for(one.has_ended, "the bridge to end")
        assert one.said("does not let us listen to shop.stock")
    finally:
        server.stop()


def test_a_request_that_is_being_answered_when_the_bridge_ends_is_answered(
    broker: Broker, other: JetStream, sender: StartSender, bridge: StartBridge
) -> None:
    from nats.errors import NoRespondersError
    from nats.errors import TimeoutError as Late

    sender()
    one = bridge(ways={"answer": ["lookup.*"], "timeout": 60})

    async def is_asked(client: Any) -> bool:
        try:
            await client.request("shop.lookup.nothing", b"{}", timeout=1)
        except NoRespondersError:
            return False
        except Late:  # it came just when the bridge stopped to listen
            return True
        return True

    async def ask(client: Any) -> Any:
        wanted = asyncio.create_task(client.request("shop.lookup.item", b'{"n": 5, "wait": true}', timeout=60))
        await asyncio.to_thread(broker.journal.wait, 1, agent="lookup")
        one.tell(signal.SIGTERM)
        while await is_asked(client):
            pass
        (broker.directory / "gate").touch()
        return json.loads((await wanted).data)

    assert within(other.server.url, ask) == {"found": 5}  # type: ignore[attr-defined]


def test_two_subjects_have_two_durable_consumers(bus: Pipeline, other: JetStream, bridge: StartBridge) -> None:
    bridge(ways={"into": ["stock.*", "stock.any.b", "stock.any.c", "stock.any_c.b"]})
    other.put("stock.low", b'{"n": 1}')
    other.put("stock.any.b", b'{"n": 2}')
    other.put("stock.any_c.b", b'{"n": 3}')
    wait_for(lambda: len(list(bus.get_events(type="stock.#"))) == 3, "all events")

    async def names(stream: Any) -> list[str]:
        return [one.name for one in await stream.consumers_info("SHOP")]

    assert len(set(other.run(names))) == 4
