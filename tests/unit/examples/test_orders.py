"""The orders' parts: what the services do once for each key, what their books say, and the picture of a saga."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.examples.orders.demo import ORDERS, TWICE, orders_of
from pipeline.examples.orders.picture import Seen, drawn
from pipeline.examples.orders.services import Effect, InventoryRequest, PaymentRequest, Services, ShippingRequest
from pipeline.examples.orders.verdict import STEPS, judge, sold


@pytest.fixture
def services(tmp_path: Path) -> Services:
    found = Services(tmp_path)
    found.fill({"tea": 5})
    return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.examples.orders.services.LATENCY", 0.0)


# -- the services


def test_a_call_that_is_made_again_with_its_key_does_nothing_and_answers_the_same(services: Services) -> None:
    asked = PaymentRequest(amount=900, payment_method="card")
    assert services.pay("k", "7", asked) == services.pay("k", "7", asked)
    assert services.effects(["7"]) == [Effect("k", "7", "pay", asked=2)]


def test_a_call_with_another_key_is_done_again_and_stands_in_the_books(services: Services) -> None:
    for key in ("k", "other"):
        services.pay(key, "7", PaymentRequest(amount=900, payment_method="card"))
    assert judge(["7"], services.effects(["7"])).twice == ["pay of 7 (2 times)"]


def test_what_is_reserved_is_there_no_more_until_it_is_released(services: Services) -> None:
    taken = services.reserve("a", "7", InventoryRequest(product_id="tea", quantity=4))
    assert (taken.available, taken.reserved_quantity) == (True, 4)
    refused = services.reserve("b", "8", InventoryRequest(product_id="tea", quantity=2))
    assert (refused.available, refused.reserved_quantity) == (False, 0)
    assert services.stock() == {"tea": 1}
    services.release("c", "7", "tea", 4)
    assert services.stock() == {"tea": 5}
    assert [effect.what for effect in services.effects(["7", "8"])] == ["reserve", "release"]


def test_what_was_refused_is_no_effect(services: Services) -> None:
    paid = services.pay("a", "7", PaymentRequest(amount=900, payment_method="expired card"))
    sent = services.ship("b", ShippingRequest(order_id="7", shipping_address="Atlantis"))
    assert (paid.status, sent.tracking_number, sent.estimated_delivery) == ("declined", None, None)
    assert services.effects(["7"]) == []


def test_a_parcel_has_a_number_and_a_day(services: Services) -> None:
    sent = services.ship("b", ShippingRequest(order_id="7", shipping_address="Oslo"))
    assert sent.tracking_number is not None
    assert sent.estimated_delivery is not None


def test_nobody_orders_nothing() -> None:
    with pytest.raises(ValidationError):
        InventoryRequest(product_id="tea", quantity=0)


def test_each_run_has_orders_of_its_own() -> None:
    ids = [order.order_id for run in ("a", "b") for order in orders_of(run)]
    assert len(set(ids)) == 2 * len(ORDERS) > TWICE


# -- the verdict


def effects(*whats: str, order: str = "7") -> list[Effect]:
    return [Effect(f"{order}-{number}", order, what, 1) for number, what in enumerate(whats)]


@pytest.mark.parametrize(
    "whats",
    [
        STEPS,
        ("create", "cancel"),
        ("create", "reserve", "release", "cancel"),
        ("create", "reserve", "pay", "refund", "release", "cancel"),
    ],
)
def test_an_order_that_is_delivered_or_undone_is_good(whats: tuple[str, ...]) -> None:
    verdict = judge(["7"], effects(*whats))
    assert verdict.is_good
    assert (verdict.delivered, verdict.undone) == ((["7"], []) if whats == STEPS else ([], ["7"]))


@pytest.mark.parametrize(
    ("whats", "forgotten"),
    [
        ((), list(STEPS)),
        (("create", "reserve", "complete"), ["pay"]),
        (("create", "reserve", "pay"), ["cancel", "release", "refund"]),
        (("create", "reserve", "pay", "release", "cancel"), ["refund"]),
        (("create", "release", "cancel"), ["reserve"]),
        ((*STEPS, "refund"), ["refund"]),
    ],
)
def test_what_was_neither_done_nor_undone_is_forgotten(whats: tuple[str, ...], forgotten: list[str]) -> None:
    verdict = judge(["7"], effects(*whats))
    assert verdict.forgotten == [f"{what} of 7" for what in forgotten]
    assert not verdict.is_good


def test_what_was_done_twice_is_named_with_its_order() -> None:
    verdict = judge(["7", "8"], [*effects(*STEPS), *effects(*STEPS, "pay", order="8")])
    assert (verdict.twice, verdict.forgotten, verdict.delivered) == (["pay of 8 (2 times)"], [], ["7", "8"])


@pytest.mark.parametrize(
    "whats", [("create", "reserve", "cancel", "release"), ("create", "cancel", "reserve", "release")]
)
def test_what_was_not_undone_in_the_reverse_order_is_told(whats: tuple[str, ...]) -> None:
    verdict = judge(["7"], effects(*whats))
    assert (verdict.twice, verdict.forgotten, verdict.backwards) == ([], [], ["7"])


def test_what_is_asked_for_again_is_counted_once() -> None:
    assert judge(["7"], [*effects("create", "cancel"), Effect("x", "7", "other", 3)]).asked_again == 1


def test_only_what_is_delivered_is_sold() -> None:
    assert sold({"7": ("tea", 2), "8": ("tea", 1), "9": ("jam", 4)}, ["7", "8"]) == {"tea": 3}


# -- the picture


def test_the_steps_stand_beside_each_other() -> None:
    steps = [Seen("create", "succeeded"), Seen("pay", "running"), Seen("complete")]
    assert drawn(steps).splitlines() == [
        "create -------> pay             complete",
        "succeeded       running         not begun",
    ]


def test_what_was_undone_stands_below_with_arrows_back() -> None:
    steps = [
        Seen("create", "succeeded", undo="cancel"),
        Seen("reserve", "succeeded", undo="release", undone="running"),
        Seen("pay", "dead", undo="refund"),
        Seen("complete"),
    ]
    assert drawn(steps).splitlines() == [
        "create -------> reserve ------> pay             complete",
        "succeeded       succeeded       dead            not begun",
        "                release <-------'",
        "                running",
    ]
