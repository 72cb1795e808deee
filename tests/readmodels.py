"""The read model that the projections of tests keep: the numbers of events, in the order in which they came."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Integer, MetaData, String, Table, delete, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pipeline.core.event import Event
from pipeline.history.projections import Projection
from pipeline.ledger.database.tables import positions
from pipeline.ledger.ledger import Ledger

model = MetaData()
seen = Table(
    "seen", model, Column("place", Integer, primary_key=True), Column("number", Integer), Column("by", String(20))
)


class Base(DeclarativeBase):
    """The declarative models of these tests."""


class Total(Base):
    """A read model that is mapped to a class."""

    __tablename__ = "totals"
    type: Mapped[str] = mapped_column(String(100), primary_key=True)
    count: Mapped[int]


def note(event: Event, session: Session) -> None:
    session.execute(insert(seen).values(number=event.data["n"], by="note"))


def forget(session: Session) -> None:
    session.execute(delete(seen))


def projection(patterns: Any = "order.*", handler: Any = note, name: str = "orders") -> Projection:
    found = Projection(name, patterns, handler)
    found.reset(forget)
    return found


def numbers(ledger: Ledger) -> list[int]:
    with ledger.database.reading() as connection:
        return list(connection.execute(select(seen.c.number).order_by(seen.c.place)).scalars())


def position(ledger: Ledger) -> tuple[int, int] | None:
    with ledger.database.reading() as connection:
        row = connection.execute(select(positions.c.tx, positions.c.seq)).first()
    return (row.tx, row.seq) if row else None
