"""The commands that read the ledger's events: what they print, where, and with which exit code."""

import json
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from pipeline import Event
from pipeline.cli.output import printable
from pipeline.core.ids import delivery_id
from pipeline.ledger.database.tables import events, timers
from pipeline.ledger.facts import Delivery
from tests.commands import Shop, wait_until_in
from tests.records import die, lose_outbox, order, rows, settle, succeed

UNKNOWN = "01980c5e-7d1c-7a52-9f0e-6a4e8f7f0d11"


# -- events


def test_a_wrong_time_names_the_option(shop: Shop) -> None:
    shop.fails(2, "Invalid value for '--since': 'soon' is no time", "events", "--since", "soon")
    shop.fails(2, "Invalid value for '--up-to': '1y' is no time", "events", "--up-to", "1y")
    shop.fails(2, "Invalid value for '--older-than': '30' is no age", "ledger", "prune", "--older-than", "30")
    shop.fails(2, "Invalid value for '--at': '2h' is no time", "publish", "order.paid", "--at", "2h")


def test_events_are_lines_with_number_time_type_id_subject_and_source(shop: Shop) -> None:
    first = shop.app.publish("order.paid", subject="A1")
    second = shop.app.publish("order.shipped")
    lines = [line.split() for line in shop.out("events").splitlines()]
    assert [[line[0], *line[2:]] for line in lines] == [
        ["1", "order.paid", first.id, "A1", "/shop"],
        ["2", "order.shipped", second.id, "-", "/shop"],
    ]
    assert abs(datetime.fromisoformat(lines[0][1]) - first.time) < timedelta(milliseconds=1)


def test_events_as_json_are_lines_of_cloudevents_with_their_number(shop: Shop) -> None:
    published = [shop.app.publish("order.paid", {"n": n}) for n in range(3)]
    found = shop.json_lines("events")
    assert [line["seq"] for line in found] == [1, 2, 3]
    assert [Event.decode(json.dumps({**line, "seq": None})) for line in found] == [
        event.evolve(seq=None) for event in published
    ]


def test_events_are_chosen_by_type_subject_correlation_and_time(shop: Shop) -> None:
    paid = shop.app.publish("order.paid", subject="A1", correlation_id="c1")
    placed = shop.app.publish("order.placed", {"order_id": "A2", "total": 1}, subject="A2")

    def ids(*options: str) -> list[str]:
        return [line["id"] for line in shop.json_lines("events", *options)]

    assert ids("--type", "*.none") == []
    assert ids("--type", "*.paid") == [paid.id] == ids("--agent-id", "A1") == ids("--correlation", "c1")
    assert ids("--since", "2") == [placed.id] == ids("--since", placed.time.isoformat())
    assert ids("--up-to", "1") == [paid.id]
    assert ids("--since", "1h") == [paid.id, placed.id]
    assert ids("--up-to", "1h") == []
    shop.fails(1, "order..p", "events", "--type", "order..p")


def test_more_events_than_the_limit_are_pointed_out(shop: Shop) -> None:
    for _ in range(5):
        shop.app.publish("order.paid")
    result = shop("events", "--limit", "3")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr.startswith("pipeline: there are more than 3 events; ")
    assert shop("events", "--limit", "5").stderr == ""
    everything = shop("events", "--limit", "3", "--all")
    assert (len(everything.stdout.splitlines()), everything.stderr) == (5, "")


def test_what_replays_emitted_is_listed_on_request(shop: Shop) -> None:
    from pipeline.core.event import Encoded

    event = shop.app.publish("order.paid")
    copy = event.evolve(id="r-1")
    shop.app.ledger.append([Encoded(copy, copy.encode(), replay="again")], due_in=None)
    assert [line["id"] for line in shop.json_lines("events")] == [event.id]
    assert shop.json_lines("events", "--replayed")[1]["replay"] == "again"


def test_what_a_terminal_would_obey_is_shown(shop: Shop) -> None:
    shop.app.publish("order.paid", {"text": "\x9b2J\x1b[2J"}, subject="a\u202eb")
    assert "a\\u202eb" in shop.out("events")
    assert printable("a\x1b\n\tö", keep="\n") == "a\\x1b\n\\tö"
    event = shop.json_lines("events")[0]["id"]
    assert not {"\x1b", "\x9b", "\u202e"} & set(shop.out("event", event))


