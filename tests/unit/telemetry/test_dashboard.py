"""The dashboard and the alert rules in config/ ask for what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import Pipeline
from pipeline.http.routes.metrics import _Standing
from pipeline.telemetry.tally import METRICS
from tests.records import making_apps

CONFIG = Path(__file__).parents[3] / "config"
RULES, BOARD = CONFIG / "prometheus" / "alerts.yml", CONFIG / "grafana" / "pipeline.json"
NAME = re.compile(r"\bpipeline_[a-z_]+")


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    with making_apps(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path, agents=False) as make:
        yield make()


def exposed(app: Pipeline) -> set[str]:
    """Return the names of all samples that there may be."""
    families = [(family.name, family.type) for family in _Standing(app).collect()]
    families += [(metric.name, "histogram" if metric.bounds else "counter") for metric in METRICS.values()]
    ends = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {name + end for name, kind in families for end in ends[kind]}


def expressions() -> dict[str, list[str]]:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    board = json.loads(BOARD.read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    return {"rules": [rule["expr"] for rule in rules], "board": asked}


def test_each_metric_that_they_ask_for_is_exposed(app: Pipeline) -> None:
    known = exposed(app)
    for where, found in expressions().items():
        assert found
        for expression in found:
            names = set(NAME.findall(expression))
            assert names, f"{where}: {expression} asks for nothing of ours"
            assert names <= known, f"{where}: {expression}"


def test_the_dashboard_shows_each_metric(app: Pipeline) -> None:
    shown = set(NAME.findall(" ".join(expressions()["board"])))
    # The sums and counts of histograms are in their buckets.
    assert {name for name in exposed(app) if not name.endswith(("_sum", "_count"))} <= shown


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board: dict[str, Any] = json.loads(BOARD.read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= board.keys()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    variables = {one["name"] for one in board["templating"]["list"]}
    places = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert panel["title"]
        assert place["x"] + place["w"] <= 24
        assert (place["x"], place["y"]) not in places
        places.add((place["x"], place["y"]))
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps([panel["datasource"], panel["targets"]])))
        assert used <= variables


def test_the_rules_say_what_has_happened_and_how_bad_it_is() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
