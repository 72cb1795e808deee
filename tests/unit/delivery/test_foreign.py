"""Messages of other programs, through the functions that a worker takes them with: each of them ends somewhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pipeline import Context, Event, Pipeline
from pipeline.core.errors import NotAnEventError
from pipeline.core.event import CONTENT_TYPE
from pipeline.core.ids import caused_id, delivery_id, foreign_id
from pipeline.delivery.consumer import AgentConsumer
from pipeline.delivery.poison import said_by_bus
from pipeline.delivery.process.returns import Returns
from pipeline.delivery.strays import Told
from pipeline.ledger.database.tables import deliveries, events
from pipeline.ledger.facts import Delivery
from pipeline.publishing.link import wire_headers
from tests.foreign import BODIES, HEADERS, TYPES, WORDS, Taken, foreign
from tests.ledgers import move
from tests.records import rows

QUEUE = "agent.billing"


class Site:
    """An app with one agent, and the worker's functions around it."""

    def __init__(self, app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = app
        self.seen: list[Event] = []

        @app.agent(on="order.*", name="billing", retry=1)
        def billing(event: Event, ctx: Context) -> None:
            self.seen.append(event)
            ctx.publish("invoice.sent", {"of": event.id})

        app.celery.finalize()
        app.bus.ledger.subscribers.register({"billing": (("order.*",), None)})
        app.bus.ledger.workers.heartbeat(app.bus.worker_id)
        # Celery's consumer needs a worker and its connection; what is ours needs the bus and the next handler.
        consumer: Any = object.__new__(AgentConsumer)
        consumer.bus, consumer.connection_errors, consumer._queues_by_tag = app.bus, (), {"tag": QUEUE}
        consumer.channel_errors, consumer._told = (), Told()
        consumer.app, consumer.pool, consumer.connection = app.celery, None, None
        self.returns = consumer.returns = Returns(lambda _, give_back: give_back())
        monkeypatch.setattr(AgentConsumer.__mro__[1], "create_task_handler", lambda *_: self._run)
        self._handle: Callable[[Any], None] = consumer.create_task_handler()

    def take(
        self,
        body: Any,
        headers: Any = None,
        content_type: Any = CONTENT_TYPE,
        key: str = "order.placed",
        exchange: str = "events",
    ) -> Taken:
        """Let a worker take a message from the agent's queue, and return it when it is done with."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        info = {"routing_key": key, "exchange": exchange, "consumer_tag": "tag"}
        message = Taken(
            raw, headers=headers or {}, content_type=content_type, delivery_info=info, accept={"application/json"}
        )
        message.content_encoding = "utf-8"
        self._handle(message)
        return message

    def _run(self, message: Taken) -> None:
        """Run the task as the pool does, and treat the message as Celery does then."""
        headers = message.headers
        task = self.app.celery.tasks[headers["task"]]
        task.push_request(**{"called_directly": False, "retries": 0, "ignore_result": False, "bus": None, **headers})
        try:
            task.run(*message.payload[0])
        except NotAnEventError as exc:
            logging.getLogger(__name__).error("set aside: %s", exc)
            message.fate = "dead"
        else:
            message.fate = "done"
        finally:
            task.pop_request()


@pytest.fixture
def site(tmp_path: Any, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    options = {"broker_url": f"sqlite:///{tmp_path / 'broker.db'}", "ledger_url": f"sqlite:///{tmp_path / 'l.db'}"}
    app = Pipeline("shop", directory=tmp_path, **options)
    yield Site(app, monkeypatch)
    app.close()


def outcome(site: Site, source: str = "/crm", id: str = "1001") -> dict[str, Any]:
    (row,) = rows(site.app, id=delivery_id(foreign_id(source, id), "billing"))
    return row


# -- identity


def test_one_id_of_two_sources_is_two_events_and_the_same_source_and_id_is_one(site: Site) -> None:
    for source in ("/crm", "/web-shop", "/crm"):
        assert site.take(foreign(source=source)).fate == "done"
    assert [event.source for event in site.seen] == ["/crm", "/web-shop"]
    assert {row["id"] for row in rows(site.app, events, type="order.placed")} == {
        foreign_id("/crm", "1001"),
        foreign_id("/web-shop", "1001"),
    }
    one, other = (site.app.trace(foreign_id(source, "1001")) for source in ("/crm", "/web-shop"))
    for tree in (one, other):
        assert [event.type for event in tree] == ["order.placed", "invoice.sent"], "they are not mixed"
    assert [event.causation_id for event in site.app.trace(one.correlation) and site.seen] == [None, None]


def test_an_event_is_kept_as_it_came_with_attributes_that_nobody_here_knows(site: Site) -> None:
    body = b'{ "specversion":"1.0","id":"1001", "type":"order.placed","source":"/crm","mood":"\\u00e9","data":1.50 }'
    site.take(body)
    (row,) = rows(site.app, events, type="order.placed")
    assert row["body"].encode() == body
    assert site.seen[0].encode() == body
    assert site.app.get_event(row["id"]).as_data()["mood"] == "é"


def test_what_an_agent_emits_names_its_cause_as_the_other_program_does_and_belongs_to_its_trace(site: Site) -> None:
    site.take(foreign(correlationid="story"))
    (emitted,) = (Event.decode(row["body"]) for row in rows(site.app, events, type="invoice.sent"))
    assert (emitted.causation_id, emitted.correlation_id) == ("1001", "story")
    key = foreign_id("/crm", "1001")
    assert [[node.type for node in root.children[0].children] for root in site.app.trace(key).roots] == [
        ["invoice.sent"]
    ]


@pytest.mark.parametrize("how", ["requeue", "edit", "replay", "reconcile"])
def test_what_the_bus_sends_again_of_another_programs_event_is_the_same_delivery(
    site: Site, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, key = site.app, foreign_id("/crm", "1001")
    site.take(foreign(mood="sunny"))
    id = delivery_id(key, "billing")
    sent: list[Any] = []
    monkeypatch.setattr(app.bus.publisher, "send_encoded", lambda batch, **_: sent.extend(batch))
    if how == "replay":
        app.replay(to="billing", ids=[key])
    else:
        outcome_now = "queued" if how == "reconcile" else "dead"
        failed = {"outcome": outcome_now, "ended": 1, "error": "", "due": 0, "attempts": 0}
        with app.ledger.database.transaction() as connection:
            connection.execute(deliveries.update().where(deliveries.c.id == id).values(**failed))
        if how == "reconcile":
            sent += [message.encoded for message in app.ledger.due.at_once()]
        else:
            app.dead_letters.requeue(id, **({"data": {"n": 2}} if how == "edit" else {}))
    (message,) = (one for one in sent if one.event.type == "order.placed")
    done = site.take(message.body, wire_headers(message))
    assert done.fate == "done"
    assert len(rows(app, events, type="order.placed")) == 1
    event = site.seen[-1]
    assert (len(site.seen), event.id, event.key, event.attributes()["mood"]) == (2, "1001", key, "sunny")
    assert event.data == ({"n": 2} if how == "edit" else {})
    if how == "replay":
        assert len([row for row in rows(app) if row["event_id"] == key]) == 2
    else:
        own = done.headers["bus"].get("delivery", done.headers["id"])  # what is requeued is another task to Celery
        assert (own, outcome(site)["outcome"]) == (id, "succeeded")


def test_an_event_that_comes_again_saying_something_else_is_set_aside_with_the_reason(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.take(foreign(data=1, time="2026-01-01T00:00:00Z"))
    assert site.take(foreign(data=1, time="2026-01-02T00:00:00Z")).fate == "done", "tried again by its program"
    assert site.take(foreign(data=2)).fate == "dead"
    assert "another event '1001' of source '/crm', which says something else" in caplog.text
    assert [event.data for event in site.seen] == [1]


# -- who says what


def test_the_body_wins_over_a_producers_own_headers_in_claim_and_log(site: Site) -> None:
    site.take(foreign(), {"id": "header", "type": "order.other", "source": "/header", "targets": "nobody"})
    assert (outcome(site)["event_id"], site.seen[0].type) == (foreign_id("/crm", "1001"), "order.placed")


FORGED: list[dict[str, Any]] = [
    {"replay": "r1", "broadcast": True},
    {"direct": True},
    {"attempt": 2},
    {"requeued": 1},
    {"delivery": "victim"},
    {"stray": True, "handed": 50},
    {"routed": "order.placed"},
    {"key": "victim"},
    {"signature": "0" * 32},
    {"signature": "é"},
    {"signature": 5},
    {"signature": None},
]


@pytest.mark.parametrize("marks", FORGED)
def test_a_forged_header_gains_nothing(site: Site, marks: dict[str, Any]) -> None:
    event = site.app.publish("order.placed", {"n": 1})
    ours = event.encoded(10_000, {"ledger": site.app.ledger.id}, site.app.ledger.seal)
    site.take(ours.body, wire_headers(ours))
    before = rows(site.app, event_id=event.id)
    genuine = wire_headers(ours)
    for headers in (
        {**genuine, "bus": {**genuine["bus"], **marks}},
        {**genuine, "bus": {"ledger": site.app.ledger.id, **marks}},
    ):
        if headers != genuine:
            site.take(ours.body, headers)
    assert rows(site.app, event_id=event.id) == before, "the delivery did not run again"
    others = [row for row in rows(site.app, events, type="order.placed") if row["id"] != event.id]
    assert {row["id"] for row in others} <= {foreign_id("/shop", event.id)}, "it is an event of its own"
    assert {row["replay"] for row in rows(site.app)} == {None}


def test_a_forged_header_does_not_bring_an_event_to_an_agent_that_does_not_want_it(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    marks = {"ledger": site.app.ledger.id, "direct": True, "signature": "0" * 32}
    assert site.take(foreign(type="stock.low"), {"bus": marks}, key="stock.low").fate == "done"
    assert outcome(site)["outcome"] == "filtered"
    assert "no version of the agent that runs listens to stock.low" in outcome(site)["error"]
    others = {"bus": marks, "targets": "billing"}
    caplog.set_level(logging.INFO)
    assert site.take(foreign(id="2", targets="crm"), others).fate == "acked"
    assert "its targets are crm" in caplog.text
    assert site.seen == []


def test_nobody_can_take_the_id_of_an_event_that_an_agent_will_emit(site: Site) -> None:
    event = site.app.publish("order.placed", {"n": 1})
    delivery = delivery_id(event.id, "billing")
    assert (
        caused_id(delivery, 0)
        != caused_id(delivery, 0, site.app.ledger.secret)
        == caused_id(delivery, 0, site.app.ledger.secret)
    )
    coming = caused_id(delivery, 0, site.app.ledger.secret)
    site.take(foreign(id=coming, type="order.invoiced"))  # even one who could guess
    ours = event.encoded(10_000, {"ledger": site.app.ledger.id}, site.app.ledger.seal)
    site.take(ours.body, wire_headers(ours))
    (emitted,) = (row for row in rows(site.app, events, type="invoice.sent") if row["delivery"] == delivery)
    assert emitted["id"] == coming


CLAIMED = [
    None,
    {"ledger": "", "key": "x", "delivery": "x", "requeued": 1, "stray": True, "handed": 50, "attempt": 2},
    {"key": "x", "signature": "0" * 32},
    "x",
]


@pytest.mark.parametrize("bus", CLAIMED)
def test_a_task_message_cannot_say_what_only_the_bus_may(site: Site, bus: Any) -> None:
    victim = site.app.publish("order.placed", {"n": 1})
    said = {**bus, "ledger": site.app.ledger.id} if isinstance(bus, dict) and "ledger" in bus else bus
    headers = {"task": "agent.billing", "id": delivery_id(victim.id, "billing"), "ignore_result": True, "bus": said}
    assert site.take([[foreign()], {}, {}], headers, "application/json", QUEUE, "").fate == "done"
    assert rows(site.app, event_id=victim.id) == []
    assert outcome(site)["outcome"] == "succeeded"


def test_whom_an_agent_calls_in_a_canvas_works_on_the_same_event(site: Site) -> None:
    event = site.app.publish("order.placed", {"n": 1})
    site.take(foreign())
    for one in (event, site.seen[0]):
        call = next(iter(site.app.bus.agents)).s(one)
        headers = {"task": call.task, "id": "task", **call.options["headers"]}
        assert site.take([[*call.args], {}, {}], headers, "application/json", QUEUE, "").fate == "done"
        assert rows(site.app, id=delivery_id(one.key, "billing")), "also when others could not know its key"
    assert len(rows(site.app, events, type="order.placed")) == 2


def test_only_the_agents_own_task_is_taken_from_its_queue_and_none_that_came_as_an_event(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"task": "celery.backend_cleanup", "id": "1"}
    assert site.take([[], {}, {}], headers, "application/json", QUEUE, "").fate == "dead"
    own = {"task": "agent.billing", "id": "1"}
    assert site.take([[foreign()], {}, {}], own, "application/json").fate == "dead"
    assert caplog.text.count("was sent where only events are taken") == 2
    assert site.seen == []


# -- types, and what cannot be recorded


def test_an_agent_gets_what_it_listens_to_by_type_or_routing_key_and_what_nobody_wants_is_recorded(site: Site) -> None:
    site.take(foreign(type="order.placed"), key="x.y")
    site.take(foreign(id="2", type="com.example.order.placed"), key="order.placed")
    site.take(foreign(id="3", type="stock.low"), key="stock.low")
    assert [event.id for event in site.seen] == ["1001", "2"]
    assert [outcome(site, id=id)["outcome"] for id in ("1001", "2", "3")] == ["succeeded", "succeeded", "filtered"]
    assert "no version of the agent that runs listens to stock.low" in outcome(site, id="3")["error"]


@pytest.mark.parametrize("before", ["failed", "died", "was a stray"])
def test_a_retry_of_what_an_agent_gets_by_its_routing_key_is_no_stray(site: Site, before: str) -> None:
    event = Event.decode(json.dumps(foreign(type="com.example.order.placed")), None)
    ledger = site.app.ledger
    id = delivery_id(event.key, "billing")
    claim = ledger.claim(Delivery(id, event, "billing", logged=False), worker="w")
    if before == "failed":
        ledger.again(id, event, claim.attempt, delay=0, error="no", timer=True)
    elif before == "was a stray":  # some version may have wanted it
        ledger.pause(id, event, claim.attempt, delay=0, timer=True)
    else:
        move(ledger, deliveries, 10, "started")
    (message,) = [*ledger.timers.take(10)[1], *ledger.due.lost("billing", 5)]
    site.take(message.encoded.body, wire_headers(message.encoded), key=QUEUE, exchange="agents")
    assert outcome(site)["outcome"] == ("filtered" if before == "was a stray" else "succeeded")


def test_what_the_ledger_refuses_goes_to_the_brokers_dead_letters_and_what_it_misses_back_to_the_queue(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.core.errors import LedgerRefused, LedgerUnavailable
    from pipeline.ledger.ledger import Ledger

    def refuse(*_: Any, **__: Any) -> None:
        raise LedgerRefused("value too long for type character varying(255)")

    def be_away(*_: Any, **__: Any) -> None:
        raise LedgerUnavailable("the ledger is away")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "claim", refuse)
        assert site.take(foreign()).fate == "dead"
        assert "the ledger does not take it: LedgerRefused: value too long" in caplog.text
        patch.setattr(Ledger, "seal", property(be_away))
        assert site.take(foreign()).fate == "requeued"
        assert site.returns.since.keys() == {QUEUE}
    assert site.take(foreign()).fate == "done"
    assert not site.returns.since


# -- anything


@given(BODIES, HEADERS, TYPES, WORDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_whatever_another_program_sends_ends_as_an_outcome_a_dead_letter_or_a_line_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, body: bytes, headers: dict[str, Any], content_type: Any, key: str
) -> None:
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        message = site.take(body, headers, content_type, key, "events")
    told = [record for record in caplog.records if record.name.startswith(("pipeline", __name__))]
    if message.fate == "done":
        (row,) = rows(site.app, id=message.headers["id"])
        assert row["outcome"] in ("succeeded", "filtered")
        (kept,) = rows(site.app, events, id=row["event_id"])
        assert json.loads(kept["body"])["source"] == json.loads(body)["source"]
    else:
        assert message.fate in ("dead", "acked")
        assert told, "with the reason"


def test_a_delivery_of_another_program_is_known_by_its_key_alone(site: Site) -> None:
    event = Event.decode(json.dumps(foreign()), None)
    claim = site.app.ledger.claim(Delivery(delivery_id(event.key, "a"), event, "a", logged=False), worker="w")
    assert claim.attempt == 1
    assert [row["id"] for row in rows(site.app, events)] == [event.key]


def test_how_often_a_delivery_was_handed_on_is_signed_with_it_and_without_a_ledger_believed(site: Site) -> None:
    task = site.app.celery.tasks["agent.billing"]
    data, seal = foreign(), site.app.ledger.seal
    bus = task._signed(data, {"key": "k", "handed": 2})
    headers = {"task": task.name, "bus": bus}
    assert said_by_bus(headers, [[data], {}, {}], seal) == bus
    for forged in ({**bus, "handed": 3}, {**bus, "key": "l"}, {**bus, "routed": "#"}, {"key": "k", "handed": 2}):
        assert said_by_bus({**headers, "bus": forged}, [[data], {}, {}], seal) == {}
    assert said_by_bus({**headers, "bus": {**bus, "stray": True}}, [[data], {}, {}], seal) == bus, "the rest is dropped"
    assert said_by_bus({**headers, "bus": {**bus, "handed": True}}, [[data], {}, {}], None) == {"key": "k"}
    more = {**bus, "waits": 5, "delivery": "d", "stray": True}
    assert said_by_bus({**headers, "bus": more}, [[data], {}, {}], None) == {"key": "k", "handed": 2, "waits": 5}


def test_a_header_that_names_another_type_than_the_body_is_no_event(site: Site) -> None:
    task = site.app.celery.tasks["agent.billing"]
    event = site.app.publish("order.placed", {"n": 1})
    request = SimpleNamespace(bus={"key": event.id, "type": "order.paid"}, id="1", retries=0, ignore_result=True)
    request.delivery_info = {}
    with pytest.raises(NotAnEventError, match=r"'order\.paid', and its body 'order\.placed'"):
        task.delivery(event.encode().decode(), request)
