"""What every transport has to do, seen through Kombu, without workers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue

from pipeline import BrokerUnavailable, Pipeline
from pipeline.brokers import kinds
from pipeline.brokers.topology import Topology
from pipeline.core import topics
from tests.harness import Broker, run
from tests.servers import Server, wait_for
from tests.threads import in_threads

TOPIC = Exchange("test.topic", type="topic", durable=True)
DIRECT = Exchange("test.direct", type="direct", durable=True)
DEAD = Queue("test.dead", Exchange("test.dead", type="direct", durable=True), routing_key="test.dead", durable=True)


@pytest.fixture
def broker(broker: Broker) -> Broker:
    """The broker without a ledger: what is shown here is what it does by itself."""
    broker.ledger = ""
    return broker


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[[], Connection]]:
    """Open connections that are closed with the test, after what the test declared is deleted."""
    kinds.register()
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(
            Connection(broker.url, transport_options={"visibility_timeout": 60} if broker.name == "redis" else {})
        )
        return opened[-1].connect() and opened[-1]

    yield connect
    for one in opened:
        one.release()
    with Connection(broker.url) as connection:
        channel = connection.channel()
        for name in (*(f"q{n}" for n in range(40)), "test.dead"):
            channel.queue_delete(name)


def queue(name: str, *patterns: str, exchange: Exchange = TOPIC) -> Queue:
    arguments = {"x-max-priority": 9, "x-dead-letter-exchange": "test.dead", "x-dead-letter-routing-key": "test.dead"}
    return Queue(name, exchange, routing_key=patterns[0] if patterns else name, durable=True, queue_arguments=arguments)


def declare(connection: Connection, *queues: Queue) -> None:
    channel = connection.default_channel
    DEAD(channel).declare()
    for one in queues:
        one(channel).declare()


def publish(connection: Connection, body: str, key: str, exchange: Exchange = TOPIC, priority: int = 0) -> None:
    connection.Producer().publish(body, exchange=exchange, routing_key=key, priority=priority, delivery_mode=2)


@contextmanager
def consuming(connection: Connection, *queues: Queue, prefetch: int = 0) -> Iterator[list[Any]]:
    """Collect messages, unacknowledged, in the order of their arrival."""
    messages: list[Any] = []
    channel = connection.channel()
    with Consumer(channel, queues, on_message=messages.append, auto_declare=False, prefetch_count=prefetch or None):
        yield messages
    channel.close()


def drain(connection: Connection, seconds: float = 0.3) -> None:
    """Take what comes until nothing comes for `seconds`."""
    with suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=seconds)


def receive(connection: Connection, messages: list[Any], number: int) -> None:
    """Wait until `number` messages are there, and take what else comes."""
    wait_for(lambda: drain(connection, 0.05) or len(messages) >= number, f"{number} messages")
    drain(connection)


def bound_to_events(connection: Connection) -> Queue:
    """Return a durable queue that gets the bus's load.# events."""
    Topology().declare_events(connection.default_channel)
    one = Queue("q1", durable=True)
    one(connection.default_channel).declare()
    one(connection.default_channel).bind_to(Exchange("events", type="topic", no_declare=True), "load.#")
    return one


def bodies(messages: list[Any]) -> list[str]:
    return [message.payload for message in messages]


PATTERNS = [
    "#",
    "*",
    "a",
    "a.*",
    "*.a",
    "a.#",
    "#.a",
    "a.#.b",
    "a.*.b",
    "*.*",
    "#.#",
    "#.*",
    "*.#",
    "a.b.#",
    "#.b.#",
    "*.#.*",
]
TYPES = ["a", "b", "a.a", "a.b", "b.a", "a.b.c", "a.c.b", "b.b.b", "a.x.y.b", "x.y.z.a", "ab", "a-b.a_b"]


def test_topic_patterns_mean_what_amqp_says(connect: Callable[[], Connection]) -> None:
    connection = connect()
    queues = [queue(f"q{n}", pattern) for n, pattern in enumerate(PATTERNS)]
    declare(connection, *queues)
    for event_type in TYPES:
        publish(connection, event_type, event_type)
    for pattern, one in zip(PATTERNS, queues, strict=True):
        with consuming(connection, one) as messages:
            wanted = sorted(t for t in TYPES if topics.matches(pattern, t))
            wait_for(
                lambda wanted=wanted, found=messages: drain(connection, 0.05) or len(found) >= len(wanted), pattern
            )
            drain(connection, 0.15)
            got = sorted(bodies(messages))
            for message in messages:
                message.ack()
        assert got == wanted, pattern


