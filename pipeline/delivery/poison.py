"""Messages that would crash or stall a worker's main process are recognised here, before Celery sees them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from kombu.serialization import loads

from ..brokers.expiry import DEADLINE, is_over
from ..core.errors import EventTooLarge, InvalidEvent
from ..core.event import CONTENT_TYPE

#: An ETA further away than this is a mistake: Celery would hold the message in memory all that time.
MAX_ETA = timedelta(days=365)
_TEXT_FIELDS = ("id", "task", "root_id", "parent_id", "group")


def check_event(message: Any, max_bytes: int) -> dict[str, Any]:
    """Return the event's attributes that routing needs; raise InvalidEvent or EventTooLarge for anything else."""
    size = len(message.body or b"")
    if size > max_bytes:
        raise EventTooLarge(f"{size:,} bytes, the limit is {max_bytes:,}")
    if not str(message.content_type or "").startswith(CONTENT_TYPE):
        raise InvalidEvent(f"content type {message.content_type!r} is not {CONTENT_TYPE}")
    if DEADLINE in message.properties and is_over(message.properties[DEADLINE]):
        raise InvalidEvent(f"it has expired: its publisher wanted it handled in {message.properties['expiration']} ms")
    headers = message.headers
    bus = _bus(headers.get("bus"))
    if not isinstance(headers.get("id"), str) or not isinstance(headers.get("type"), str):
        headers = _attributes(message.body)  # published by a program that sends CloudEvents without our headers
    return {**_texts(headers), "bus": bus}


def _bus(header: Any) -> dict[str, Any]:
    """Return what another process of the bus says about its message."""
    if header is None:
        return {}
    if not isinstance(header, dict):
        raise InvalidEvent(f"header 'bus' is {header!r}, not a mapping")
    kinds = {"ledger": str, "replay": str, "attempt": int, "broadcast": bool, "direct": bool, "requeued": int}
    for name, kind in kinds.items():
        if not isinstance(header.get(name, kind()), kind):
            raise InvalidEvent(f"header 'bus' has {name}={header[name]!r}, which is no {kind.__name__}")
    return {name: header[name] for name in kinds if name in header}


def _attributes(body: Any) -> dict[str, Any]:
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidEvent(f"the body is not JSON: {exc}") from exc
    if not isinstance(decoded, dict):
        raise InvalidEvent("the body is not a JSON object")
    return decoded


def _texts(attributes: dict[str, Any]) -> dict[str, Any]:
    texts = {name: attributes.get(name) for name in ("id", "type", "correlationid", "causationid", "targets")}
    for name, value in texts.items():
        if not isinstance(value, str) and (value is not None or name in ("id", "type")):
            raise InvalidEvent(f"attribute {name!r} is {value!r}, not text")
    if not texts["id"] or not texts["type"]:
        raise InvalidEvent("attributes 'id' and 'type' must not be empty")
    return texts


def check_task(message: Any) -> None:
    """Raise ValueError or TypeError unless Celery can take the task message without harm."""
    headers = message.headers
    if not isinstance(headers, dict) or "task" not in headers:
        raise InvalidEvent("neither an event nor a task message of Celery's protocol 2")
    for name in _TEXT_FIELDS:
        value = headers.get(name)
        if not isinstance(value, str) and (value is not None or name in ("id", "task")):
            raise InvalidEvent(f"task header {name!r} is {value!r}, not text")
    _check_limits(headers)
    for name in ("eta", "expires"):
        _check_time(name, headers.get(name))
    _check_stamps(headers)
    _check_body(message)


def _check_limits(headers: dict[str, Any]) -> None:
    limits = headers.get("timelimit") or (None, None)
    numbers = (int, float, type(None))
    if not isinstance(limits, (list, tuple)) or len(limits) != 2 or not all(isinstance(n, numbers) for n in limits):
        raise InvalidEvent(f"task header 'timelimit' is {limits!r}, not a pair of seconds")
    if not isinstance(headers.get("retries") or 0, int):
        raise InvalidEvent(f"task header 'retries' is {headers['retries']!r}, not a number")


def _check_time(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidEvent(f"task header {name!r} is {value!r}, not an ISO 8601 time")
    time = datetime.fromisoformat(value)
    if name == "eta" and (time if time.tzinfo else time.replace(tzinfo=UTC)) > datetime.now(UTC) + MAX_ETA:
        raise InvalidEvent(f"task header 'eta' {value} is more than {MAX_ETA.days} days away")


def _check_stamps(headers: dict[str, Any]) -> None:
    names, stamps = headers.get("stamped_headers") or [], headers.get("stamps") or {}
    if (
        not isinstance(names, (list, tuple))
        or not all(isinstance(n, str) for n in names)
        or not isinstance(stamps, dict)
    ):
        raise InvalidEvent("task headers 'stamped_headers' and 'stamps' are not a list of names and a mapping")


def _check_body(message: Any) -> None:
    """Decode the body as Celery will, and keep the result so that Celery does not do it again."""
    body = message._decoded_cache = loads(
        message.body, message.content_type, message.content_encoding, accept=message.accept
    )
    if not isinstance(body, (list, tuple)) or len(body) != 3:
        raise InvalidEvent("the task's body is not [args, kwargs, options]")
    args, kwargs, embed = body
    if not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict) or not isinstance(embed, (dict, type(None))):
        raise InvalidEvent("the task's body is not [a list, a mapping, a mapping]")
