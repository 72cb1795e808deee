"""What waits, over HTTP: queues, schedules, what is due later; and blobs, which are handed over as files."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from celery.schedules import crontab

from pipeline import Blob, Payload, Pipeline
from pipeline.core.ids import delivery_id
from pipeline.http.page.shown import blobs_in
from pipeline.ledger.facts import Delivery
from tests.http import Server, served
from tests.records import declare_agents, order, succeed


class Report(Payload, type="report.ready"):
    pdf: Blob


# -- queues


def test_queues_say_what_waits_and_what_their_agents_have_in_hand(app: Pipeline, server: Server) -> None:
    assert server.get("/queues").data == {"queues": []}
    declare_agents(app)
    first, second = (app.publish(order(n), targets=("billing",)) for n in range(2))
    app.ledger.claim(Delivery(delivery_id(first.id, "billing"), first, "billing"), worker="w")
    billing, stock = server.get("/queues").data["queues"]
    assert (billing["agent"], billing["queue"], stock["agent"]) == ("billing", "agent.billing", "stock")
    assert (billing["waiting"], billing["running"], billing["parked"], stock["running"]) == (2, 1, {}, 0)
    assert (datetime.fromisoformat(billing["oldest"]), stock["oldest"]) == (first.time, None)
    assert second.time >= first.time


def test_queues_say_how_many_are_done_a_second(app: Pipeline, server: Server) -> None:
    declare_agents(app)
    for n in range(60):
        succeed(app, app.publish(order(n), targets=("billing",)), "billing")
    billing, stock = server.get("/queues").data["queues"]
    assert (billing["rate"], stock["rate"]) == (1.0, 0), "60 in the last minute"


def test_what_the_broker_does_not_say_is_not_made_up(app: Pipeline, server: Server) -> None:
    app.ledger.subscribers.register({"never-here": (("a.*",), None)})
    (one,) = server.get("/queues").data["queues"]
    assert (one["queue"], one["waiting"], one["running"]) == ("agent.never-here", None, 0)


# -- schedules and timers


def test_schedules_say_when_they_are_due_where_that_is_known(app: Pipeline, server: Server) -> None:
    app.schedule("digest", crontab(minute=30, hour=4), "digest.due", {"n": 1})
    app.schedule("tick", 90, "tick.tock")
    digest, tick = server.get("/schedules").data["schedules"]
    due = datetime.fromisoformat(digest.pop("next"))
    assert (due.hour, due.minute) == (4, 30)
    assert timedelta(0) <= due - datetime.now(UTC) <= timedelta(days=1)
    said = {"name": "digest", "schedule": "crontab: 30 4 * * * (m/h/dM/MY/d)", "type": "digest.due", "data": {"n": 1}}
    assert digest == said
    about = {"name": "tick", "schedule": "freq: 1.50 minutes", "type": "tick.tock", "data": None}
    assert tick == {**about, "next": None}, "its interval begins when beat does"


def test_a_schedule_is_shown_without_the_content_of_its_blobs(app: Pipeline, server: Server, tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(b"secret")
    app.schedule("report", 90, Report(pdf=Blob(tmp_path / "report")))
    (tmp_path / "report").unlink()  # when it is due that is an error; whoever looks on has none
    (found,) = server.get("/schedules").data["schedules"]
    assert (found["type"], found["data"]) == ("report.ready", None)


def test_what_is_due_later_is_read_page_by_page_and_taken_back(app: Pipeline, server: Server) -> None:
    ids = [app.publish("later.on", n, delay=100 + n).id for n in range(5)]
    found, after = [], ""
    while after is not None:
        page = server.get(f"/timers?limit=2&after={after}" if after else "/timers?limit=2").data
        found += page["timers"]
        after = page["next"]
    assert [(one["kind"], one["id"], one["type"]) for one in found] == [("publish", id, "later.on") for id in ids]
    assert all(one["due"] < other["due"] for one, other in pairwise(found))
    said = server.call("DELETE", f"/events/{ids[0]}")
    assert (said.status, said.data) == (200, {"event_id": ids[0], "status": "cancelled"})
    assert [one["id"] for one in server.get("/timers").data["timers"]] == ids[1:]
    again = server.call("DELETE", f"/events/{ids[0]}")
    assert (again.status, "is due later" in again.data["detail"]) == (404, True)
    assert server.get("/timers?after=x").status == 422


def test_an_event_that_is_published_is_not_taken_back(app: Pipeline, server: Server) -> None:
    event = app.publish("a.b")
    assert server.call("DELETE", f"/events/{event.id}").status == 404
    assert server.get(f"/events/{event.id}").status == 200


# -- blobs


def test_a_blob_is_handed_over_as_a_file_and_never_shown(app: Pipeline, server: Server) -> None:
    content = b"<script>alert(1)</script>" * 100_000
    app.publish(Report(pdf=Blob(content, media_type="text/html")))
    (record,) = app.get_events()
    said = record.event.data["pdf"]
    found = server.get(f"/blobs/{said['id']}?media_type={said['media_type']}")
    assert (found.status, found.body == content, said["id"]) == (200, True, sha256(content).hexdigest())
    assert found.headers["content-type"].startswith("text/html")
    assert found.headers["content-length"] == str(len(content))
    assert found.headers["content-disposition"] == f'attachment; filename="{said["id"]}"'
    assert found.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert server.get(f"/blobs/{said['id']}").headers["content-type"] == "application/octet-stream"


def test_the_page_leads_to_the_blobs_of_an_event_and_to_nothing_that_only_looks_like_one(
    app: Pipeline, server: Server
) -> None:
    app.publish(Report(pdf=Blob(b"x" * 200_000, media_type="application/pdf")))
    (record,) = app.get_events()
    said = record.event.data["pdf"]
    page = server.get(f"/ui/events/{record.event.id}").body.decode()
    link = f'<a href="/blobs/{said["id"]}?media_type=application/pdf" download>Content</a>'
    assert f"{link} at data.pdf: application/pdf, 200,000 bytes" in page
    odd = [{**said, "id": "x"}, {**said, "size": "1"}, {**said, "media_type": '"><script>'}, {**said, "more": 1}]
    other = app.publish("report.odd", {"list": [*odd, {"deep": said}]})
    page = server.get(f"/ui/events/{other.id}").body.decode()
    assert page.count(" download>Content</a>") == 1
    assert f"{link} at data.list[4].deep: " in page


def test_long_names_over_many_values_cost_the_page_little() -> None:
    many: dict[str, object] = {"n" * 20_000: [{"values": [number]} for number in range(5_000)]}
    tracemalloc.start()
    try:
        assert blobs_in(many) == []
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20_000 * 5_000 / 10


@pytest.mark.parametrize("id", ["0" * 64, "x", "..%2f..%2fetc%2fpasswd", "%2e%2e", "A" * 64])
def test_a_blob_that_is_not_there_is_not_found(server: Server, id: str) -> None:
    said = server.get(f"/blobs/{id}")
    assert (said.status, said.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("kind", ["text", "text/html%0d%0aX-Evil:%201", "a/b;" + "x" * 60, ""])
def test_what_is_no_media_type_is_refused(server: Server, kind: str) -> None:
    assert server.get(f"/blobs/{'0' * 64}?media_type={kind}").status == 422


def test_a_blob_that_was_altered_is_not_handed_over_as_a_whole(app: Pipeline, server: Server) -> None:
    from http.client import IncompleteRead

    content = b"x" * 1_000_000
    app.publish(Report(pdf=Blob(content)))
    (kept,) = (app.bus.settings.directory / "blobs" / "kept").iterdir()
    kept.write_bytes(b"y" * len(content))
    with pytest.raises(IncompleteRead):
        server.get(f"/blobs/{kept.name}")


def test_blobs_need_no_ledger(tmp_path: object, no_settings: None) -> None:
    app = Pipeline("shop", directory=tmp_path, ledger_url="")
    app.publish(Report(pdf=Blob(b"x" * 500_000)))
    with served(app) as server:
        assert server.get(f"/blobs/{sha256(b'x' * 500_000).hexdigest()}").body == b"x" * 500_000
        assert server.get("/timers").status == 501
    app.close()