def test_a_reader_that_goes_away_is_no_error(shop: Shop) -> None:
    shop.app.publish_many([("order.paid", "x" * 1000)] * 300)
    with subprocess.Popen(shop.command("events", "--json", "--all"), stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == ""


# -- one event


def test_an_event_is_shown_with_its_data_and_deliveries(shop: Shop) -> None:
    event = shop.app.publish(order(7), subject="A7", priority=2)
    succeed(shop.app, event, "stock")
    die(shop.app, event, error="card refused\nfor good")
    said = shop.out("event", event.id)
    assert '"order_id": "A7"' in said
    assert f"correlationid   {event.id}" in said
    table = [line.split() for line in said.partition("agent  ")[2].splitlines()[1:]]
    assert [line[:4] for line in table] == [["stock", "succeeded", "1", "0"], ["billing", "dead", "1", "0"]]
    assert "card refused\\nfor good" in said
    found = shop.json("event", event.id)
    assert (found["seq"], found["data"], found["priority"]) == (1, event.data, 2)
    assert [(each["agent"], each["outcome"]) for each in found["deliveries"]] == [
        ("stock", "succeeded"),
        ("billing", "dead"),
    ]
    assert found["deliveries"][0]["started"].endswith("Z")


def test_an_event_without_deliveries_says_so(shop: Shop) -> None:
    event = shop.app.publish(order())
    assert shop("event", event.id).stderr == "pipeline: it has no deliveries\n"
    assert shop.json("event", event.id)["deliveries"] == []


@pytest.mark.parametrize("command", ["event", "trace", "settle"])
def test_an_unknown_id_is_an_error(shop: Shop, command: str) -> None:
    shop.fails(1, f"no event '{UNKNOWN}' is in the ledger", command, UNKNOWN)
    shop.fails(2, "Missing argument 'ID'", command)


# -- traces


def test_a_trace_is_a_tree(shop: Shop) -> None:
    event = shop.app.publish(order())
    succeed(shop.app, event, "stock")
    said = shop.out("trace", event.id)
    assert f"order.placed {event.id} from /shop" in said
    assert "  -> stock: succeeded" in said
    assert [each["id"] for each in shop.json("trace", event.id)["events"]] == [event.id]


def test_settling_waits_until_everything_is_done(shop: Shop) -> None:
    event = shop.app.publish(order())
    shop.fails(1, f"after 0.1 s event {event.id} has not settled: ", "settle", event.id, "--timeout", "0.1")
    settle(shop.app, [event])
    lose_outbox(shop.app)
    assert "-> billing: succeeded" in shop.out("settle", event.id, "--timeout", "5")
    assert len(shop.json("settle", event.id)["events"][0]["deliveries"]) == 2
    shop.fails(2, "--timeout", "settle", event.id, "--timeout", "-1")


def test_ctrl_c_while_waiting_says_how_to_go_on(shop: Shop) -> None:
    event = shop.app.publish(order())
    command = shop.command("settle", event.id, "--timeout", "60")
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as running:
        wait_until_in(running.pid, "sleep")
        running.send_signal(signal.SIGINT)
        said, complained = running.communicate(timeout=20)
    assert (running.returncode, said) == (130, "")
    assert complained == f"pipeline: waiting for {event.id} stopped; `pipeline trace {event.id}` shows what is done\n"


# -- timers


def test_delayed_events_are_listed_and_cancelled(shop: Shop) -> None:
    at = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    later = shop.out("publish", "order.paid", "--at", at.isoformat()).strip()
    sooner = shop.out("publish", "order.shipped", "--delay", "60").strip()
    heading, *lines = [line.split() for line in shop.out("timers").splitlines()]
    assert heading == ["kind", "due", "id", "type", "agent"]
    assert [[line[0], *line[2:]] for line in lines] == [
        ["publish", sooner, "order.shipped", "-"],
        ["publish", later, "order.paid", "-"],
    ]
    found = shop.json("timers")
    assert datetime.fromisoformat(found[1]["due"]) == at
    assert shop("timers", "--limit", "1").stderr.startswith("pipeline: there are more than 1; ")
    assert shop.out("cancel", sooner) == f"cancelled {sooner}\n"
    assert shop.json("cancel", later) == {"id": later, "cancelled": True}
    assert rows(shop.app, timers) == [] == rows(shop.app, events)
    shop.fails(1, f"no event '{later}' is due later", "cancel", later)
    empty = shop("timers")
    assert (empty.stdout, empty.stderr) == ("", "pipeline: nothing is due later\n")
    assert shop.json("timers") == []


def test_a_retry_is_listed_with_its_agent(shop: Shop) -> None:
    event = shop.app.publish(order())
    id = delivery_id(event.id, "billing")
    shop.app.ledger.claim(Delivery(id, event, "billing"), worker="w")
    assert shop.app.ledger.again(id, event, 1, delay=60, error="busy", timer=True)
    (timer,) = shop.json("timers")
    assert (timer["kind"], timer["id"], timer["type"], timer["agent"]) == ("retry", id, "order.placed", "billing")
    shop.fails(1, "is due later", "cancel", id)
