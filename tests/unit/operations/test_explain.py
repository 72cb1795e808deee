"""Explaining: who gets an event and why not, and what a changed filter would have done to recorded events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from pipeline import InvalidFilter, Pipeline, UnknownEvent
from pipeline.agents.wanting import Wanting
from pipeline.filters import parse
from pipeline.ledger.database.tables import agents
from pipeline.operations.explain import latest, nearest_to, try_on
from pipeline.operations.unrouted import unwanted
from tests.records import lose_outbox, make_app, run_agents, succeed


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = make_app(f"sqlite:///{tmp_path}/ledger.db", tmp_path, agents=False)

    @one.agent(on="alert.*", where={"payload.level": {"$gte": "high"}, "metadata.tenant": "acme"})
    def pager(data: Any) -> None: ...

    @one.agent(on="alert.raised")
    def audit(data: Any) -> None: ...

    @one.agent()
    def member(data: Any) -> None: ...

    run_agents(one, {"pager": "alert.*", "audit": "alert.raised", "elsewhere": "alert.#"})
    yield one
    one.close()


def answers(found: Any) -> dict[str, bool]:
    return {answer.agent: answer.gets for answer in found}


def test_every_agent_says_whether_it_gets_the_event(app: Pipeline) -> None:
    found = app.explain("alert.raised", {"level": "low"})
    assert answers(found) == {"pager": False, "audit": True, "member": False, "elsewhere": True}
    why = {answer.agent: answer.why for answer in found}
    assert why["pager"] == "it listens to alert.*, but its filter does not match"
    assert why["member"] == "it listens to nothing: joins and canvases call it"
    assert why["elsewhere"] == "it listens to alert.#"


def test_what_another_programs_agent_filters_is_in_the_ledger(app: Pipeline) -> None:
    def others(filter: Any, **reads: str) -> tuple[bool, str]:
        said = Wanting(parse({"payload.level": "high"}), reads).as_data(1.0) if filter is None else filter
        with app.ledger.database.transaction() as connection:
            row = update(agents).where(agents.c.name == "elsewhere").values(filters=json.dumps([said]))
            connection.execute(row)
        (answer,) = [one for one in app.explain("alert.raised", {"level": "low"}) if one.agent == "elsewhere"]
        return answer.gets, answer.why

    assert others(None) == (False, "it listens to alert.#, but its filter does not match")
    unknown = "it listens to alert.#; its program is another one, and what it filters is not known here"
    assert others(None, **{"alert.raised": "2.0.0"}) == (True, unknown), "it reads other data than was published"
    assert others({"where": {"payload.level": {"$ofTomorrow": 1}}, "reads": {}}) == (True, unknown)


def test_each_condition_says_what_it_saw(app: Pipeline) -> None:
    (pager,) = [answer for answer in app.explain("alert.raised", {"level": "low"}) if answer.agent == "pager"]
    found = {condition.text: (condition.result, condition.value) for condition in pager.conditions}
    assert list(found.values()) == [("false", "low"), ("missing", None)]
    assert json.loads(json.dumps(pager.as_data()))["conditions"][0]["fields"] == ["level"]


def test_targets_leave_out_everybody_else(app: Pipeline) -> None:
    event = app.publish("alert.raised", {"level": "low"}, targets=("pager",))
    found = app.explain(event.id)
    assert answers(found) == {"pager": True, "audit": False, "member": False, "elsewhere": False}
    assert found[1].why == "the event's targets are pager, and nobody else gets it"


def test_a_filter_is_tried_instead_of_an_agents_own(app: Pipeline) -> None:
    assert answers(app.explain("alert.raised", {"level": "low"}, where={"pager": "level = low"}))["pager"]
    with pytest.raises(InvalidFilter):
        app.explain("alert.raised", {}, where={"pager": "level ="})
    with pytest.raises(UnknownEvent):
        app.explain("not-there")


def test_of_what_nobody_wanted_the_nearest_condition_is_known(app: Pipeline) -> None:
    event = app.publish("alert.other", {"level": "low"}, metadata={"tenant": "acme"})
    wanted = app.publish("alert.raised", {"level": "low"})
    lose_outbox(app)
    row = {"event_id": event.key, "replay": None, "broadcast": True, "error": "its filter does not match"}
    with app.ledger.database.transaction() as connection:
        names = enumerate(("pager", "elsewhere"))
        app.ledger.deliveries.pass_by(connection, [{**row, "id": f"d{n}", "agent": name} for n, name in names])
        app.ledger.deliveries.pass_by(connection, [{**row, "id": "d3", "agent": "pager", "event_id": wanted.key}])
    succeed(app, wanted, "audit")
    (found,) = unwanted(app.ledger)
    assert found.event.id == event.id
    assert nearest_to(app.bus, found.event) == (
        "nearest is agent pager, whose condition payload.level >= 'high' is false (it saw 'low')"
    )
    assert unwanted(app.ledger, type="other.#") == []


def test_what_an_agent_has_in_its_queue_is_not_unwanted(app: Pipeline) -> None:
    event = app.publish("alert.other", {"level": "low"})
    lose_outbox(app)
    row = {"event_id": event.key, "replay": None, "broadcast": True, "error": "its filter does not match"}
    with app.ledger.database.transaction() as connection:
        app.ledger.deliveries.pass_by(connection, [{**row, "id": "d1", "agent": "pager"}])
    assert unwanted(app.ledger) == []  # the agent elsewhere has yet to say
    with app.ledger.database.transaction() as connection:
        app.ledger.deliveries.pass_by(connection, [{**row, "id": "d2", "agent": "elsewhere"}])
    assert [one.event.id for one in unwanted(app.ledger)] == [event.id]


def test_a_changed_filter_is_tried_on_recorded_events(app: Pipeline) -> None:
    levels = ["low", "medium", "high", "critical", "high"]
    sent = [app.publish("alert.raised", {"level": level}, metadata={"tenant": "acme"}) for level in levels]
    lose_outbox(app)
    pager = try_on(app.bus, latest(app.ledger, 4), {"pager": parse("level IN (medium, critical)")})[0]
    assert (pager.gets, pager.filtered) == (2, 2)
    assert pager.gained == [sent[1].id]
    assert pager.lost == [sent[2].id, sent[4].id]
    assert sum(pager.conditions.values()) == 2
    unchanged = try_on(app.bus, latest(app.ledger, 100))[0]
    assert (unchanged.gets, unchanged.filtered, unchanged.gained, unchanged.lost) == (3, 2, [], [])
