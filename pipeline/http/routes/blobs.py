"""The route of content that is too large for an event: it is handed over as a file, and never shown."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse

from ...contracts.blobs.blob import MEDIA_TYPE
from ..access import READS, App

#: Whatever it is, no browser runs or shows it here.
_HEADERS = {"Content-Security-Policy": "default-src 'none'; sandbox", "Cache-Control": "no-store"}

router = APIRouter(tags=["blobs"])


@router.get("/blobs/{id}", dependencies=[READS], response_class=StreamingResponse)
def blob(
    app: App,
    id: str,
    media_type: Annotated[
        str, Query(pattern=f"^{MEDIA_TYPE}$", description="What the event says that it is.")
    ] = "application/octet-stream",
) -> Response:
    """Return the content of a blob by its SHA-256, as a file to be saved."""
    found = app.blobs.find(id, media_type)
    about = {"Content-Disposition": f'attachment; filename="{found.id}"', "Content-Length": str(found.size)}
    return StreamingResponse(found.chunks(), media_type=found.media_type, headers={**_HEADERS, **about})
