"""A Flask application's Celery app as Flask documents it, with everything set that Celery lets one set, and the bus."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from celery import Celery, Task, bootsteps, shared_task, signals
from celery.canvas import StampingVisitor
from contract_app import journal  # type: ignore[import-not-found]
from flask import Flask, current_app
from kombu import Exchange, Queue

from pipeline import Context, Pipeline, Retry
from pipeline.delivery.consumer import AgentConsumer

#: What a test wants to be different: settings of Celery by their names.
SETTINGS = {
    "result_backend": "sqlite:///" + os.environ["PIPELINE_DIRECTORY"] + "/results.db",
    "result_extended": True,
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": True,
    "task_track_started": True,
    "task_remote_tracebacks": True,
    "task_acks_late": False,
    "task_acks_on_failure_or_timeout": True,
    "task_reject_on_worker_lost": True,
    "task_default_priority": 3,
    "task_inherit_parent_priority": True,
    "task_send_sent_event": True,
    "task_create_missing_queues": False,
    "task_default_queue": "mine",
    "task_default_exchange": "mine",
    "task_default_routing_key": "mine",
    "task_default_rate_limit": "1000/s",
    "task_soft_time_limit": 50,
    "task_queues": [Queue("mine", Exchange("mine"), routing_key="mine"), Queue("other")],
    "task_routes": {"their.*": {"queue": "other"}},
    "task_annotations": {
        "*": {"acks_late": False, "autoretry_for": (Exception,), "ignore_result": True, "rate_limit": "500/s"}
    },
    "worker_send_task_events": True,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_max_tasks_per_child": 2,
    "worker_max_memory_per_child": 2_000_000,
    "worker_proc_alive_timeout": 60,
    "worker_prefetch_multiplier": 2,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "worker_consumer": "surrounded_app:OwnConsumer",
    "control_queue_ttl": 120,
    "control_queue_expires": 120,
    "event_queue_prefix": "theirs",
    "event_queue_ttl": 20,
    "broker_connection_retry_on_startup": True,
    **json.loads(os.environ.get("SURROUNDED", "{}")),
}


def note(what: str, **more: Any) -> None:
    with open(os.environ["JOURNAL"], "a") as file:
        file.write(json.dumps({"id": "", "around": what, **more}) + "\n")


class OwnConsumer(AgentConsumer):
    """A consumer of the user's, which derives from the bus's."""

    def on_ready(self) -> None:
        super().on_ready()
        note("consumer")


class WorkerStep(bootsteps.StartStopStep):
    def start(self, parent: Any) -> None:
        note("worker step", option=parent.options.get("tenant") if hasattr(parent, "options") else None)


class ConsumerStep(bootsteps.StartStopStep):
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        note("consumer step")


def celery_init_app(app: Flask) -> Celery:
    """Return the Celery app, as Flask's documentation has it."""

    class FlaskTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                broken = Path(os.environ["PIPELINE_DIRECTORY"]) / "broken"
                if self.name == "agent.motto" and broken.exists() and (left := int(broken.read_text())):
                    broken.write_text(str(left - 1))
                    raise LookupError("no context today")
                return self.run(*args, **kwargs)

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            note("before_start", task=self.name)

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            note("on_success", task=self.name)

        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            note("on_failure", task=self.name)

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            note("on_retry", task=self.name)

    class OwnCelery(Celery):
        def gen_task_name(self, name: str, module: str) -> str:
            return f"their.{name}"

    celery_app = OwnCelery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app


flask_app = Flask("surrounded")
flask_app.config.from_mapping(MOTTO="inside", CELERY={"broker_url": os.environ["PIPELINE_BROKER_URL"], **SETTINGS})
celery = celery_init_app(flask_app)
celery.user_options["worker"].add(__import__("click").Option(["--tenant"], default=None))
celery.steps["worker"].add(WorkerStep)
celery.steps["consumer"].add(ConsumerStep)
bus = Pipeline(celery)


@celery.on_after_configure.connect
def configured(sender: Celery, **_: Any) -> None:
    sender.conf.their_own = "kept"


@signals.task_prerun.connect
def before(task: Task, **_: Any) -> None:
    note("task_prerun", task=task.name)


@signals.task_failure.connect
def failed(sender: Task, **_: Any) -> None:
    note("task_failure", task=sender.name)


@signals.task_postrun.connect
def after(task: Task, **_: Any) -> None:
    note("task_postrun", task=task.name)


@shared_task
def double(x: int) -> int:
    note("double", motto=current_app.config["MOTTO"])
    return 2 * x


@celery.task(bind=True, ignore_result=False)
def ask(self: Task, x: int) -> Any:
    """Publish from a task, and run one by a canvas."""
    bus.publish("motto.asked", {"from": "task"})
    return double.s(x).apply_async(ignore_result=False).id


@celery.task(name="their.tell")
def tell(result: Any) -> None:
    note("tell", result=result)


@celery.task(name="their.complain")
def complain(request: Any, exc: Any, traceback: Any) -> None:
    note("complain")


class Stamps(StampingVisitor):
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"tenant": "one", "stamped_headers": ["tenant"]}


@bus.agent(on="motto.asked", retry=Retry(max=1, base=0.05))
def motto(data: Any, ctx: Context) -> None:
    logging.getLogger("their").warning("motto is asked")
    print("motto is printed")  # noqa: T201
    journal("motto", ctx, {"motto": current_app.config["MOTTO"], "conf": celery.conf.their_own, **(data or {})})
    if data and data.get("fail"):
        raise ValueError("as asked")
    double.delay(2)


@bus.agent()
def left(data: Any) -> dict[str, Any]:
    return {"left": data["n"], "motto": current_app.config["MOTTO"]}


@bus.agent(retry=0)
def right(data: Any) -> dict[str, Any]:
    if data.get("fail"):
        raise ValueError("as asked")
    return {"right": data["n"]}


bus.join("pair", on="pair.started", agents=[left, right], emits="pair.complete")


@bus.agent(on="pair.complete")
def outcome(data: Any, ctx: Context) -> None:
    journal("outcome", ctx, data)


@bus.agent(on="canvas.started")
def canvas(data: Any, ctx: Context) -> None:
    """Run agents in a canvas with a callback, an errback and stamps."""
    work = left.s(ctx.event)
    work.link(tell.s())
    work.stamp(Stamps())
    work.apply_async()
    bad = right.s(bus.publish("quiet.event", {"n": 1, "fail": True}))
    bad.link_error(complain.s())
    bad.apply_async()
