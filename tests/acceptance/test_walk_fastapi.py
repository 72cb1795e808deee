"""FastAPI, from an empty directory to the first event that was handled, as docs/frameworks.md says."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.walks import Walk, steps, walking


def post(walk: Walk, order: dict[str, Any]) -> tuple[int, str]:
    """Place an order; return the status and the body of the answer."""
    url, head = f"http://127.0.0.1:{walk.port}/orders", {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(order).encode(), head)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def test_the_steps_for_fastapi_lead_to_an_event_that_is_handled(tmp_path: Path) -> None:
    with walking(tmp_path) as walk:
        for step in steps("frameworks.md", "FastAPI"):
            walk.go(*step)
        assert json.loads(walk.said).keys() == {"event_id"}
        walk.expect("confirm: 9.5 for order A1")
        status, said = post(walk, {"order_id": "A2", "total": "much"})
        assert status == 422
        assert "total" in said
        assert post(walk, {"order_id": "A3", "total": 1, "newer": True})[0] == 202
        walk.expect("confirm: 1.0 for order A3")
