"""A Celery app that exists, to which the bus is added, as docs/migrating.md says."""

from __future__ import annotations

from pathlib import Path

from tests.walks import steps, walking


def test_the_steps_for_a_celery_app_lead_to_an_event_that_is_handled(tmp_path: Path) -> None:
    (_, example), *commands = steps("migrating.md", "From Celery tasks")
    with walking(tmp_path) as walk:
        (walk.project / "shop.py").write_text(example)
        for step in commands:
            walk.go(*step)
        walk.expect("mail for A1")
        assert "agent.confirm" in walk.logs(), "the worker lists it"
