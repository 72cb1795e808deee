"""What messages of bridges look like: an event as it is sent, and what has come as an event.

An event goes out as CloudEvents JSON in structured mode, in binary mode (its data is the body, its attributes are
headers), or as a plain envelope. In come all of these, and any other JSON, which is the data of an event.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import orjson

from ..agents.filters.paths import text_at
from ..core.door.replies import REPLY_BY
from ..core.errors import EventTooLarge, InvalidEvent
from ..core.event import CONTENT_TYPE, VIA, Event
from .bridge import Outgoing

if TYPE_CHECKING:
    from .bridge import Message

FORMATS = ("cloudevents", "binary", "envelope")
#: Bridges that an event may have gone over.
MOST_BRIDGES = 16
#: Attributes that mean something on one bus only: its agents, and somebody who waits.
_OURS = ("targets", REPLY_BY)
_NUMBERS = ("priority", "hops")
_PREFIX = "ce-"
_UNQUOTED = "".join(chr(one) for one in range(0x21, 0x7F) if chr(one) not in '"%')


def way_of(event: Event) -> list[str]:
    """Return the bridges that an event has gone over, the first one first."""
    via = (event.model_extra or {}).get(VIA)
    return via.split(",") if isinstance(via, str) and via else []


def key_of(event: Event, path: str | None) -> str:
    """Return what an event has in common with those that it belongs in one order with.

    That is what it says at a path, its attribute `partitionkey` (CloudEvents, "Partitioning"), its subject, or what it
    has its beginning in.
    """
    said = event.attributes()
    found = (path and text_at(path, said)) or said.get("partitionkey") or event.subject or event.correlation_id
    return str(found)


def outgoing(event: Event, style: str, here: str, order_by: str | None = None) -> Outgoing:
    """Return an event as it is sent.

    Arguments:
        style: of FORMATS.
        here: the bus and the bridge, which its way gets.
        order_by: the path to the key that its bridge keeps the order of.

    """
    key = key_of(event, order_by)
    attributes = {name: value for name, value in event.attributes().items() if name not in _OURS}
    attributes[VIA] = via = ",".join([*way_of(event), here])
    if style == "cloudevents":
        body = orjson.dumps(attributes, option=orjson.OPT_UTC_Z)
        return Outgoing(event.type, event.key, body, {"content-type": CONTENT_TYPE}, key)
    data = orjson.dumps(attributes.pop("data", None))
    if style == "binary":
        kind = str(attributes.pop("datacontenttype", "application/json"))
        headers = {f"{_PREFIX}{name}": quoted(_text(value)) for name, value in attributes.items()}
        return Outgoing(event.type, event.key, data, {**headers, "content-type": kind}, key)
    envelope = {
        "Type": event.type,
        "Payload": orjson.Fragment(data),
        "Timestamp": event.time,
        "MessageID": event.key,
    }
    body = orjson.dumps(envelope, option=orjson.OPT_UTC_Z)
    return Outgoing(event.type, event.key, body, {_PREFIX + VIA: via, "content-type": "application/json"}, key)


def quoted(text: str) -> str:
    """Return an attribute as it is in a header: percent-encoded where it has to be (CloudEvents, HTTP binding)."""
    return quote(text, safe=_UNQUOTED)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def incoming(message: Message, source: str, limit: int) -> Event:
    """Return what has come as another program's event.

    Arguments:
        source: the source of what is no CloudEvent, whose id then is the message's.
        limit: bytes that it may have.

    Raises InvalidEvent that says what is wrong, and EventTooLarge.

    """
    if len(message.body) > limit:
        raise EventTooLarge(f"the message has {len(message.body):,} bytes, the limit is {limit:,}")
    headers = message.headers
    binary = f"{_PREFIX}specversion" in headers
    data = _json(message.body) if message.body or not binary else None
    if binary:
        attributes: dict[str, Any] = {
            name[len(_PREFIX) :]: unquote(text) for name, text in headers.items() if _is_attribute(name)
        }
        attributes |= {name: int(attributes[name]) for name in _NUMBERS if attributes.get(name, "").isdecimal()}
        body = orjson.dumps({**attributes, "data": data})
    elif isinstance(data, dict) and "specversion" in data:
        body = message.body
    else:
        body = orjson.dumps(_plain(data, message, source))
    return Event.decode(body, None)


def _is_attribute(name: str) -> bool:
    return name.startswith(_PREFIX)


def _plain(data: Any, message: Message, source: str) -> dict[str, Any]:
    """Return the attributes of what is an envelope, or data alone."""
    about: dict[str, Any] = {"specversion": "1.0", "source": source, "type": message.type, "id": message.id}
    if isinstance(data, dict) and "Type" in data and "Payload" in data:
        given = {"type": data["Type"], "time": data.get("Timestamp"), "id": data.get("MessageID")}
        about |= {name: value for name, value in given.items() if value is not None}
        data = data["Payload"]
    if via := message.headers.get(_PREFIX + VIA):
        about[VIA] = via
    return {**about, "datacontenttype": "application/json", "data": data}


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidEvent(f"the message is no JSON: {exc}") from None


def arrived(event: Event, here: str) -> Event | None:
    """Return an event with the bridge that it came over in its way; None when it has been on this bus before.

    Raises InvalidEvent when it has gone over too many.
    """
    way = way_of(event)
    bus = here.partition(":")[0]
    if any(one.partition(":")[0] == bus for one in way):
        return None
    if len(way) >= MOST_BRIDGES:
        raise InvalidEvent(f"{VIA}: it has gone over {len(way)} bridges, and may over {MOST_BRIDGES}: {','.join(way)}")
    attributes: Mapping[str, Any] = {**event.attributes(), VIA: ",".join([*way, here])}
    return Event.decode(orjson.dumps(attributes), None)
