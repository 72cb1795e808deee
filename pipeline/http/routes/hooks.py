"""The route that other services' webhooks call: each of their calls is an event, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ...bridges.incoming import Sender, Told, type_of
from ...core.errors import ConfigError, IdTaken, InvalidSubscription
from ...core.event import MAX_LENGTH
from ...core.times import seconds, utc_now
from ..access import Access, App
from ..answers import Json, encoded
from ..problems import Problem
from .events import Published, foreign, patience, said

if TYPE_CHECKING:
    from ...app.app import Pipeline
    from ...settings import WebhookSource


class Hooks:
    """The services that the setting `webhook_sources` names."""

    def __init__(self, app: Pipeline) -> None:
        self._sources = app.bus.settings.webhook_sources
        self._senders = {name: _sender(name, source) for name, source in self._sources.items()}

    def of(self, name: str) -> tuple[Sender, WebhookSource]:
        """Return a service; raise Problem where there is none."""
        if name not in self._senders:
            raise Problem(404, f"no webhook {name!r} is taken here", "unknown-webhook")
        return self._senders[name], self._sources[name]


router = APIRouter(tags=["webhooks"], default_response_class=Json)


@router.post(
    "/hooks/{source}",
    status_code=201,
    response_model=Published,
    responses={202: {"model": Published, "description": "Kept in the ledger, now or when the call came before."}},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}},
)
async def receive(app: App, request: Request, source: str) -> Response:
    """Publish what another service's webhook tells: its signature is what lets it in, and no token."""
    access: Access = request.app.state.access
    access.check_host(request)
    hooks: Hooks = request.app.state.hooks
    sender, setting = hooks.of(source)
    body = await request.body()
    if not sender.has_signed(request.headers, body, seconds()):
        raise Problem(401, "the call is not signed as it has to be", "unauthorized")
    try:
        told = sender.told(request.headers, orjson.loads(body))
    except orjson.JSONDecodeError as exc:
        raise Problem(422, f"the body is no JSON: {exc}; let it be sent as application/json", "invalid-event") from None
    event_type = setting.types.get(told.name) or type_of(source, told.name)
    event = foreign(app, _cloud_event(app, source, event_type, told, body))
    try:
        event = await app.apublish(event, timeout=patience(app))
    except IdTaken:  # it is sent again, and says of itself how often; what came first counts
        return Json(said(event.marked(sent=False)), 202)
    return Json(said(event), 201 if event.sent else 202)


def _cloud_event(app: Pipeline, source: str, event_type: str, told: Told, body: bytes) -> bytes:
    """Return a call as the event of another program, whose ids are unique for its source."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": told.id,
        "source": f"{app.source}/hooks/{source}",
        "type": event_type,
        "time": utc_now(),
        "datacontenttype": "application/json",
        "schemaversion": app.types.newest(event_type),
    }
    if told.subject and len(told.subject) <= MAX_LENGTH and told.subject.isprintable():
        attributes["subject"] = told.subject
    return encoded(attributes)[:-1] + b',"data":' + body + b"}"  # as it came: it was read to the end, and is one value


def _sender(name: str, source: WebhookSource) -> Sender:
    try:
        return Sender(source.style, [secret.get_secret_value() for secret in source.secrets])
    except InvalidSubscription as exc:
        raise ConfigError(f"webhook_sources.{name}: {exc}") from None
