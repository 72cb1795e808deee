"""Removing an agent, as docs/questions.md shows it: its queue goes, and events are kept for it no longer."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, backlog, declared, run
from tests.servers import wait_for

QUESTIONS = Path(__file__).parents[2] / "docs" / "questions.md"
MODULES = {"celery": "celery", "pipeline": "pipeline.cli.main"}


def shown() -> list[list[str]]:
    """Return the commands that the page shows, for the contract suite's app and its agent beta."""
    lines = re.findall(r"^((?:celery|pipeline) -A shop .*billing\S*) +#", QUESTIONS.read_text(), re.MULTILINE)
    commands = [line.replace("shop", "contract_app").replace("billing", "beta").split(maxsplit=1) for line in lines]
    return [[sys.executable, "-m", MODULES[program], *shlex.split(rest)] for program, rest in commands]


def test_an_agent_that_is_removed_gets_no_queue_and_no_events_any_more(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    declared(worker)
    bus.publish("extra.only", {"n": 1})
    wait_for(lambda: backlog(bus, "agent.beta") == 1, "the event")
    assert "beta" in bus.ledger.subscribers.all()
    commands = shown()
    assert len(commands) == 3
    for command in commands:
        done = run(command, broker)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "beta" not in bus.ledger.subscribers.all()
    late = bus.publish("extra.only", {"n": 2})
    wait_for(lambda: [each.event.id for each in bus.unrouted()] == [late.id], "nobody to listen")
