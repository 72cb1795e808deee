"""Subjects of NATS and event types, by table."""

from __future__ import annotations

import pytest

from pipeline import ConfigError, Pipeline, bridges
from pipeline.bridges.subjects import Subjects

NAMED = {"order.#": "wms.orders.>", "stock.*": "wms.*.level", "price.quote": "quotes"}


@pytest.mark.parametrize(
    ("type", "subject"),
    [
        ("order.placed", "wms.orders.placed"),
        ("order.placed.late", "wms.orders.placed.late"),
        ("order", "wms.orders"),
        ("stock.low", "wms.low.level"),
        ("stock.low.late", "shop.stock.low.late"),
        ("price.quote", "quotes"),
        ("invoice.paid", "shop.invoice.paid"),
    ],
)
def test_a_type_has_a_subject_and_the_subject_that_type(type: str, subject: str) -> None:
    subjects = Subjects("shop", NAMED)
    assert subjects.subject_of(type) == subject
    assert subjects.type_of(subject) == type


@pytest.mark.parametrize("subject", ["elsewhere.order.placed", "shop", "shop.", "wms.level", "shop.or$der"])
def test_a_subject_that_is_none_of_ours_has_no_type(subject: str) -> None:
    assert Subjects("shop", NAMED).type_of(subject) == ""


@pytest.mark.parametrize(
    ("prefix", "patterns", "listened"),
    [
        ("", ["order.placed"], ["order.placed"]),
        ("", ["order.#"], ["order", "order.>"]),
        ("", ["#"], [">"]),
        ("shop", ["#"], ["shop.>"]),
        ("shop", ["order.*", "stock.#"], ["shop.order.*", "shop.stock", "shop.stock.>"]),
        ("", ["order.#", "order.placed", "order.*", "order"], ["order", "order.>"]),
    ],
)
def test_what_is_listened_to_has_no_message_twice(prefix: str, patterns: list[str], listened: list[str]) -> None:
    assert Subjects(prefix).listened(patterns) == listened


@pytest.mark.parametrize(
    ("patterns", "listened"),
    [
        (["order.#", "price.quote"], ["wms.orders", "wms.orders.>", "quotes"]),
        (["stock.low"], ["wms.low.level"]),
        (["order.placed.#", "order"], ["wms.orders.placed", "wms.orders.placed.>", "wms.orders"]),
        (["order.*.late"], ["wms.orders.*.late"]),
        (["stock.#"], ["wms.*.level", "shop.stock", "shop.stock.>"]),
        (["price.*"], ["quotes", "shop.price.*"]),
        (["*.low"], ["wms.orders.low", "wms.low.level", "shop.*.low"]),
    ],
)
def test_named_subjects_are_listened_to(patterns: list[str], listened: list[str]) -> None:
    assert Subjects("shop", NAMED).listened(patterns) == listened


@pytest.mark.parametrize("patterns", [["*.sent", "bill.*"], ["order.#", "stock.*"], ["a.*.c", "a.b.#"]])
def test_patterns_whose_messages_would_come_twice_are_refused(patterns: list[str]) -> None:
    with pytest.raises(ConfigError, match="in common"):
        Subjects("", NAMED).listened(patterns)


@pytest.mark.parametrize(
    "named", [{"order.#": "orders.*"}, {"order.*": "orders"}, {"#.placed": ">"}, {"order.*": "a..*"}, {"a.*": ">.*"}]
)
def test_subjects_that_do_not_say_what_the_type_is_are_refused(named: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Subjects("", named)


def test_what_nats_has_no_pattern_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="comes last"):
        Subjects().listened(["order.#.late"])
    with pytest.raises(ConfigError, match="without wildcards"):
        Subjects("shop.*")


def test_addresses_are_shown_without_tokens() -> None:
    assert str(bridges.Nats("nats://t0ken@a:4222, u:p@b:4222")) == "nats://a:4222,b:4222"
    assert "t0ken" not in repr(bridges.Nats("nats://t0ken@a"))


def test_an_outbox_whose_address_is_no_url_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="no URL") as refused:
        Pipeline("shop").bridge("books", bridges.PostgresOutbox("host=db password=s3cret"), into="invoice.#")
    assert "s3cret" not in str(refused.value)


def test_types_may_share_a_topic_which_then_does_not_say_which_one_it_is() -> None:
    topics = Subjects("shop", {"order.#": "orders", "bill.paid": "bills", "bill.sent": "bills"}, shared=True)
    assert [topics.subject_of(type) for type in ("order.placed", "bill.paid", "bill.late")] == [
        "orders", "bills", "shop.bill.late",
    ]  # fmt: skip
    assert [topics.type_of(topic) for topic in ("orders", "bills", "shop.bill.late")] == ["", "", "bill.late"]
    assert topics.subjects(["order.placed", "bill.*"]) == ["orders", "bills", "shop.bill.*"]


def test_topics_may_be_listened_to_twice() -> None:
    assert Subjects().subjects(["a.*.c", "a.b.#"]) == ["a.*.c", "a.b", "a.b.>"]
    assert bridges.Kafka(topics={"order.#": "orders.#"}).mapping.subject_of("order.a.b") == "orders.a.b"
