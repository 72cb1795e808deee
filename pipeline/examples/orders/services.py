"""What the shop does its orders with: a warehouse, a payment provider and a carrier, which only pretend.

They keep what they have done in one file of SQLite, outside of the bus's ledger, and behave as good services do:
whoever asks again with the same key gets the same answer, and nothing is done again.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from time import sleep
from typing import Literal, NamedTuple, TypeVar

from pydantic import Field

from pipeline import Payload

from ..books import writing

#: Seconds that a service takes, and between two looks whether an answer is still held back.
LATENCY, LOOK = 0.15, 0.02
#: How a card begins that the payment provider declines, and what the carrier delivers to nowhere.
EXPIRED, NOWHERE = "expired", "Atlantis"
#: Days until a parcel arrives.
DAYS = 3

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, key TEXT UNIQUE, order_id TEXT, what TEXT, done INTEGER, answer TEXT
);
CREATE TABLE IF NOT EXISTS calls (number INTEGER PRIMARY KEY, key TEXT, process INTEGER);
CREATE TABLE IF NOT EXISTS stock (product_id TEXT PRIMARY KEY, pieces INTEGER);
"""


# -- what they are asked, and what they answer


class Answer(Payload):
    """What a service answers."""

    @property
    def is_done(self) -> bool:
        """Whether it has done what it was asked for."""
        return True


class Opened(Answer):
    """The order's file is open, or closed again."""

    order_id: str


class InventoryRequest(Payload):
    """Pieces of a product are to be put aside."""

    product_id: str
    quantity: int = Field(ge=1)


class Inventory(Answer):
    """Whether so many pieces were there, and how many were put aside."""

    available: bool
    reserved_quantity: int

    @property
    def is_done(self) -> bool:
        """Whether something was put aside."""
        return self.available


class PaymentRequest(Payload):
    """An amount is to be paid, in cents."""

    amount: int = Field(ge=1)
    payment_method: str


class Payment(Answer):
    """What has become of a payment: captured, declined, or refunded."""

    transaction_id: str
    status: Literal["captured", "declined", "refunded"]

    @property
    def is_done(self) -> bool:
        """Whether money has moved."""
        return self.status != "declined"


class ShippingRequest(Payload):
    """A parcel is to be sent."""

    order_id: str
    shipping_address: str


class Shipping(Answer):
    """Where a parcel can be followed, and when it arrives; neither where nobody delivers to."""

    tracking_number: str | None
    estimated_delivery: date | None

    @property
    def is_done(self) -> bool:
        """Whether there is a parcel."""
        return self.tracking_number is not None


# -- the services


class Effect(NamedTuple):
    """Something that a service has really done.

    Attributes:
        key: which call it was done for; the same key never does it again.
        what: the step, such as "pay".
        asked: how often it was asked for with that key.

    """

    key: str
    order_id: str
    what: str
    asked: int


Given = TypeVar("Given", bound=Answer)


