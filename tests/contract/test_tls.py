"""TLS to PostgreSQL: what the address asks for reaches the driver; a wrong certificate is named without a password."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from pipeline import Pipeline
from pipeline.core.errors import LedgerUnavailable
from pipeline.ledger.database.migrate import upgrade
from tests.ledgers import ON_POSTGRESQL, engine_on, refused
from tests.records import order
from tests.servers import Server, wait_for
from tests.tls import certificate

pytestmark = [
    ON_POSTGRESQL,
    pytest.mark.usefixtures("no_settings"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed, which makes certificates"),
]


@pytest.fixture
def ca(ledger_url: str, servers: Callable[[str], Server], tmp_path: Path) -> Iterator[Path]:
    """Let the server offer TLS, with a certificate for the name localhost; return that."""
    data = servers("postgresql").directory / "data"
    own = certificate(tmp_path, "localhost")
    for suffix in (".crt", ".key"):
        to = data / f"server{suffix}"
        shutil.copy(own.with_suffix(suffix), to)
        to.chmod(0o600)
        shutil.chown(to, data.owner(), data.group())
    with engine_on(ledger_url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        connection.execute(text("ALTER SYSTEM SET ssl = on"))
        connection.execute(text("SELECT pg_reload_conf()"))
        wait_for(lambda: offers_tls(ledger_url), "the server to offer TLS")
        try:
            yield own
        finally:
            connection.execute(text("ALTER SYSTEM RESET ssl"))
            connection.execute(text("SELECT pg_reload_conf()"))


def offers_tls(url: str) -> bool:
    try:
        psycopg.connect(f"{url.replace('+psycopg', '')}?sslmode=require", connect_timeout=20).close()
    except psycopg.OperationalError:
        return False
    return True


def test_an_address_may_ask_for_tls_and_a_wrong_certificate_is_named_without_the_password(
    ca: Path, ledger_url: str, fresh: Callable[..., Pipeline], tmp_path: Path
) -> None:
    def at(host: str, trusted: Path) -> Pipeline:
        address = ledger_url.replace("postgres@127.0.0.1", f"postgres:s3cret@{host}")
        return fresh(f"{address}?sslmode=verify-full&sslrootcert={trusted}", ledger_timeout=2)

    app = at("localhost", ca)
    upgrade(app.ledger.database)
    app.publish(order())
    with app.ledger.database.reading() as connection:
        assert connection.execute(text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")).scalar() is True
    for wrong, words in (
        (at("localhost", certificate(tmp_path, "stranger")), "certificate verify failed"),
        (at("127.0.0.1", ca), "does not match host name"),
        (at("localhost", tmp_path / "missing.crt"), "missing.crt"),
    ):
        message = refused(wrong, LedgerUnavailable, words, "cannot be reached")
        assert "s3cret" not in message
