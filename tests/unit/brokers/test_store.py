"""The embedded broker's file: what is published is routed, taken in order and settled, and all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.brokers.embedded.store import Outgoing, Store
from pipeline.core.errors import EmbeddedBrokerError
from tests.stores import bodies, message, rows, run
from tests.threads import in_threads

# -- routing


def test_one_message_is_copied_to_every_queue_that_matches(store: Store) -> None:
    store.publish([message("a.b", exchange="events"), message("a.b.c", exchange="events")])
    assert (store.size("q"), store.size("r"), store.size("lost")) == (2, 1, 0)


def test_a_queue_that_matches_twice_gets_one_copy(store: Store) -> None:
    store.bind("events", "#", "q")
    store.publish([message("a.b", exchange="events")])
    assert store.size("q") == 1


def test_what_nobody_matches_goes_to_the_alternate_exchange(store: Store) -> None:
    store.publish([message("nobody.cares", exchange="events")])
    assert (store.size("q"), store.size("r"), store.size("lost")) == (0, 0, 1)


def test_a_direct_exchange_routes_by_the_whole_key_and_the_default_one_by_queue(store: Store) -> None:
    store.publish([message("q.dead", exchange="dead"), message("other", exchange="dead"), message("r")])
    assert (store.size("q.dead"), store.size("r"), rows(store)) == (1, 1, 2)


def test_a_message_to_a_queue_that_does_not_exist_is_not_kept_for_ever(store: Store) -> None:
    store.publish([message("no-such-queue")])
    assert rows(store) == 0


def test_an_unbound_and_a_deleted_queue_get_nothing(store: Store) -> None:
    store.unbind("events", "a.#", "q")
    store.delete_queue("r")
    store.publish([message("a.b", exchange="events")])
    assert (store.size("q"), store.exists("r"), store.size("lost")) == (0, False, 1)


def test_deleting_a_queue_takes_its_bindings_and_messages_along(store: Store) -> None:
    store.publish([message("a.b", exchange="events")])
    store.delete_queue("q")
    assert {queue for _, _, queue in store.bindings()} == {"r", "q.dead", "lost"}
    assert rows(store) == 1


def test_what_another_process_declares_is_routed_to_at_once(store: Store, open_store: Callable[[], Store]) -> None:
    store.publish([message("a.b", exchange="events")])  # the topology is cached now
    other = open_store()
    other.declare_queue("new", {})
    other.bind("events", "a.b", "new")
    store.publish([message("a.b", exchange="events")])
    assert store.size("new") == 1
    other.unbind("events", "a.b", "new")
    store.publish([message("a.b", exchange="events")])
    assert store.size("new") == 1


def test_declaring_what_is_there_does_not_write(store: Store, open_store: Callable[[], Store]) -> None:
    other = open_store()
    other.changed()
    store.declare_exchange("events", "topic", {"alternate-exchange": "lost"})
    store.declare_queue("r", {})
    store.bind("events", "a.*", "r")
    assert not other.changed()


# -- publishing is all or nothing


def test_an_error_in_the_middle_of_a_batch_leaves_nothing_half_done(store: Store) -> None:
    def batch() -> Iterator[Outgoing]:
        yield message("a.b", exchange="events")
        raise LookupError

    with pytest.raises(LookupError):
        store.publish(batch())
    assert rows(store) == 0
    store.publish([message("r")])
    assert store.size("r") == 1


def test_concurrent_publishers_lose_nothing(store: Store, file: Path) -> None:
    code = "for i in range(200): s.publish([Outgoing('events', 'a.b', 0, b'{}', b'%d-%d' % (os.getpid(), i))])"
    processes = [run(file, code) for _ in range(3)]

    def publish(_: int) -> None:
        for i in range(200):
            store.publish([message("a.b", b"here-%d" % i, exchange="events")])

    in_threads(2, publish)
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (store.size("q"), store.size("r")) == (1000, 1000)
    assert len(set(bodies(store, "q", 2000))) == 3 * 200 + 200


# -- taking


def test_the_most_urgent_message_comes_first_and_equals_in_their_order(store: Store) -> None:
    for body, priority in ((b"low", 0), (b"high-1", 9), (b"mid", 5), (b"high-2", 9)):
        store.publish([message("q", body, priority)])
    assert bodies(store, "q", 2) == [b"high-1", b"high-2"]
    assert bodies(store, "q") == [b"mid", b"low"]


def test_a_claim_takes_no_more_than_it_may_from_all_queues_together(store: Store) -> None:
    store.publish([message(queue) for queue in ("q", "q", "r", "r")])
    first = store.claim(["r", "q"], 3)
    assert [claimed.queue for claimed in first] == ["r", "r", "q"]
    assert [claimed.queue for claimed in store.claim(["r", "q"], 3)] == ["q"]
    assert store.claim(["r", "q"], 3) == []


def test_what_one_holds_nobody_else_gets(store: Store, open_store: Callable[[], Store]) -> None:
    store.publish([message("q")])
    other = open_store()
    assert len(store.claim(["q"], 10)) == 1
    assert other.claim(["q"], 10) == []
    assert (store.size("q"), rows(store)) == (0, 1)


def test_an_ack_deletes_the_message_with_the_next_settling(store: Store) -> None:
    store.publish([message("q"), message("q")])
    one, two = store.claim(["q"], 2)
    store.ack(one.id)
    store.settle()
    assert rows(store) == 1
    store.ack(two.id)
    store.claim(["q"], 1)
    assert rows(store) == 0


def test_acks_outlive_a_transaction_that_failed(store: Store) -> None:
    store.publish([message("q"), message("q"), message("q")])
    for claimed in store.claim(["q"], 2):
        store.ack(claimed.id)
    store._database.read("CREATE TEMP TRIGGER fails BEFORE UPDATE ON main.messages BEGIN SELECT RAISE(FAIL, 'no'); END")
    with pytest.raises(EmbeddedBrokerError):
        store.claim(["q"], 1)
    assert rows(store) == 3, "rolled back"
    store._database.read("DROP TRIGGER fails")
    store.settle()
    assert rows(store) == 1


def test_nobody_can_ack_what_another_holds(store: Store, open_store: Callable[[], Store]) -> None:
    store.publish([message("q")])
    (claimed,) = store.claim(["q"], 1)
    other = open_store()
    other.claim(["r"], 1)
    other.ack(claimed.id)
    other.settle()
    other.requeue(claimed.id)
    other.reject(claimed.id)
    assert (rows(store), store.size("q"), store.size("q.dead")) == (1, 0, 0)


def test_a_requeued_message_is_back_in_its_place_and_known_to_be_redelivered(store: Store) -> None:
    store.publish([message("q", b"1"), message("q", b"2")])
    (first,) = store.claim(["q"], 1)
    assert (first.body, first.deliveries) == (b"1", 1)
    store.requeue(first.id)
    again, _ = store.claim(["q"], 2)
    assert (again.body, again.deliveries) == (b"1", 2)


def test_a_rejected_message_moves_to_its_queues_dead_letters_as_it_is(store: Store) -> None:
    store.publish([Outgoing("", "q", 3, b'{"meta": 1}', b"body")])
    (claimed,) = store.claim(["q"], 1)
    store.reject(claimed.id)
    (dead,) = store.claim(["q.dead"], 10)
    assert (dead.meta, dead.body, rows(store)) == (b'{"meta": 1}', b"body", 1)


def test_a_message_rejected_from_a_queue_without_dead_letters_is_deleted(store: Store) -> None:
    store.publish([message("r")])
    (claimed,) = store.claim(["r"], 1)
    store.reject(claimed.id)
    assert rows(store) == 0


def test_purging_leaves_what_somebody_holds(store: Store) -> None:
    store.publish([message("q"), message("q"), message("q"), message("r")])
    store.claim(["q"], 1)
    assert store.purge("q") == 2
    assert (rows(store), store.size("r")) == (2, 1)


def test_closing_gives_back_what_was_held_and_keeps_what_was_acked(
    store: Store, open_store: Callable[[], Store]
) -> None:
    store.publish([message("q", b"acked"), message("q", b"held")])
    other = open_store()
    acked, _ = other.claim(["q"], 2)
    other.ack(acked.id)
    other.close()
    assert bodies(store, "q") == [b"held"]


# -- limits


@pytest.mark.parametrize("between", [0, 1, 3])
@pytest.mark.parametrize("limit", [1, 10, 100])
def test_a_limited_queue_drops_its_oldest_messages_whatever_is_published_between(
    store: Store, between: int, limit: int
) -> None:
    store.declare_queue("limited", {"x-max-length": limit})
    for n in range(300):
        store.publish([message("limited", b"%d" % n)])
        for _ in range(between):
            store.publish([message("r")])
        assert store.size("limited") <= limit * 1.1
    assert bodies(store, "limited")[-limit:] == [b"%d" % n for n in range(300 - limit, 300)]
    assert store.size("r") == between * 300


def test_a_batch_may_be_longer_than_a_limited_queue(store: Store) -> None:
    store.declare_queue("limited", {"x-max-length": 10})
    store.publish([message("limited", b"%d" % n) for n in range(300)])
    assert bodies(store, "limited") == [b"%d" % n for n in range(290, 300)]


def test_what_a_limited_queue_drops_goes_to_its_dead_letters_in_order(store: Store) -> None:
    store.declare_exchange("x", "direct", {})
    store.declare_queue("dead", {})
    store.bind("x", "dead", "dead")
    arguments = {"x-max-length": 5, "x-dead-letter-exchange": "x", "x-dead-letter-routing-key": "dead"}
    store.declare_queue("limited", arguments)
    for n in range(20):
        store.publish([message("limited", b"%d" % n)])
    assert bodies(store, "dead") == [b"%d" % n for n in range(15)]
    assert bodies(store, "limited") == [b"%d" % n for n in range(15, 20)]


# -- changes


def test_a_change_by_another_connection_is_seen_once(store: Store, open_store: Callable[[], Store]) -> None:
    other = open_store()
    other.changed()
    assert not other.changed()
    store.publish([message("q")])
    assert other.changed()
    assert not other.changed()


def test_a_change_during_a_fork_is_seen_after_it(store: Store, open_store: Callable[[], Store]) -> None:
    # The connection is closed meanwhile, and SQLite counts changes for each connection.
    other = open_store()
    other.changed()
    other._database.before_fork()
    store.publish([message("q")])
    other._database.after_fork(child=False)
    assert other.changed()
    assert not other.changed()
