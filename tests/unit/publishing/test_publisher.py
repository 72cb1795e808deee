"""Publishing: links are used again, failures are bounded in time, and forks share nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from pipeline import BrokerUnavailable, ConfigError, EventTooLarge, InvalidEvent, Pipeline, UnknownAgent
from pipeline.core.event import CONTENT_TYPE, Encoded, new_event
from pipeline.publishing import publisher
from pipeline.publishing.link import Link, wire_headers
from pipeline.publishing.publisher import MAX_IDLE
from tests.servers import AT_MOST, free_port
from tests.threads import in_threads


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Pipeline]:
    one = Pipeline("test", directory=tmp_path, ledger_url="", broker_url=f"sqlite:///{tmp_path / 'broker.db'}")
    yield one
    one.close()


@pytest.fixture
def links(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[Link]:
    """The links that the publisher opens."""
    opened: list[Link] = []
    connect = app.bus.publisher.connect

    def record(deadline: float) -> Link:
        opened.append(connect(deadline))
        return opened[-1]

    monkeypatch.setattr(app.bus.publisher, "connect", record)
    return opened


class FakeLink:
    """A link that records what is sent, and fails as often as it is told to."""

    def __init__(self, failures: int = 0, error: type[Exception] = ConnectionError) -> None:
        self.failures, self.error = failures, error
        self.sent: list[str] = []
        self.closed = False

    def send(self, batch: Sequence[Encoded], **_: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error("broken")
        self.sent += [each.event.type for each in batch]

    def limit(self, deadline: float) -> None: ...

    def close(self, deadline: float) -> None:
        self.closed = True

    def abandon(self) -> None:
        self.closed = True


def unrouted(app: Pipeline) -> list[tuple[dict[str, Any], bytes, int]]:
    """Return what lies in the embedded broker's queue of unrouted events."""
    return waiting(app, "events.unrouted")


def waiting(app: Pipeline, queue: str) -> list[tuple[dict[str, Any], bytes, int]]:
    """Return meta, body and priority of what lies in a queue of the embedded broker."""
    file = app.settings.effective_broker_url.removeprefix("sqlite:///")
    with sqlite3.connect(file) as db:
        found = db.execute("SELECT meta, body, priority FROM messages WHERE queue=? ORDER BY id", (queue,)).fetchall()
    db.close()
    return [(json.loads(meta), body, priority) for meta, body, priority in found]


# -- what is sent


def test_an_event_is_one_message_with_its_headers_and_priority(app: Pipeline) -> None:
    event = app.publish("a.b", {"n": 1}, priority=2)
    ((meta, body, priority),) = unrouted(app)
    assert body == event.encode()
    assert meta["headers"] == wire_headers(Encoded(event, body))
    assert (meta["content-type"], meta["content-encoding"], priority) == (CONTENT_TYPE, "utf-8", 8)
    assert meta["properties"]["delivery_mode"] == 2


def test_an_event_with_targets_is_a_message_in_each_of_their_queues_and_nowhere_else(app: Pipeline) -> None:
    with app.bus.publisher.channel() as channel:
        for agent in ("alpha", "beta", "gamma"):
            app.bus.names.agent_queue(agent, ("a.*",)).declare(channel=channel)
    event = app.publish("a.b", {"n": 1}, targets=("alpha", "beta"))
    taken = {agent: [body for _, body, _ in waiting(app, f"agent.{agent}")] for agent in ("alpha", "beta", "gamma")}
    assert taken == {"alpha": [event.encode()], "beta": [event.encode()], "gamma": []}
    assert unrouted(app) == []


def test_a_target_that_nobody_has_declared_is_an_error_and_nothing_is_sent(app: Pipeline) -> None:
    with app.bus.publisher.channel() as channel:
        app.bus.names.agent_queue("alpha", ("a.*",)).declare(channel=channel)
    with pytest.raises(UnknownAgent, match="no agent is called 'alpa'"):
        app.publish("a.b", {"n": 1}, targets=("alpha", "alpa"))
    assert (waiting(app, "agent.alpha"), unrouted(app)) == ([], [])


def test_dead_letters_cannot_be_aimed_at(app: Pipeline) -> None:
    with app.bus.publisher.channel() as channel:
        app.bus.names.agent_queue("alpha", ("a.*",)).declare(channel=channel)
    with pytest.raises(UnknownAgent, match=r"no agent is called 'alpha\.dead'"):
        app.publish("a.b", {"n": 1}, targets=("alpha.dead",))
    assert waiting(app, "agent.alpha.dead") == []


def test_the_headers_hold_what_a_worker_needs_before_it_decodes() -> None:
    first = new_event("a.b", source="/s")
    second = new_event("c.d", source="/s", cause=first, targets=("alpha", "beta"))
    assert wire_headers(Encoded(first, b"")) == {
        "id": first.id, "type": "a.b", "correlationid": first.id, "bus": {},
    }  # fmt: skip
    assert wire_headers(Encoded(second, b"")) == {
        "id": second.id, "type": "c.d", "correlationid": first.id, "causationid": first.id, "targets": "alpha,beta",
        "bus": {},
    }  # fmt: skip


