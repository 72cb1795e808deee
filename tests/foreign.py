"""What other programs send: an event of one, and whatever a client can put into a message."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from kombu.message import Message

from pipeline.core.event import CONTENT_TYPE


class Taken(Message):  # type: ignore[misc]  # kombu's classes are untyped
    """A message in a worker's hands, which notes what becomes of it."""

    fate = ""

    def ack_log_error(self, *_: Any, **__: Any) -> None:
        self.fate = "acked"

    def reject_log_error(self, *_: Any, requeue: bool = False) -> None:
        self.fate = "requeued" if requeue else "dead"


def foreign(**attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1001", "type": "order.placed", "source": "/crm", "data": {}, **attributes}


WORDS = st.sampled_from(["order.placed", "order.x", "stock.low", "com.example.order.placed", "", "x", "a..b", "\x00"])
TEXT = st.text(max_size=12) | st.sampled_from(["1001", "a" * 255, "a" * 300, "\x00", "\ud800", "{}"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "specversion": st.just("1.0") | JSON,
        "id": TEXT | JSON,
        "type": WORDS | TEXT | JSON,
        "source": st.sampled_from(["/crm", "/web"]) | TEXT | JSON,
        "time": st.sampled_from(["2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "now"]) | JSON,
        **dict.fromkeys(("subject", "data", "targets", "correlationid", "causationid", "priority", "x"), TEXT | JSON),
        **dict.fromkeys(("hops", "schemaversion", "traceparent", "datacontenttype", "data_base64"), JSON),
    },
)
BODIES = (
    st.builds(lambda more: foreign(**more), ATTRIBUTES).map(json.dumps).map(str.encode)
    | ATTRIBUTES.map(json.dumps).map(str.encode)
    | JSON.map(json.dumps).map(str.encode)
    | st.binary(max_size=40)
    | st.just(b"[" * 2000)
)
HEADERS = st.dictionaries(
    st.sampled_from(["id", "type", "bus", "targets", "cloudEvents:id", "x", "correlationid"]) | TEXT,
    JSON | st.sampled_from([{"ledger": "l", "replay": "r"}, {"signature": "s"}]),
    max_size=4,
)
TYPES = st.sampled_from([CONTENT_TYPE, CONTENT_TYPE.upper() + "; charset=utf-8", None, "", "application/json"]) | JSON
