"""Microseconds of CPU for a member of a join, beside an ordinary delivery, and beside one that goes through Celery.

    python -m benchmarks.joins
    python -m benchmarks.joins --count 1000 --repeats 5

A process of its own for each measurement: a solo worker on the embedded broker with a SQLite ledger takes what is in
the queue and ends with the last one. The start of the join, and sending its members, are over by then; its end, with
the one event that follows, is the last member's. Celery's own chord is measured in the same way, with the results
in the embedded backend, in Redis, and in Celery's database backend (SQLite), where a task asks each second whether all
are there: its members are plain tasks of Celery's that nothing is recorded of.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .cpu import _stop, _taken
from .servers import Unavailable, running

#: What is measured: an ordinary delivery on the short way, one on Celery's, a member of a join, and one of a chord,
#: whose results are in the embedded backend, or in Celery's own.
KINDS = ("short way", "Celery's way", "member", "chord", "chord, Redis", "chord, database")
#: The environment variable with the address of a chord's results.
RESULTS = "JOINS_RESULTS"
TIMEOUT = 300.0


def declared(kind: str, left: list[int]) -> tuple[Any, Any, Any]:
    """Return an app with its agents, and the tasks of a chord; the worker ends when `left` is 0."""
    from pipeline import Pipeline

    place = Path.cwd()
    app = Pipeline("joins", directory=place, broker_url="", ledger_url=f"sqlite:///{place}/l.db")
    app.celery.conf.update(worker_redirect_stdouts=False, worker_prefetch_multiplier=50, task_ignore_result=False)
    if RESULTS in os.environ:
        app.celery.conf.result_backend = os.environ[RESULTS]

    def took() -> None:
        left[0] -= 1
        if not left[0]:
            _stop()

    @app.agent(on="plain.asked", max_concurrent=1 if kind == "Celery's way" else None)
    def plain(data: dict[str, Any]) -> None:
        took()

    @app.agent()
    def member(data: dict[str, Any]) -> dict[str, Any]:
        took()
        return {"n": data["n"]}

    app.join("crowd", on="crowd.asked", agents=[member], each="data.items", emits="crowd.done")

    @app.celery.task
    def task(data: dict[str, Any]) -> dict[str, Any]:
        took()
        return {"n": data["n"]}

    @app.celery.task
    def end(results: list[Any]) -> None: ...

    return app, task, end


def measure(kind: str, count: int) -> float:
    """Return the microseconds of CPU that one of `count` takes."""
    from celery import chord

    left = [count]
    app, task, end = declared(kind, left)
    with app.celery.connection_for_write() as connection:
        for queue in app.celery.amqp.queues.consume_from.values():
            queue(connection.default_channel).declare()
    items = [{"n": n} for n in range(count)]
    if kind in ("short way", "Celery's way"):
        app.publish("plain.asked", {"n": -1})
        left[0] = 1
        work(app, "agent.plain")  # a worker that has been here has told the ledger who listens
        left[0] = count
        app.publish_many([("plain.asked", item) for item in items])
        queues = "agent.plain"
    elif kind == "member":
        app.publish("crowd.asked", {"items": items})
        work(app, "agent.crowd", until=lambda: sent(app, count))
        queues = "agent.member"
    else:
        chord([task.s(item) for item in items], end.s()).apply_async()
        queues = "celery"
    return _taken(lambda: work(app, queues)) / count


def sent(app: Any, count: int) -> bool:
    """Say whether all members of the join are in their queue."""
    from sqlalchemy import func, select

    from pipeline.ledger.database.tables import deliveries

    mine = select(func.count()).where(deliveries.c.flow.is_not(None), deliveries.c.due > 0)
    with app.ledger.database.reading() as connection:
        return bool(connection.execute(mine).scalar() == count)


def work(app: Any, queues: str, until: Callable[[], bool] | None = None) -> None:
    """Run a worker for some queues, until a handler ends it, or something is so."""
    from celery.worker import state

    def watch(is_over: Callable[[], bool]) -> None:
        while not is_over():
            time.sleep(0.1)  # between two looks, in the worker that sends
        time.sleep(0.5)  # what is noted as sent is on its way to the broker
        _stop()

    state.should_stop = None
    app.celery.amqp.queues.select(queues)
    if until is not None:
        threading.Thread(target=watch, args=(until,), daemon=True).start()
    worker = app.celery.Worker(
        app=app.celery, pool="solo", concurrency=1, hostname="joins@localhost", loglevel="CRITICAL", quiet=True,
        logfile=os.devnull, without_mingle=True, without_gossip=True, without_heartbeat=True, queues=queues,
    )  # fmt: skip
    with contextlib.suppress(SystemExit):
        worker.start()


def measured(kind: str, count: int, redis: str | None) -> float | None:
    """Return what a process measures; None for what is not there to be measured."""
    results = {"chord, Redis": redis, "chord, database": "db+sqlite:///results.db"}
    if kind in results and results[kind] is None:
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "PYTHON"))}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    if kind in results:
        environment[RESULTS] = results[kind] or ""
    with tempfile.TemporaryDirectory(prefix="joins-") as directory:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.joins", "--child", kind, "--count", str(count)]
        done = subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    if done.returncode:
        raise SystemExit(f"{kind!r} could not be measured:\n{done.stderr}")
    return float(done.stdout)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joins", description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000, help="members of the join, or events (default 1000)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind (default 3)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(measure(options.child, options.count), flush=True)
        os._exit(0)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with contextlib.ExitStack() as stack:
        redis = None
        try:
            redis = stack.enter_context(running("redis")).url
        except Unavailable as exc:
            print(f"chord, Redis: not measured: {exc}", flush=True)
        for _ in range(options.repeats):
            for kind in KINDS:
                value = measured(kind, options.count, redis)
                found[kind] += [] if value is None else [value]
    base = found["Celery's way"]
    for kind, values in found.items():
        ratios = [one / other for one, other in zip(values, base, strict=False)]
        if ratios:
            print(f"{kind:<16}{median(values):7.0f} us   {median(ratios):.2f} x Celery's way", flush=True)


if __name__ == "__main__":
    main()