def test_a_batch_arrives_in_its_order(app: Pipeline) -> None:
    events = app.publish_many([("a.b", {"n": n}) for n in range(50)])
    assert [body for _, body, _ in unrouted(app)] == [event.encode() for event in events]


def test_publishing_nothing_connects_to_nothing(app: Pipeline, links: list[Link]) -> None:
    assert app.publish_many([]) == []
    assert links == []


# -- links


def test_a_link_is_opened_on_the_first_publish_and_used_again(app: Pipeline, links: list[Link]) -> None:
    assert links == []
    for n in range(5):
        app.publish("a.b", n)
    assert len(links) == 1
    assert len(unrouted(app)) == 5


def test_threads_that_publish_at_the_same_time_have_links_of_their_own(
    app: Pipeline, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(3)
    send = Link.send

    def meet(self: Link, *args: Any, **kwargs: Any) -> None:
        meeting.wait(20)
        send(self, *args, **kwargs)

    monkeypatch.setattr(Link, "send", meet)
    in_threads(3, lambda n: app.publish("a.b", n))
    assert len(links) == 3
    assert len(unrouted(app)) == 3


def test_only_so_many_idle_links_are_kept(app: Pipeline) -> None:
    lent = [FakeLink() for _ in range(MAX_IDLE + 2)]
    waiting = iter(lent)
    app.bus.publisher.connect = lambda deadline: next(waiting)  # type: ignore[method-assign,assignment,return-value]
    borrowed = [app.bus.publisher._link(0.0) for _ in lent]
    for one in borrowed:
        one.__enter__()
    for one in borrowed:
        one.__exit__(None, None, None)
    assert [link.closed for link in lent] == [False] * MAX_IDLE + [True] * 2


def test_closing_closes_the_idle_links_and_the_next_publish_opens_a_new_one(app: Pipeline, links: list[Link]) -> None:
    app.publish("a.b")
    app.close()
    app.publish("a.b")
    assert len(links) == 2
    assert len(unrouted(app)) == 2


def test_a_link_that_died_unnoticed_is_replaced_with_its_siblings(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, sibling, fresh = FakeLink(failures=1), FakeLink(), FakeLink()
    app.bus.publisher._idle.extend([sibling, dead])  # type: ignore[list-item]
    monkeypatch.setattr(app.bus.publisher, "connect", lambda deadline: fresh)
    monkeypatch.setattr(publisher, "sleep", lambda seconds: None)
    app.publish("a.b")
    assert (dead.closed, sibling.closed, fresh.closed) == (True, True, False)
    assert (dead.sent, sibling.sent, fresh.sent) == ([], [], ["a.b"])


def test_an_error_that_is_not_the_brokers_is_not_tried_again(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = FakeLink(failures=1, error=LookupError)
    monkeypatch.setattr(app.bus.publisher, "connect", lambda deadline: broken)
    with pytest.raises(LookupError):
        app.publish("a.b")
    assert broken.closed


@pytest.mark.parametrize("confirm", [True, False])
def test_whether_confirms_are_waited_for_is_a_setting(tmp_path: Path, confirm: bool) -> None:
    app = Pipeline("test", directory=tmp_path, confirm=confirm, ledger_url="")
    asked: list[bool] = []

    class Asking(FakeLink):
        def send(self, batch: Sequence[Encoded], *, confirm: bool, **_: Any) -> None:
            asked.append(confirm)

    app.bus.publisher._idle.append(Asking())  # type: ignore[arg-type]
    app.publish("a.b")
    assert asked == [confirm]
    app.close()


# -- too large


def test_an_event_may_be_as_large_as_the_limit(tmp_path: Path) -> None:
    app = Pipeline("test", directory=tmp_path, max_event_bytes=2000, ledger_url="")
    room = 2000 - len(new_event("a.b", "", source=app.source).encode())
    app.publish("a.b", "x" * room)
    with pytest.raises(
        EventTooLarge, match=r"^data: event 'a\.b' takes 2,001 bytes, 1,723 of them here, the limit is 2,0"
    ):
        app.publish("a.b", "x" * (room + 1))
    app.close()


@pytest.mark.parametrize("wrong", [("a.b", "x" * 300_000), ("a.b", {1, 2}), ("no type", 1)])
def test_a_batch_with_one_wrong_event_sends_none(app: Pipeline, links: list[Link], wrong: tuple[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        app.publish_many([("a.b", 1), wrong, ("a.b", 2)])
    assert links == []


# -- the broker is away


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_is_not_there_is_reported_in_time(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://user:secret@127.0.0.1:{free_port()}/"
    app = Pipeline("test", directory=tmp_path, broker_url=url, publish_timeout=0.4, ledger_url="")
    app.celery.connection_for_write().get_transport_cls()  # importing the client is not what is measured
    started = time.monotonic()
    with pytest.raises(
        BrokerUnavailable, match=r"did not take the event within 0\.4 s .*PIPELINE_BROKER_URL"
    ) as caught:
        app.publish("a.b")
    assert time.monotonic() - started < AT_MOST
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


def test_targets_are_looked_up_within_the_same_bounds(tmp_path: Path) -> None:
    url = f"amqp://127.0.0.1:{free_port()}/"
    app = Pipeline("test", directory=tmp_path, broker_url=url, publish_timeout=0.4, ledger_url="")
    with pytest.raises(BrokerUnavailable, match=r"within 0\.4 s"):
        app.publish("a.b", targets=("alpha",))


def test_a_timeout_given_with_the_event_wins_over_the_setting(tmp_path: Path) -> None:
    app = Pipeline(
        "test", directory=tmp_path, broker_url=f"redis://127.0.0.1:{free_port()}/0", publish_timeout=600, ledger_url=""
    )
    with pytest.raises(BrokerUnavailable, match=r"within 0\.2 s"):
        app.publish("a.b", timeout=0.2)


def test_the_embedded_brokers_lock_is_waited_for_in_the_same_bounds(app: Pipeline) -> None:
    app.publish("a.b")
    other = sqlite3.connect(app.settings.effective_broker_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"within 0\.4 s: .*locked"):
        app.publish("a.b", timeout=0.4)
    assert time.monotonic() - started < AT_MOST
    other.execute("COMMIT")
    other.close()
    app.publish("a.b")
    assert len(unrouted(app)) == 2


def test_what_waiting_cannot_cure_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broker.db").write_bytes(b"no database" * 100)

    def never(seconds: float) -> None:
        raise AssertionError("waited for a damaged file")

    monkeypatch.setattr(publisher, "sleep", never)
    app = Pipeline("test", directory=tmp_path, ledger_url="")
    with pytest.raises(BrokerUnavailable, match="is damaged"):
        app.publish("a.b")


def test_a_broker_that_comes_back_in_time_gets_the_event(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    link, waits = FakeLink(failures=2), []
    monkeypatch.setattr(app.bus.publisher, "connect", lambda deadline: link)
    monkeypatch.setattr(publisher, "sleep", waits.append)
    app.publish("a.b")
    assert link.sent == ["a.b"]
    assert len(waits) == 2


@pytest.mark.parametrize("ledger", ["", None])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://", r"does not work through kombu\.transport\.memory\.Transport; use sqlite://, amqp:// or redis://"),
        ("sqlalchemy+sqlite:///other.db", r"does not work through kombu\.transport\.sqlalchemy\.Transport"),
        ("sentinel://127.0.0.1:26379", r"redis:// with the address of a proxy that follows the Sentinels' master"),
    ],
)
def test_a_broker_that_the_bus_does_not_know_is_refused_before_anything_is_written(
    tmp_path: Path, ledger: str | None, url: str, said: str
) -> None:
    app = Pipeline(Celery("test", broker=url, set_as_current=False), directory=tmp_path, ledger_url=ledger)
    with pytest.raises(ConfigError, match=said):
        app.publish("a.b")
    with pytest.raises(ConfigError, match=said):
        app.publish_many([("a.b", {})])
    if ledger is None:
        with pytest.raises(ConfigError, match=said):
            app.publish("a.b", delay=5)
        assert list(app.get_events()) == []
    app.close()


def test_a_setting_that_names_a_sentinel_says_what_to_use_instead() -> None:
    with pytest.raises(ConfigError, match=r"broker_url: .*a proxy that follows the Sentinels' master"):
        Pipeline("test", broker_url="sentinel://127.0.0.1:26379", ledger_url="")


# -- forks


FORK = """
import os, sys
from pathlib import Path
from pipeline import Pipeline
app = Pipeline("test", directory=Path(sys.argv[1]), ledger_url="")
app.publish("a.b", "parent before")
parents = app.bus.publisher._idle[0]
if os.fork() == 0:
    for n in range(5):
        app.publish("a.b", f"child {n}")
    assert app.bus.publisher._idle[0] is not parents, "the child uses its parent's link"
    assert app.bus.publisher._idle[0].connection is not parents.connection
    app.close()
    os._exit(0)
assert os.wait()[1] == 0
app.publish("a.b", "parent after")
assert app.bus.publisher._idle[0] is parents, "the parent lost its link"
app.close()
"""


def test_after_a_fork_the_child_opens_a_link_and_the_parents_still_works(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], check=True, timeout=60)
    found = [json.loads(body)["data"] for _, body, _ in unrouted(Pipeline("test", directory=tmp_path, ledger_url=""))]
    assert found == ["parent before", *(f"child {n}" for n in range(5)), "parent after"]
