"""How an answer is written, and how a page of a list is asked for."""

from __future__ import annotations

import json
from typing import Annotated, Any

import orjson
from fastapi import Query, Request
from fastapi.responses import JSONResponse

from ..core.times import as_json_time

#: How many of a list are answered at once.
Limit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]


def encoded(content: Any) -> bytes:
    """Return JSON data as it is written, with times as events have them."""
    try:
        return orjson.dumps(content, option=orjson.OPT_UTC_Z)
    except TypeError:  # half of a character, which somebody has sent as JSON, and gets as it was sent
        return json.dumps(content, default=as_json_time).encode()


def base_of(request: Request) -> str:
    """Return the path under which the front is mounted."""
    return str(request.scope.get("root_path", "")).rstrip("/")


class Json(JSONResponse):
    """An answer in JSON, written as events are."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return encoded(content)
