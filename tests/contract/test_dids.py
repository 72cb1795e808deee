"""An agent with a decentralized identifier on every broker: its source, its history, its queue."""

from __future__ import annotations

import pytest

from pipeline import Pipeline, UnknownAgent
from tests.harness import Broker, StartWorker

NOBODY = "did:web:example.com:agents:nobody"
RESEARCH, WRITER = "did:web:example.com:agents:research", "did:web:example.com:agents:writer"


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)  # no broker sees a did
def test_a_publisher_that_does_not_declare_an_agent_reaches_it_by_its_did(
    bus: Pipeline, broker: Broker, worker: StartWorker
) -> None:
    worker(app="did_app")
    asked = bus.publish("note.made", {"n": 1}, targets=(RESEARCH, WRITER))
    assert asked.targets == ("research", "writer")
    for name in asked.targets:
        broker.journal.wait(1, agent=name, id=asked.id)


@pytest.mark.bare
@pytest.mark.watched
def test_a_did_is_the_agents_source_and_leads_to_its_queue(bus: Pipeline, broker: Broker, worker: StartWorker) -> None:
    bus.agent(name="research", did=RESEARCH)(lambda data: None)
    worker(app="did_app")

    asked = bus.publish("note.made", {"n": 1}, targets=(RESEARCH,))
    (heard,) = broker.journal.wait(1, agent="research")
    assert (heard["id"], heard["data"], asked.targets) == (asked.id, {"n": 1}, ("research",))

    (told,) = broker.journal.wait(1, agent="writer")
    assert (told["type"], told["source"], told["causation"]) == ("paper.found", RESEARCH, asked.id)

    last = bus.publish("last.one", priority=10)
    broker.journal.wait(1, agent="tap", id=last.id)
    assert [line["type"] for line in broker.journal.lines(agent="tap")] == ["last.one"], "the others had targets"
    with pytest.raises(UnknownAgent, match=f"no agent has the did '{NOBODY}'"):
        bus.publish("note.made", targets=(NOBODY,))
    if bus.has_ledger:
        assert [one.event.id for one in bus.get_events(agent_id=RESEARCH)] == [told["id"]]
