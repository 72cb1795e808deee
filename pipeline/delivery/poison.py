"""Messages that would crash or stall a worker's main process are recognised here, before Celery sees them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from kombu.serialization import loads

from ..brokers.expiry import DEADLINE, is_over
from ..core.errors import EventTooLarge, InvalidEvent
from ..core.event import CONTENT_TYPE
from ..core.ids import Seal, foreign_id
from ..core.times import utc_now

#: An ETA further away than this is a mistake: Celery would hold the message in memory all that time.
MAX_ETA = timedelta(days=365)
_TEXT_FIELDS = ("id", "task", "root_id", "parent_id", "group")
#: Headers of an event that the bus has signed; what others add on the way is none of them.
_SIGNED = ("id", "type", "correlationid", "causationid", "targets")
#: What the bus says about a delivery that it asks for as a task: its event's key, the routing key that the event came
#: with where that is what the agent listens to, how often it was handed on, and since when it waits.
_OF_TASKS = {"key": str, "routed": str, "handed": int, "waits": int}
_ROUTING = (*_SIGNED, "source")
#: How headers begin that carry a CloudEvent's attributes in binary mode.
_BINARY = ("cloudevents:", "cloudevents_", "ce-", "ce_")


def check_event(message: Any, max_bytes: int, seal: Seal | None = None, agent: str = "") -> dict[str, Any]:
    """Return the event's attributes that routing needs; raise InvalidEvent or EventTooLarge for anything else.

    What the bus has sent is known by its signature, and then its headers are believed; without a ledger, by a `bus`
    header that says nothing, and the delivery compares the type. Anything else is the event of another program, about
    which only its body is asked; `bus` is then empty, and `id` follows from source and id.

    Arguments:
        max_bytes: the largest body.
        seal: what the bus signs with; without a ledger there is none.
        agent: from whose queue the message is.

    """
    body = message.body or b""
    if len(body) > max_bytes:
        raise EventTooLarge(f"{len(body):,} bytes, the limit is {max_bytes:,}")
    if DEADLINE in message.properties and is_over(message.properties[DEADLINE]):
        wanted_in = message.properties.get("expiration")
        raise InvalidEvent(f"it has expired: its publisher wanted it handled in {wanted_in} ms")
    said = message.headers.get("bus")
    if seal is None and said == {}:
        return {**_texts(message.headers, ("id", "type")), "bus": {}}
    if seal is not None and isinstance(said, dict) and said.get("ledger") == seal.ledger:
        marks = {name: value for name, value in said.items() if name != "signature"}
        signed = {name: message.headers[name] for name in _SIGNED if name in message.headers}
        raw = body.encode() if isinstance(body, str) else body
        if seal.is_on(said.get("signature"), {**signed, "bus": marks}, raw, agent if "direct" in marks else ""):
            return {**dict.fromkeys(_SIGNED), **signed, "bus": marks}
    attributes = _attributes(body, message.content_type, message.headers)
    key = foreign_id(attributes["source"], attributes["id"])
    return {**attributes, "id": key, "bus": {}}


def _attributes(body: Any, content_type: Any, headers: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that a body has which another program has sent as an event."""
    kind = str(content_type or "").partition(";")[0].strip().lower()
    if kind != CONTENT_TYPE and any(str(name).lower().startswith(_BINARY) for name in headers):
        raise InvalidEvent(f"a CloudEvent in binary mode; send structured mode: all in the body, as {CONTENT_TYPE}")
    if kind not in (CONTENT_TYPE, ""):
        raise InvalidEvent(f"content type {content_type!r} is not {CONTENT_TYPE}")
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidEvent(f"the body is not JSON: {exc}") from exc
    if not isinstance(decoded, dict):
        raise InvalidEvent("the body is not a JSON object")
    if not kind and "specversion" not in decoded:
        raise InvalidEvent(
            f"no content type, and the body is no CloudEvent: it has no 'specversion'; send {CONTENT_TYPE}"
        )
    return _texts(decoded, ("id", "type", "source"))


def _texts(attributes: dict[str, Any], required: Sequence[str]) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for name in _ROUTING:
        value = texts[name] = attributes.get(name)
        if (value and isinstance(value, str)) or (value is None and name not in required):
            continue
        if value == "":
            if name in required:
                raise InvalidEvent(f"attribute {name!r} must not be empty")
            continue
        raise InvalidEvent(f"attribute {name!r} is {value!r}, not text")
    return texts


def said_by_bus(headers: dict[str, Any], body: Any, seal: Seal | None) -> dict[str, Any]:
    """Return what the bus itself has said about a delivery that it asked for as a task: nothing that is not signed.

    Arguments:
        body: the decoded body.
        seal: what the bus signs with; without a ledger nothing could be told apart, and who sends tasks is believed.

    """
    said, arguments = headers.get("bus"), body[0]
    if not isinstance(said, dict) or len(arguments) != 1:
        return {}
    marks = {name: said[name] for name, kind in _OF_TASKS.items() if type(said.get(name)) is kind}
    if seal is None:
        return marks
    try:
        event = orjson.dumps(arguments[0], option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return {}
    signature = said.get("signature")
    is_ours = seal.is_on(signature, {**marks, "task": headers["task"]}, event)
    return {**marks, "signature": signature} if is_ours else {}


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
    if name == "eta" and (time if time.tzinfo else time.replace(tzinfo=UTC)) > utc_now() + MAX_ETA:
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
