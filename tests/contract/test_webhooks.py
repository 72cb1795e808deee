"""Calls of webhooks with real workers: what an answer means, and what is never called."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterator

import pytest

from pipeline import Pipeline
from pipeline.bridges.addresses import shown
from tests.harness import Broker, StartWorker
from tests.records import rows
from tests.servers import wait_for
from tests.webhooks import NEARBY, Hook, hooked

pytestmark = [
    pytest.mark.usefixtures("nothing_disappears"),
    pytest.mark.parametrize("broker", ["embedded"], indirect=True),  # none of it is about the broker
]


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A server to call."""
    with hooked() as one:
        yield one


@pytest.fixture
def near(bus: Pipeline, worker: StartWorker) -> None:
    """A worker that may call this machine."""
    worker(app="pauses_app", pool="prefork", environment=NEARBY)


@pytest.mark.usefixtures("near")
def test_a_call_is_an_event_of_cloudevents_signed_as_standard_webhooks_say(
    bus: Pipeline, broker: Broker, hook: Hook
) -> None:
    secret = bus.subscriptions.new_secret()
    bus.subscriptions.add("crm", on="order.*", url=hook.url, secret=secret)
    event = bus.publish("order.placed", {"n": 1, "name": "Zoë"}, subject="basket", metadata={"tenant": "a"})
    (call,) = hook.wait(1)
    assert call.event["specversion"] == "1.0"
    assert (call.event["id"], call.event["type"], call.event["subject"]) == (event.id, "order.placed", "basket")
    assert call.data == {"n": 1, "name": "Zoë"}
    assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 60
    content = f"{call.id}.{call.headers['webhook-timestamp']}.".encode() + call.body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), content, hashlib.sha256).digest()
    assert call.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert [row["id"] for row in rows(bus, agent="crm")] == [call.id]
    (log,) = broker.directory.glob("*.log")
    assert secret.removeprefix("whsec_") not in log.read_text()
    bus.subscriptions.change("crm", secret=None)
    wait_for(lambda: unsigned(bus, hook), "calls without a signature")


def unsigned(bus: Pipeline, hook: Hook) -> bool:
    number = len(hook.calls)
    bus.publish("order.placed", {"n": 2})
    return "webhook-signature" not in hook.wait(number + 1)[-1].headers


@pytest.mark.usefixtures("near")
def test_too_many_requests_pause_the_webhook_and_spend_no_attempt(bus: Pipeline, hook: Hook) -> None:
    bus.subscriptions.add("crm", on="order.*", url=hook.url, max_concurrent=1, retry=0)
    hook.answers.append((429, {"retry-after": "2"}, b"slowly"))
    hook.answers.append((503, {"retry-after": "1"}, b"soon"))
    begun = time.monotonic()
    events = [bus.publish("order.placed", {"n": n}) for n in range(3)]
    wait_for(lambda: [pause.name for pause in bus.pauses.list()] == ["webhook:crm"], "the pause")
    for event in events:
        bus.settle(event, timeout=60)
    assert time.monotonic() - begun > 3
    assert len(hook.calls) == 5
    assert {(row["outcome"], row["attempts"]) for row in rows(bus, agent="crm")} == {("succeeded", 1)}


@pytest.mark.usefixtures("near")
def test_a_failing_webhook_is_called_again_under_the_same_id_and_then_it_is_a_dead_letter(
    bus: Pipeline, hook: Hook
) -> None:
    bus.subscriptions.add("crm", on="order.*", url=hook.url, retry=1)
    hook.answers += [(500, {}, b"oh"), (204, {}, b""), (503, {}, b"no"), (425, {}, b"too early")]
    bus.settle(bus.publish("order.placed", {"n": 1}), timeout=30)
    bus.settle(bus.publish("order.placed", {"n": 2}), timeout=30)
    assert sorted(hook.count().values()) == [2, 2]
    (letter,) = bus.dead_letters.list(agent="crm")
    assert letter.error == f"WebhookFailed: {shown(hook.url)} has answered 425 Too Early: too early"
    assert letter.attempts == 2


@pytest.mark.usefixtures("near")
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((410, {}, b"we are closed " * 100), "410 Gone: we are closed we are closed"),
        ((400, {}, b"\xff\x00 what?"), "400 Bad Request: "),
        ((301, {"location": "http://127.0.0.1:1/"}, b""), "301 Moved Permanently: "),
    ],
)
def test_what_a_webhook_refuses_is_a_dead_letter_at_once(
    bus: Pipeline, hook: Hook, answer: tuple[int, dict[str, str], bytes], said: str
) -> None:
    bus.subscriptions.add("crm", on="order.*", url=hook.url)
    hook.answers.append(answer)
    bus.settle(bus.publish("order.placed", {"n": 1}), timeout=30)
    (letter,) = bus.dead_letters.list(agent="crm")
    assert f"WebhookRefused: {shown(hook.url)} has answered {said}" in letter.error
    assert len(letter.error) < 400
    assert letter.attempts == 1
    bus.settle(bus.publish("order.placed", {"n": 2}), timeout=30)
    assert len(hook.calls) == 2


@pytest.mark.usefixtures("near")
def test_who_does_not_answer_in_time_or_is_not_there_is_called_again(bus: Pipeline, hook: Hook) -> None:
    bus.subscriptions.add("slow", on="order.*", url=hook.url, timeout=3, retry=1)
    bus.subscriptions.add("gone", on="order.*", url="http://127.0.0.1:9/hook", retry=1)
    hook.gate.clear()
    bus.settle(bus.publish("order.placed", {"n": 1}), timeout=60)
    hook.wait(2)
    hook.gate.set()
    letters = {letter.agent: letter for letter in bus.dead_letters.list()}
    assert letters["slow"].attempts == letters["gone"].attempts == 2
    assert letters["slow"].error.startswith("TimeoutError")
    assert "http://127.0.0.1:9 does not answer: ConnectError" in letters["gone"].error
    assert len(hook.calls) == 2


@pytest.mark.usefixtures("near")
def test_a_json_answer_is_what_a_request_gets(bus: Pipeline, hook: Hook) -> None:
    bus.subscriptions.add("crm", on="price.asked", url=hook.url)
    hook.answers.append((200, {"content-type": "application/json; charset=utf-8"}, b'{"price": 7}'))
    assert bus.request("price.asked", {"n": 1}, timeout=30).result == {"price": 7}
    hook.answers.append((200, {"content-type": "application/json"}, b"[" + b"1," * 100_000 + b"1]"))
    assert bus.request("price.asked", {"n": 2}, timeout=30).result is None  # too long to be read


def test_addresses_that_are_not_public_are_never_called_unless_a_setting_names_them(
    bus: Pipeline, worker: StartWorker, hook: Hook, broker: Broker
) -> None:
    worker(app="pauses_app", pool="prefork")
    port = hook.url.partition("127.0.0.1:")[2]
    for id, host in (("number", "127.0.0.1"), ("name", "localhost"), ("mapped", "[::ffff:127.0.0.1]")):
        bus.subscriptions.add(id, on="order.*", url=f"http://{host}:{port}")
    bus.settle(bus.publish("order.placed", {"n": 1}), timeout=60)
    letters = {letter.agent: letter for letter in bus.dead_letters.list()}
    assert letters.keys() == {"number", "name", "mapped"}
    assert all(
        "is not public: name its network in the setting webhook_networks" in one.error for one in letters.values()
    )
    assert {letter.attempts for letter in letters.values()} == {1}
    assert hook.calls == []
