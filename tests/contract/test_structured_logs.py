"""Lines of JSON that say which delivery they are about, wherever it runs; and the user's own setup stays his."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline import Pipeline
from tests.harness import StartWorker, Worker
from tests.servers import wait_for

pytestmark = pytest.mark.bare
JSON = {"PIPELINE_LOG_FORMAT": "json"}
#: What Celery itself prints without logging it.
BANNER = (" ", "-", "*", "[", "\n")


def lines(worker: Worker) -> list[dict[str, Any]]:
    """Return what the worker has logged; its banner is none of that, and neither is a line that is half written."""
    said = worker.output()
    return [json.loads(line) for line in said[: said.rfind("\n") + 1].splitlines() if line.startswith("{")]


def said(worker: Worker, text: str) -> list[dict[str, Any]]:
    return [line for line in lines(worker) if text in line["message"]]


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_each_line_of_a_handler_says_what_it_is_about(pool: str, bus: Pipeline, worker: StartWorker) -> None:
    one = worker(app="telemetry_app", pool=pool, environment=JSON)
    events = {n: bus.publish("tell.plain", {"n": n, "emits": "tell.slowly"}) for n in range(5)}
    wait_for(lambda: len(said(one, "slowly says")) >= 5 <= len(said(one, "plain says")), "all lines", 60)
    for n, event in events.items():
        line, later = said(one, f"plain says {n}")[0], said(one, f"slowly says {n}")[0]
        assert (line["event"], line["type"], line["correlation"]) == (event.id, "tell.plain", event.correlation_id)
        assert (line["agent"], line["attempt"], line["level"], line["logger"]) == ("plain", 1, "INFO", "shop")
        assert line["delivery"] != event.id
        assert (later["agent"], later["type"], later["correlation"]) == ("slowly", "tell.slowly", event.correlation_id)
        assert later["event"] != event.id
        assert line["time"].endswith("+00:00")


def test_what_the_bus_says_of_a_failure_is_about_the_delivery_too(bus: Pipeline, worker: StartWorker) -> None:
    one = worker(app="telemetry_app", pool="prefork", environment=JSON)
    event = bus.publish("tell.failing", {})
    wait_for(lambda: said(one, "is dead"), "the last attempt", 60)
    for text in ("trying again", "is dead"):
        line = said(one, text)[0]
        assert (line["agent"], line["event"], line["correlation"]) == ("failing", event.id, event.correlation_id)
    assert "secret" not in one.output()


def test_all_that_a_worker_logs_is_json_and_names_no_delivery_where_there_is_none(worker: StartWorker) -> None:
    one = worker(app="telemetry_app", pool="prefork", environment=JSON)
    wait_for(lambda: said(one, "ready."), "the line to be whole")
    ready = said(one, "ready.")[0]
    assert (ready["level"], "event" in ready) == ("INFO", False)
    odd = [line for line in one.output().splitlines() if line and not line.startswith(("{", *BANNER))]
    assert [line for line in odd if "MainProcess" in line] == []


def test_lines_say_which_trace_goes_on(bus: Pipeline, worker: StartWorker, tmp_path: Any) -> None:
    one = worker(app="telemetry_app", environment={**JSON, "TRACES": str(tmp_path / "spans.jsonl")})
    bus.publish("tell.plain", {"n": 1})
    wait_for(lambda: said(one, "plain says 1"), "the line", 60)
    assert len(said(one, "plain says 1")[0]["trace"]) == 32


@pytest.mark.parametrize("how", ["signal", "root"])
def test_who_has_set_up_logging_keeps_that(how: str, bus: Pipeline, worker: StartWorker) -> None:
    one = worker(app="telemetry_app", pool="prefork", environment={**JSON, "OWN_LOGGING": how}, wait=False)
    wait_for(lambda: "mine" in one.output() and "ready." in one.output(), "the worker to be ready", 90)
    event = bus.publish("tell.plain", {"n": 1})
    wait_for(lambda: f"mine {event.id} plain: plain says 1" in one.output(), "the line in the user's format", 60)
    assert lines(one) == []


def test_text_stays_as_it_is(bus: Pipeline, worker: StartWorker) -> None:
    one = worker(app="telemetry_app")
    bus.publish("tell.plain", {"n": 1})
    wait_for(lambda: "INFO/MainProcess] plain says 1" in one.output(), "the line", 60)
    assert lines(one) == []
