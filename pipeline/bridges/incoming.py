"""Webhooks of other services: whether a call is signed by whom it says it is from, and what it tells.

Each service has one of these styles, of which all are an HMAC with SHA-256 over the exact bytes of the body:
Standard Webhooks 1.0.0 (as in signing.py; also "Verifying signatures"), GitHub ("Validating webhook deliveries" of
docs.github.com), and Stripe ("Verify webhook signatures manually" of docs.stripe.com).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..core.topics import MAX_TYPE_LENGTH
from .signing import key_of

#: Seconds that a call may be on its way, or the clocks be apart.
TOLERANCE = 300
#: What no event type has: other characters than its words, and dots that are between none.
_ODD, _DOTS = re.compile(r"[^A-Za-z0-9_.-]+"), re.compile(r"\.{2,}")

#: A call's headers by their names in lower case, each byte a character (Latin-1), as ASGI servers have them.
Headers = Mapping[str, str]


class Told(NamedTuple):
    """What a call tells.

    Attributes:
        id: the service's own id, the same for each repetition of the call; empty where it has none.
        name: what has happened, as the service calls it; empty where it does not say.
        subject: what that is about.

    """

    id: str
    name: str
    subject: str | None = None


class _Claim(NamedTuple):
    """What a call says of its signature.

    Attributes:
        signatures: of which one has to be right.
        before: what was signed before the body.
        at: when it was made, in seconds since 1970; None where that is not signed.

    """

    signatures: Sequence[str]
    before: str = ""
    at: str | None = None


class _Style(NamedTuple):
    claim: Callable[[Headers], _Claim]
    key: Callable[[str], bytes]
    written: Callable[[bytes], str]
    told: Callable[[Headers, Mapping[str, Any]], Told]


class Sender:
    """A service that calls.

    Arguments:
        style: how it signs its calls, of STYLES.
        secrets: what it may have signed them with.

    Raises InvalidSubscription, which does not show it, for a secret that the style has not.

    """

    def __init__(self, style: str, secrets: Sequence[str]) -> None:
        self._style = STYLES[style]
        self._keys = [self._style.key(secret) for secret in secrets]

    def has_signed(self, headers: Headers, body: bytes, now: float) -> bool:
        """Say whether a call is its own, and of now.

        Arguments:
            now: seconds since 1970.

        """
        claim = self._style.claim(headers)
        if claim.at is not None and not _is_fresh(claim.at, now):
            return False
        content = claim.before.encode("latin-1") + body
        right = [self._style.written(hmac.digest(key, content, hashlib.sha256)).encode() for key in self._keys]
        given = [signature.encode("latin-1") for signature in claim.signatures]
        # All of them, so that the time says nothing.
        return any([hmac.compare_digest(one, other) for one in right for other in given])

    def told(self, headers: Headers, data: Any) -> Told:
        """Return what a call tells whose signature is right.

        Arguments:
            data: the JSON that its body is.

        """
        return self._style.told(headers, data if isinstance(data, dict) else {})


def type_of(source: str, name: str) -> str:
    """Return the event type that what a service calls by a name is published as."""
    words = _DOTS.sub(".", _ODD.sub("_", f"{source}.{name}"))
    return words[:MAX_TYPE_LENGTH].strip(".")


def _is_fresh(at: str, now: float) -> bool:
    return at.isascii() and at.isdecimal() and len(at) < 16 and abs(now - int(at)) <= TOLERANCE


def _standard(headers: Headers) -> _Claim:
    id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    parts = [one.partition(",") for one in headers.get("webhook-signature", "").split()]
    return _Claim([text for version, _, text in parts if version == "v1"], f"{id}.{at}.", at)


def _github(headers: Headers) -> _Claim:
    kind, _, text = headers.get("x-hub-signature-256", "").partition("=")
    return _Claim([text] if kind == "sha256" else [])


def _stripe(headers: Headers) -> _Claim:
    parts = [one.strip().partition("=") for one in headers.get("stripe-signature", "").split(",")]
    at = next((text for name, _, text in parts if name == "t"), "")
    return _Claim([text for name, _, text in parts if name == "v1"], f"{at}.", at)


def _told_by_standard(headers: Headers, data: Mapping[str, Any]) -> Told:
    return Told(headers.get("webhook-id", ""), _text(data, "type"))


def _told_by_github(headers: Headers, data: Mapping[str, Any]) -> Told:
    name = ".".join(filter(None, (headers.get("x-github-event", ""), _text(data, "action"))))
    return Told(headers.get("x-github-delivery", ""), name, _text(data, "repository", "full_name") or None)


def _told_by_stripe(headers: Headers, data: Mapping[str, Any]) -> Told:
    return Told(_text(data, "id"), _text(data, "type"), _text(data, "data", "object", "id") or None)


def _text(data: Any, *path: str) -> str:
    """Return the text at a place in JSON data; empty where there is none."""
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, str) else ""


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


#: How services sign, and what their calls tell.
STYLES: Mapping[str, _Style] = {
    "standard": _Style(_standard, key_of, _base64, _told_by_standard),
    "github": _Style(_github, str.encode, bytes.hex, _told_by_github),
    "stripe": _Style(_stripe, str.encode, bytes.hex, _told_by_stripe),
}
