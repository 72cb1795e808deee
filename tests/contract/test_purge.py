"""`celery purge`, as docs/operations.md shows it: it empties a queue, and with a ledger the events come back."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from pipeline import Pipeline
from tests.harness import Broker, StartWorker, backlog, declared, run

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def shown() -> list[str]:
    """Return the command that the page shows, for the contract suite's app and its agent beta."""
    found = re.search(r"^celery -A shop (purge .*agent\.billing) +#.*come back", OPERATIONS.read_text(), re.MULTILINE)
    assert found is not None
    return [sys.executable, "-m", "celery", "-A", "contract_app", *shlex.split(found[1].replace("billing", "beta"))]


@pytest.mark.bare
def test_what_is_purged_from_an_agents_queue_comes_back_with_a_ledger_and_is_gone_without(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    declared(worker)
    events = bus.publish_many([("extra.only", {"n": n}) for n in range(3)])
    done = run(shown(), broker)
    assert "Purged 3 messages" in done.stdout
    assert backlog(bus, "agent.beta") == 0
    worker(name="w2", environment={"PIPELINE_RECONCILE_AFTER": "1"})
    last = bus.publish("extra.only", {"n": 3})
    broker.journal.wait(1, agent="beta", id=last.id)
    if bus.has_ledger:
        broker.journal.wait(4, agent="beta")
        assert broker.journal.count(agent="beta") == {event.id: 1 for event in (*events, last)}
    else:
        assert broker.journal.count(agent="beta") == {last.id: 1}
