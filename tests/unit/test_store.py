"""The embedded broker's file: atomic, ordered, and safe from processes that die."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.store import TRIM_EVERY, Outgoing, Store
from pipeline.errors import EmbeddedBrokerBusy, EmbeddedBrokerError
from tests.servers import wait_for


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "broker.db"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[[], Store]]:
    stores: list[Store] = []

    def open_one() -> Store:
        stores.append(Store(path))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    """A store with queues `q` and `r`, both bound to `events`; `q` has dead letters."""
    one = open_store()
    one.declare_exchange("events", "topic", {"alternate-exchange": "lost"})
    one.declare_exchange("lost", "fanout", {})
    one.declare_exchange("dead", "direct", {})
    one.declare_queue("q", {"x-dead-letter-exchange": "dead", "x-dead-letter-routing-key": "q.dead"})
    for queue in ("r", "q.dead", "lost"):
        one.declare_queue(queue, {})
    one.bind("dead", "q.dead", "q.dead")
    one.bind("lost", "", "lost")
    one.bind("events", "a.#", "q")
    one.bind("events", "a.*", "r")
    return one


def message(key: str, body: bytes = b"x", priority: int = 0, exchange: str = "") -> Outgoing:
    return Outgoing(exchange, key, priority, b"{}", body)


def bodies(store: Store, queue: str, limit: int = 1000) -> list[bytes]:
    return [claimed.body for claimed in store.claim([queue], limit)]


def rows(store: Store) -> int:
    count: int = store._database.read("SELECT count(*) FROM messages")[0][0]
    return count


def run(path: Path, code: str, **options: Any) -> subprocess.Popen[str]:
    """Start a process that runs `code` with a store `s` on the file."""
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom pipeline.embedded.store import Outgoing, Store\n"
        f"s = Store(Path(sys.argv[1]))\n{code}"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(path)], text=True, **options)


def run_and_kill(path: Path, code: str) -> None:
    """Run `code` in a process of its own and kill it there with SIGKILL."""
    process = run(path, f"{code}\nos.kill(os.getpid(), signal.SIGKILL)")
    assert process.wait(30) == -signal.SIGKILL


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


def limit_pages(store: Store, more: int) -> None:
    """Let the file grow by `more` pages only, as a full disk would."""
    pages = store._database.read("PRAGMA page_count")[0][0]
    store._database.read(f"PRAGMA max_page_count = {pages + more}")


def test_a_full_disk_leaves_nothing_half_done_and_is_worth_another_try(store: Store) -> None:
    limit_pages(store, 2)
    big = [message("a.b", b"x" * 1000, exchange="events") for _ in range(50)]
    with pytest.raises(EmbeddedBrokerBusy, match=r"cannot grow \(.*full\): free space on its disk"):
        store.publish(big)
    assert rows(store) == 0
    store._database.read("PRAGMA max_page_count = 1000000")
    store.publish(big)
    assert (store.size("q"), store.size("r")) == (50, 50)


def test_an_error_in_the_middle_of_a_batch_leaves_nothing_half_done(store: Store) -> None:
    def batch() -> Iterator[Outgoing]:
        yield message("a.b", exchange="events")
        raise LookupError

    with pytest.raises(LookupError):
        store.publish(batch())
    assert rows(store) == 0
    store.publish([message("r")])
    assert store.size("r") == 1


def test_concurrent_publishers_lose_nothing(store: Store, path: Path) -> None:
    code = "for i in range(200): s.publish([Outgoing('events', 'a.b', 0, b'{}', b'%d-%d' % (os.getpid(), i))])"
    processes = [run(path, code) for _ in range(3)]

    def publish() -> None:
        for i in range(200):
            store.publish([message("a.b", b"here-%d" % i, exchange="events")])

    threads = [threading.Thread(target=publish) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (store.size("q"), store.size("r")) == (1000, 1000)
    assert len(set(bodies(store, "q", 2000))) == 3 * 200 + 200


def test_a_publisher_waits_for_the_files_lock_no_longer_than_it_says(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(EmbeddedBrokerBusy, match=r"was locked for 0\.05 s by another process"):
        store.publish([message("q")], timeout=0.05)
    other.execute("COMMIT")
    other.close()
    store.publish([message("q")], timeout=0.05)
    assert store.size("q") == 1


def test_a_signal_while_waiting_for_the_lock_leaves_no_lock_behind(store: Store, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    class SoftLimitError(Exception):
        pass

    def raise_it(*_: object) -> None:
        raise SoftLimitError

    before = signal.signal(signal.SIGALRM, raise_it)
    release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    try:
        release.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(SoftLimitError):
            store.publish([message("q")])
    finally:
        signal.signal(signal.SIGALRM, before)
        release.join()
    other.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    other.close()
    store.publish([message("q")])
    assert store.size("q") == 1, "only the second one: the first was given up"


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
def test_a_limited_queue_drops_its_oldest_messages_whatever_is_published_between(store: Store, between: int) -> None:
    store.declare_queue("limited", {"x-max-length": 10})
    for n in range(3 * TRIM_EVERY):
        store.publish([message("limited", b"%d" % n)])
        for _ in range(between):
            store.publish([message("r")])
    assert store.size("limited") <= 10 + TRIM_EVERY
    assert bodies(store, "limited")[-1] == b"%d" % (3 * TRIM_EVERY - 1)
    assert store.size("r") == between * 3 * TRIM_EVERY


# -- changes


def test_a_change_by_another_connection_is_seen_once(store: Store, open_store: Callable[[], Store]) -> None:
    other = open_store()
    other.changed()
    assert not other.changed()
    store.publish([message("q")])
    assert other.changed()
    assert not other.changed()


# -- processes that die


def test_what_a_killed_process_held_is_delivered_again(store: Store, path: Path) -> None:
    store.publish([message("q", b"1"), message("q", b"2")])
    run_and_kill(path, "assert len(s.claim(['q'], 1)) == 1")
    assert store.size("q") == 1
    assert store.reap() == 1
    first, _ = store.claim(["q"], 2)
    assert (first.body, first.deliveries) == (b"1", 2)
    assert store.reap() == 0


def test_what_a_living_process_holds_is_left_alone(store: Store, path: Path, open_store: Callable[[], Store]) -> None:
    store.publish([message("q"), message("q")])
    code = "s.claim(['q'], 1)\nprint('ready', flush=True)\nsys.stdin.read()"
    process = run(path, code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    other = open_store()
    other.claim(["q"], 1)  # a second consumer in this very process
    assert (store.reap(), store.size("q")) == (0, 0)
    process.kill()
    process.communicate()
    assert (store.reap(), store.size("q")) == (1, 1)


def test_one_file_under_two_names_has_one_set_of_owners(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish([message("q")])
    store.claim(["q"], 1)
    monkeypatch.chdir(path.parent)
    link = path.parent / "link"
    link.symlink_to(path.parent)
    for spelled in (Path("broker.db"), link / "broker.db"):
        other = Store(spelled)
        assert (other.reap(), other.claim(["q"], 1)) == (0, [])
        other.close()
    assert other.reap() == 0, "closing the others let go of nothing"


def test_an_auto_delete_queue_goes_with_its_process(store: Store, path: Path) -> None:
    run_and_kill(path, "s.declare_queue('reply', {}, auto_delete=True); s.bind('events', '#', 'reply')")
    store.publish([message("a.b", exchange="events")])
    assert (store.exists("reply"), store.size("reply")) == (True, 1)
    store.reap()
    assert not store.exists("reply")
    store.publish([message("a.b", exchange="events")])
    assert (store.size("reply"), rows(store)) == (0, 4)


def test_an_auto_delete_queue_goes_when_its_connection_closes(store: Store, open_store: Callable[[], Store]) -> None:
    other = open_store()
    other.declare_queue("reply", {}, auto_delete=True)
    other.close()
    assert not store.exists("reply")


def test_an_exclusive_queue_is_known_to_be_held_only_while_its_process_lives(
    store: Store, open_store: Callable[[], Store], path: Path
) -> None:
    other = open_store()
    other.declare_queue("mailbox", {}, auto_delete=True)
    assert store.held_by_another("mailbox")
    assert not other.held_by_another("mailbox")
    assert not store.held_by_another("q")
    other.close()
    run_and_kill(path, "s.declare_queue('mailbox', {}, auto_delete=True)")
    assert store.exists("mailbox")
    assert not store.held_by_another("mailbox")


def test_a_process_killed_while_it_publishes_leaves_whole_batches(store: Store, path: Path) -> None:
    code = "while True: s.publish([Outgoing('', 'q', 0, b'{}', b'x') for _ in range(10)])"
    process = run(path, code)
    wait_for(lambda: store.size("q") >= 100, "some batches")
    process.kill()
    process.wait(30)
    assert store.size("q") % 10 == 0
    store.publish([message("q")])
    assert store._database.read("PRAGMA integrity_check") == [("ok",)]


# -- forks


def test_a_forked_child_and_its_parent_write_to_the_same_file(tmp_path: Path) -> None:
    # SQLite's locks do not cross a fork, but its idea of them does: a child that inherits an open connection writes to
    # a log that the last one to close deletes.
    path = tmp_path / "broker.db"
    code = """
