"""How calls of webhooks are signed, so that who is called can tell that it is the bus, and that nothing was changed.

It is the symmetric scheme of Standard Webhooks 1.0.0 ("Signature scheme" and "Webhook headers" of
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

from ..core.errors import InvalidSubscription

PREFIX = "whsec_"
#: Bytes that a secret has, by the specification; and those that are made here.
FEWEST, MOST, USUAL = 24, 64, 32


def new_secret() -> str:
    """Return a secret that nobody has had before."""
    return PREFIX + base64.b64encode(secrets.token_bytes(USUAL)).decode()


def key_of(secret: str) -> bytes:
    """Return the bytes that a secret stands for; of what is none InvalidSubscription is raised, without showing it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not FEWEST <= len(key) <= MOST:
        raise InvalidSubscription(
            f"secret: write '{PREFIX}' and {FEWEST} to {MOST} random bytes in base64, as `--new-secret` and "
            "app.subscriptions.new_secret() make them"
        )
    return key


def signed(secret: str, id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of a signed call.

    Arguments:
        id: the same for each repetition of the call.
        at: when it is made, in whole seconds since 1970.

    """
    digest = hmac.new(key_of(secret), f"{id}.{at}.".encode() + body, hashlib.sha256).digest()
    return {**unsigned(id, at), "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


def unsigned(id: str, at: int) -> dict[str, str]:
    """Return the headers of a call that nobody can verify."""
    return {"webhook-id": id, "webhook-timestamp": str(at)}
