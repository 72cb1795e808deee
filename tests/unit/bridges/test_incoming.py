"""Who has signed a call of another service, by what the services' own documentation gives, and what it tells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bridges.incoming import STYLES, Sender, type_of
from pipeline.bridges.signing import new_secret, signed
from pipeline.core.errors import InvalidSubscription
from pipeline.core.topics import check_type


class Vector(NamedTuple):
    style: str
    secret: str
    headers: Mapping[str, str]
    body: bytes
    at: int


#: What the tests of Stripe's own libraries sign (stripe-dotnet, event_test_signature.json).
CUSTOMER = {
    "id": "evt_123",
    "object": "event",
    "account": "acct_123",
    "api_version": "2017-05-25",
    "created": 1533204620,
    "data": {
        "object": {
            "id": "cus_123",
            "object": "customer",
            "created": 123456789,
            "email": "test@stripe.com",
            "livemode": False,
            "metadata": {},
        }
    },
    "livemode": False,
    "pending_webhooks": 1,
    "request": {"id": "req_123", "idempotency_key": "idempotency-key-123"},
    "type": "customer.created",
}
VECTORS = [
    # The example of the reference libraries (standard-webhooks, libraries/python/tests).
    Vector(
        "standard",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        {
            "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "webhook-timestamp": "1614265330",
            "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        },
        b'{"test": 2432232314}',
        1614265330,
    ),
    # "Testing the webhook payload validation" of docs.github.com.
    Vector(
        "github",
        "It's a Secret to Everybody",
        {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
        b"Hello, World!",
        0,
    ),
    Vector(
        "stripe",
        "webhook_secret",
        {
            "stripe-signature": "t=1533204620,v1=2220f87ef101a04665f11cdf770523143f875572008577fa0f20882ddb9cc3c7,"
            "v0=63f3a72374a733066c4be69ed7f8e5ac85c22c9f0a6a612ab9a025a9e4ee7eef"
        },
        json.dumps(CUSTOMER, indent=2).encode() + b"\n",
        1533204620,
    ),
]
EACH = pytest.mark.parametrize("vector", VECTORS, ids=[vector.style for vector in VECTORS])
NAMED = ("webhook-signature", "x-hub-signature-256", "stripe-signature")


def another(style: str) -> str:
    return new_secret() if style == "standard" else "another secret"


def test_every_style_has_a_vector() -> None:
    assert {vector.style for vector in VECTORS} == set(STYLES)


@EACH
def test_what_the_documentation_gives_is_right(vector: Vector) -> None:
    assert Sender(vector.style, [vector.secret]).has_signed(vector.headers, vector.body, vector.at)


@EACH
def test_one_of_several_secrets_is_enough_and_another_one_is_not(vector: Vector) -> None:
    old, new = vector.secret, another(vector.style)
    assert Sender(vector.style, [new, old]).has_signed(vector.headers, vector.body, vector.at)
    assert not Sender(vector.style, [new]).has_signed(vector.headers, vector.body, vector.at)


@EACH
@pytest.mark.parametrize("late", [-301, -300, 300, 301])
def test_where_the_time_is_signed_a_call_is_taken_for_five_minutes(vector: Vector, late: int) -> None:
    is_taken = Sender(vector.style, [vector.secret]).has_signed(vector.headers, vector.body, vector.at + late)
    assert is_taken is (vector.style == "github" or abs(late) == 300)


@EACH
def test_nothing_may_be_changed_and_nothing_left_out(vector: Vector) -> None:
    sender = Sender(vector.style, [vector.secret])
    assert not sender.has_signed(vector.headers, vector.body + b" ", vector.at)
    assert not sender.has_signed({}, vector.body, vector.at)
    for name, value in vector.headers.items():
        for wrong in ("", f"x{value}", "\xb9", f"{value[:15]}=", value.upper()):
            assert not sender.has_signed({**vector.headers, name: wrong}, vector.body, vector.at) or wrong == value


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if vector.style != "github"])  # which sends one
def test_of_several_signatures_one_has_to_be_right(vector: Vector) -> None:
    (name,) = (name for name in vector.headers if name in NAMED)
    value = vector.headers[name]
    more = f"v1,AAAA v1a,x {value} v2,y" if vector.style == "standard" else f"v1=00,{value},v1=zz"
    assert Sender(vector.style, [vector.secret]).has_signed({**vector.headers, name: more}, vector.body, vector.at)


@pytest.mark.parametrize("at", ["", "x", "-1533204620", "1533204620.0", "1" * 5000, "\xb2", " 1533204620"])
def test_a_time_that_is_none_is_not_now(at: str) -> None:
    headers = {"stripe-signature": f"t={at},v1=00"}
    assert not Sender("stripe", ["secret"]).has_signed(headers, b"{}", 1533204620)


def test_what_the_bus_signs_itself_is_right() -> None:
    secret = new_secret()
    assert Sender("standard", [secret]).has_signed(signed(secret, "m1", 1000, b"{}"), b"{}", 1001)


def test_a_secret_that_is_none_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidSubscription, match="24 to 64 random bytes") as caught:
        Sender("standard", ["whsec_tellnobody"])
    assert "tellnobody" not in str(caught.value)
    assert "tellnobody" not in repr(Sender("github", ["tellnobody"]))


@pytest.mark.parametrize(
    ("style", "headers", "data", "told"),
    [
        ("standard", {"webhook-id": "msg_1"}, {"type": "user.created"}, ("msg_1", "user.created", None)),
        ("standard", {"webhook-id": "msg_1"}, [], ("msg_1", "", None)),
        ("github", {"x-github-delivery": "72d3", "x-github-event": "push"},
         {"repository": {"full_name": "octo/hello"}}, ("72d3", "push", "octo/hello")),
        ("github", {"x-github-delivery": "72d3", "x-github-event": "pull_request"},
         {"action": "opened", "repository": None}, ("72d3", "pull_request.opened", None)),
        ("stripe", {}, {"id": "evt_1", "type": "invoice.paid", "data": {"object": {"id": "in_1"}}},
         ("evt_1", "invoice.paid", "in_1")),
        ("stripe", {}, {"id": 1, "type": ["x"], "data": "x"}, ("", "", None)),
    ],
)  # fmt: skip
def test_a_call_tells_its_id_what_has_happened_and_to_what(
    style: str, headers: Mapping[str, str], data: object, told: tuple[str, str, str | None]
) -> None:
    assert Sender(style, [new_secret()]).told(headers, data) == told


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("push", "hub.push"),
        ("pull_request.opened", "hub.pull_request.opened"),
        ("", "hub"),
        ("order placed!", "hub.order_placed_"),
        (".a..b.", "hub.a.b"),
        ("x" * 300, "hub." + "x" * 251),
    ],
)
def test_the_type_is_the_source_and_what_the_service_calls_it(name: str, found: str) -> None:
    assert type_of("hub", name) == found


@given(st.text())
def test_whatever_a_service_calls_something_is_a_type(name: str) -> None:
    assert check_type(type_of("hub", name)).startswith("hub")
