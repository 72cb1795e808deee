"""Coming in, leaving, and the page's own files."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from ..access import COOKIE, READS, Access
from ..answers import base_of
from ..problems import Problem
from .shown import HEADERS, HERE, PageRoute, cookie, form_of, pages_of

FILES = {"page.css": "text/css", "page.js": "text/javascript"}

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/ui/login")
def ask(request: Request) -> Response:
    """Ask for a token."""
    return pages_of(request).login(request)


@router.post("/ui/login")
async def login(request: Request) -> Response:
    """Take a token, which the browser keeps for half a day."""
    form = await form_of(request)
    token = form.get("token", "").strip()
    access: Access = request.app.state.access
    if not access.knows(request, token):
        answer = pages_of(request).login(request, "That is no token that is known here.")
        answer.status_code = 401
        return answer
    answer = RedirectResponse(pages_of(request).inside(request, form.get("to", "")), 303, HEADERS)
    cookie(answer, token, secure=request.url.scheme == "https")
    return answer


@router.post("/ui/logout")
def logout(request: Request) -> Response:
    """Let the browser forget the token."""
    answer = RedirectResponse(f"{base_of(request)}/ui/login", 303, HEADERS)
    answer.delete_cookie(COOKIE)
    return answer


@router.get("/ui/static/{name}")
def file(name: str) -> Response:
    """Return one of the page's own files."""
    if name not in FILES:
        raise Problem(404, f"there is no file {name}")
    return FileResponse(HERE / "static" / name, media_type=FILES[name], headers={"Cache-Control": "max-age=300"})


@router.api_route("/ui/{path:path}", methods=["GET", "POST"], dependencies=[READS])
def nothing(path: str) -> Response:
    """Say on a page that there is none; it stands after all that there are."""
    raise Problem(404, f"there is no page {path!r}")
