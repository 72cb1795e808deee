"""The embedded broker's file when it is full, locked or damaged, and when the processes that use it fork or die."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.brokers.embedded.store import Store
from pipeline.core.errors import EmbeddedBrokerBusy, EmbeddedBrokerError
from tests.servers import wait_for
from tests.stores import message, rows, run, run_and_kill

# -- full and locked


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


def test_a_publisher_waits_for_the_files_lock_no_longer_than_it_says(store: Store, file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(EmbeddedBrokerBusy, match=r"was locked for [\d.]+ s by another process"):
        store.publish([message("q")], timeout=0.05)
    other.execute("COMMIT")
    other.close()
    store.publish([message("q")], timeout=0.05)
    assert store.size("q") == 1


def test_a_signal_while_waiting_for_the_lock_leaves_no_lock_behind(store: Store, file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    class SoftLimitError(Exception):
        pass

    def raise_it(*_: object) -> None:
        raise SoftLimitError

    def publish_and_be_interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        store.publish([message("q")])

    before = signal.signal(signal.SIGALRM, raise_it)
    release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    try:
        release.start()
        with pytest.raises(SoftLimitError):
            publish_and_be_interrupted()
    finally:
        signal.signal(signal.SIGALRM, before)
        release.join()
    other.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    other.close()
    store.publish([message("q")])
    assert store.size("q") == 1, "only the second one: the first was given up"


# -- processes that die


def test_what_a_killed_process_held_is_delivered_again(store: Store, file: Path) -> None:
    store.publish([message("q", b"1"), message("q", b"2")])
    run_and_kill(file, "assert len(s.claim(['q'], 1)) == 1")
    assert store.size("q") == 1
    assert store.reap() == 1
    first, _ = store.claim(["q"], 2)
    assert (first.body, first.deliveries) == (b"1", 2)
    assert store.reap() == 0


def test_a_store_that_cannot_give_back_what_it_holds_when_it_closes_holds_it_no_longer(
    store: Store, file: Path, open_store: Callable[[], Store]
) -> None:
    store.publish([message("q", b"1"), message("q", b"2")])
    holder = open_store()
    assert len(holder.claim(["q"], 2)) == 2
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    holder.be_patient(0.05)
    with pytest.raises(EmbeddedBrokerBusy):
        holder.close()
    other.execute("COMMIT")
    other.close()
    assert store.reap() == 1
    assert len(store.claim(["q"], 2)) == 2


def test_what_a_living_process_holds_is_left_alone(store: Store, file: Path, open_store: Callable[[], Store]) -> None:
    store.publish([message("q"), message("q")])
    code = "s.claim(['q'], 1)\nprint('ready', flush=True)\nsys.stdin.read()"
    process = run(file, code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    other = open_store()
    other.claim(["q"], 1)  # a second consumer in this very process
    assert (store.reap(), store.size("q")) == (0, 0)
    process.kill()
    process.communicate()
    assert (store.reap(), store.size("q")) == (1, 1)


def test_one_file_under_two_names_has_one_set_of_owners(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish([message("q")])
    store.claim(["q"], 1)
    monkeypatch.chdir(file.parent)
    link = file.parent / "link"
    link.symlink_to(file.parent)
    for spelled in (Path("broker.db"), link / "broker.db"):
        other = Store(spelled)
        assert (other.reap(), other.claim(["q"], 1)) == (0, [])
        other.close()
    assert other.reap() == 0, "closing the others let go of nothing"


def test_an_auto_delete_queue_goes_with_its_process(store: Store, file: Path) -> None:
    run_and_kill(file, "s.declare_queue('reply', {}, auto_delete=True); s.bind('events', '#', 'reply')")
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
    store: Store, open_store: Callable[[], Store], file: Path
) -> None:
    other = open_store()
    other.declare_queue("mailbox", {}, auto_delete=True)
    assert store.held_by_another("mailbox")
    assert not other.held_by_another("mailbox")
    assert not store.held_by_another("q")
    other.close()
    run_and_kill(file, "s.declare_queue('mailbox', {}, auto_delete=True)")
    assert store.exists("mailbox")
    assert not store.held_by_another("mailbox")


def test_a_process_killed_while_it_publishes_leaves_whole_batches(store: Store, file: Path) -> None:
    code = "while True: s.publish([Outgoing('', 'q', 0, b'{}', b'x') for _ in range(10)])"
    process = run(file, code)
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
    file = tmp_path / "broker.db"
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
    process = run(file, code, stdout=subprocess.PIPE)
    assert process.communicate(timeout=30)[0] == "12\n"
    store = Store(file)
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


def test_a_damaged_file_says_what_to_do(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"this is not a database " * 100)
    with pytest.raises(EmbeddedBrokerError, match=r"broker\.db is damaged .*move the file away") as caught:
        Store(file)
    assert not isinstance(caught.value, EmbeddedBrokerBusy), "another try would not help"


def test_a_file_of_a_newer_version_is_refused(file: Path, open_store: Callable[[], Store]) -> None:
    open_store().close()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(EmbeddedBrokerError, match=r"written by a newer version \(.*99, known 1\)"):
        Store(file)


def test_a_file_that_is_something_else_is_refused(file: Path) -> None:
    file.parent.mkdir()
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA application_id = 7")
    db.close()
    with pytest.raises(EmbeddedBrokerError, match="in use for something else"):
        Store(file)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedBrokerError, match=r"file/broker\.db cannot be opened"):
        Store(tmp_path / "file" / "broker.db")


def test_a_path_that_is_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedBrokerError, match=r"cannot be used \(unable to open database file\)"):
        Store(tmp_path)
