"""Connections to PostgreSQL, directly or through a pooler such as PgBouncer.

A pooler may give each transaction another one of the server's processes. What a session would keep (settings, prepared
statements) is then somebody else's, so behind a pooler nothing is kept: bounds are set in each transaction anew.
"""

from __future__ import annotations

from select import POLLIN, poll
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from .kept import pooled


def engine_to(url: URL, timeout: float) -> Engine:
    """Return the engine for an address.

    Arguments:
        timeout: seconds to wait for a connection, for a lock, and for a network that is silent.

    Raises ImportError when the driver is not installed.

    """
    engine = create_engine(
        url,
        **pooled(timeout),
        connect_args={
            "connect_timeout": max(2, int(timeout)),
            # Without these a database behind a network that is gone would hold the caller for a quarter of an hour.
            "tcp_user_timeout": int(timeout * 1000),
            "keepalives_idle": max(1, int(timeout)),
            "keepalives_interval": 1,
        },
    )

    def greet(driver: Any, _: Any) -> None:
        driver.autocommit = True
        if _is_pooled(driver):
            driver.prepare_threshold = None
        else:
            driver.execute(_bounds("SESSION", timeout))
        driver.autocommit = False

    def begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if shares_sessions(driver):
            driver.execute(bounds(timeout))

    event.listen(engine, "connect", greet)
    event.listen(engine, "engine_connect", _replace_ended)
    event.listen(engine, "begin", begin)
    return engine


def _replace_ended(connection: Connection) -> None:
    """Take another connection when the server, a pooler or a firewall has ended an idle one.

    Nobody speaks to an idle connection but to end it, so a look at the socket tells, without asking the server. What
    every delivery does begins anew by itself, and is spared this.
    """
    while _is_ended(connection.connection.driver_connection):
        connection.invalidate()


def _is_ended(driver: Any) -> bool:
    look = poll()  # select() knows no file descriptors above 1023
    look.register(driver.pgconn.socket, POLLIN)
    return bool(look.poll(0))


def _is_pooled(driver: Any) -> bool:
    """Say whether somebody stands between: who passes cancellations on greets with a process number of his own."""
    return bool(driver.execute("SELECT pg_backend_pid()").fetchone()[0] != driver.info.backend_pid)


def shares_sessions(driver: Any) -> bool:
    """Say whether a connection goes through a pooler, so that each transaction sets its own bounds."""
    return driver.prepare_threshold is None


def bounds(timeout: float) -> str:
    """Return what begins a transaction behind a pooler; unlike a SELECT it fixes no snapshot yet."""
    return _bounds("LOCAL", timeout)


def _bounds(scope: str, timeout: float) -> str:
    # A handler's session may do nothing for as long as the handler works.
    return f"SET {scope} lock_timeout = {int(timeout * 1000)}; SET {scope} idle_in_transaction_session_timeout = 0"