def test_a_queue_bound_twice_gets_one_copy(connect: Callable[[], Connection]) -> None:
    connection = connect()
    one = queue("q1", "a.*")
    declare(connection, one)
    one(connection.default_channel).bind_to(TOPIC, "#")
    publish(connection, "once", "a.b")
    with consuming(connection, one) as messages:
        receive(connection, messages, 1)
        assert bodies(messages) == ["once"]


def test_what_is_not_acknowledged_comes_back_to_its_own_queue_only(connect: Callable[[], Connection]) -> None:
    first, second = connect(), connect()
    one, two = queue("q1", "#"), queue("q2", "#")
    declare(first, one, two)
    publish(first, "event", "a.b")
    with consuming(first, one) as messages:
        receive(first, messages, 1)
        assert len(messages) == 1
    with consuming(second, two) as copies:
        receive(second, copies, 1)
        copies[0].ack()
        drain(second, 0.1)
    first.release()
    third = connect()
    declare(third, one, two)
    with consuming(third, one, two) as again:
        receive(third, again, 1)
        assert bodies(again) == ["event"]
        assert again[0].delivery_info["redelivered"]


def test_a_rejected_message_goes_to_the_dead_letters_and_a_requeued_one_comes_back(
    connect: Callable[[], Connection],
) -> None:
    connection = connect()
    one = queue("q1", "#")
    declare(connection, one)
    publish(connection, "bad", "a")
    publish(connection, "later", "b")
    with consuming(connection, one) as messages:
        wait_for(lambda: drain(connection, 0.1) or len(messages) >= 2, "both messages")
        messages[0].reject()
        messages[1].requeue()
        wait_for(lambda: drain(connection, 0.1) or len(messages) >= 3, "the requeued message")
        assert bodies(messages) == ["bad", "later", "later"]
        messages[2].ack()
    with consuming(connection, DEAD) as dead:
        receive(connection, dead, 1)
        assert bodies(dead) == ["bad"]
        dead[0].ack()


def test_the_prefetch_limit_holds_and_an_ack_makes_room_and_hooks_run_after_what_was_handed_over(
    connect: Callable[[], Connection],
) -> None:
    connection = connect()
    one = queue("q1", "#")
    declare(connection, one)
    for n in range(5):
        publish(connection, str(n), "a")
    with consuming(connection, one, prefetch=2) as messages:
        told: list[int] = []
        connection.connection.after_burst.append(lambda: told.append(len(messages)))
        receive(connection, messages, 2)
        assert bodies(messages) == ["0", "1"]
        messages[0].ack()
        receive(connection, messages, 3)
        assert bodies(messages) == ["0", "1", "2"]
        assert {2, 3} <= set(told)


def test_a_queue_with_a_window_of_its_own_fills_that_and_leaves_the_others_theirs(
    connect: Callable[[], Connection],
) -> None:
    connection = connect()
    slow, one, other = queue("q1", "slow"), queue("q2", "quick"), queue("q3", "quick")
    declare(connection, slow, one, other)
    for n in range(5):
        publish(connection, f"slow {n}", "slow")
    channel = connection.channel()
    channel.windows = {"q1": 2}
    messages: list[Any] = []
    consumer = Consumer(channel, [slow, one, other], on_message=messages.append, auto_declare=False)
    consumer.qos(prefetch_count=3, apply_global=True)
    consumer.consume()
    receive(connection, messages, 2)
    assert bodies(messages) == ["slow 0", "slow 1"]
    publish(connection, "quick", "quick")
    receive(connection, messages, 4)
    assert bodies(messages[2:]) == ["quick", "quick"]
    publish(connection, "quick again", "quick")
    receive(connection, messages, 5)
    assert bodies(messages[4:]) == ["quick again"], "the other one's copy waits: these two share a window"
    messages[0].ack()
    messages[2].ack()
    receive(connection, messages, 7)
    assert sorted(bodies(messages[5:])) == ["quick again", "slow 2"]
    consumer.cancel_by_queue("q1")
    messages[1].ack()
    messages[3].ack()
    drain(connection)
    assert len(messages) == 7, "of the first queue nothing is taken any more"
    consumer.cancel()
    connection.release()
    connection = connect()
    with consuming(connection, slow) as again:
        receive(connection, again, 3)
    assert sorted(bodies(again)) == ["slow 2", "slow 3", "slow 4"]


def test_a_fanout_exchange_copies_to_everybody(connect: Callable[[], Connection], broker: Broker) -> None:
    connections = [connect(), connect(), connect()]
    news = Exchange("test.news", type="fanout", durable=False, auto_delete=True)
    queues = [Queue(f"news{n}", news, auto_delete=True, durable=False) for n in range(2)]
    received: list[Any] = []
    consumers = []
    for connection, one in zip(connections, queues, strict=False):
        consumers.append(Consumer(connection.channel(), one, on_message=received.append, no_ack=True))
        consumers[-1].consume()
        drain(connection, 0.1)  # Redis subscribes when it first listens
    connections[2].Producer().publish("news", exchange=news, declare=[news])
    wait_for(lambda: [drain(c, 0.05) for c in connections[:2]] and len(received) == 2, "both copies")
    assert bodies(received) == ["news", "news"]
    for consumer in consumers:
        consumer.cancel()


