"""Agents whose deliveries are counted, traced and logged; each trace is written into a file that tests read."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery.signals import setup_logging, worker_process_init

from pipeline import Batch, Context, Pipeline, Retry
from pipeline.telemetry import DeliveryFilter
from tests.apps.contract_app import once

app = Pipeline("telemetry")
logger = logging.getLogger("shop")

if "TRACES" in os.environ:
    from tests.spans import trace_into_file

    if "TRACES_IN_CHILDREN" in os.environ:
        worker_process_init.connect(lambda **_: trace_into_file(Path(os.environ["TRACES"])), weak=False)
    else:
        trace_into_file(Path(os.environ["TRACES"]))
if "TRACES_TO" in os.environ:  # as an application sends them to a collector
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=os.environ["TRACES_TO"], timeout=5)
    # Only what is flushed when a process ends leaves it within the test.
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=600_000))
    trace.set_tracer_provider(provider)
if "TRACES_OF_CELERY" in os.environ:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    CeleryInstrumentor().instrument()


if (how := os.environ.get("OWN_LOGGING")) is not None:  # as an application sets up its logging
    own = logging.StreamHandler()
    own.setFormatter(logging.Formatter("mine %(event_id)s %(agent)s: %(message)s"))
    own.addFilter(DeliveryFilter())

    def set_up(**_: Any) -> None:
        logging.basicConfig(level=logging.INFO, handlers=[own], force=True)

    if how == "signal":
        setup_logging.connect(set_up, weak=False)
    else:
        app.celery.conf.worker_hijack_root_logger = False
        set_up()


@app.agent(on="tell.plain", retry=Retry(max=3, base=0.01))
def plain(data: Any, ctx: Context) -> None:
    logger.info("plain says %s", data["n"])
    if "emits" in data:
        ctx.publish(data["emits"], {"n": data["n"]})


@app.agent(on="tell.slowly")
async def slowly(data: Any, ctx: Context) -> None:
    logger.info("slowly says %s", data["n"])


@app.agent(on="tell.killing", retry=Retry(max=3, base=0.01))
def killing(data: Any, ctx: Context) -> None:
    if data.get("kills") and once(f"kill-{data['n']}"):
        os.kill(os.getpid(), signal.SIGKILL)


@app.agent(on="tell.failing", retry=Retry(max=1, base=0.01))
def failing(data: Any, ctx: Context) -> None:
    raise ValueError("amqp://me:secret@host went away")


@app.agent(on="tell.picky", where={"data.n": {"$gte": 10}})
def picky(data: Any, ctx: Context) -> None:
    time.sleep(0)


@app.agent(on="tell.stepping", retry=Retry(max=2, base=0.01))
def stepping(data: Any, ctx: Context) -> None:
    ctx.step("first", lambda: data["n"])
    if ctx.attempt == 1 and data.get("fails"):
        raise ValueError("not yet")
    ctx.sleep(data.get("sleeps", 0.01))
    ctx.publish("tell.plain", {"n": data["n"]})


if app.has_ledger:

    @app.agent(on="tell.many", batch=Batch(3, wait=30))
    def many(data: list[Any]) -> None:
        logger.info("many has %d", len(data))
