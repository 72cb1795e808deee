"""The tutorial, from an empty directory to the e-mail and the test, done to the letter."""

from __future__ import annotations

from email import message_from_bytes
from pathlib import Path

from tests.walks import steps, walking


def test_the_tutorial_leads_from_a_question_to_an_email(tmp_path: Path) -> None:
    with walking(tmp_path) as walk:
        for step in steps("tutorial.md"):
            walk.go(*step)
        walk.expect("to ada: we are looking into 'What is a context manager?'")
        for line in ("no agent listens to it", "email: dead", "requeued 1 dead letter", "1 passed"):
            assert line in walk.said
        (path,) = (walk.project / "outbox").glob("*.eml")
        message = message_from_bytes(path.read_bytes())
        assert message["To"] == "ada@example.org"
        assert "runtime context" in str(message.get_payload())
