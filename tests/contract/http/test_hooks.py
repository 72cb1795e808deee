"""Webhooks of other services over HTTP: each of their calls is an event once, and nobody else's is one at all."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline import ConfigError, Pipeline
from pipeline.http import front, new_token
from tests.harness import Broker, StartWorker
from tests.http import Answer, Server, served, serving

KEYS = {"old": b"o" * 32, "new": b"n" * 32, "wrong": b"w" * 32}
OTHER_SITE = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
STYLES = ("standard", "github", "stripe")
EACH = pytest.mark.parametrize("style", STYLES)
#: What a call of each style is about, and the event that it is.
BODIES: Mapping[str, Any] = {
    "standard": {"type": "user.created", "data": {"id": 1}},
    "github": {"action": "opened", "repository": {"full_name": "octo/hello"}, "number": 2**62 + 1},
    "stripe": {"id": "c1", "type": "invoice.paid", "data": {"object": {"id": "in_1"}}, "pending_webhooks": 2},
}
FOUND = {
    "standard": ("standard.user.created", None),
    "github": ("review.wanted", "octo/hello"),
    "stripe": ("stripe.invoice.paid", "in_1"),
}


def secret(style: str, name: str) -> str:
    return "whsec_" + base64.b64encode(KEYS[name]).decode() if style == "standard" else KEYS[name].decode()


def sources(*names: str) -> dict[str, Any]:
    made = {style: {"style": style, "secrets": [secret(style, name) for name in names]} for style in STYLES}
    made["github"]["types"] = {"pull_request.opened": "review.wanted"}
    return made


def headers_of(style: str, body: bytes, key: str = "old", id: str = "c1", late: int = 0) -> dict[str, str]:
    """Return what a call is sent with, as the services' documentation says."""
    at = int(time.time()) - late

    def digest(before: str) -> bytes:
        return hmac.digest(KEYS[key], before.encode() + body, hashlib.sha256)

    match style:
        case "standard":
            text = base64.b64encode(digest(f"{id}.{at}.")).decode()
            return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": f"v1,AAAA v1,{text}"}
        case "github":
            named = {"X-GitHub-Delivery": id, "X-GitHub-Event": "pull_request"}
            return {**named, "X-Hub-Signature-256": f"sha256={digest('').hex()}"}
    return {"Stripe-Signature": f"t={at},v1={'0' * 64},v1={digest(f'{at}.').hex()},v0=x"}


Call = Callable[..., Answer]


def calling(server: Server) -> Call:
    def call(style: str, data: Any = None, headers: Mapping[str, str] | None = None, **signed: Any) -> Answer:
        body = data if isinstance(data, bytes) else json.dumps(BODIES[style] if data is None else data).encode()
        return server.post(f"/hooks/{style}", None, {**headers_of(style, body, **signed), **(headers or {})}, body)

    return call