s.declare_queue('q', {})
s.publish([Outgoing('', 'q', 0, b'{}', b'parent')])
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()
if os.fork() == 0:
    mine = Store(Path(sys.argv[1]))
    mine.publish([Outgoing('', 'q', 0, b'{}', b'child')])
    os.write(to_parent, b'1')
    os.read(from_parent, 1)
    for n in range(10):
        mine.publish([Outgoing('', 'q', 0, b'{}', b'child')])
    os.write(to_parent, b'2')
    os.read(from_parent, 1)
    os.kill(os.getpid(), signal.SIGKILL)
os.read(from_child, 1)
s.close()
os.write(to_child, b'1')
os.read(from_child, 1)
print(Store(Path(sys.argv[1])).size('q'), flush=True)
os.write(to_child, b'2')
os.wait()
"""
    process = run(path, code, stdout=subprocess.PIPE)
    assert process.communicate(timeout=30)[0] == "12\n"
    store = Store(path)
    assert store.size("q") == 12
    store.close()


def test_a_fork_leaves_the_parents_store_as_it_was(store: Store) -> None:
    store.publish([message("q"), message("q")])
    (claimed,) = store.claim(["q"], 1)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if store.inherited else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not store.inherited
    assert store.reap() == 0
    store.ack(claimed.id)
    store.settle()
    assert (rows(store), store.size("q")) == (1, 1)


def test_a_child_that_closes_what_it_inherited_takes_nothing_from_its_parent(
    store: Store, open_store: Callable[[], Store]
) -> None:
    store.publish([message("q")])
    store.claim(["q"], 1)
    pid = os.fork()
    if pid == 0:
        store.close()
        os._exit(0)
    os.waitpid(pid, 0)
    other = open_store()
    assert (other.reap(), other.size("q")) == (0, 0)


# -- files that cannot be used


def test_a_damaged_file_says_what_to_do(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database " * 100)
    with pytest.raises(EmbeddedBrokerError, match=r"broker\.db is damaged .*move the file away") as caught:
        Store(path)
    assert not isinstance(caught.value, EmbeddedBrokerBusy), "another try would not help"


def test_a_file_of_a_newer_version_is_refused(path: Path, open_store: Callable[[], Store]) -> None:
    open_store().close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(EmbeddedBrokerError, match=r"written by a newer version \(.*99, known 1\)"):
        Store(path)


def test_a_file_that_is_something_else_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id = 7")
    db.close()
    with pytest.raises(EmbeddedBrokerError, match="in use for something else"):
        Store(path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedBrokerError, match=r"file/broker\.db cannot be opened"):
        Store(tmp_path / "file" / "broker.db")


def test_a_path_that_is_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedBrokerError, match=r"cannot be used \(unable to open database file\)"):
        Store(tmp_path)
