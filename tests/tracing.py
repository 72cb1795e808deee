"""An OpenTelemetry SDK for this process, for as long as a test lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.util._once import Once

from pipeline.core.observe import PROCESS, Traced


@contextmanager
def sdk(provider: Any) -> Iterator[Any]:
    """Configure it; afterwards the process has none, and no app of it is heard."""
    trace._TRACER_PROVIDER_SET_ONCE = Once()
    trace._TRACER_PROVIDER = None
    trace.set_tracer_provider(provider)
    try:
        yield provider
    finally:
        provider.shutdown()
        trace._TRACER_PROVIDER_SET_ONCE = Once()
        trace._TRACER_PROVIDER = None
        Traced.current = None
        PROCESS._set(())
