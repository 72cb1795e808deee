"""Two applications on one broker: what one of them does, the other does not see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from pipeline import Pipeline, UnknownAgent
from tests.apps import contract_app
from tests.harness import Broker, Journal, StartWorker, backlog, delete_queues
from tests.servers import wait_for

NAMESPACES = ("one", "two")
Of = Callable[[str], Pipeline]


def environment(broker: Broker, namespace: str) -> dict[str, str]:
    return {
        "PIPELINE_NAMESPACE": namespace,
        "PIPELINE_LEDGER_URL": f"sqlite:///{broker.directory / namespace}.db",
        "JOURNAL": str(broker.directory / f"{namespace}.jsonl"),
    }


def journal(broker: Broker, namespace: str) -> Journal:
    return Journal(broker.directory / f"{namespace}.jsonl")


@pytest.fixture
def app_of(broker: Broker, no_settings: None) -> Iterator[Of]:
    """Publishers, one in each namespace."""
    apps = {
        name: Pipeline(
            "publisher", broker_url=broker.url, directory=broker.directory / "state", namespace=name,
            ledger_url=f"sqlite:///{broker.directory / name}.db",
        )
        for name in NAMESPACES
    }  # fmt: skip
    with closing(apps["one"]), closing(apps["two"]):
        yield apps.__getitem__
    if broker.name == "rabbitmq":
        for name, app in apps.items():
            names = [app.bus.names.queue_of(agent.name) for agent in contract_app.app.agents]
            delete_queues(broker, [*names, f"{name}.agents.emit", f"{name}.events.unrouted", f"{name}.celery"], name)


def test_two_applications_share_a_broker_and_nothing_else(broker: Broker, worker: StartWorker, app_of: Of) -> None:
    one, two = app_of("one"), app_of("two")
    for name in NAMESPACES:
        worker(name=name, environment=environment(broker, name))
    mine, other = journal(broker, "one"), journal(broker, "two")
    event = one.publish("task.created", {"alpha": "emit task.follows"})
    mine.wait(2, agent="alpha")
    one.publish("pair.started", {"n": 5})
    mine.wait(1, agent="outcome", type="pair.complete")
    with pytest.raises(UnknownAgent):
        one.publish("task.created", {}, targets=("nobody",))
    targeted = one.publish("nobody.listens", {"n": 2}, targets=("beta",))
    mine.wait(1, agent="beta", id=targeted.id)
    assert other.lines() == []
    answer = two.publish("task.created", {"n": 3})
    other.wait(3, id=answer.id)
    assert {line["id"] for line in other.lines()} == {answer.id}
    assert mine.count(id=answer.id) == {}
    assert [one.get_event(event.id).event, two.get_event(answer.id).event] == [event, answer]
    assert backlog(one, "one.agent.alpha") == backlog(two, "two.agent.alpha") == 0


def test_remote_control_reaches_the_own_workers_only(broker: Broker, worker: StartWorker, app_of: Of) -> None:
    for name in NAMESPACES:
        worker(name=name, environment=environment(broker, name))
    pinged: set[str] = set()

    def answered() -> bool:
        pinged.update(name for reply in app_of("one").celery.control.ping(timeout=1.0) for name in reply)
        return bool(pinged)

    wait_for(answered, "an answer", 30)
    assert pinged == {"one@test"}
