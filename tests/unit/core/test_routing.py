"""Who gets an event."""

from __future__ import annotations

import pytest

from pipeline import InvalidPattern, InvalidSelection, Payload
from pipeline.core.routing import needs_receiver, pattern_of, reaches, receivers, targets_of


class Order(Payload, type="order.placed"):
    n: int


@pytest.mark.parametrize(
    ("patterns", "event_type", "targets", "reached"),
    [
        (("order.*",), "order.placed", (), True),
        (("order.*",), "order.placed", None, True),
        (("user.*", "order.placed"), "order.placed", (), True),
        (("user.*",), "order.placed", (), False),
        ((), "order.placed", (), False),
        (("order.*",), "order.placed", ("stock",), False),
        (("order.*",), "order.placed", ("stock", "billing"), True),
        ((), "order.placed", ("billing",), True),
        (("user.*",), "order.placed", ["billing"], True),
    ],
)
def test_targets_address_and_without_them_patterns_decide(
    patterns: tuple[str, ...], event_type: str, targets: tuple[str, ...] | None, reached: bool
) -> None:
    assert reaches("billing", patterns, event_type, targets) is reached


def test_of_many_agents_those_are_returned_that_it_reaches() -> None:
    known = {"billing": ("order.#",), "stock": ("order.placed",), "mailer": ("user.*",)}
    assert receivers(known, "order.placed") == ["billing", "stock"]
    assert receivers(known, "order.placed", ("mailer", "nobody")) == ["mailer"]


def test_the_targets_of_an_attribute_are_names_joined_by_commas() -> None:
    assert targets_of("billing,stock") == ("billing", "stock")
    assert targets_of("billing,") == ("billing",)
    assert targets_of("") == targets_of(None) == ()


def test_the_buss_own_announcements_need_nobody() -> None:
    assert not needs_receiver("delivery.dead")
    assert needs_receiver("delivered.parcel")


def test_a_pattern_is_a_text_or_a_payloads_type() -> None:
    assert (pattern_of("order.#"), pattern_of(Order)) == ("order.#", "order.placed")
    with pytest.raises(InvalidPattern):
        pattern_of("no pattern")
    for wrong in (Payload, int, 5):
        with pytest.raises(InvalidSelection, match="neither a topic pattern nor a Payload class"):
            pattern_of(wrong)  # type: ignore[arg-type]
