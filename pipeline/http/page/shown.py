"""How a page is written: templates that escape everything, a strict content policy, and errors as pages."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

import orjson
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...contracts.blobs.blob import is_blob
from ...core.errors import PipelineError
from ...core.times import utc_now
from ..access import COOKIE, Caller
from ..answers import base_of
from ..problems import Problem, invalid, problem_of
from .waterfall import seconds

#: A name, or a place in a list, and where that stands.
_Way = tuple[str | int, "_Way | None"]
HERE = Path(__file__).parent
VIEWS = (
    ("", "Now"),
    ("agents", "Agents"),
    ("topology", "Topology"),
    ("flows", "Flows"),
    ("approvals", "Approvals"),
    ("dead", "Dead letters"),
    ("schedules", "Schedules"),
    ("replay", "Replay"),
    ("send", "Send"),
)
#: Lines of a list, and of a text that is edited, at most.
LINES, MOST_ROWS = 200, 30
#: Nothing comes from elsewhere, nothing is written into a page, and no other page frames this one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}


class Pages:
    """Writes pages.

    Arguments:
        name: the app's.
        flower: where Celery's own view of it is; empty for nowhere.

    """

    def __init__(self, name: str, flower: str = "") -> None:
        self._name = name
        self._flower = flower
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "blobs": blobs_in,
            "clock": clock,
            "indented": indented,
            "rows": rows_for,
            "seconds": seconds,
            "short": short,
        }

    def show(
        self, request: Request, caller: Caller, template: str, title: str, here: str | None, **shown: Any
    ) -> Response:
        """Return a page.

        Arguments:
            here: which of VIEWS it is; None for none.

        """
        may = {"operates": "operate" in caller.scopes, "publishes": "publish" in caller.scopes}
        said = request.query_params.get("said", "")[:300]
        return self._write(request, template, title=title, here=here, who=caller.name, said=said, **may, **shown)

    def problem(self, request: Request, problem: Problem) -> Response:
        """Return a page that says what is wrong; without a token it asks for one."""
        if problem.status == 401:
            return RedirectResponse(f"{base_of(request)}/ui/login?to={quote(request.url.path)}", 303, HEADERS)
        title = f"{problem.status}: that is not possible"
        written = self._write(
            request, "problem.html", title=title, here=None, who="", said="", detail=problem.detail, views=VIEWS
        )
        written.status_code = problem.status
        written.headers.update(problem.headers)
        return written

    def login(self, request: Request, said: str = "") -> Response:
        """Return the page that asks for a token."""
        to = request.query_params.get("to", "")
        return self._write(request, "login.html", title="Who are you?", here=None, who="", said=said, views=(), to=to)

    def inside(self, request: Request, path: str) -> str:
        """Return a path of this page, and for any other one where the page begins."""
        start = f"{base_of(request)}/ui/"
        is_ours = path.startswith(start) and "//" not in path and "\\" not in path and path.isprintable()
        return path if is_ours else start

    def _write(self, request: Request, template: str, **shown: Any) -> Response:
        shown.setdefault("views", VIEWS)
        text = self._templates.get_template(template).render(
            name=self._name, flower=self._flower, base=base_of(request), **shown
        )
        return HTMLResponse(text, headers=HEADERS)


def pages_of(request: Request) -> Pages:
    """Return what writes the pages of the app that answers a request."""
    found: Pages = request.app.state.pages
    return found


class View:
    """What a view needs: who asks for it, and how it is written."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._pages = pages_of(request)
        self._caller: Caller = request.state.caller
        #: The path under which the front is mounted.
        self.base = base_of(request)
        #: Until when what goes on is drawn.
        self.now = utc_now()

    def show(self, template: str, title: str, here: str | None, **shown: Any) -> Response:
        """Return a page; arguments are those of Pages.show()."""
        return self._pages.show(self._request, self._caller, template, title, here, **shown)


#: What a view takes.
OneView = Annotated[View, Depends(View)]


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers."""
        answer = super().get_route_handler()

        async def answered(request: Request) -> Response:
            pages = pages_of(request)
            try:
                return await answer(request)
            except PipelineError as exc:
                return pages.problem(request, problem_of(exc))
            except Problem as exc:
                return pages.problem(request, exc)
            except RequestValidationError as exc:
                return pages.problem(request, invalid(exc.errors(), "invalid-request"))

        return answered


def cookie(response: Response, token: str, *, secure: bool) -> None:
    """Let a browser send a token with each request of its own pages, and no script read it."""
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, max_age=12 * 3600)


def read_json(name: str, text: str) -> Any:
    """Return what somebody has written into a form; raise Problem that says where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise Problem(422, f"{name}: it is no JSON: {exc}", field=name) from None


async def form_of(request: Request, several: str = "") -> dict[str, Any]:
    """Return what a form has sent: the last value of each name, of one name all."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/x-www-form-urlencoded":
        raise Problem(415, "forms are sent as application/x-www-form-urlencoded")
    text = (await request.body()).decode("utf-8", "replace")
    found = parse_qs(text, keep_blank_values=True, max_num_fields=2000)
    form: dict[str, Any] = {name: values[-1] for name, values in found.items()}
    return {**form, several: found.get(several, [])} if several else form


# -- filters of the templates


def clock(time: datetime | str) -> str:
    """Return a time as a clock shows it, with the day when that is not today."""
    when = datetime.fromisoformat(time) if isinstance(time, str) else time
    when = when.astimezone(UTC)
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03}" if when.date() == utc_now().date() else f"{when:%F %T}"


def blobs_in(data: Any) -> list[dict[str, Any]]:
    """Return the blobs that an event's data names, each with where it stands; at most LINES of them."""
    found: list[dict[str, Any]] = []
    # Where something stands is written down for blobs alone: data may have a great many values, and long names.
    left: deque[tuple[Any, _Way]] = deque([(data, ("data", None))])
    while left and len(found) < LINES:
        value, way = left.popleft()
        if is_blob(value):
            found.append({**value, "path": _path(way)})
        elif isinstance(value, (dict, list)):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            left += ((one, (name, way)) for name, one in parts if isinstance(one, (dict, list)))
    return found


def _path(way: _Way) -> str:
    names: list[str] = []
    step: _Way | None = way
    while step is not None:
        name, step = step
        names.append(f"[{name}]" if isinstance(name, int) else f".{name}")
    return "".join(reversed(names)).removeprefix(".")


def indented(data: Any) -> str:
    """Return JSON data as people read it."""
    return orjson.dumps(data, option=orjson.OPT_INDENT_2, default=str).decode()


def rows_for(data: Any) -> int:
    """Return how many lines a text is given in which somebody edits data."""
    return min(indented(data).count("\n") + 2, MOST_ROWS)


def short(data: Any, most: int = 160) -> str:
    """Return the beginning of JSON data, in one line."""
    text = orjson.dumps(data, default=str).decode()
    return text if len(text) <= most else f"{text[:most]}…"
