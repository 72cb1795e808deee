"""The pytest plugin beside those of others: pytest-asyncio, pytest-django, Celery's own and pytest-celery."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pytests import INI, Run

ASYNCIO = f"{INI}asyncio_default_fixture_loop_scope = function\n"
STRICT = """
import pytest, pytest_asyncio
from shop import app, OrderPaid

@pytest_asyncio.fixture
async def placed(pipeline):
    return await app.apublish("order.placed", {"number": 7})

@pytest.mark.asyncio
async def test_in_a_loop(pipeline, placed):
    pipeline.settle()
    assert [event.data["number"] for event in pipeline.published(OrderPaid)] == [7]

@pytest.mark.asyncio
@pytest.mark.xfail(strict=True, raises=AssertionError)
async def test_a_dead_letter(pipeline):
    await app.apublish("order.placed", {"number": -1})
    pipeline.settle()

def test_without_a_loop(pipeline):
    assert pipeline.published() == []
"""
AUTO = STRICT.replace("@pytest.mark.asyncio\n", "").replace("pytest_asyncio.fixture", "pytest.fixture")


@pytest.mark.parametrize(("mode", "tests"), [("strict", STRICT), ("auto", AUTO), ("auto", STRICT)])
def test_async_tests_and_fixtures_of_pytest_asyncio_have_the_bus(tmp_path: Path, mode: str, tests: str) -> None:
    said = Run(tmp_path, ("asyncio",))(tests, ini=f"{ASYNCIO}asyncio_mode = {mode}\n")
    assert "2 passed, 1 xfailed" in said, said


DJANGO = f"{INI}DJANGO_SETTINGS_MODULE = site_settings\n"
SETTINGS = """
SECRET_KEY = "no secret"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.db"}}
USE_TZ = True
"""
IN_DJANGO = """
import pytest
from django.contrib.auth.models import Group
from django.db import transaction
from pipeline import Pipeline

@pytest.fixture
def pipeline_app():
    app = Pipeline("site")

    @app.agent(on="group.wanted")
    def make(data: dict):
        Group.objects.create(name=data["name"])

    @app.agent(on="group.looked.for")
    async def look(data: dict) -> dict:
        return {"found": await Group.objects.acount()}

    return app

def made(pipeline):
    pipeline.app.publish("group.wanted", {"name": "staff"})
    pipeline.settle()
    return list(Group.objects.values_list("name", flat=True))

def test_a_handler_writes_in_the_transaction_of_the_test(pipeline, db):
    assert made(pipeline) == ["staff"]

def test_and_it_was_rolled_back_whichever_fixture_comes_first(db, pipeline):
    assert made(pipeline) == ["staff"]

def test_what_is_published_on_commit(pipeline, db, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        transaction.on_commit(lambda: pipeline.app.publish("group.wanted", {"name": "late"}))
        assert pipeline.published() == []
    pipeline.settle()
    assert Group.objects.get().name == "late"

@pytest.mark.django_db(transaction=True)
def test_an_async_handler_sees_what_is_committed(pipeline):
    Group.objects.create(name="staff")
    assert pipeline.app.request("group.looked.for", {}).result == {"found": 1}
"""


def test_handlers_write_in_the_transaction_of_a_test_of_pytest_django(tmp_path: Path) -> None:
    (tmp_path / "site_settings.py").write_text(SETTINGS)
    said = Run(tmp_path, ("django",))(IN_DJANGO, ini=DJANGO)
    assert "4 passed" in said, said


BESIDE_A_WORKER = """
import threading
import pytest
from pipeline import Pipeline

@pytest.fixture
def pipeline_app(celery_app):
    app = Pipeline(celery_app)

    @app.agent(on="page")
    def read(data: dict) -> dict:
        return {"read": data["number"]}

    return app

@pytest.fixture
def add(celery_app):
    @celery_app.task
    def add(a, b):
        return a + b
    return add

def test_a_worker_of_another_app_goes_on(add, celery_worker, request):
    celery_worker.reload()
    assert add.delay(1, 2).get(timeout=30) == 3
    with Pipeline("other").testing() as bus:
        bus.app.publish("page", {"number": 1})
        bus.advance("1d")
        assert add.delay(3, 4).get(timeout=30) == 7
    assert add.delay(5, 6).get(timeout=30) == 11

@pytest.fixture
def where(celery_app):
    @celery_app.task
    def where():
        return threading.current_thread().name
    return where

def test_a_worker_of_the_app_goes_on_afterwards(add, where, celery_worker, pipeline_app):
    celery_worker.reload()
    with pipeline_app.testing() as bus:
        assert bus.request("page", {"number": 2}).result == {"read": 2}
        done = where.delay()
        bus.settle()
        assert done.get(timeout=1) == "MainThread"
    assert where.delay().get(timeout=30) != "MainThread"
    assert add.delay(1, 2).get(timeout=30) == 3

def test_tasks_run_too(add, pipeline):
    done = add.delay(1, 2)
    pipeline.settle()
    assert done.get(timeout=1) == 3

@pytest.fixture
def waits(add, celery_app):
    @celery_app.task
    def waits():
        return add.delay(1, 2).get(timeout=1)
    return waits

def test_a_task_waits_for_no_other_here_either(waits, pipeline):
    done = waits.delay()
    pipeline.settle()
    with pytest.raises(RuntimeError, match="within a task"):
        done.get(timeout=1)
"""


def test_a_worker_of_celerys_plugin_goes_on_beside_it(tmp_path: Path) -> None:
    said = Run(tmp_path)(BESIDE_A_WORKER, "-p", "celery.contrib.pytest", ini="[pytest]\nfilterwarnings = error\n")
    assert "4 passed" in said, said


EAGER = """
import pytest
from pipeline import Pipeline

@pytest.fixture
def celery_config():
    return {"task_always_eager": True}

@pytest.fixture
def pipeline_app(celery_app):
    return Pipeline(celery_app)

def test_eager(pipeline): ...

class TestNotEager:
    @pytest.fixture
    def celery_config(self):
        return {"task_always_eager": False}

    def test_it(self, pipeline): ...
"""


def test_an_app_whose_tasks_are_eager_is_refused_with_the_way_out(tmp_path: Path) -> None:
    said = Run(tmp_path)(EAGER, "-p", "celery.contrib.pytest", ini="[pytest]\n")
    assert "1 passed, 1 error" in said, said
    assert "task_always_eager is set on the Celery app" in said
    assert "set it to False for these tests" in said


def test_pytest_celery_and_all_others_are_loaded_and_not_in_the_way(tmp_path: Path) -> None:
    tests = """
from shop import app, OrderPaid

def test_it(pipeline, request):
    assert {"celery", "asyncio", "django"} <= {name for name, _ in request.config.pluginmanager.list_name_plugin()}
    app.publish("order.placed", {"number": 1})
    pipeline.settle()
    assert len(pipeline.published(OrderPaid)) == 1
"""
    said = Run(tmp_path, ("celery", "asyncio", "django"))(tests, ini=ASYNCIO)
    assert "1 passed" in said, said
