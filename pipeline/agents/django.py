"""Django's database connections around async handlers, which Celery's Django fixup does not reach.

Around each task the fixup closes the connections of the thread that runs it, so that one which was lost is not used
again. But a handler that is async runs in the event loop, and what it asks of the ORM in a thread of asgiref's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any

from .loop import awaited

#: Says, to Django and to Celery, that a process belongs to a Django project.
VARIABLE = "DJANGO_SETTINGS_MODULE"


def around() -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """Return what awaits a handler in this process: in a Django project it looks after the handler's connections."""
    return with_connections if os.environ.get(VARIABLE) and find_spec("django") else awaited


async def with_connections(answer: Any) -> Any:
    """Await a handler whose ORM has a thread of its own, as a request has under ASGI, and close that one's connections.

    Nobody waits for that: after a timeout the thread may still hang in a query.
    """
    from asgiref.sync import SyncToAsync, ThreadSensitiveContext
    from django.db import connections

    context = ThreadSensitiveContext()
    SyncToAsync.thread_sensitive_context.set(context)  # for the task that runs this, and ends with it
    try:
        return await awaited(answer)
    finally:
        if executor := SyncToAsync.context_to_thread_executor.pop(context, None):
            executor.submit(connections.close_all)
            executor.shutdown(wait=False)