def test_higher_wire_priority_is_served_as_the_bus_maps_it(connect: Callable[[], Connection]) -> None:
    connection = connect()
    one = queue("q1", "#")
    declare(connection, one)
    driver = connection.transport.driver_type
    for priority in (5, 10, 1, 7, 2):
        publish(connection, str(priority), "a", priority=kinds.kind_of_url(f"{driver}://").priority(priority))
    with consuming(connection, one, prefetch=1) as messages:
        for n in range(1, 6):
            wait_for(lambda n=n: drain(connection, 0.05) or len(messages) == n, "the next message")
            messages[-1].ack()
    assert bodies(messages) == ["1", "2", "5", "7", "10"]


def test_many_threads_publish_at_once_and_nothing_is_lost(bus: Pipeline, connect: Callable[[], Connection]) -> None:
    connection = connect()

    def work(thread: int) -> None:
        for n in range(25):
            bus.publish("load.test", {"id": thread * 25 + n})

    one = bound_to_events(connection)
    in_threads(10, work)
    with consuming(connection, one) as messages:
        receive(connection, messages, 250)
    assert len({m.headers["id"] for m in messages}) == len(messages) == 250


PUBLISH_AND_DIE = """
import os, signal, sys
from pipeline import Pipeline
app = Pipeline("dying")
for event in app.publish_many([("load.test", {"n": n}) for n in range(200)]):
    print(event.id)
print(app.publish("load.test", {}).id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_publish_accepted_survives_the_death_of_the_publisher(
    bus: Pipeline, broker: Broker, connect: Callable[[], Connection]
) -> None:
    connection = connect()
    one = bound_to_events(connection)
    done = run([sys.executable, "-c", PUBLISH_AND_DIE], broker)
    assert done.returncode == -9, done.stderr
    with consuming(connection, one) as messages:
        receive(connection, messages, 201)
    assert {m.headers["id"] for m in messages} == set(done.stdout.split())
    assert len(messages) == 201


def restartable(broker: Broker) -> Server:
    if broker.server is None:
        pytest.skip("the embedded broker has no server that could go away")
    return broker.server


def test_a_broker_that_restarts_while_a_hundred_publishers_publish_loses_nothing(
    bus: Pipeline, broker: Broker, connect: Callable[[], Connection]
) -> None:
    server = restartable(broker)
    connection = connect()
    one = bound_to_events(connection)
    connection.release()
    accepted: list[str] = []
    go_on = threading.Event()

    def work() -> None:
        for n in range(6):
            accepted.append(bus.publish("load.test", {"n": n}, timeout=60).id)
            if n == 2:
                go_on.wait()

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(accepted) >= 150, "the publishers to be busy")
    server.kill()
    go_on.set()
    server.start()
    for thread in threads:
        thread.join()
    assert len(accepted) == 600
    final = connect()
    with consuming(final, one) as messages:
        receive(final, messages, 600)
    assert set(accepted) <= {m.headers["id"] for m in messages}


def test_a_broker_that_does_not_answer_fails_in_bounded_time_and_says_what_to_do(bus: Pipeline, broker: Broker) -> None:
    server = restartable(broker)
    bus.publish("load.test", {})
    server.pause()
    try:
        with pytest.raises(BrokerUnavailable, match=r"did not take the event within 1 s.*pipeline doctor"):
            bus.publish("load.test", {}, timeout=1)
        with pytest.raises(BrokerUnavailable):
            bus.publish_many([("load.test", {})] * 3, timeout=1)
    finally:
        server.resume()
    bus.publish("load.test", {}, timeout=30)


def test_a_binding_that_is_undone_lets_nothing_through_and_can_be_made_again(
    connect: Callable[[], Connection],
) -> None:
    one, other = connect(), connect()
    for connection in (one, other):
        declare(connection, queue("q0", "a.#"))
    bound = queue("q0", "a.#")(other.default_channel)
    bound.bind_to(TOPIC, "b.#")
    with consuming(one, queue("q0")) as messages:
        publish(one, "bound", "b.x")
        receive(one, messages, 1)
        bound.unbind_from(TOPIC, "b.#")
        publish(one, "not bound", "b.x")
        publish(one, "bound otherwise", "a.x")
        receive(one, messages, 2)
        bound.bind_to(TOPIC, "b.#")
        publish(one, "bound again", "b.x")
        receive(one, messages, 3)
    assert bodies(messages) == ["bound", "bound otherwise", "bound again"]
