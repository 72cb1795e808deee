"""Spans for OpenTelemetry, as its conventions for messaging name them; an event carries the context of its publisher.

The library is an extra, and imported by nobody here: once an application has configured its SDK, the bus tells it.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_init, worker_process_shutdown, worker_ready, worker_shutdown

from ..core.errors import line_of, traceback_of
from ..core.event import MAX_TRACESTATE
from ..core.observe import PROCESS, About, Log, Traced
from ..core.outcome import Outcome
from ..core.retry import Dead, decide

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind

    from ..core.event import Event

logger = Log(logging.getLogger(__name__))
#: Milliseconds in which what a process has traced last is to leave it, when it ends.
FAREWELL = 5000
_SYSTEMS = {"amqp": "rabbitmq", "amqps": "rabbitmq", "pyamqp": "rabbitmq", "redis": "redis", "rediss": "redis"}
Attributes = dict[str, Any]


def await_sdk(bus: Any) -> None:
    """Let an app's spans be heard as soon as the process has an OpenTelemetry SDK that was configured."""
    lock = threading.Lock()
    weak = weakref.ref(bus)  # the signals are the process's, and an app may be one test's

    def look(**_: Any) -> None:
        api, bus = sys.modules.get("opentelemetry.trace"), weak()
        if api is None or bus is None or bus.spans.looks is None:
            return
        with lock:
            if bus.spans.looks is None:
                return
            try:
                provider = api.get_tracer_provider()
                if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
                    return
                listen = Traces(bus).listen
            except Exception as exc:  # a wrong OTEL_ setting, say: the bus goes on without
                logger.warning("there will be no spans: OpenTelemetry cannot be used: %s", line_of(exc))
                bus.spans.looks = None
                return
            bus.spans.listen(listen)
            bus.spans.looks = None

    def flush(**_: Any) -> None:
        bus = weak()
        if bus is not None and bus.spans.looks is None:
            send_last()

    bus.spans.looks = look
    worker_process_init.connect(look, weak=False)
    worker_ready.connect(look, weak=False)
    worker_process_shutdown.connect(flush, weak=False)
    worker_shutdown.connect(flush, weak=False)


def send_last() -> None:
    """Let the exporters have what this process has traced; a process of a pool ends without further ado."""
    from opentelemetry import trace

    flush: Callable[[int], object] | None = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush(FAREWELL)


