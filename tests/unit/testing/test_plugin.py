"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pytests import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_test_gets_the_bus_of_the_app_that_the_settings_name(run: Run) -> None:
    said = run(
        """
import pytest
from shop import app, OrderPaid

def test_one(pipeline):
    app.publish("order.placed", {"number": 1})
    pipeline.settle()
    assert [event.data for event in pipeline.published(OrderPaid)] == [{"number": 1}]

def test_another_begins_anew(pipeline):
    assert pipeline.published() == []

@pytest.mark.anyio
async def test_in_a_loop(pipeline):
    await app.apublish("order.placed", {"number": 2})
    pipeline.settle()
    assert len(pipeline.published(OrderPaid)) == 1

class TestMany:
    @pytest.mark.parametrize("number", [1, 2])
    def test_each(self, pipeline, number):
        app.publish("order.placed", {"number": number})
        pipeline.advance("1h")
        assert pipeline.published(OrderPaid)[0].data["number"] == number
""",
        "-k",
        "not trio",
    )
    assert "5 passed" in said, said


def test_an_unexpected_dead_letter_fails_the_test_and_not_its_end(run: Run) -> None:
    said = run("""
import pytest
from shop import app

def test_unexpected(pipeline):
    app.publish("order.placed", {"number": -1})
    pipeline.settle()

@pytest.mark.pipeline(expect_dead=True)
def test_expected(pipeline):
    app.publish("order.placed", {"number": -1})
    pipeline.settle()

def test_looked_at(pipeline):
    app.publish("order.placed", {"number": -1})
    pipeline.settle()
    assert len(pipeline.dead()) == 1
""")
    assert "1 failed, 2 passed" in said, said
    assert "agent pay, order.placed: ValueError: no such order" in said


def test_a_marker_says_when_the_clock_begins(run: Run) -> None:
    said = run("""
from datetime import UTC, datetime
import pytest

@pytest.mark.pipeline(start=datetime(2030, 1, 1, tzinfo=UTC), seed=7)
def test_time(pipeline):
    assert pipeline.now.year == 2030

@pytest.mark.pipeline(sed=7)
def test_wrong(pipeline): ...
""")
    assert "1 passed, 1 error" in said, said
    assert "@pytest.mark.pipeline takes app, start, seed, expect_dead, and was given sed" in said


def test_an_app_that_nobody_has_named_is_asked_for(run: Run) -> None:
    said = run("def test_it(pipeline): ...", ini="[pytest]\n")
    assert "1 error" in said
    assert 'pipeline_app = "shop:app"' in said
    said = run("import pytest\n@pytest.mark.pipeline(app='shop:ap')\ndef test_it(pipeline): ...", ini="[pytest]\n")
    assert "pipeline_app = 'shop:ap': module 'shop' has no attribute 'ap'" in said


def test_a_fixture_makes_the_app_of_each_test_also_on_celerys_own(run: Run) -> None:
    said = run(
        """
import pytest
from pipeline import Pipeline

@pytest.fixture
def pipeline_app(celery_app):
    app = Pipeline(celery_app)
    @app.agent(on="page")
    def read(event): ...
    return app

def test_it(pipeline, celery_app):
    celery_app.pipeline.publish("page", {})
    pipeline.settle()
    assert "succeeded" in str(pipeline.app.trace(pipeline.published()[0]))

def test_eager(celery_app):
    celery_app.conf.task_always_eager = True
    with pytest.raises(Exception, match="task_always_eager"):
        Pipeline(celery_app).testing().__enter__()
""",
        "-p",
        "celery.contrib.pytest",
        ini="[pytest]\n",
    )
    assert "2 passed" in said, said


def test_who_does_not_use_it_pays_for_no_import(run: Run) -> None:
    said = run(
        """
import sys

def test_nothing_is_imported(request):
    assert request.config.pluginmanager.has_plugin("celery-eventbus")
    assert not {"pipeline", "celery", "sqlalchemy", "pydantic"} & set(sys.modules)
""",
        plugin=(),
        ini="[pytest]\n",
    )
    assert "1 passed" in said, said
