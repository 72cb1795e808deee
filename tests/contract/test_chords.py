"""Chords end in the same way on the embedded results and on Celery's Redis backend, whatever becomes of a member."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import VERSION, Celery, chain, chord, group
from celery.canvas import Signature
from celery.result import AsyncResult
from kombu import pools
from kombu.utils.uuid import uuid

from pipeline import Pipeline
from tests.apps.chords_app import declare
from tests.harness import Broker, Worker, flush, revoke
from tests.servers import Server, wait_for

#: How long a chord may take while the worker runs all of them.
PATIENCE = 90.0
PAST = datetime(2020, 1, 1, tzinfo=UTC)
#: What becomes of a member: its state, and what the chord's error says about it.
ENDS = {
    "fails": ("FAILURE", "ValueError('bad')"),
    "is revoked": ("REVOKED", "TaskRevokedError('revoked')"),
    "expires": ("REVOKED", "TaskRevokedError('expired')"),
    "is killed": ("FAILURE", "signal 9 (SIGKILL)"),
    "expires while it waits": ("REVOKED", "TaskRevokedError('expired')"),
}
WHERE = {"first": (0,), "middle": (1,), "last": (2,), "every": (0, 1, 2)}
ERRBACKS = {"with an errback": True, "without": False}


class Site:
    """A broker with its results, a worker on it, and what is sent to it."""

    def __init__(self, broker: Broker, app: Pipeline) -> None:
        self.broker, self.app = broker, app
        self.tasks = declare(app.celery)
        self.worker = Worker(broker, "chords_app", "prefork", environment={"PIPELINE_RESULT_BACKEND": results(broker)})
        self.sent: dict[tuple[str, str, bool], tuple[list[str], AsyncResult]] = {}

    def member(self, end: str, id: str) -> Signature:
        """Return a member that ends in a certain way, whose id is known before it is sent."""
        match end:
            case "fails":
                made = self.tasks.bad.si()
            case "is killed":
                made = self.tasks.die.si()
            case "expires":
                made = self.tasks.ok.si(0).set(expires=PAST)
            case "expires while it waits":
                made = self.tasks.ok.si(0).set(expires=0.3, countdown=1)
            case _:
                made = self.tasks.ok.si(0)
        return made.set(task_id=id)

    def send(self, end: str, where: str, errback: bool) -> None:
        """Send a chord of three members, of which one or all end in a certain way."""
        ids = [uuid() for _ in range(3)]
        if end == "is revoked":
            revoke(self.app, [ids[place] for place in WHERE[where]])
        members = [
            self.member(end, id) if place in WHERE[where] else self.tasks.ok.si(place).set(task_id=id)
            for place, id in enumerate(ids)
        ]
        body = self.tasks.body.s()
        if errback:
            body = body.on_error(self.tasks.note.s(f"{end} {where}"))
        self.sent[end, where, errback] = (ids, chord(members, body).apply_async())

    def state(self, id: str) -> str:
        """Return a task's state when it is the last one."""
        result = AsyncResult(id, app=self.app.celery)
        wait_for(result.ready, f"task {id} to end", PATIENCE)
        return str(result.state)


def results(broker: Broker) -> str:
    return broker.url if broker.name == "redis" else ""