class Traces:
    """Makes OpenTelemetry's spans of ours."""

    def __init__(self, bus: Any) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._bus = bus
        self._links = bus.settings.trace_links == "link"
        self._carrier, self._nowhere = TraceContextTextMapPropagator(), Context()
        self._tracer = trace.get_tracer("pipeline")
        self._spans: dict[str, Callable[[About], AbstractContextManager[None]]] = {
            "publish": self._publish,
            "send": self._send,
            "deliver": self._process,
            "request": self._request,
            "approval": self._approval,
        }
        if Traced.current is None:  # the first app of this process
            Traced.current = self._current
            PROCESS.listen(lambda name, about: self._step(about) if name == "step" else nullcontext())

    def listen(self, name: str, about: About) -> AbstractContextManager[None]:
        """Return what opens a span, and ends it."""
        make = self._spans.get(name)
        return nullcontext() if make is None else make(about)

    # -- publishing

    @contextmanager
    def _publish(self, about: About) -> Iterator[None]:
        batch: Sequence[Event] = about["batch"] if "batch" in about else [about["event"]]
        types = {event.type for event in batch}
        destination = types.pop() if len(types) == 1 else None
        attributes = self._about("publish", "create" if len(batch) == 1 else "send", destination)
        if len(batch) == 1:
            attributes |= _about_event(batch[0])
        else:
            attributes["messaging.batch.message_count"] = len(batch)
        kind = self._api.SpanKind.PRODUCER
        with self._span(_name("publish", destination), kind, attributes) as span:
            if len(batch) == 1 and span.is_recording():
                span.set_attribute("messaging.message.body.size", len(batch[0].encode()))
            if "batch" in about:
                about["batch"] = [self._carrying(event) for event in batch]
            else:
                about["event"] = self._carrying(batch[0])
            yield

    @contextmanager
    def _send(self, about: About) -> Iterator[None]:
        batch: Sequence[Any] = about["batch"]
        types = {encoded.event.type for encoded in batch}
        destination = types.pop() if len(types) == 1 else None
        attributes = self._about("send", "send", destination)
        if len(batch) == 1:
            attributes |= _about_event(batch[0].event)
            attributes["messaging.message.body.size"] = len(batch[0].body)
        else:
            attributes["messaging.batch.message_count"] = len(batch)
        links = self._links_to(encoded.event for encoded in batch)
        with self._span(_name("send", destination), self._api.SpanKind.CLIENT, attributes, links=links):
            yield

    def _carrying(self, event: Event) -> Event:
        """Return an event that carries the context which is current; one that somebody has given one keeps that."""
        if event.traceparent or event.key != event.id:
            return event
        return event.model_copy(update=self._current())

    def _current(self) -> dict[str, str | None]:
        """Return what an event carries of the span that is current; nothing where there is none."""
        carrier: dict[str, str] = {}
        self._carrier.inject(carrier)
        if "traceparent" not in carrier:
            return {}
        state = carrier.get("tracestate")
        if state is not None and len(state) > MAX_TRACESTATE:  # no event may have it; a trace goes on without
            state = None
        return {"traceparent": carrier["traceparent"], "tracestate": state}

    def _creation(self, event: Event) -> Any:
        """Return the context that an event was published in, whether there is one or not."""
        said = {"traceparent": event.traceparent or "", "tracestate": event.tracestate or ""}
        return self._carrier.extract(said, context=self._nowhere)

    def _links_to(self, events: Any) -> list[Any]:
        found = (self._context_of(self._creation(event)) for event in events if event.traceparent)
        return [self._api.Link(context) for context in found if context.is_valid]

    def _context_of(self, context: Any = None) -> Any:
        return self._api.get_current_span(context).get_span_context()

    # -- deliveries

    @contextmanager
    def _process(self, about: About) -> Iterator[None]:
        event: Event = about["event"]
        # What a sampler may ask for; the rest only where somebody will see it.
        attributes = self._about("process", "process", event.type) | {"messaging.consumer.group.name": about["agent"]}
        creation, here = self._creation(event), self._context_of()
        is_part = here.is_valid and here.trace_id == self._context_of(creation).trace_id  # of what runs the task
        links = self._links_to([event]) if self._links or is_part else []
        context = None if self._links or is_part else creation
        with self._span(
            _name("process", event.type), self._api.SpanKind.CONSUMER, attributes, links=links, context=context
        ) as span:
            if span.is_recording():
                span.set_attributes(_about_event(event) | _about_attempt(about))
            try:
                yield
            except Exception as exc:
                is_dead = isinstance(decide(about["attempt"] - 1, exc, about["retry"], 0.0), Dead)
                self._ended(span, about, Outcome.DEAD if is_dead else Outcome.RETRYING)
                span.set_attribute("pipeline.timeout", isinstance(exc, (TimeoutError, SoftTimeLimitExceeded)))
                raise
            self._ended(span, about, about.get("outcome"))

    def _ended(self, span: Span, about: About, outcome: Outcome | None) -> None:
        span.set_attribute("pipeline.success", outcome is Outcome.SUCCEEDED)
        if outcome is not None:
            span.set_attribute("pipeline.outcome", outcome.value)
        batch = about.get("events", ())
        if len(batch) > 1:
            span.set_attribute("messaging.batch.message_count", len(batch))
            for link in self._links_to(batch):
                span.add_link(link.context)

    @contextmanager
    def _step(self, about: About) -> Iterator[None]:
        if not self._context_of().is_valid:  # outside of a delivery that is traced
            yield
            return
        attributes = {"pipeline.step": about["step"], "pipeline.step.number": about["number"]}
        with self._span(f"step {about['step']}", self._api.SpanKind.INTERNAL, attributes):
            yield

    # -- those who wait

    @contextmanager
    def _request(self, about: About) -> Iterator[None]:
        event: Event = about["event"]
        attributes: Attributes = {**_about_event(event), "pipeline.request.timeout": about["timeout"]}
        with self._span(_name("request", event.type), self._api.SpanKind.CLIENT, attributes) as span:
            try:
                yield
            except Exception as exc:
                span.set_attribute("pipeline.success", False)
                span.set_attribute("pipeline.timeout", isinstance(exc, TimeoutError))
                raise
            span.set_attribute("pipeline.success", True)

    @contextmanager
    def _approval(self, about: About) -> Iterator[None]:
        attributes: Attributes = {
            f"pipeline.approval.{name}": about[name] for name in ("id", "decision", "by") if about.get(name)
        }
        with self._span("approval", self._api.SpanKind.INTERNAL, attributes):
            yield

    # -- all of them

    @cached_property
    def _system(self) -> str:
        url = self._bus.celery.conf.broker_url
        scheme = (url if isinstance(url, str) else next(iter(url or ()), "")).partition(":")[0]
        return _SYSTEMS.get(scheme, scheme or "celery")

    def _about(self, operation: str, kind: str, destination: str | None) -> Attributes:
        found = {
            "messaging.system": self._system,
            "messaging.operation.name": operation,
            "messaging.operation.type": kind,
        }
        return found if destination is None else {**found, "messaging.destination.name": destination}

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, attributes: Attributes, *, links: Sequence[Any] = (), context: Any = None
    ) -> Iterator[Span]:
        """Let a span be the current one; an error is recorded as the logs show it, bounded and without passwords."""
        with self._tracer.start_as_current_span(
            name, context, kind, attributes, links, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except Exception as exc:
                told, name = line_of(exc), type(exc).__qualname__
                span.set_attribute("error.type", name)
                span.add_event(
                    "exception",
                    {"exception.type": name, "exception.message": told, "exception.stacktrace": traceback_of(exc)},
                )
                span.set_status(self._api.StatusCode.ERROR, told)
                raise


def _name(operation: str, destination: str | None) -> str:
    return operation if destination is None else f"{operation} {destination}"


def _about_event(event: Event) -> Attributes:
    """Return what is said of one event; its size, which has to be found out, only of spans that are recorded."""
    found = {
        "messaging.message.id": event.id,
        "messaging.message.conversation_id": event.correlation_id,
        "pipeline.event.type": event.type,
        "pipeline.event.version": event.schema_version,
    }
    return found if event.subject is None else {**found, "pipeline.event.subject": event.subject}


def _about_attempt(about: About) -> Attributes:
    return {
        "messaging.message.body.size": len(about["event"].encode()),
        "pipeline.agent": about["agent"],
        "pipeline.attempt": about["attempt"],
        "pipeline.delivery.id": about["delivery"],
        "pipeline.replay": about["replay"],
    }
