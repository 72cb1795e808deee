"""A ledger that an older version has written is upgraded with what it has."""

from __future__ import annotations

from collections.abc import Callable

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from pipeline import Pipeline
from pipeline.core.errors import LedgerError
from pipeline.ledger.database import migrate
from pipeline.ledger.database.migrate import HEAD, upgrade
from tests.ledgers import engine_on, refused
from tests.records import rows

FACTS = "INSERT INTO pipeline_meta (name, value) VALUES ('id', 'l1'), ('secret', '00ff')"
DELIVERY = (
    "INSERT INTO pipeline_deliveries (id, event_id, agent, outcome, attempts) VALUES ('d1', 'e1', 'a', 'dead', 2)"
)
QUEUED = "INSERT INTO pipeline_deliveries (id, event_id, agent, outcome, due) VALUES ('d2', 'e2', 'a', 'waiting', 0)"
AGENT = (
    "INSERT INTO pipeline_agents (name, patterns, bound, tx, seq, registered) "
    """VALUES ('a', '["x"]', '["x"]', 0, 0, 1)"""
)


def first_schema(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate._MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")


def test_a_ledger_of_the_first_schema_is_upgraded_with_its_rows(
    fresh: Callable[..., Pipeline], ledger_url: str
) -> None:
    with engine_on(ledger_url) as engine, engine.begin() as connection:
        first_schema(connection)
        for statement in (FACTS, DELIVERY, QUEUED, AGENT):
            connection.execute(text(statement))
    app = fresh(ledger_url)
    refused(app, LedgerError, "has schema 0001, older than " + HEAD, "pipeline ledger upgrade")

    assert upgrade(app.ledger.database) == ("0001", HEAD)
    (row, queued) = sorted(rows(app), key=lambda row: str(row["id"]))
    assert (queued["id"], queued["outcome"]) == ("d2", "queued")
    assert (row["id"], row["outcome"], row["attempts"], row["waits"]) == ("d1", "dead", 2, None)
    assert app.ledger.subscribers.all() == {"a": ("x",)}
    assert app.ledger.id == "l1"