@pytest.fixture(scope="module", params=["embedded", "redis"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, servers: Callable[[str], Server]
) -> Broker:
    """A broker that keeps results too."""
    directory: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        return Broker("embedded", f"sqlite:///{directory / 'state' / 'broker.db'}", directory)
    server = servers("redis")
    found = Broker("redis", server.url, directory, server)  # type: ignore[attr-defined]
    flush(found)
    return found


@pytest.fixture(scope="module")
def site(broker: Broker) -> Iterator[Site]:
    """One worker for all chords of the matrix, which are sent at once."""
    app = Pipeline(
        "publisher", broker_url=broker.url, result_backend=results(broker), directory=broker.directory / "state"
    )
    site = Site(broker, app)
    site.worker.start()
    for end in ENDS:
        for where in WHERE:
            for errback in ERRBACKS.values():
                site.send(end, where, errback)
    yield site
    site.worker.kill()
    if broker.name == "redis":  # Celery leaves these connections to the garbage collector, and that to another test
        consumer = app.celery.backend.result_consumer
        consumer.stop()
        consumer._pubsub = None  # results that are collected later would open it again, to unsubscribe
        app.celery.backend.client.connection_pool.disconnect()
    app.close()
    app.celery.close()
    pools.reset()


@pytest.mark.parametrize("errback", ERRBACKS)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("end", ENDS)
def test_a_chord_fails_once_when_a_member_does_and_its_good_members_stay_good(
    site: Site, end: str, where: str, errback: str
) -> None:
    state, text = ENDS[end]
    ids, result = site.sent[end, where, ERRBACKS[errback]]
    assert site.state(result.id) == "FAILURE"
    assert type(result.result).__name__ == "ChordError"
    assert text in str(result.result)
    assert [site.state(id) for id in ids] == [state if place in WHERE[where] else "SUCCESS" for place in range(3)]
    if ERRBACKS[errback]:
        (line,) = site.broker.journal.lines(case=f"{end} {where}")
        assert line["error"] == "ChordError"
        assert text in line["text"]


def canvases(t: SimpleNamespace) -> dict[str, tuple[Signature, Any]]:
    """Return canvases with what their last task returns."""
    return {
        "no member": (chord([], t.body.s()), []),
        "one member": (chord([t.ok.si(1)], t.body.s()), [1]),
        "members in their order": (chord([t.ok.si(n) for n in range(20)], t.body.s()), list(range(20))),
        "a generator of members": (chord((t.ok.si(n) for n in range(3)), t.body.s()), [0, 1, 2]),
        "a group that goes on": (group(t.ok.si(1), t.ok.si(2)) | t.body.s(), [1, 2]),
        "a group in a chain": (chain(t.ok.si(1), group(t.plus.s(1), t.plus.s(2)), t.body.s()), [2, 3]),
        "a chain in a chord": (chord([chain(t.ok.si(1), t.plus.s(1)), t.ok.si(3)], t.body.s()), [2, 3]),
        "a chord in a chord": (
            chord([chord([t.ok.si(1), t.ok.si(2)], t.body.s()), t.ok.si(3)], t.body.s()), [[1, 2], 3],
        ),
        "a chord after a chord": (
            chord([t.ok.si(1), t.ok.si(2)], t.body.s()) | group(t.body.s(), t.body.s()) | t.body.s(), [[1, 2], [1, 2]],
        ),
        # Celery takes groups that are members apart before it sends them, the last one first.
        "a group in a chord": (chord([group(t.ok.si(1), t.ok.si(2)), t.ok.si(3)], t.body.s()), [2, 1, 3]),
        "a group at the end of a member": (
            chord([t.ok.si(1) | group(t.plus.s(1), t.plus.s(2)), t.ok.si(3)], t.body.s()), [[2, 3], 3],
        ),
        "groups at the ends of members of groups": (
            chord(
                [
                    t.ok.si(0) | group(t.plus.s(1), t.ok.si(1) | group(t.plus.s(1), t.plus.s(2))),
                    t.ok.si(3),
                    t.ok.si(4) | group(t.plus.s(1), t.plus.s(2)),
                ],
                t.body.s(),
            ),
            [[1, [2, 3]], 3, [5, 6]],
        ),
        "a member that is tried again": (chord([t.again.si(1), t.ok.si(2)], t.body.s()), [1, 2]),
        "a member that is replaced": (chord([t.replaced.si(1), t.ok.si(2)], t.body.s()), [1, 2]),
    }  # fmt: skip


TASKS = declare(Celery("names", set_as_current=False))


@pytest.mark.parametrize("name", canvases(TASKS))
def test_a_canvas_returns_its_results_in_their_structure(site: Site, name: str) -> None:
    if VERSION[:2] < (5, 7) and site.broker.name == "redis" and name == "groups at the ends of members of groups":
        pytest.skip("Celery 5.6 loses these results in Redis")
    signature, expected = canvases(site.tasks)[name]
    result = signature.apply_async()
    assert site.state(result.id) == "SUCCESS"
    assert result.result == expected


def test_a_member_may_add_another_to_its_chord(site: Site) -> None:
    result = chord([site.tasks.more.si(1), site.tasks.ok.si(3)], site.tasks.body.s()).apply_async()
    assert site.state(result.id) == "SUCCESS"
    assert sorted(result.result) == [1, 2, 3]


def failing(t: SimpleNamespace, name: str) -> dict[str, Signature]:
    """Return canvases that cannot succeed, with an errback at their end."""
    note = t.note.s(name)
    inner = chord([t.ok.si(1), t.bad.si()], t.body.s())
    return {
        "a chord that fails in a chord": chord([inner, t.ok.si(3)], t.body.s().on_error(note)),
        "a group that fails in a chord": chord([group(t.ok.si(1), t.bad.si()), t.ok.si(3)], t.body.s().on_error(note)),
        "a chain that fails in a chord": chord([t.bad.si() | t.plus.s(1), t.ok.si(3)], t.body.s().on_error(note)),
        "a body that fails": chord([t.ok.si(1), t.ok.si(2)], t.bad.si().on_error(note)),
    }


@pytest.mark.parametrize("name", failing(TASKS, ""))
def test_a_canvas_that_cannot_succeed_fails_and_calls_its_errback_once(site: Site, name: str) -> None:
    if (site.broker.name, name) == ("redis", "a chord that fails in a chord"):
        pytest.skip("Celery's Redis backend leaves the outer chord waiting")
    result = failing(site.tasks, name)[name].apply_async()
    assert site.state(result.id) == "FAILURE"
    wait_for(lambda: site.broker.journal.lines(case=name), "the errback")
    (line,) = site.broker.journal.lines(case=name)
    assert "bad" in line["text"]


def test_the_worker_has_survived_all_of_it(site: Site) -> None:
    for _, result in site.sent.values():
        site.state(result.id)
    assert site.worker.is_running()
    for sign in ("Unrecoverable error", "could not be recorded", "Pool callback raised"):
        assert sign not in site.worker.output()


def test_a_worker_that_finds_only_members_that_have_expired_ends_their_chord_and_goes_on(site: Site) -> None:
    site.worker.stop()
    late = datetime.now(UTC) + timedelta(seconds=1)
    result = chord([site.tasks.ok.si(1), site.tasks.ok.si(2)], site.tasks.body.s()).apply_async(expires=late)
    wait_for(lambda: datetime.now(UTC) > late, "the members to expire")
    site.worker.start()
    assert site.state(result.id) == "FAILURE"
    assert "TaskRevokedError('expired')" in str(result.result)
    assert site.tasks.ok.delay(7).get(timeout=PATIENCE) == 7
    site.worker.stop()  # the last test for it, which has started it
