"""Roles of PostgreSQL with the grants that docs/ledger.md lists: enough to work, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from pipeline import LedgerError, LedgerUnavailable, Pipeline
from tests.harness import Broker, Worker
from tests.ledgers import ON_POSTGRESQL, engine_on
from tests.servers import wait_for
from tests.unit.test_docs import ROOT, fences

pytestmark = [ON_POSTGRESQL, pytest.mark.usefixtures("no_settings")]

ROLES = ("shop_web", "shop_worker", "shop_reader")
EMBEDDED = pytest.mark.parametrize("broker", ["embedded"], indirect=True)


@pytest.fixture
def as_role(app: Pipeline, ledger_url: str) -> Iterator[Callable[[str], str]]:
    """Make the roles as documented; return the ledger's address for each."""
    with engine_on(ledger_url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as owner:
        for statements in fences(ROOT / "docs" / "ledger.md", "sql"):
            owner.execute(text(statements))
        yield lambda role: ledger_url.replace("postgres@", f"{role}@")
        for role in ROLES:
            owner.execute(text(f"DROP OWNED BY {role}"))
            owner.execute(text(f"DROP ROLE {role}"))


@EMBEDDED
def test_publishers_and_workers_with_roles_of_their_own_do_all_that_they_do(
    as_role: Callable[[str], str], broker: Broker, fresh: Callable[..., Pipeline]
) -> None:
    on = Broker(broker.name, broker.url, broker.directory, ledger=as_role("shop_worker"))
    web = fresh(as_role("shop_web"), broker_url=broker.url)
    worker = Worker(on, pool="prefork").start()
    try:
        kept = web.publish("task.later", {}, delay=3600)
        assert web.cancel(kept.id)
        for event in (
            web.publish("task.created", {"alpha": "fail 1; emit task.next"}),  # a retry, and an event that it causes
            web.publish("told.something", {}, targets=("beta",)),
            web.publish("nobody.listens", {}),
            web.publish("pair.started", {"n": 1}),  # a join
        ):
            web.settle(event, timeout=60)
        soon = web.publish("task.soon", {}, delay=0.1)
        on.journal.wait(1, agent="alpha", id=soon.id)
        on.journal.wait(1, agent="outcome", type="pair.complete")
        web.publish("task.dead", {"beta": "give-up"})
        wait_for(lambda: len(web.dead_letters.list()) == 1, "the dead letter")
        operator = fresh(as_role("shop_worker"), broker_url=broker.url)
        secret = operator.subscriptions.new_secret()
        operator.subscriptions.add("crm", on="told.#", url="https://example.com/", secret=secret)
        operator.subscriptions.change("crm", retry=1)
        wait_for(lambda: worker.output().count("subscription crm: this worker runs it") > 0, "the worker to run it")
        operator.subscriptions.remove("crm")
        assert operator.dead_letters.requeue(all=True).number == 1
        wait_for(lambda: len(on.journal.lines(agent="beta", type="task.dead")) == 2, "the requeued delivery")
        wait_for(lambda: len(web.dead_letters.list()) == 1, "the dead letter, once more")
        assert operator.dead_letters.drop(all=True).number == 1
        worker.stop()  # it says that it leaves
        assert "does not let its user" not in worker.output()
    finally:
        worker.kill()


@EMBEDDED
def test_a_reader_sees_everything_and_changes_nothing(
    as_role: Callable[[str], str], broker: Broker, app: Pipeline, fresh: Callable[..., Pipeline]
) -> None:
    event = app.publish("order.placed", {"n": 1}, subject="basket")
    app.subscriptions.add("crm", on="a.b", url="https://example.com/", secret=app.subscriptions.new_secret())
    environment = {**os.environ, "PIPELINE_LEDGER_URL": as_role("shop_reader"), "PIPELINE_BROKER_URL": broker.url}
    command = str(Path(sys.executable).with_name("pipeline"))
    for words in (
        ("events",), ("event", event.id), ("trace", event.id), ("dead", "list"), ("dead", "count"), ("timers",),
        ("unrouted",), ("ledger", "status"), ("subscriptions", "list"), ("subscriptions", "show", "crm"),
    ):  # fmt: skip
        done = subprocess.run(
            [command, *words], env=environment, cwd=broker.directory, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (words, done.stdout + done.stderr)
    reader = fresh(as_role("shop_reader"), broker_url=broker.url)
    with pytest.raises(LedgerError, match=r"does not let its user .* docs/ledger.md") as caught:
        reader.publish("order.placed", {"n": 2})
    assert not isinstance(caught.value, LedgerUnavailable)
    assert len(list(app.get_events())) == 1


FORBIDDEN = {
    "shop_web": [
        "UPDATE pipeline_events SET body = ''",
        "DELETE FROM pipeline_events",
        "UPDATE pipeline_deliveries SET outcome = 'succeeded'",
        "DELETE FROM pipeline_deliveries",
        "INSERT INTO pipeline_agents VALUES ('x', '[]', 0, 0, 0)",
        "UPDATE pipeline_meta SET value = ''",
        "INSERT INTO pipeline_subscriptions (id) VALUES ('x')",
        "SELECT secret FROM pipeline_subscriptions",
        "CREATE TABLE mine (n int)",
    ],
    "shop_worker": [
        "UPDATE pipeline_events SET body = ''",
        "DELETE FROM pipeline_events",
        "DELETE FROM pipeline_deliveries",
        "UPDATE pipeline_meta SET value = ''",
        "UPDATE pipeline_version SET version_num = ''",
        "DELETE FROM pipeline_subscriptions",
        "CREATE TABLE mine (n int)",
    ],
    "shop_reader": [
        "SELECT value FROM pipeline_meta",
        "SELECT secret FROM pipeline_subscriptions",
        "SELECT * FROM pipeline_events FOR UPDATE",
        "DELETE FROM pipeline_outbox",
        "SELECT nextval('pipeline_events_seq_seq')",
        "CREATE TABLE mine (n int)",
    ],
}


def test_no_role_may_do_more(as_role: Callable[[str], str]) -> None:
    for role, statements in FORBIDDEN.items():
        with engine_on(as_role(role), isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
            for statement in statements:
                with pytest.raises(Exception, match="permission denied"):
                    connection.execute(text(statement))
