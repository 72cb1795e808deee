"""Which delivery a message asks for: its event's to the agent, a replay's, or a step of a flow."""

from __future__ import annotations

from pathlib import Path

from pipeline import Pipeline
from pipeline.core.ids import delivery_id, derived_id, member_id
from pipeline.delivery.delivery import id_of


def test_the_id_of_a_delivery_follows_from_what_the_bus_says_in_its_message(tmp_path: Path) -> None:
    agent = Pipeline("test", directory=tmp_path).agent(name="billing")(lambda data: None)
    own = delivery_id("e-1", "billing")
    assert id_of("e-1", agent.name, {}) == own
    assert id_of("e-1", agent.name, {"requeued": 1}) == own
    assert id_of("e-1", agent.name, {"replay": "r-1"}) == derived_id(own, "r-1")
    steps = {id_of("e-1", agent.name, {"flow": ["f-1", pos]}) for pos in range(3)}
    assert steps == {member_id("f-1", pos) for pos in range(3)}
    assert own not in steps
