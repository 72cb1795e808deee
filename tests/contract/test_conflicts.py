"""Queues and exchanges that exist with other arguments: one clear error, and the command in it mends it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator

import pytest
from kombu import Connection

from pipeline import ConfigError, Pipeline
from tests.harness import Broker, Worker, run
from tests.servers import wait_for

QUEUES = ("agent.alpha", "agent.alpha.dead", "agents.emit", "events.unrouted")
EXCHANGES = ("events", "events.unrouted", "agents", "agents.dead")


@pytest.fixture
def rabbit(broker: Broker) -> Iterator[Broker]:
    """RabbitMQ, the one that compares declarations, without anything of ours before and after."""
    if broker.name != "rabbitmq":
        pytest.skip("only RabbitMQ compares declarations")
    clear(broker)
    yield broker
    clear(broker)


def clear(broker: Broker) -> None:
    with Connection(broker.url) as connection:
        channel = connection.channel()
        for queue in QUEUES:
            channel.queue_delete(queue)
        for exchange in EXCHANGES:
            channel.exchange_delete(exchange)


def declare_otherwise(broker: Broker, what: str, name: str) -> None:
    with Connection(broker.url) as connection:
        channel = connection.channel()
        if what == "queue":
            channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-max-length": 7})
        else:
            channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)


def run_what_it_says(message: str, broker: Broker) -> None:
    """Run the command that an error names."""
    found = re.search(r"run `celery (.*?)`", message)
    assert found, message
    words = shlex.split(found[1].replace("YOUR_APP", "contract_app"))
    done = run([sys.executable, "-m", "celery", *words], broker)
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize(
    ("what", "name"),
    [("queue", "agent.alpha"), ("queue", "agent.alpha.dead"), ("exchange", "events"), ("exchange", "agents")],
)
def test_a_worker_ends_with_an_error_whose_command_mends_what_exists_with_other_arguments(
    rabbit: Broker, worker: Callable[..., Worker], what: str, name: str
) -> None:
    declare_otherwise(rabbit, what, name)
    one = worker(wait=False)
    wait_for(lambda: not one.is_running(), "the worker to end", 90)
    assert one.process is not None
    assert one.process.returncode not in (0, None)
    assert one.output().count(f"the {what} {name!r} exists in RabbitMQ's virtual host '/'") == 1
    run_what_it_says(one.output(), rabbit)
    worker()


@pytest.mark.parametrize("ledger", [None, ""])
def test_publishing_says_which_exchange_is_another_and_goes_on_when_its_command_was_run(
    rabbit: Broker, ledger: str | None, no_settings: None
) -> None:
    declare_otherwise(rabbit, "exchange", "events")
    app = Pipeline("web", broker_url=rabbit.url, directory=rabbit.directory / "state", ledger_url=ledger)
    with pytest.raises(ConfigError, match=r"the exchange 'events' exists .* with another 'type'") as caught:
        app.publish("a.b", {})
    assert ("is accepted" in str(caught.value)) is (ledger is None)
    run_what_it_says(str(caught.value), rabbit)
    app.publish("a.b", {})
    app.close()
