"""Routes about what events look like: the JSON Schema of each version of a type, and the whole as AsyncAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from fastapi.responses import Response

from ...contracts.schemas import schema_of
from ...core.errors import InvalidEvent
from ..access import READS, App
from ..answers import Json
from ..problems import Problem

if TYPE_CHECKING:
    pass

router = APIRouter(tags=["schemas"], default_response_class=Json)


@router.get("/schemas", dependencies=[READS])
def schemas(app: App) -> Response:
    """Return the event types that have a class, each with its versions."""
    return Json({"types": {name: [str(one) for one in app.types.versions(name)] for name in app.types}})


@router.get("/schemas/{type}/{version}", dependencies=[READS])
def schema(app: App, type: str, version: str) -> Response:
    """Return the JSON Schema of the data of an event type, in one version; `latest` is the newest."""
    try:
        versions = {str(one): cls for one, cls in app.types.versions(type).items()}
    except InvalidEvent as exc:
        raise Problem(404, str(exc), "unknown-type") from None
    wanted = list(versions)[-1] if version == "latest" else version
    if wanted not in versions:
        raise Problem(404, f"{type} has no class of version {version}; known: {', '.join(versions)}", "unknown-type")
    return Json(schema_of(versions[wanted]))


@router.get("/asyncapi.json", dependencies=[READS])
def asyncapi(app: App) -> Response:
    """Return what agents and types are, as AsyncAPI 3."""
    return Json(app.asyncapi())
