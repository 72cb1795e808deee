"""The application: what it is to Celery, what it declares and publishes, and what importing it does."""

from __future__ import annotations

import asyncio
import copy
import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery.app.utils import find_app

from pipeline import ConfigError, Event, InvalidAgent, InvalidEvent, InvalidFilter, LedgerOff, Payload, Pipeline, step
from pipeline.core.event import new_event


class Order(Payload, type="order.created"):
    n: int


@pytest.fixture
def app(tmp_path: Path) -> Pipeline:
    return Pipeline("test", directory=tmp_path, ledger_url="")


@pytest.fixture
def sent(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What the app would send."""
    found: list[Event] = []
    monkeypatch.setattr(
        app.bus.publisher, "send_encoded", lambda batch, **_: found.extend(each.event for each in batch)
    )
    return found


# -- as a Celery app


def test_the_celery_command_finds_the_bus_in_a_module(app: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("shop_with_a_bus")
    module.app = app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert find_app(module.__name__) is app


@pytest.mark.parametrize(("first", "on"), [(print, '"order.placed"'), ("order.*", "'order.\\*'")])
def test_an_agent_that_is_declared_without_names_says_how_to_write_it(app: Pipeline, first: Any, on: str) -> None:
    with pytest.raises(InvalidAgent, match=rf"write @app.agent\(on={on}\)"):
        app.agent(first)


def test_a_pipeline_on_a_pipeline_is_refused(app: Pipeline) -> None:
    with pytest.raises(ConfigError, match="use that one"):
        Pipeline(app)  # type: ignore[arg-type]


def test_what_is_not_the_buss_own_is_the_celery_apps(app: Pipeline) -> None:
    assert app.main == "test"
    assert app.conf is app.celery.conf
    assert app.tasks is app.celery.tasks
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = app.nothing_like_it
    with pytest.raises(AttributeError, match="has 'publsh'; did you mean 'publish'"):
        _ = app.publsh


def test_an_app_that_is_half_made_has_no_attributes_instead_of_endless_ones(app: Pipeline) -> None:
    with pytest.raises(AttributeError):
        _ = Pipeline.__new__(Pipeline).conf
    assert copy.copy(app).celery is app.celery


def test_the_settings_reach_celery(tmp_path: Path) -> None:
    app = Pipeline("test", broker_url="redis://example/5", directory=tmp_path, redis_visibility_timeout=40)
    assert app.conf.broker_url == "redis://example/5"
    assert app.conf.broker_transport_options["visibility_timeout"] == 40
    assert app.conf.result_backend == f"sqlite:///{tmp_path}/results.db"
    options = Pipeline("test", broker_url="amqp://example", directory=tmp_path).conf.broker_transport_options
    assert (options["confirm_publish"], options["patience"], options["write_timeout"]) == (True, 30, 30)


# -- declaring


def test_an_agents_task_has_its_options(app: Pipeline) -> None:
    app.agent(on="a.b", name="alpha", rate_limit="30/m", timeout=5, retry=7)(lambda data: None)
    task = app.celery.tasks["agent.alpha"]
    assert (task.rate_limit, task.soft_time_limit, task.max_retries, task.acks_late) == ("30/m", 5, 7, True)
    assert task.time_limit > task.soft_time_limit
    assert task.acks_on_failure_or_timeout is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agents": ["left", "nobody"]}, "'nobody' is not an agent; decorate it"),
        ({"agents": ["left", "left"]}, "an agent is named twice"),
        ({"agents": ["left"]}, "has 1 agent"),
        ({"agents": []}, "has 0 agent"),
        ({"emits": "no type"}, "type: 'no type'"),
        ({"emits": Payload}, "type: ''"),
        ({"fails": "no type"}, "type: 'no type'"),
        ({"name": "No Name"}, "not an agent name"),
    ],
)
def test_a_join_that_is_declared_wrongly_is_refused(app: Pipeline, options: dict[str, Any], message: str) -> None:
    known = {name: app.agent(name=name)(lambda data: None) for name in ("left",)}
    known["right"] = app.agent(name="right")(lambda data, ctx: None)
    options = {"name": "pair", "on": "a.b", "agents": ["left", "right"], "emits": "pair.done", **options}
    members = [known.get(name, name) for name in options.pop("agents")]
    with pytest.raises((InvalidAgent, InvalidEvent), match=message):
        app.join(options.pop("name"), agents=members, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quorum": 3}, "quorum=3 is more than its 2 members"),
        ({"quorum": 0}, "quorum=0 is no number of members"),
        ({"quorum": 1, "first": True}, "first=True is quorum=1; give one of them"),
        ({"deadline": "soon"}, "deadline: 'soon'"),
        ({"deadline": -1}, "deadline: -1"),
        ({"on_failure": "ignore"}, "on_failure='ignore' is neither 'fail' nor 'collect'"),
        ({"each": "data.items"}, "has 2 agents; with each= one agent gets each item"),
        ({"each": "data.items", "expect": list}, "each= makes a member of each item, and expect= chooses agents"),
        ({"each": "event"}, "each: .*the whole envelope"),
        ({"until": {"results.a": {"$gtt": 1}}}, r"\$gtt"),
    ],
)
def test_what_a_join_waits_for_is_checked_where_it_is_declared(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    app = Pipeline("test", directory=tmp_path)
    members = [app.agent(name=name)(lambda data: None) for name in ("left", "right")]
    with pytest.raises((InvalidAgent, InvalidEvent, InvalidFilter), match=message):
        app.join("pair", on="a.b", agents=members, emits="pair.done", **options)


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        ([], {}, "has 0 steps"),
        ([1], {}, "1 is not an agent; decorate it"),
        (["pay", "pay"], {}, "two steps are called 'pay'; give one of them another name="),
        ([("pay", {"after": "ship"})], {}, "step 'pay' has after=; a saga's steps go one after the other"),
        (["pay", ("ship", {"input": {"id": "results.pya.id"}})], {}, "asks for the result of 'pya', .*'pay'"),
        ([("pay", {"input": {"id": "results.ship.id"}}), "ship"], {}, "which is not before it; it is the first one"),
        ([("pay", {"input": {"id": "event"}})], {}, "input 'id': .*the whole envelope"),
        (["pay"], {"key": "event"}, "key: .*the whole envelope"),
        (["pay"], {"deadline": "soon"}, "deadline: 'soon'"),
        ([("pay", {"timeout": "0s"})], {}, "step 'pay': timeout='0s': nothing is done in no time"),
        (["pay"], {"emits": "no type"}, "type: 'no type'"),
        ({"pay": ("pay", {"after": "shop"}), "ship": "ship"}, {}, "comes after 'shop'; did you mean 'ship'"),
        (
            {"pay": ("pay", {"after": "ship"}), "ship": ("ship", {"after": "pay"})},
            {},
            "wait for each other: pay -> ship",
        ),
        ({"pay": ("pay", {"when": {"data.x": {"$gtt": 1}}})}, {}, r"\$gtt"),
    ],
)
def test_steps_that_are_declared_wrongly_are_refused(
    tmp_path: Path, steps: Any, options: dict[str, Any], message: str
) -> None:
    app = Pipeline("test", directory=tmp_path)
    known = {name: app.agent(name=name)(lambda data: None) for name in ("pay", "ship")}

    def made(given: Any) -> Any:
        return step(known[given[0]], **given[1]) if isinstance(given, tuple) else known.get(given, given)

    declare = app.workflow if isinstance(steps, dict) else app.saga
    made_of: Any = {k: made(v) for k, v in steps.items()} if isinstance(steps, dict) else [made(v) for v in steps]
    with pytest.raises((InvalidAgent, InvalidEvent, InvalidFilter), match=message):
        declare("order", on="order.placed", steps=made_of, **options)


def test_a_saga_needs_a_ledger(app: Pipeline) -> None:
    pay = app.agent(name="pay")(lambda data: None)
    with pytest.raises(LedgerOff, match="saga 'order' needs a ledger"):
        app.saga("order", on="order.placed", steps=[pay])


def test_what_a_chord_cannot_wait_for_needs_a_ledger(app: Pipeline) -> None:
    members = [app.agent(name="left")(lambda data: None), app.agent(name="right")(lambda data, ctx: None)]
    with pytest.raises(LedgerOff, match="without a ledger it is Celery's chord, which knows neither deadline="):
        app.join("pair", on="a.b", agents=members, emits="pair.done", quorum=1)


def test_a_join_is_an_agent_with_a_queue_of_its_own(app: Pipeline) -> None:
    members = [app.agent(name="left")(lambda data: None), app.agent(name="right")(lambda data, ctx: None)]
    app.join("pair", on=["a.b", Order], agents=members, emits="pair.done")
    assert app.agents["pair"].patterns == ("a.b", "order.created")
    assert "agent.pair" in app.celery.amqp.queues


def test_emit_is_a_signature_that_this_app_sends(app: Pipeline) -> None:
    cause = new_event("a.b", 1, source="/s")
    found = app.emit("a.done", cause=cause)
    assert found.task == "pipeline.emit"
    assert found.app is app.celery
    assert found.kwargs == {"event_type": "a.done", "cause": cause.__json__()}


# -- publishing


def test_publish_returns_the_event_that_was_sent(app: Pipeline, sent: list[Event]) -> None:
    found = app.publish("a.b", {"n": 1}, priority=1, correlation_id="story", subject="s", targets=("alpha",))
    assert sent == [found]
    assert (found.source, found.data, found.priority, found.correlation_id) == ("/test", {"n": 1}, 1, "story")
    assert (found.subject, found.targets) == ("s", ("alpha",))


def test_a_typed_payload_and_a_ready_event_can_be_published(app: Pipeline, sent: list[Event]) -> None:
    ready = new_event("ready.made", source="/elsewhere")
    assert app.publish(ready) is ready
    assert app.publish(Order(n=1)).type == "order.created"
    assert [event.type for event in sent] == ["ready.made", "order.created"]


def test_publish_many_takes_payloads_pairs_and_events_in_order(app: Pipeline, sent: list[Event]) -> None:
    found = app.publish_many([Order(n=1), ("a.b", {"n": 2}), new_event("c.d", source="/s")])
    assert [event.type for event in found] == ["order.created", "a.b", "c.d"]
    assert sent == found


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("no type",), {}, "type: 'no type'|type: Value error, type: 'no type'"),
        (("a.b", 1), {"priority": 0}, "priority: "),
        (("a.b", 1), {"priority": 11}, "priority: "),
        (("a.b", 1), {"subject": ""}, "subject: "),
        ((("a.b", 1),), {}, "takes a type and data as two arguments"),
        ((Order,), {}, "cannot be published; pass a Payload instance"),
        ((5,), {}, "a int cannot be published"),
        ((Order(n=1), {"n": 2}), {}, "a typed payload already is the data"),
    ],
)
def test_what_cannot_be_published_names_the_field(
    app: Pipeline, sent: list[Event], arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidEvent, match=message):
        app.publish(*arguments, **options)
    assert sent == []


def test_publish_many_sends_nothing_when_one_is_wrong(app: Pipeline, sent: list[Event]) -> None:
    with pytest.raises(InvalidEvent):
        app.publish_many([("a.b", 1), ("no type", 2)])
    assert sent == []


def test_apublish_leaves_the_event_loop_free_while_the_broker_makes_it_wait(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, sent = threading.Event(), []

    def wait(batch: Any, *, timeout: float | None, **_: Any) -> None:
        assert opened.wait(20), "the event loop was blocked"
        sent.extend([(event.type, event.priority, timeout) for event, *_ in batch])

    async def main() -> Event:
        publishing = asyncio.create_task(app.apublish("a.b", {"n": 1}, priority=3, timeout=7))
        await asyncio.sleep(0)
        opened.set()  # reached only when the loop still runs
        return await publishing

    monkeypatch.setattr(app.bus.publisher, "send_encoded", wait)
    assert asyncio.run(main()).data == {"n": 1}
    ((type_, priority, timeout),) = sent
    assert (type_, priority) == ("a.b", 3)
    assert 0 < timeout <= 7, "what is left of it"


# -- importing


def run(code: str, directory: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=directory, env={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ".", **environment}, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


SIDE_EFFECTS = """
import sys
effects = []
def watch(name, arguments):
    if name == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        effects.append((name, arguments[0]))
    elif name in ("socket.connect", "socket.bind", "sqlite3.connect", "os.mkdir", "subprocess.Popen", "os.fork") or (
        name == "_thread.start_new_thread"):
        effects.append((name, str(arguments)))
sys.addaudithook(watch)
import pipeline
app = pipeline.Pipeline("shop")
@app.agent(on="a.b")
def handle(data): ...
import threading
print(effects, threading.enumerate() == [threading.main_thread()], sep="|")
"""


def test_importing_and_declaring_touches_no_file_socket_or_thread(tmp_path: Path) -> None:
    assert run(SIDE_EFFECTS, tmp_path).strip() == "[]|True"
    assert list(tmp_path.iterdir()) == []


def test_publishing_imports_no_agents_and_nothing_of_a_worker(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("raise SystemExit('an agent module was imported')")
    code = (
        "import sys, pipeline\napp = pipeline.Pipeline('front')\napp.publish('a.b', 1)\n"
        "heavy = ('shop', 'celery.worker.consumer', 'pipeline.delivery', 'pipeline.agents.runner', 'typer', 'rich')\n"
        "print(app.celery.conf.imports, [m for m in heavy if m in sys.modules])\napp.close()"
    )
    assert run(code, tmp_path, PIPELINE_AGENTS='["shop"]').strip() == "('shop',) []"


def test_a_worker_imports_the_agents_that_the_settings_and_autodiscover_name(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "__init__.py").write_text("")
    (tmp_path / "mail" / "agents.py").write_text("")
    (tmp_path / "shop.py").write_text("")
    code = (
        "import sys, pipeline\napp = pipeline.Pipeline('worker')\napp.autodiscover('mail')\n"
        "app.celery.loader.import_default_modules()\nprint('shop' in sys.modules, 'mail.agents' in sys.modules)"
    )
    assert run(code, tmp_path, PIPELINE_AGENTS='["shop"]').strip() == "True True"


def test_what_is_made_when_it_is_first_asked_for_is_made_once_for_all_threads(
    app: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []

    def slowly(*_: Any, **__: Any) -> object:
        time.sleep(0.1)  # long enough for the other threads to ask too
        made.append(object())
        return made[-1]

    monkeypatch.setattr("pipeline.agents.loop.EventLoop", slowly)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(app.bus.loop)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == made * 5


#: What is registered first runs last.
ENDING = """
import atexit, sys
made = []
def opened():
    pool = made[0].ledger.database.engine.pool
    return len(made[0].bus.publisher._idle), pool.checkedin() + pool.checkedout()
atexit.register(lambda: print(*opened()))
from pipeline import Pipeline
made.append(Pipeline("web", directory=sys.argv[1]))
made[0].publish("order.placed")
print(*opened())
"""


def test_a_process_that_ends_leaves_nothing_open(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", ENDING, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.splitlines() == ["1 1", "0 0"]
    assert "ResourceWarning" not in found.stderr


def test_an_app_that_is_gone_leaves_celery_nothing_to_call() -> None:
    apps = [Pipeline(f"shop{number}") for number in range(20)]
    their_own = [weakref.ref(app.celery.make_directory) for app in apps]
    assert all(own() is not None for own in their_own)
    del apps
    gc.collect()
    assert len([own for own in their_own if own() is not None]) <= 1  # Celery keeps the last one as the current app
