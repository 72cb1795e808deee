"""Declaring an agent: its options and its handler's signature are checked here, once, with hints."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from ..core.errors import InvalidAgent, InvalidPattern
from ..core.event import Event, Payload
from ..core.retry import Retry
from ..core.topics import check_pattern
from .agent import Agent, Handler, P, R
from .context import Context

#: What an agent may listen to: a topic pattern, a payload class, or several.
Subscription = str | type[Payload]

#: The options of an agent, as users write them.
OPTIONS = ("on", "name", "retry", "rate_limit", "timeout", "max_concurrent", "priority", "since")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_RATE = re.compile(r"\d+(\.\d+)?(/[smh])?")


def declare(
    handler: Callable[P, R],
    *,
    on: Subscription | Iterable[Subscription] | None = None,
    name: str | None = None,
    retry: Retry | int | None = None,
    rate_limit: str | None = None,
    timeout: float | None = None,
    max_concurrent: int | None = None,
    priority: int | None = None,
    since: datetime | int | None = None,
) -> Agent[P, R]:
    """Check the options and the handler's signature, and return the agent they describe.

    Raises InvalidAgent that says what is wrong and how to mend it.
    """
    name = name or str(getattr(handler, "__name__", ""))
    if not _NAME.fullmatch(name):
        raise InvalidAgent(
            f"{name!r} is not an agent name; use a lower-case letter, then up to 62 letters, digits, '_' and '-', "
            "and pass name='...' where the handler has no such name"
        )
    if rate_limit is not None and not _RATE.fullmatch(str(rate_limit)):
        raise InvalidAgent(f"agent {name!r}: rate_limit={rate_limit!r} is not a rate such as '10/s', '30/m' or '100/h'")
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
        raise InvalidAgent(f"agent {name!r}: timeout={timeout!r} must be more than 0 seconds")
    if max_concurrent is not None and not (isinstance(max_concurrent, int) and max_concurrent >= 1):
        raise InvalidAgent(f"agent {name!r}: max_concurrent={max_concurrent!r} must be 1 or more")
    if priority is not None and not (isinstance(priority, int) and 1 <= priority <= 10):
        raise InvalidAgent(f"agent {name!r}: priority={priority!r} must be between 1 (most urgent) and 10")
    if isinstance(since, datetime) and since.tzinfo is None:
        raise InvalidAgent(f"agent {name!r}: since={since.isoformat()} has no time zone; use datetime.now(UTC) - ...")
    if since is not None and not isinstance(since, (datetime, int)):
        raise InvalidAgent(f"agent {name!r}: since={since!r} is neither an aware datetime nor a sequence number")
    annotation, wants_context = _signature(name, handler)
    return Agent(
        name=name,
        handler=handler,
        patterns=_patterns(name, on),
        payload=_payload(name, annotation),
        retry=_policy(name, retry),
        rate_limit=rate_limit,
        timeout=timeout,
        max_concurrent=max_concurrent,
        priority=priority,
        since=since,
        wants_event=annotation is Event,
        wants_context=wants_context,
        is_async=_is_async(handler),
    )


def _is_async(handler: Handler) -> bool:
    """Say whether the handler is async, in so far as one can see it: its call shows it in any case."""
    inner = inspect.unwrap(handler)
    return any(inspect.iscoroutinefunction(each) for each in (handler, inner, type(inner).__call__))


def _payload(name: str, annotation: Any) -> Any:
    """Return what the data is validated into: any type that pydantic knows."""
    if annotation in (Any, object, Event):
        return None
    try:
        TypeAdapter(annotation)
    except PydanticUserError as exc:
        raise InvalidAgent(
            f"agent {name!r}: event data cannot be validated into {annotation!r}; use a Payload class"
        ) from exc
    return annotation


def _policy(name: str, retry: Retry | int | None) -> Retry:
    if retry is None:
        return Retry()
    if isinstance(retry, int) and not isinstance(retry, bool):
        return Retry(max=retry)
    if not isinstance(retry, Retry):
        raise InvalidAgent(f"agent {name!r}: retry={retry!r} is neither a Retry(...) nor a number of retries")
    return retry


def _patterns(name: str, on: Subscription | Iterable[Subscription] | None) -> tuple[str, ...]:
    if on is None:
        return ()
    subscriptions = list(on) if isinstance(on, Iterable) and not isinstance(on, (str, type)) else [on]
    patterns = []
    for subscription in subscriptions:
        if isinstance(subscription, str):
            try:
                patterns.append(check_pattern(subscription))
            except InvalidPattern as exc:
                raise InvalidPattern(f"agent {name!r}: {exc}") from None
        elif isinstance(subscription, type) and issubclass(subscription, Payload) and subscription.event_type:
            patterns.append(subscription.event_type)
        else:
            raise InvalidAgent(
                f"agent {name!r}: on={subscription!r} is neither a topic pattern nor a Payload class with a type"
            )
    return tuple(dict.fromkeys(patterns))


def _signature(name: str, handler: Handler) -> tuple[Any, bool]:
    """Return the annotation of the handler's payload and whether it takes a Context."""
    hint = f"agent {name!r}: write `def {name}(payload: SomePayload)` or `(payload: SomePayload, ctx: Context)`"
    if not callable(handler):
        raise InvalidAgent(f"{hint}; {handler!r} is not a function")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise InvalidAgent(f"{hint}; a generator would never run, call ctx.publish() instead of yield")
    parameters = list(inspect.signature(handler).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not 1 <= len(parameters) <= 2 or any(p.kind not in positional for p in parameters):
        raise InvalidAgent(f"{hint}; it takes ({', '.join(map(str, parameters))})")
    hints = _hints(hint, handler)
    if hints.get(parameters[0].name) is Context:
        raise InvalidAgent(f"{hint}; the payload comes first")
    if len(parameters) == 2 and hints.get(parameters[1].name, Context) is not Context:
        raise InvalidAgent(f"{hint}; its second parameter {parameters[1].name!r} is not annotated as Context")
    return hints.get(parameters[0].name, Any), len(parameters) == 2


def _hints(hint: str, handler: Handler) -> dict[str, Any]:
    function: Any = handler.func if isinstance(handler, functools.partial) else handler
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return get_type_hints(function)
    except NameError as exc:
        raise InvalidAgent(f"{hint}; an annotation cannot be resolved where the agent is declared: {exc}") from exc
