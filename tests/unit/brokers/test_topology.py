"""The names and shapes of exchanges and queues."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.transport import virtual

from pipeline.brokers import kinds, topology
from pipeline.brokers.topology import AgentQueue, Topology

NAMES = Topology()


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[virtual.Channel]:
    kinds.register()
    with Connection(f"sqlite:///{tmp_path / 'broker.db'}") as connection:
        yield connection.channel()


def shape(queue: AgentQueue) -> tuple[Any, ...]:
    return (
        type(queue), queue.name, queue.exchange.name, queue.exchange.type, queue.routing_key, queue.durable,
        queue.patterns, queue.queue_arguments,
    )  # fmt: skip


def test_an_agents_queue_has_its_name_priorities_and_dead_letters() -> None:
    found = NAMES.agent_queue("alpha", ("task.*",))
    assert (found.name, found.routing_key, found.durable) == ("agent.alpha", "agent.alpha", True)
    assert found.queue_arguments == {
        "x-max-priority": 9,
        "x-dead-letter-exchange": "agents.dead",
        "x-dead-letter-routing-key": "agent.alpha.dead",
    }


def test_an_agents_primary_exchange_is_not_the_shared_one() -> None:
    # Celery sends retries to the primary exchange; through `events` they would reach every agent.
    found = NAMES.agent_queue("alpha", ("task.*",))
    assert (found.exchange.name, found.exchange.type) == ("agents", "direct")


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda queue: pickle.loads(pickle.dumps(queue)), lambda queue: queue(None)]
)
def test_a_copy_of_an_agents_queue_keeps_exchange_and_patterns(copied: Any) -> None:
    queue = NAMES.agent_queue("alpha", ("task.*", "order.#"))
    assert shape(copied(queue)) == shape(queue)


def test_a_bound_queue_is_declared_with_all_its_bindings(channel: virtual.Channel) -> None:
    NAMES.agent_queue("alpha", ("task.*", "order.#"))(channel).declare()
    assert set(channel.list_bindings()) == {
        ("agent.alpha", "agents", "agent.alpha"),
        ("agent.alpha", "events", "task.*"),
        ("agent.alpha", "events", "order.#"),
        ("agent.alpha.dead", "agents.dead", "agent.alpha.dead"),
        ("events.unrouted", "events.unrouted", "#"),
    }


def test_the_queue_of_emitting_tasks_is_like_an_agents_but_hears_no_events(channel: virtual.Channel) -> None:
    queue = NAMES.emit_queue()
    queue(channel).declare()
    assert (queue.name, queue.patterns) == ("agents.emit", ())
    assert "events" not in {exchange for _, exchange, _ in channel.list_bindings()}


def test_a_publisher_declares_the_topic_exchange_and_where_unrouted_events_go(channel: virtual.Channel) -> None:
    NAMES.declare_events(channel)
    assert set(channel.list_bindings()) == {("events.unrouted", "events.unrouted", "#")}
    assert NAMES.events.arguments == {"alternate-exchange": "events.unrouted"}
    assert NAMES._unrouted_queue.queue_arguments["x-max-length"] == topology.UNROUTED_LIMIT


@pytest.mark.parametrize(
    ("queue", "agent"),
    [
        ("agent.alpha", "alpha"),
        ("agent.alpha.dead", None),
        ("agents.emit", None),
        ("celery", None),
        ("events.unrouted", None),
    ],
)
def test_a_queues_name_tells_its_agent(queue: str, agent: str | None) -> None:
    assert NAMES.agent_of(queue) == agent
