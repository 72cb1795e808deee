"""Which URLs may be called, and which addresses: whoever adds a subscription must not reach what only workers reach."""

from __future__ import annotations

import socket
import string
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from ..core.errors import InvalidSubscription

LONGEST_URL = 2000
_IN_URLS = frozenset(string.ascii_letters + string.digits + "-._~:/?[]@!$&'()*+,;=%")
#: Addresses of version 6 that stand for one of version 4 in their last bits (RFC 6052).
_TRANSLATED = ip_network("64:ff9b::/96")
#: All that may be reached from everywhere in version 6 (RFC 4291, section 2.4, and IANA's registry of that space).
_UNICAST = ip_network("2000::/3")


def check_url(url: str) -> None:
    """Raise InvalidSubscription for what is no URL of HTTP, or has a name and a password in it, which are not shown."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidSubscription("url: it cannot be read; write one such as https://example.com/hook") from None
    if parts.username is not None or parts.password is not None:
        raise InvalidSubscription("url: it holds a name or a password; sign the calls with secret= instead")
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidSubscription(
            f"url: {url!r} is no http:// or https:// URL with a host, as https://example.com/hook"
        )
    if len(url) > LONGEST_URL or not set(url) <= _IN_URLS:
        raise InvalidSubscription(
            f"url: {url[:100]!r} has more than {LONGEST_URL} characters, a fragment, or what URLs write as %20"
        )


def shown(url: str) -> str:
    """Return what may be shown of a URL in errors: its path and its query may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def is_allowed(address: str, networks: Sequence[str]) -> bool:
    """Say whether an address may be called: one that is public, or in one of some networks.

    Private are, by the registries that Python's `ipaddress` has (RFC 6890 and later): loopback, link-local, private and
    shared networks, and whatever else is not reachable from everywhere.
    """
    found = _meant(address)
    if any(found in ip_network(network) for network in networks):
        return True
    if isinstance(found, IPv6Address) and found not in _UNICAST:
        return False
    return found.is_global and not found.is_multicast


def check_reachable(url: str, networks: Sequence[str]) -> None:
    """Raise InvalidSubscription for a URL whose host has no address that may be called, as far as this process knows.

    It is looked at again with each call, as what a name stands for changes; one that nobody knows may be known by then.
    """
    host = urlsplit(url).hostname or ""
    try:
        found = [str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return
    if found and not any(is_allowed(address, networks) for address in found):
        raise InvalidSubscription(
            f"url: {host} is {', '.join(dict.fromkeys(found))}, which is not public; name its network in the setting "
            "webhook_networks if it may be called"
        )


def _meant(address: str) -> IPv4Address | IPv6Address:
    """Return an address, of those that stand for one of version 4 that one."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found in _TRANSLATED:
            return IPv4Address(int(found) & 0xFFFFFFFF)
        return found.ipv4_mapped or found.sixtofour or found
    return found
