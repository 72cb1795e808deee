"""What a webhook is called with, which URLs and addresses are called, and what an answer means."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Any

import pytest

from pipeline.bridges.addresses import check_url, is_allowed
from pipeline.bridges.client import Answer, Client
from pipeline.bridges.signing import key_of, new_secret, signed
from pipeline.bridges.webhooks import outcome_of
from pipeline.core.errors import InvalidSubscription, RateLimited, WebhookFailed, WebhookRefused

URL = "https://example.com/hook"


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, body, is_whole=True)


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the reference libraries (standard-webhooks, libraries/python/tests).
    headers = signed(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("status", [410, 500])
def test_no_error_shows_what_may_be_secret_in_a_url(status: int) -> None:
    with pytest.raises((WebhookFailed, WebhookRefused), match=r"^https://example\.com:8443 has answered") as caught:
        outcome_of("https://example.com:8443/T0KEN/hook?key=S3CRET", answer(status))
    assert "T0KEN" not in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_a_new_secret_is_one_and_another_one_each_time() -> None:
    assert len(key_of(new_secret())) == 32
    assert new_secret() != new_secret()


@pytest.mark.parametrize("secret", ["", "whsec_", "tellnobody", "whsec_c2hvcnQ=", "whsec_###", "whsec_" + "YWFh" * 40])
def test_what_is_no_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(InvalidSubscription, match="24 to 64 random bytes in base64") as caught:
        key_of(secret)
    assert not secret.removeprefix("whsec_") or secret.removeprefix("whsec_") not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com", "http://example.com:8080/a/b?c=d&e=%20", "https://[2001:db8::1]:1/x", "http://10.0.0.1/",
    ],
)  # fmt: skip
def test_urls_of_http_with_a_host_may_be_called(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com/", "file:///etc/passwd", "http://", "http:///x", "https://example.com/#top",
        "https://example.com/a b", "https://example.com/\n", "https://exämple.com/", "https://example.com:port/",
        "https://[::1/", "https://example.com/" + "x" * 2000, "https://user@example.com/", "https://:tellnobody@example.com/",
    ],
)  # fmt: skip
def test_other_urls_are_refused_and_no_password_is_shown(url: str) -> None:
    with pytest.raises(InvalidSubscription, match=r"^url: ") as caught:
        check_url(url)
    assert "tellnobody" not in str(caught.value)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_public_addresses_may_be_called(address: str) -> None:
    assert is_allowed(address, ())


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "127.0.0.0/8"), ("::1", "::1/128"), ("10.1.2.3", "10.0.0.0/8"), ("172.16.0.1", "172.16.0.0/12"),
        ("192.168.1.1", "192.168.0.0/16"), ("169.254.169.254", "169.254.0.0/16"), ("fe80::1%eth0", "fe80::/10"),
        ("fd00::1", "fd00::/8"), ("100.64.0.1", "100.64.0.0/10"), ("0.0.0.0", "0.0.0.0/32"), ("::", "::/128"),
        ("224.0.0.1", "224.0.0.0/4"), ("ff02::1", "ff00::/8"), ("255.255.255.255", "255.255.255.255/32"),
        ("::ffff:127.0.0.1", "127.0.0.0/8"), ("64:ff9b::7f00:1", "127.0.0.0/8"), ("2002:7f00:1::", "127.0.0.0/8"),
        ("64:ff9b:1::7f00:1", "64:ff9b:1::/48"), ("::10.0.0.1", "::/96"), ("::ffff:0:10.0.0.1", "::ffff:0:0:0/96"),
        ("fec0::1", "fec0::/10"), ("5f00::1", "5f00::/16"),
    ],
)  # fmt: skip
def test_others_may_not_unless_their_network_is_named(address: str, network: str) -> None:
    assert not is_allowed(address, ())
    assert not is_allowed(address, ("203.0.113.0/24", "2001:db8::/32"))
    assert is_allowed(address, ("203.0.113.0/24", network))


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (answer(200, b'{"a": 1}', content_type="application/json"), {"a": 1}),
        (answer(201, b"[1]", content_type="application/vnd.api+json; charset=utf-8"), [1]),
        (answer(200, b"{", content_type="application/json"), None),
        (answer(200, b"1", content_type="text/plain"), None),
        (answer(204), None),
        (answer(200, b"1", content_type="application/json")._replace(is_whole=False), None),
    ],
)
def test_the_json_of_a_success_is_its_result(given: Answer, result: Any) -> None:
    assert outcome_of(URL, given) == result


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, WebhookFailed) for status in (408, 425, 500, 502, 503, 504, 599)),
        *((status, WebhookRefused) for status in (301, 302, 304, 307, 400, 401, 404, 410, 422, 451, 499)),
    ],
)
def test_other_answers_are_worth_another_call_or_not(status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^https://example.com has answered {status}.*: no{'o' * 198}$"):
        outcome_of(URL, answer(status, b"no" + b"o" * 1000))


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (answer(429, retry_after="7"), 7.0),
        (answer(429), None),
        (answer(429, retry_after="soon"), None),
        (answer(503, retry_after="0.5"), 0.5),
    ],
)
def test_who_asks_to_wait_is_waited_for(given: Answer, seconds: float | None) -> None:
    with pytest.raises(RateLimited) as caught:
        outcome_of(URL, given)
    assert caught.value.retry_after == seconds


def test_a_connection_that_is_reset_is_called_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def reset() -> None:
            connection, _ = server.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        with pytest.raises(WebhookFailed, match=rf"http://127.0.0.1:{port} does not answer: ConnectionResetError: "):
            asyncio.run(Client(["127.0.0.0/8"]).post(f"http://127.0.0.1:{port}/hook", {}, b"x"))
        thread.join()
