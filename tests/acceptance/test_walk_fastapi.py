"""FastAPI, from an empty directory to the first event that was handled, as docs/frameworks.md says."""

from __future__ import annotations

import json
from pathlib import Path

from tests.walks import steps, walking


def test_the_steps_for_fastapi_lead_to_an_event_that_is_handled(tmp_path: Path) -> None:
    with walking(tmp_path) as walk:
        for step in steps("frameworks.md", "FastAPI"):
            walk.go(*step)
        assert json.loads(walk.said).keys() == {"event_id"}
        walk.expect("confirm: 9.5 for order A1")
        status, said = walk.post({"order_id": "A2", "total": "much"})
        assert status == 422
        assert "total" in said
        assert walk.post({"order_id": "A3", "total": 1, "newer": True})[0] == 202
        walk.expect("confirm: 1.0 for order A3")
