"""Who gets an answer: the agent that has asked, where it listens to answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.core.event import new_event
from pipeline.delivery.steps import asker


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Pipeline:
    app = Pipeline("t", directory=tmp_path)
    app.subscribe("agent.response", lambda data: None, name="here", did="did:web:example.com:here")
    app.subscribe("order.placed", lambda data: None, name="deaf")
    app.ledger.subscribers.register({"elsewhere": (("agent.*",), None)})
    return app


@pytest.mark.parametrize(
    ("source", "who"),
    [
        ("/t/agent/here", ("here",)),
        ("did:web:example.com:here", ("here",)),
        ("/other/agent/elsewhere", ("elsewhere",)),
        ("/t/agent/deaf", ()),
        ("/t/agent/nobody", ()),
        ("here", ()),
        ("/web", ()),
    ],
)
def test_who_gets_the_answer(app: Pipeline, source: str, who: tuple[str, ...]) -> None:
    assert asker(new_event("greeted", {}, source=source), app.bus) == who
    app.close()