class Services:
    """The services; each call takes the key of whoever asks."""

    def __init__(self, directory: Path) -> None:
        """Take the directory where they keep what they have done."""
        self._directory = directory
        self._path = directory / "services.db"
        self._held = directory / "held"

    # -- the shop's own books, the warehouse, the payment provider, the carrier

    def create(self, key: str, order_id: str) -> Opened:
        """Open the file of an order."""
        return self._once(key, order_id, "create", Opened, lambda _: Opened(order_id=order_id))

    def cancel(self, key: str, order_id: str) -> Opened:
        """Close it again."""
        return self._once(key, order_id, "cancel", Opened, lambda _: Opened(order_id=order_id))

    def reserve(self, key: str, order_id: str, asked: InventoryRequest) -> Inventory:
        """Put pieces aside, all or none."""

        def take(file: sqlite3.Connection) -> Inventory:
            number = asked.quantity
            query = "UPDATE stock SET pieces = pieces - ? WHERE product_id = ? AND pieces >= ?"
            is_there = file.execute(query, (number, asked.product_id, number)).rowcount == 1
            return Inventory(available=is_there, reserved_quantity=number if is_there else 0)

        return self._once(key, order_id, "reserve", Inventory, take)

    def release(self, key: str, order_id: str, product_id: str, quantity: int) -> Inventory:
        """Put pieces back."""

        def put_back(file: sqlite3.Connection) -> Inventory:
            file.execute("UPDATE stock SET pieces = pieces + ? WHERE product_id = ?", (quantity, product_id))
            return Inventory(available=True, reserved_quantity=0)

        return self._once(key, order_id, "release", Inventory, put_back)

    def pay(self, key: str, order_id: str, asked: PaymentRequest) -> Payment:
        """Take money."""
        is_good = not asked.payment_method.startswith(EXPIRED)
        answer = Payment(transaction_id=_code("T", key), status="captured" if is_good else "declined")
        paid = self._once(key, order_id, "pay", Payment, lambda _: answer)
        while self._is_held(order_id):
            sleep(LOOK)  # the money is taken, and nobody knows it yet: the worst moment to be killed
        return paid

    def refund(self, key: str, order_id: str, transaction_id: str) -> Payment:
        """Give money back."""
        given = Payment(transaction_id=transaction_id, status="refunded")
        return self._once(key, order_id, "refund", Payment, lambda _: given)

    def ship(self, key: str, asked: ShippingRequest) -> Shipping:
        """Send a parcel."""
        parcel = Shipping(tracking_number=None, estimated_delivery=None)
        if NOWHERE not in asked.shipping_address:
            arrives = datetime.now(UTC).date() + timedelta(days=DAYS)
            parcel = Shipping(tracking_number=_code("P", key), estimated_delivery=arrives)
        return self._once(key, asked.order_id, "complete", Shipping, lambda _: parcel)

    def _once(
        self, key: str, order_id: str, what: str, kind: type[Given], work: Callable[[sqlite3.Connection], Given]
    ) -> Given:
        """Do something unless it was done for that key; return the answer, which is then the one of before."""
        sleep(LATENCY)
        with self._writing() as file:
            file.execute("INSERT INTO calls (key, process) VALUES (?, ?)", (key, os.getpid()))
            before = file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            if before is not None:
                return kind.model_validate_json(before[0])
            answer = work(file)
            query = "INSERT INTO answers (key, order_id, what, done, answer) VALUES (?, ?, ?, ?, ?)"
            file.execute(query, (key, order_id, what, answer.is_done, answer.model_dump_json()))
            return answer

    # -- for the demonstration

    def fill(self, stock: Mapping[str, int]) -> None:
        """Let the warehouse have at least so many pieces of each product."""
        query = "INSERT INTO stock VALUES (?, ?) ON CONFLICT DO UPDATE SET pieces = max(pieces, excluded.pieces)"
        with self._writing() as file:
            file.executemany(query, stock.items())

    def hold(self, order_id: str) -> None:
        """Hold the answer back when that order is paid, until let_go()."""
        self._held.write_text(order_id)

    def let_go(self) -> None:
        """Hold nothing back any more."""
        self._held.unlink(missing_ok=True)

    def _is_held(self, order_id: str) -> bool:
        with suppress(FileNotFoundError):
            return self._held.read_text() == order_id
        return False

    def effects(self, orders: Iterable[str]) -> Sequence[Effect]:
        """Return what was really done for some orders, in that order."""
        wanted = set(orders)
        with self._writing() as file:
            asked = Counter(key for (key,) in file.execute("SELECT key FROM calls"))
            rows = file.execute("SELECT key, order_id, what FROM answers WHERE done ORDER BY number").fetchall()
        return [Effect(key, order, what, asked[key]) for key, order, what in rows if order in wanted]

    def stock(self) -> dict[str, int]:
        """Return how many pieces of each product there are."""
        with self._writing() as file:
            return dict(file.execute("SELECT product_id, pieces FROM stock ORDER BY product_id").fetchall())

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return writing(self._path, _TABLES)


def _code(letter: str, key: str) -> str:
    """Return a number as services give it, the same for the same key."""
    return f"{letter}-{blake2b(key.encode(), digest_size=4).hexdigest().upper()}"
