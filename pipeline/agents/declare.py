"""Declaring an agent: its options and its handler's signature are checked here, once, with hints."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from ..contracts.capability import Capability, of_agent
from ..contracts.registry import payloads_in
from ..core.door.dids import flaw_of_did
from ..core.errors import InvalidAgent, InvalidFilter, InvalidPattern, nearest
from ..core.event import Event, Payload
from ..core.limits.batch import Batch
from ..core.limits.limit import Limit, OnDead, Order, names_of
from ..core.limits.single import Debounce, Singleton, When
from ..core.observe import Log
from ..core.retry import HOLD, POLICIES, Bound, Breaker, Retry
from ..core.routing import wants
from ..core.times import CENTURY, time_limit
from ..core.topics import check_pattern
from .agent import Agent, Handler, P, R
from .context import Context
from .filters import Filter, Where, check_kinds, check_paths, parse
from .filters.paths import parse_path

logger = Log(logging.getLogger(__name__))

#: What an agent may listen to: a topic pattern, a payload class, or several.
Subscription = str | type[Payload]

#: The options of an agent, as users write them.
OPTIONS = (
    *("on", "name", "retry", "rate_limit", "timeout", "max_concurrent", "priority", "since", "where", "did"),
    *("scope", "breaker", "max_waiting", "overflow", "max_age"),
    *("limit", "order_by", "on_dead", "batch", "singleton", "debounce", "capability", "respond"),
)
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
    did: str | None = None,
    where: Where = None,
    scope: str | Iterable[str] = (),
    breaker: Breaker | None = None,
    max_waiting: int | None = None,
    overflow: str = HOLD,
    max_age: float | timedelta | str | None = None,
    limit: Limit | Iterable[Limit] | None = None,
    order_by: str | None = None,
    on_dead: OnDead | None = None,
    batch: Batch | None = None,
    singleton: Singleton | When | None = None,
    debounce: Debounce | float | timedelta | str | None = None,
    capability: Capability | Iterable[Capability] = (),
    respond: bool = False,
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
    _check_numbers(name, rate_limit, timeout, max_concurrent, priority)
    _check_since(name, since)
    if did is not None and (flaw := flaw_of_did(did)):
        raise InvalidAgent(f"agent {name!r}: did={did!r} is no decentralized identifier: {flaw}")
    if breaker is not None and not isinstance(breaker, Breaker):
        raise InvalidAgent(f"agent {name!r}: breaker={breaker!r} is no Breaker(...)")
    limits, order = _limits(name, limit), _order(name, order_by, on_dead)
    annotation, result, wants_context = _signature(name, handler)
    if batch is not None:
        _check_batch(name, batch, limits, rate_limit, order_by, alone=singleton or debounce)
        annotation = _in_list(name, annotation)
    payload, subscriptions = _payload(name, annotation), _subscriptions(on)
    patterns = _patterns(name, subscriptions)
    capabilities = of_agent(name, capability, patterns)
    return Agent(
        name=name,
        handler=handler,
        patterns=_with_types(patterns, capabilities),
        payload=payload,
        classes=payloads_in(annotation, result, *subscriptions),
        retry=_policy(name, retry),
        rate_limit=rate_limit,
        timeout=timeout or max((one.timeout for one in capabilities), default=None),
        max_concurrent=max_concurrent or max((one.max_concurrent for one in capabilities), default=None),
        priority=priority,
        since=since,
        did=did,
        filter=_filter(name, where, payload),
        scopes=_scopes(name, scope),
        breaker=breaker,
        bound=_bound(name, max_waiting, overflow, max_age),
        limits=limits,
        order=order,
        batch=batch,
        singleton=_singleton(name, singleton, limits, order),
        debounce=_debounce(name, debounce, order),
        capabilities=capabilities,
        respond=respond,
        wants_event=annotation is Event,
        wants_context=wants_context,
        is_async=_is_async(handler),
    )


def _with_types(patterns: tuple[str, ...], capabilities: Iterable[Capability]) -> tuple[str, ...]:
    """Return what an agent listens to: its patterns, and what asks for its capabilities."""
    return (*patterns, *(one.type for one in capabilities if one.type and not wants(patterns, one.type)))


def _check_numbers(
    name: str, rate_limit: str | None, timeout: float | None, max_concurrent: int | None, priority: int | None
) -> None:
    if rate_limit is not None and not _RATE.fullmatch(str(rate_limit)):
        raise InvalidAgent(f"agent {name!r}: rate_limit={rate_limit!r} is not a rate such as '10/s', '30/m' or '100/h'")
    if timeout is not None and not (type(timeout) in (int, float) and 0 < timeout < CENTURY):
        raise InvalidAgent(f"agent {name!r}: timeout={timeout!r} must be more than 0 seconds, and less than a century")
    if max_concurrent is not None and not (isinstance(max_concurrent, int) and max_concurrent >= 1):
        raise InvalidAgent(f"agent {name!r}: max_concurrent={max_concurrent!r} must be 1 or more")
    if priority is not None and not (isinstance(priority, int) and 1 <= priority <= 10):
        raise InvalidAgent(f"agent {name!r}: priority={priority!r} must be between 1 (most urgent) and 10")


def _check_since(name: str, since: datetime | int | None) -> None:
    if isinstance(since, datetime) and since.tzinfo is None:
        raise InvalidAgent(f"agent {name!r}: since={since.isoformat()} has no time zone; use datetime.now(UTC) - ...")
    if since is not None and not isinstance(since, (datetime, int)):
        raise InvalidAgent(f"agent {name!r}: since={since!r} is neither an aware datetime nor a sequence number")


def _filter(name: str, where: Where, payload: Any) -> Filter | None:
    """Return what the agent wants of the events that its patterns match; warn of what no event can ever have."""
    try:
        filter = parse(where)
    except InvalidFilter as exc:
        raise InvalidFilter(f"agent {name!r}: where: {exc}") from None
    for warning in (*check_paths(filter.paths, payload), *check_kinds(filter.nodes, payload)):
        logger.warning("agent %s: where: %s", name, warning)
    return filter if filter.nodes else None


def _scopes(name: str, scope: str | Iterable[str]) -> tuple[str, ...]:
    scopes = (scope,) if isinstance(scope, str) else tuple(scope)
    for one in scopes:
        if not (isinstance(one, str) and 0 < len(one) <= 200 and one.isprintable()):
            raise InvalidAgent(
                f"agent {name!r}: scope={one!r} is no text of 1 to 200 characters, such as 'openai:gpt-5'"
            )
    return tuple(dict.fromkeys(scopes))


def _bound(name: str, max_waiting: int | None, overflow: str, max_age: float | timedelta | str | None) -> Bound | None:
    if max_waiting is not None and not (type(max_waiting) is int and max_waiting >= 1):
        raise InvalidAgent(f"agent {name!r}: max_waiting={max_waiting!r} must be 1 or more")
    if overflow not in POLICIES:
        raise InvalidAgent(f"agent {name!r}: overflow={overflow!r} is no policy; {nearest(str(overflow), POLICIES)}")
    if overflow != HOLD and max_waiting is None:
        raise InvalidAgent(f"agent {name!r}: overflow={overflow!r} needs max_waiting=, such as 1000")
    seconds = None if max_age is None else time_limit(max_age, f"agent {name!r}: max_age", InvalidAgent)
    return None if max_waiting is None and seconds is None else Bound(max_waiting, overflow, seconds)


def _limits(name: str, limit: Limit | Iterable[Limit] | None) -> tuple[Limit, ...]:
    """Return the limits over all workers; each counts for itself, so no two have one name."""
    limits = () if limit is None else (limit,) if isinstance(limit, Limit) else tuple(limit)
    for each in limits:
        if not isinstance(each, Limit):
            raise InvalidAgent(f"agent {name!r}: limit={each!r} is not a Limit(rate=..., concurrent=...)")
        for option, path in (("key", each.key), ("fair_by", each.fair_by)):
            _check_path(name, f"Limit({option}=...)", path)
    names = names_of(name, limits)
    for one in names:
        if names.count(one) > 1:
            raise InvalidAgent(
                f"agent {name!r}: several of its limits are called {one!r}; give each its own name (without one, the "
                "first is called as the agent)"
            )
    return limits


def _order(name: str, order_by: str | None, on_dead: OnDead | None) -> Order | None:
    if order_by is None:
        if on_dead is not None:
            raise InvalidAgent(f"agent {name!r}: on_dead={on_dead!r} without order_by='...': there is nothing to hold")
        return None
    _check_path(name, "order_by", order_by)
    return Order(order_by, on_dead or "hold")


def _check_batch(
    name: str, batch: Batch, limits: tuple[Limit, ...], rate_limit: str | None, order_by: str | None, *, alone: object
) -> None:
    if not isinstance(batch, Batch):
        raise InvalidAgent(f"agent {name!r}: batch={batch!r} is not a Batch(most=..., wait=...)")
    _check_path(name, "Batch(key=...)", batch.key)
    if order_by is not None:
        raise InvalidAgent(
            f"agent {name!r}: order_by={order_by!r} hands over one event at a time, and batch= many at once; leave one "
            "of them out: with Batch(key=...) the events of a call have one key, and are in the order of the log"
        )
    if alone is not None:
        raise InvalidAgent(
            f"agent {name!r}: singleton= and debounce= say which one of many events is handled, and batch= takes all "
            "of them; leave one of them out"
        )
    if rate_limit is not None:
        raise InvalidAgent(
            f"agent {name!r}: rate_limit={rate_limit!r} counts events, also those that only wait for their batch; "
            f"use limit=Limit(rate={rate_limit!r}), which counts calls"
        )
    for each in limits:
        for option, path in (("key", each.key), ("fair_by", each.fair_by)):
            if path not in (None, batch.key):
                raise InvalidAgent(
                    f"agent {name!r}: Limit({option}={path!r}) with batch=: the events of one call would have several "
                    f"values of it; use Batch(key={path!r}), or leave {option} out"
                )


def _in_list(name: str, annotation: Any) -> Any:
    """Return what is in the list that a handler of batches takes."""
    if annotation in (Any, object, list):
        return Any
    if get_origin(annotation) in (list, Sequence):
        return get_args(annotation)[0]
    shown = getattr(annotation, "__name__", None) or repr(annotation)
    raise InvalidAgent(
        f"agent {name!r}: batch= calls the handler with a list: write `def {name}(payloads: list[{shown}])` or "
        f"`(payloads: list[{shown}], ctx: Context)`"
    )


def _singleton(
    name: str, singleton: Singleton | When | None, limits: Iterable[Limit], order: Order | None
) -> Singleton | None:
    if singleton is None:
        return None
    if not isinstance(singleton, (str, Singleton)):
        raise InvalidAgent(f"agent {name!r}: singleton={singleton!r} is neither a Singleton(...) nor 'skip'")
    try:
        found = singleton if isinstance(singleton, Singleton) else Singleton(when=singleton)
    except InvalidAgent as exc:
        raise InvalidAgent(f"agent {name!r}: {exc}") from None
    _check_path(name, "Singleton(key=...)", found.key)
    if order is not None:
        raise InvalidAgent(
            f"agent {name!r}: order_by= handles each event of a key, one at a time; leave singleton= out, or order_by="
        )
    if any(limit.concurrent is not None and limit.key == found.key for limit in limits):
        raise InvalidAgent(
            f"agent {name!r}: singleton= lets one run at a time, and Limit(concurrent=...) counts the same; leave one "
            "of them out"
        )
    return found


def _debounce(name: str, debounce: Debounce | float | timedelta | str | None, order: Order | None) -> Debounce | None:
    if debounce is None:
        return None
    try:
        found = debounce if isinstance(debounce, Debounce) else Debounce(debounce)
    except InvalidAgent as exc:
        raise InvalidAgent(f"agent {name!r}: {exc}") from None
    _check_path(name, "Debounce(key=...)", found.key)
    if order is not None:
        raise InvalidAgent(
            f"agent {name!r}: order_by= handles each event, and debounce= only the last of a series; leave one of "
            "them out"
        )
    return found


def _check_path(name: str, option: str, path: str | None) -> None:
    if path is None:
        return
    if not isinstance(path, str) or not path:
        raise InvalidAgent(f"agent {name!r}: {option}: {path!r} is no path such as 'metadata.tenant'")
    try:
        parse_path(path)
    except InvalidFilter as exc:
        raise InvalidAgent(f"agent {name!r}: {option}: {exc}") from None


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


def _subscriptions(on: Subscription | Iterable[Subscription] | None) -> list[Subscription]:
    if on is None:
        return []
    return list(on) if isinstance(on, Iterable) and not isinstance(on, (str, type)) else [on]


def _patterns(name: str, subscriptions: Iterable[Subscription]) -> tuple[str, ...]:
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


def _signature(name: str, handler: Handler) -> tuple[Any, Any, bool]:
    """Return the annotations of the handler's payload and of what it returns, and whether it takes a Context."""
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
    return hints.get(parameters[0].name, Any), hints.get("return"), len(parameters) == 2


def returned(handler: Handler) -> Any:
    """Return what a handler's annotation says that it returns; Any where it says nothing."""
    return _hints(f"{handler!r}", handler).get("return", Any)


def _hints(hint: str, handler: Handler) -> dict[str, Any]:
    function: Any = handler.func if isinstance(handler, functools.partial) else handler
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return get_type_hints(function)
    except NameError as exc:
        raise InvalidAgent(f"{hint}; an annotation cannot be resolved where the agent is declared: {exc}") from exc
