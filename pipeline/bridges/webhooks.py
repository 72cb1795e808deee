"""Webhooks: the agent that a subscription describes, whose handler calls its URL with each event.

The call is an event in the structured mode of CloudEvents, with the headers of Standard Webhooks (signing.py). Of the
answer's status 2xx is a success, 429 and a 503 that says how long ask to wait, 408, 425 and the other 5xx are worth
another call, and all else is not (RFC 9110, section 15; RFC 6585; RFC 8470).
"""

from __future__ import annotations

from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import orjson

from ..agents.agent import Agent
from ..agents.context import Context
from ..agents.declare import declare
from ..agents.payloads import Said
from ..core.errors import ConfigError, InvalidSubscription, RateLimited, WebhookFailed, WebhookRefused, to_install
from ..core.event import Event
from ..core.ids import Place
from ..core.limits.limit import Limit
from ..core.retry import Retry
from ..core.times import SECOND, now, utc_now
from ..limits.providers import TOO_MANY, UNAVAILABLE, retry_after
from .addresses import check_url, shown
from .signing import key_of, signed, unsigned

if TYPE_CHECKING:
    from ..ledger.subscribing.subscription import Subscription
    from .client import Answer, Client

#: Statuses below 500 that another call may cure.
PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY})
#: Characters of an answer that are shown when it is no success.
SHOWN = 200
#: Seconds that a call may take, calls at once, and calls again, at most.
LONGEST, WIDEST, MOST_AGAIN = 3600.0, 1000, 100


def check_extra() -> None:
    """Raise ConfigError where what makes the calls is not installed."""
    if find_spec("httpcore") is None:
        raise ConfigError(f"subscriptions need the package httpcore; {to_install('webhooks')}")


def agent_of(subscription: Subscription, client: Client | None = None) -> Agent:
    """Return the agent that a subscription describes.

    Arguments:
        client: what makes its calls; None where nobody runs it.

    Raises InvalidSubscription, or what a declaration in code would raise, that says what is wrong.

    """
    check_url(subscription.url)
    if subscription.secret is not None:
        key_of(subscription.secret)
    if not subscription.on:
        raise InvalidSubscription(
            f"subscription {subscription.id!r}: on: name a pattern that it listens to, as 'order.*'"
        )
    for name, most in (("timeout", LONGEST), ("max_concurrent", WIDEST), ("retry", MOST_AGAIN)):
        value = getattr(subscription, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value > most:
            raise InvalidSubscription(f"subscription {subscription.id!r}: {name}={value!r} is no number up to {most:g}")
    agent = declare(
        Webhook(subscription, client),
        name=subscription.id,
        on=subscription.on,
        where=subscription.where,
        priority=subscription.priority,
        max_concurrent=subscription.max_concurrent,
        limit=Limit(concurrent=subscription.max_concurrent),
        timeout=subscription.timeout,
        retry=Retry(max=subscription.retry, give_up_on=(WebhookRefused,)),
        since=subscription.since,
        scope=f"webhook:{subscription.id}",
    )
    agent.in_ledger = True
    agent.declared = Place((("the ledger", f"subscription {subscription.id}", "", 0, 0),))
    return agent


class Webhook:
    """Calls a subscription's URL with an event."""

    def __init__(self, subscription: Subscription, client: Client | None) -> None:
        self._subscription = subscription
        self._client = client

    async def __call__(self, event: Event, ctx: Context) -> Said:
        """Return what it answers as JSON; raise what says why it was no success."""
        assert self._client is not None, "only workers make calls"
        about, body = self._subscription, event.encode()
        at = now() // SECOND
        headers = unsigned(ctx.delivery_id, at)
        if about.secret is not None:
            headers = signed(about.secret, ctx.delivery_id, at, body)
        headers |= {
            "content-type": "application/cloudevents+json; charset=utf-8",
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "celery-eventbus",
        }
        return Said(outcome_of(about.url, await self._client.post(about.url, headers, body)))


def outcome_of(url: str, answer: Answer) -> Any:
    """Return the JSON of an answer that says that the event was taken; raise what another one means."""
    status = answer.status
    if 200 <= status < 300:
        return _result(answer)
    told = f"{shown(url)} has answered {_named(status)}: {answer.body.decode(errors='replace')[:SHOWN]}"
    seconds = retry_after(answer.headers, utc_now())
    if status == TOO_MANY or (status == UNAVAILABLE and seconds is not None):
        raise RateLimited(seconds)
    if status >= 500 or status in PASSING:
        raise WebhookFailed(told)
    raise WebhookRefused(told)


def _result(answer: Answer) -> Any:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not answer.is_whole or not (kind == "application/json" or kind.endswith("+json")):
        return None
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
