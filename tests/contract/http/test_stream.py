"""The stream of the log over HTTP: who follows it gets each event, goes on where they were, and is told of gaps."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from pipeline import Pipeline
from pipeline.http.routes import stream
from pipeline.ledger.database.tables import events
from pipeline.ledger.notices.notice import Speaker
from tests.http import Server, served
from tests.servers import wait_for


def test_a_reader_follows_the_log_and_goes_on_where_it_was(app: Pipeline, server: Server) -> None:
    before = app.publish("tick.one", 0)
    with server.follow("/stream?type=tick.*&where=event.priority+%3C+6") as events:
        app.publish_many([("tick.one", 1), ("tock.one", 2), ("tick.two", 3)])
        first = next(events)
        assert json.loads(first["data"])["data"] == 1
        assert json.loads(next(events)["data"])["data"] == 3
    app.publish("tick.one", 4)
    with server.follow("/stream?type=tick.*", {"Last-Event-ID": first["id"]}) as events:
        assert [json.loads(one["data"])["data"] for one in islice(events, 2)] == [3, 4]
    with server.follow(f"/stream?correlation={before.id}&after=0-0") as events:
        assert json.loads(next(events)["data"])["id"] == before.id


def test_a_reader_that_is_too_slow_is_told_what_it_has_missed(
    app: Pipeline, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 100
    monkeypatch.setattr(stream, "MOST_WAITING", 1)
    with server.follow("/stream?type=big.*") as events, server.follow("/stream?type=last.*") as quick:
        # More than the sockets between the two hold.
        ids = [event.id for event in app.publish_many([("big.one", "x" * 200_000) for _ in range(sent)])]
        app.publish("last.one")
        next(quick)
        found = []
        while len(found) < sent:
            one = next(events)
            if one["event"] == "gap":
                break
            found.append(json.loads(one["data"])["id"])
        said = json.loads(one["data"])
        assert found == ids[: len(found)]
        assert 0 < said["missed"] <= sent - len(found)
    assert server.get(f"/events?after={said['after']}&limit=1").data["events"][0]["id"] == ids[len(found)]


def test_a_reader_from_far_back_gets_each_event_once_though_some_cannot_be_read(
    app: Pipeline, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PAGE", 10)
    monkeypatch.setattr(stream, "MOST_WAITING", 5)
    ids = [event.id for event in app.publish_many([("tick.one", n) for n in range(60)])]
    broken = {ids[9], ids[30], *ids[40:50]}

    def spoil(connection: Connection) -> None:
        connection.execute(update(events).where(events.c.id.in_(broken)).values(body=b"{"))

    app.ledger.database.run(spoil)
    with server.follow("/stream?after=0-0") as found:
        first = next(found)
        ids += [event.id for event in app.publish_many([("tick.two", n) for n in range(3)])]
        wanted = [id for id in ids if id not in broken]
        got = [json.loads(one["data"])["id"] for one in (first, *islice(found, len(wanted) - 1))]
        assert got == wanted


def test_a_stream_that_cannot_be_is_said_before_it_begins(tmp_path: Path, no_settings: None) -> None:
    app = Pipeline("shop", directory=tmp_path, ledger_url="")
    with served(app) as server:
        assert server.get("/stream?after=0-0").status == 501
        assert server.call("GET", "/stream", headers={"Last-Event-ID": "0-0"}).status == 501
    app.close()


def test_there_is_room_for_a_hundred_readers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_READERS", 2)
    with server.follow("/stream"), server.follow("/stream"):
        said = server.get("/stream")
        assert (said.status, said.headers["retry-after"]) == (429, "5")
    wait_for(lambda: _follows(server), "those who have left to be gone")


def _follows(server: Server) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", "/stream")
        return connection.getresponse().status == 200


def test_a_reader_who_asks_for_nonsense_is_told_so(server: Server) -> None:
    assert [
        server.get(f"/stream?{query}").status for query in ("where=a+b", "type=a..b", "after=x", "after=0-1~x")
    ] == [422] * 4


def test_of_one_correlation_comes_what_its_handlers_say_and_a_reader_goes_on_where_it_was(
    app: Pipeline, server: Server
) -> None:
    event, notices = app.publish("tick.one"), app.ledger.notices
    speaker = Speaker(event.correlation_id, "d-1", "ada", 1)
    notices.add(speaker, "answer", "before ")
    notices.flush()
    with server.follow(f"/stream?correlation={event.correlation_id}") as said, server.follow("/stream") as others:
        first = next(said)
        assert (first["event"], json.loads(first["data"])["text"]) == ("chunk", "before ")
        notices.add(Speaker("another", "d-2", "bob", 1), "answer", "not for him")
        notices.progress(speaker, 0.5, "half")
        notices.flush()
        second = next(said)
        assert (second["event"], json.loads(second["data"])["fraction"]) == ("progress", 0.5)
        app.publish("tick.two", correlation_id=event.correlation_id)
        assert json.loads(next(said)["data"])["type"] == json.loads(next(others)["data"])["type"] == "tick.two"
    notices.add(speaker, "answer", "after")
    notices.flush()
    again = {"Last-Event-ID": first["id"]}
    with server.follow(f"/stream?correlation={event.correlation_id}", again) as said:
        found = [next(said) for _ in range(3)]
        assert [one["event"] for one in found] == ["event", "progress", "chunk"]
        last = found[-1]
    with server.follow(f"/stream?correlation={event.correlation_id}", {"Last-Event-ID": last["id"]}) as said:
        notices.progress(speaker, 1, "all")
        notices.flush()
        assert json.loads(next(said)["data"])["text"] == "all"
    kept = server.get(f"/trees/{event.correlation_id}/notices").data["notices"]
    assert [one["text"] for one in kept] == ["before ", "half", "after", "all"]
    (newest,) = server.get(f"/trees/{event.correlation_id}/notices?after={kept[-2]['seq']}").data["notices"]
    assert newest["agent"] == "ada"
    assert "name" not in newest