@pytest.fixture
def hooked(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    """An app that takes webhooks in each style, without a worker."""
    app = Pipeline("shop", directory=tmp_path, webhook_sources=sources("old"))
    yield app
    app.close()


@pytest.fixture
def call(hooked: Pipeline) -> Iterator[Call]:
    """Calls a server where everybody else needs a token."""
    with served(hooked, tokens=[new_token("ops", ["read"])[1]]) as server:
        yield calling(server)


def events(app: Pipeline) -> list[Any]:
    return [record.event for record in app.get_events()]


@EACH
def test_a_call_is_an_event_and_sent_again_it_is_the_same_one(hooked: Pipeline, call: Call, style: str) -> None:
    first, second = call(style, headers=OTHER_SITE), call(style)
    assert (first.status, second.status, first.data) == (201, 201, second.data)
    assert "location" not in first.headers
    (event,) = events(hooked)
    assert (event.type, event.subject) == FOUND[style]
    assert (event.id, event.source, event.key) == ("c1", f"/shop/hooks/{style}", first.data["event_id"])
    assert event.data == BODIES[style]


@EACH
def test_a_call_that_is_sent_again_with_other_words_is_taken_and_changes_nothing(
    hooked: Pipeline, call: Call, style: str
) -> None:
    first, second = call(style), call(style, {**BODIES[style], "pending_webhooks": 1})
    assert (second.status, second.data["event_id"]) == (202, first.data["event_id"])
    assert [event.data for event in events(hooked)] == [BODIES[style]]


def test_services_may_have_the_same_ids(hooked: Pipeline, call: Call) -> None:
    assert len({call(style).data["event_id"] for style in STYLES}) == len(STYLES)
    assert len(events(hooked)) == len(STYLES)


@EACH
def test_who_has_not_signed_it_now_and_as_it_is_gets_no_hint(hooked: Pipeline, call: Call, style: str) -> None:
    body = json.dumps(BODIES[style]).encode()
    signed = headers_of(style, body)
    wrong = [
        call(style, key="wrong"),
        call(style, {**BODIES[style], "paid": True}, signed),
        call(style, body + b"\n", signed),
        call(style, headers=dict.fromkeys(signed, "")),
        call(style, b"{", headers=dict.fromkeys(signed, "\xff")),
    ]
    if style != "github":  # which signs no time
        wrong += [call(style, late=310), call(style, late=-310)]
    assert {answer.status for answer in wrong} == {401}
    assert len({answer.body for answer in wrong}) == 1
    assert not any(name in wrong[0].body.decode() for name in ("old", "time", "secret", style))
    assert events(hooked) == []


@EACH
def test_while_a_secret_takes_another_ones_place_both_are_right(tmp_path: Path, no_settings: None, style: str) -> None:
    app = Pipeline("shop", directory=tmp_path, webhook_sources=sources("new", "old"))
    with served(app) as server:
        found = [calling(server)(style, key=key, id=key).status for key in ("old", "new", "wrong")]
    assert found == [201, 201, 401]
    app.close()


@EACH
def test_what_is_signed_and_no_event_is_answered_with_what_is_wrong(hooked: Pipeline, call: Call, style: str) -> None:
    for body in (b"", b"{", b"payload=%7B%7D", b'{} {"type": "a.b"}', b"\xff", b"[" * 2000, b"%d" % 2**70):
        assert call(style, body).status == 422, body
    assert call(style, {**BODIES[style], "more": "x" * 300_000}).status == 413
    assert call(style, b" " * 5_000_000).status == 413
    assert events(hooked) == []


def test_a_call_needs_an_id(hooked: Pipeline, call: Call) -> None:
    for style, id in (("github", ""), ("stripe", ""), ("standard", "x" * 300)):
        answer = call(style, {"type": "a"}, id=id)
        assert (answer.status, answer.data["field"]) == (422, "id")
    assert events(hooked) == []


def test_who_is_not_named_is_not_found_and_the_host_counts(hooked: Pipeline) -> None:
    with served(hooked) as server:
        answer = server.post("/hooks/nobody", BODIES["github"])
        assert (answer.status, "github" in answer.body.decode()) == (404, False)
        assert calling(server)("github", headers={"Host": "evil.example"}).status == 421
        assert server.get("/hooks/github").status == 405
    with served(hooked, hosts=["bus.example.com"]) as server:
        assert calling(server)("github", headers={"Host": "bus.example.com"}).status == 201


@pytest.mark.parametrize(("ledger", "status"), [({}, 202), ({"ledger_url": ""}, 503)])
def test_while_the_broker_is_away_a_call_is_accepted_where_there_is_a_ledger(
    tmp_path: Path, no_settings: None, ledger: dict[str, str], status: int
) -> None:
    away = {"broker_url": "amqp://127.0.0.1:9//", **ledger}
    app = Pipeline("shop", directory=tmp_path, webhook_sources=sources("old"), **away)
    with served(app) as server:
        answer = calling(server)("github")
        assert (answer.status, answer.data.get("status")) == (status, "accepted" if status == 202 else 503)
    app.close()


def test_what_is_rightly_signed_is_taken_however_much_it_is(hooked: Pipeline) -> None:
    with served(hooked, rate=0.001) as server:
        call = calling(server)
        assert [call("github", id=f"c{n}").status for n in range(3)] == [201] * 3
        assert call("github", key="wrong").status == 401


def test_a_secret_that_is_none_is_said_when_the_server_starts_and_not_shown(tmp_path: Path, no_settings: None) -> None:
    wrong = {"erp": {"style": "standard", "secrets": ["tellnobody"]}}
    app = Pipeline("shop", directory=tmp_path, webhook_sources=wrong)
    with pytest.raises(ConfigError, match=r"webhook_sources\.erp: secret: write 'whsec_'") as caught:
        front(app)
    assert "tellnobody" not in str(caught.value)
    app.close()


def test_a_call_takes_effect_once_however_often_it_comes(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    text = secret("github", "old")
    source = f'{{style = "github", secrets = ["{text}"], types = {{"pull_request.opened" = "order.seen"}}}}'
    (broker.directory / "pipeline.toml").write_text(f"webhook_sources.github = {source}\n")
    worker(app="durable_app", pool="threads")
    with serving(broker, "durable_app") as server:
        answers = [calling(server)("github") for _ in range(20)]
    assert [answer.status for answer in answers] == [201] * 20
    bus.settle(answers[0].data["event_id"], 60)
    assert list(broker.journal.count(agent="order").values()) == [1]
