"""Flask, from an empty directory to the first event that was handled, as docs/frameworks.md says."""

from __future__ import annotations

import json
from pathlib import Path

from tests.walks import steps, walking


def test_the_steps_for_flask_lead_to_an_event_that_is_handled_in_the_applications_context(tmp_path: Path) -> None:
    with walking(tmp_path) as walk:
        for step in steps("frameworks.md", "Flask"):
            walk.go(*step)
        assert json.loads(walk.said).keys() == {"event_id"}
        walk.expect("Ada's confirms: 9.5 for order A1")
        status, said = walk.post({"order_id": "A2", "total": "much"})
        assert status == 422
        assert json.loads(said)[0]["loc"] == ["total"]
        assert "much" not in said
