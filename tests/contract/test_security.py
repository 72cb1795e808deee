"""The users of docs/security.md on the real servers: an app works with them, and what they must not do is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Producer, Queue

from pipeline import Pipeline
from tests.foreign import foreign
from tests.harness import Broker, Worker
from tests.servers import AT_MOST, RABBITMQ_PATHS, RabbitMQ, Redis, Server, ServerMissingError, wait_for

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def example(heading: str) -> list[str]:
    """Return the lines of a section's example."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (fence,) = re.findall(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return fence.splitlines()


def app_of(broker: Broker, url: str) -> Pipeline:
    directory = broker.directory / "state"
    return Pipeline("publisher", broker_url=url, directory=directory, publish_timeout=AT_MOST)


def work(broker: Broker, publisher: Pipeline, operator: Pipeline) -> None:
    """Publish, let a worker handle it and retry, requeue a dead letter as an operator."""
    worker = Worker(broker, pool="solo").start()
    try:
        event = publisher.publish("task.created", {"alpha": "fail 1", "gamma": "emit step.asked"})
        assert event.sent
        broker.journal.wait(4, id=event.id)
        gives_up = publisher.publish("task.assigned", {"beta": "give-up"})
        wait_for(lambda: operator.dead_letters.count().get("beta"), "the dead letter")
        assert operator.dead_letters.requeue(agent="beta").sent
        broker.journal.wait(2, id=gives_up.id, agent="beta")
        assert worker.is_running()
        assert "refused" not in worker.output().lower()
        worker.stop()
    finally:
        worker.kill()


# -- RabbitMQ


@pytest.fixture
def rabbitmq(servers: Callable[[str], Server]) -> RabbitMQ:
    server = servers("rabbitmq")
    assert isinstance(server, RabbitMQ)
    for line in example("RabbitMQ"):
        control(server, *shlex.split(line)[1:])
    return server


def control(server: RabbitMQ, *arguments: str) -> None:
    path = os.pathsep.join([*RABBITMQ_PATHS, os.environ["PATH"]])
    binary = shutil.which("rabbitmqctl", path=path)
    if binary is None:
        pytest.skip("rabbitmqctl is not installed")
    done = subprocess.run(
        [binary, *arguments], env={**server.environment(), "PATH": path}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def as_user(server: RabbitMQ, name: str) -> str:
    return f"amqp://{name}:PASSWORD@127.0.0.1:{server.port}/shop"


def test_the_users_for_rabbitmq_are_enough_and_no_more(rabbitmq: RabbitMQ, tmp_path: Path, no_settings: None) -> None:
    broker = Broker("rabbitmq", as_user(rabbitmq, "worker"), tmp_path, rabbitmq)
    publisher, operator = (app_of(broker, as_user(rabbitmq, name)) for name in ("publisher", "operator"))
    work(broker, publisher, operator)

    def refused(user: str, do: Callable[[Any], Any]) -> None:
        with Connection(as_user(rabbitmq, user)) as connection:
            channel = connection.channel()
            with pytest.raises(connection.channel_errors, match="ACCESS_REFUSED"):
                do(channel)

    def publish(exchange: str, key: str, **headers: Any) -> Callable[[Any], Any]:
        def do(channel: Any) -> None:
            Producer(channel).publish(
                json.dumps(foreign(type="task.created")).encode(), exchange=exchange, routing_key=key, headers=headers,
                content_type="application/cloudevents+json", content_encoding="utf-8",
            )  # fmt: skip
            channel.basic_qos(0, 1, a_global=False)  # waits for the broker, which says then that it has refused

        return do

    for user in ("publisher", "crm"):
        refused(user, publish("agents", "agent.alpha"))
        refused(user, publish("", "agent.alpha", task="plain.add", id="1"))
        refused(user, lambda channel: channel.basic_get("agent.alpha"))
        refused(user, lambda channel: channel.queue_bind("agent.alpha", "events", "#"))
    for user in ("publisher", "crm", "worker", "operator"):
        refused(user, lambda channel: channel.queue_declare("spy"))
    for user in ("crm", "operator"):
        refused(user, lambda channel: channel.basic_get("agent.alpha"))
        refused(user, lambda channel: channel.queue_purge("agent.alpha"))
    refused("crm", lambda channel: channel.queue_bind("events.unrouted", "events", "#"))
    with Connection(as_user(rabbitmq, "crm")) as connection:
        publish("events", "task.created")(connection.channel())
    with Connection(as_user(rabbitmq, "worker")) as connection:
        taken = Queue("agent.gamma", no_declare=True)(connection.channel())
        wait_for(taken.get, "the other program's event")
    publisher.close()
    operator.close()


# -- Redis


class RestrictedRedis(Redis):
    """A Redis with the users of the example."""

    def command(self) -> list[str]:
        (self.directory / "users.acl").write_text("\n".join(example("Redis")) + "\n")
        return [*super().command(), "--aclfile", str(self.directory / "users.acl")]


@pytest.fixture
def redis() -> Iterator[RestrictedRedis]:
    server = RestrictedRedis()
    try:
        server.start()
    except ServerMissingError as exc:
        pytest.skip(str(exc))
    yield server
    server.stop()


def test_the_users_for_redis_are_enough_and_no_more(redis: RestrictedRedis, tmp_path: Path, no_settings: None) -> None:
    from redis import Redis as Client
    from redis.exceptions import AuthenticationError, NoPermissionError

    def url(user: str) -> str:
        return f"redis://{user}:PASSWORD@127.0.0.1:{redis.port}/0"

    broker = Broker("redis", url("worker"), tmp_path, redis)
    publisher, operator = app_of(broker, url("publisher")), app_of(broker, url("operator"))
    work(broker, publisher, operator)
    for user, commands in {
        "publisher": ["rpop agent.alpha", "lrange agent.alpha 0 -1", "del agent.alpha", "lpush elsewhere x", "keys *"],
        "operator": ["rpop agent.alpha", "lrange agent.alpha 0 -1", "del agent.alpha", "flushall", "publish x y"],
        "worker": ["flushall", "config get *", "acl list", "shutdown", "keys *"],
    }.items():
        with Client.from_url(url(user)) as client:
            for command in commands:
                with pytest.raises(NoPermissionError):
                    client.execute_command(*command.split())
    with Client.from_url(f"redis://127.0.0.1:{redis.port}/0") as client, pytest.raises(AuthenticationError):
        client.ping()
    publisher.close()
    operator.close()
