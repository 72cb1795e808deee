"""Spans that any process of a test has ended, in a file that the test reads; each is a line of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tests.servers import wait_for


class IntoFile(SpanExporter):
    """Appends spans to a file; lines of several processes stay apart."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            for span in spans:
                os.write(descriptor, (json.dumps(as_data(span)) + "\n").encode())
        finally:
            os.close(descriptor)
        return SpanExportResult.SUCCESS


def as_data(span: ReadableSpan) -> dict[str, Any]:
    """Return what tests look at."""
    assert span.context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": span.parent and f"{span.parent.span_id:016x}",
        "links": [f"{link.context.span_id:016x}" for link in span.links],
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
        "told": span.status.description,
        "events": [{"name": event.name, **(event.attributes or {})} for event in span.events],
        "began": span.start_time,
        "seconds": ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
        "pid": os.getpid(),
    }


def trace_into_file(path: Path) -> None:
    """Let this process, and those that it forks, trace into a file, as an application would configure it."""
    provider = TracerProvider()
    # Long enough that only what is flushed at a process's end, or by the test's patience, can be read.
    provider.add_span_processor(BatchSpanProcessor(IntoFile(path), schedule_delay_millis=200))
    trace.set_tracer_provider(provider)


class Traces:
    """What was traced into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _all(self) -> list[dict[str, Any]]:
        """Return all spans so far, in the order in which they began."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return sorted(found, key=lambda span: span["began"])

    def so_far(self, name: str, **attributes: Any) -> list[dict[str, Any]]:
        """Return the spans of a name that have some attributes, with dots written as underscores.

        A process writes its spans a while after they ended: who expects some has to `wait()` for them.
        """
        wanted = attributes.items()
        return [
            span
            for span in self._all()
            if span["name"] == name
            and wanted <= {key.replace(".", "_"): _hashable(value) for key, value in span["attributes"].items()}.items()
        ]

    def wait(self, name: str, number: int = 1, **attributes: Any) -> list[dict[str, Any]]:
        """Wait until there are so many of them, and return them."""
        wait_for(lambda: len(self.so_far(name, **attributes)) >= number, f"{number} spans {name} {attributes}", 60)
        return self.so_far(name, **attributes)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
