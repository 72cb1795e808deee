"""Agents with a decentralized identifier: it is their source, and another name for them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import Context, Event, InvalidAgent, Pipeline, UnknownAgent
from pipeline.core.event import new_event
from pipeline.history.events import EventQuery, get_events
from tests.commands import Shop, process, write_module
from tests.logs import put
from tests.records import making_apps, run_agents

DID = "did:web:example.com:agents:research"
OTHER = "did:web:example.com:agents:writer"

WITH_DID = """
from pipeline import Pipeline

app = Pipeline("shop", directory={directory!r}, publish_timeout=1.5)

@app.agent(on="paper.*", did="did:web:example.com:agents:research")
def research(data: dict) -> None: ...
"""


@pytest.fixture
def make(tmp_path: Path, no_settings: None) -> Iterator[Callable[..., Pipeline]]:
    with making_apps(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False) as make:
        yield make


@pytest.fixture
def app(make: Callable[..., Pipeline]) -> Pipeline:
    app = make()
    research(app)
    run_agents(app, {"research": "paper.*"})
    return app


def research(app: Pipeline, name: str = "research", did: str | None = DID) -> Any:
    @app.agent(on="paper.*", name=name, did=did)
    def handle(data: dict[str, Any], ctx: Context) -> None:
        ctx.publish("paper.found")

    return handle


def shop(directory: Path) -> Shop:
    return Shop(write_module(directory, WITH_DID))


class Count:
    def __init__(self) -> None:
        self.number = 0

    def apply(self, event: Event) -> None:
        self.number += 1


def test_an_agent_is_found_by_its_did(app: Pipeline) -> None:
    assert app.agents[DID] is app.agents["research"]
    assert DID in app.agents
    assert OTHER not in app.agents
    assert app.agents["research"].did == DID


def test_an_unknown_did_names_the_nearest_one(app: Pipeline) -> None:
    with pytest.raises(InvalidAgent, match=f"no agent has the did '{DID}x'; did you mean '{DID}'"):
        app.agents[DID + "x"]


def test_what_is_no_did_is_refused_where_the_agent_is_declared(app: Pipeline) -> None:
    with pytest.raises(InvalidAgent, match=r"agent 'other': did='web:x' is no decentralized identifier: it begins"):
        research(app, "other", "web:x")


def test_two_agents_cannot_have_one_did(app: Pipeline) -> None:
    with pytest.raises(InvalidAgent, match=f"did '{DID}' is used twice: by agent 'research', .* by agent 'other'"):
        research(app, "other")
    assert "other" not in app.agents


def test_a_module_that_is_imported_again_may_give_its_agent_another_did(app: Pipeline) -> None:
    source = "@app.agent(on='a', did=did)\ndef again(data): ...\n"
    for did in (OTHER, OTHER, "did:web:new"):
        exec(compile(source, "again.py", "exec"), {"app": app, "did": did, "__name__": "again"})
    assert app.agents["did:web:new"].name == "again"
    assert OTHER not in app.agents


def test_the_did_is_the_source_of_what_the_agent_emits(app: Pipeline) -> None:
    other = research(app, "other", None)
    assert app.celery.tasks["agent.research"].source == DID
    assert app.celery.tasks[other.task_name].source == "/t/agent/other"


# -- its history


def test_its_history_is_found_by_did_and_by_name(app: Pipeline) -> None:
    found = new_event("paper.found", source=DID)
    put(app.ledger, found, new_event("paper.found", source="/t/agent/other"))

    assert [one.event.id for one in get_events(app.ledger, EventQuery(agent_id=DID))] == [found.id]
    for name in (DID, "research"):
        assert [one.event.id for one in app.get_events(agent_id=name)] == [found.id]
        assert app.reconstruct(name, Count).number == 1
        assert app.replay(to=lambda event: None, agent_id=name).number == 1


# -- targets


def test_a_target_may_be_a_did(app: Pipeline) -> None:
    event = app.publish("note.made", targets=(DID, "research"))

    assert event.targets == ("research",)
    assert app.get_event(event.id).event.targets == ("research",)


def test_a_target_may_be_the_did_of_an_agent_that_is_declared_elsewhere(
    app: Pipeline, make: Callable[..., Pipeline]
) -> None:
    app.ledger.subscribers.identify({"research": DID})
    web = make()
    made = new_event("note.made", source="/t", targets=(DID,))
    with web.ledger.database.transaction() as connection:
        written = web.publish("note.made", targets=(DID,), connection=connection)
        late = web.publish("note.made", targets=(DID,), connection=connection, delay=60)
    found = [web.publish("note.made", targets=(DID, "research")), *web.publish_many([made]), written, late]
    assert {event.targets for event in found} == {("research",)}
    with pytest.raises(UnknownAgent, match=f"no agent has the did '{OTHER}'.* no worker has been started with it on"):
        web.publish("note.made", targets=(DID, OTHER))


def test_a_did_is_that_agents_whose_worker_was_started_last_with_it(app: Pipeline) -> None:
    run_agents(app, {"writer": "x"})
    subscribers = app.ledger.subscribers
    subscribers.identify({"research": DID})
    subscribers.identify({})
    assert subscribers.named([DID, OTHER]) == {DID: "research"}
    subscribers.identify({"writer": DID, "research": OTHER})
    assert subscribers.named([DID, OTHER]) == {DID: "writer", OTHER: "research"}
    subscribers.forget("writer")
    assert subscribers.named([DID]) == {}


def test_every_way_to_publish_takes_dids(app: Pipeline) -> None:
    made = new_event("note.made", source="/t", targets=(DID,))
    assert [event.targets for event in app.publish_many([made])] == [("research",)]
    late = app.publish("note.made", targets=(DID,), delay=60)
    with app.ledger.database.transaction() as connection:
        written = app.publish("note.made", targets=(DID,), connection=connection)
    assert late.targets == written.targets == ("research",)
    assert app.get_event(written.id).event.targets == ("research",)


def test_without_a_ledger_a_target_may_be_a_did(make: Callable[..., Pipeline]) -> None:
    app = make()
    bare = Pipeline("t", ledger_url="", broker_url=app.settings.broker_url, directory=app.settings.directory)
    research(bare)
    with pytest.raises(UnknownAgent, match="without a ledger a did reaches what is declared in the app that publishes"):
        bare.publish("note.made", targets=(OTHER,))
    (encoded,) = bare.bus.outbox.encode([new_event("note.made", source="/t", targets=(DID,))])
    assert encoded.event.targets == ("research",)
    assert json.loads(encoded.body)["targets"] == "research"
    bare.close()


def test_a_did_of_nobody_is_an_error_that_says_what_to_do(app: Pipeline) -> None:
    with pytest.raises(UnknownAgent, match=f"no agent has the did '{OTHER}'; did you mean .* or use its name"):
        app.publish("note.made", targets=("research", OTHER))
    assert list(app.get_events()) == []


def test_another_programs_event_is_not_rewritten_for_its_targets(app: Pipeline) -> None:
    raw = json.dumps({"specversion": "1.0", "id": "a1", "type": "note.made", "source": "/o", "targets": DID})
    with pytest.raises(UnknownAgent, match="no agent is called"):
        app.publish(Event.decode(raw, key=None))


# -- commands


def test_the_list_of_agents_shows_dids_where_there_are_some(empty_directory: Path) -> None:
    heading, line = shop(empty_directory).out("agents").splitlines()
    assert heading.split()[-1] == "did"
    assert line.split()[-2:] == ["agent.research", DID]


def test_events_are_found_by_a_name_whose_agent_is_declared_in_a_module_of_the_settings(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f'from apart import app\n\n@app.agent(on="paper.*", did="{DID}")\ndef research(data: dict) -> None: ...\n'
    (empty_directory / "apart_agents.py").write_text(source)
    (empty_directory / "apart.py").write_text("from pipeline import Pipeline\n\napp = Pipeline('apart')\n")
    for name, value in (("AGENTS", '["apart_agents"]'), ("DIRECTORY", "state")):
        monkeypatch.setenv(f"PIPELINE_{name}", value)
    say = "from apart import app; app.publish('paper.sold', subject='research'); app.close()"
    run_python("import apart_agents; " + say)
    emit = f"from pipeline.core.event import new_event; app.publish(new_event('paper.found', source='{DID}'))"
    run_python(f"from apart import app; {emit}; app.close()")

    (found,) = process("--app", "apart:app", "events", "--agent-id", "research", "--json").stdout.splitlines()
    assert json.loads(found)["source"] == DID
    (empty_directory / "apart_agents.py").write_text("import a_library_that_only_workers_have\n")
    (found,) = process("--app", "apart:app", "events", "--agent-id", "research", "--json").stdout.splitlines()
    assert json.loads(found)["type"] == "paper.sold"


def run_python(source: str) -> None:
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True)


def test_the_commands_take_a_did_for_a_name(empty_directory: Path) -> None:
    one = shop(empty_directory)
    run_agents(one.app, {"research": "paper.*"})
    id = one.out("publish", "note.made", "--target", DID).strip()
    put(one.app.ledger, new_event("paper.found", source=DID))

    assert one.app.get_event(id).event.targets == ("research",)
    for name in ("research", DID):
        (found,) = one.json_lines("events", "--agent-id", name)
        assert found["source"] == DID
        assert one.json("replay", "--to", DID, "--agent-id", name, "--dry-run")["number"] == 1
    assert DID in one.out("events").splitlines()[1].split()[4]
    one.app.close()
