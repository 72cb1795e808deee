"""The application that answers: the routes of each room, with one way to let callers in and to say what is wrong."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from . import problems
from .access import LOOPBACK, Access, Token
from .edges import a2a, agui
from .jobs import Jobs
from .page import actions, entry, graphs, operating, views, work
from .page.shown import Pages
from .problems import Problem
from .rates import Rates
from .routes import agents, blobs, events, flows, health, hooks, jobs, later, letters, metrics, schemas, stream
from .routes.health import Ready
from .routes.hooks import Hooks
from .routes.stream import Tail

if TYPE_CHECKING:
    from ..app.app import Pipeline

_ROUTES = (events, hooks, agents, letters, flows, jobs, later, blobs, schemas, stream, health, metrics, agui, a2a)
_PAGE = (views, work, graphs, operating, actions, entry)
#: The largest body of a request, in bytes: a batch of sixteen of the largest events.
MAX_BODY = 4 * 1024 * 1024

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def front(
    app: Pipeline,
    *,
    tokens: Collection[Token] = (),
    hosts: Collection[str] | None = LOOPBACK,
    max_body: int = MAX_BODY,
    rate: float = 0.0,
) -> FastAPI:
    """Return the HTTP front of an app, to be served, or mounted in a FastAPI or Starlette app of your own.

    Arguments:
        tokens: who may do what; with none of them everybody who reaches it may do all.
        hosts: names under which it may be called; None for any, which is for those who check that before.
        max_body: the largest body of a request, in bytes.
        rate: requests a second that each caller may publish or change something with; 0 for any.

    Raises ConfigError when the setting `webhook_sources` has a secret that is none.

    """
    name = app.source.strip("/") or "pipeline"
    api = _empty(name)
    api.state.pipeline, api.state.access = app, Access(tokens, hosts)
    api.state.rates, api.state.hooks = Rates(rate), Hooks(app)
    api.state.tail, api.state.ready, api.state.pages = Tail(app), Ready(app), Pages(name, app.settings.flower_url)
    api.state.jobs = Jobs()
    for room in (*_ROUTES, *_PAGE):
        api.include_router(room.router)
    problems.install(api)
    api.add_middleware(_Guard, max_body=max_body)
    return api


def _empty(name: str) -> FastAPI:
    from .. import __version__

    return FastAPI(
        title=name,
        version=__version__,
        description="Events, and the agents that react to them.",
        docs_url=None,  # its page comes from another host
        redoc_url=None,
        responses=problems.RESPONSES,
        lifespan=_serving,
        redirect_slashes=False,  # to a place that the caller's Host header names
    )


@asynccontextmanager
async def _serving(api: FastAPI) -> AsyncIterator[None]:
    """Stop the jobs when the server ends."""
    api.state.jobs.begin()
    yield
    await to_thread(api.state.jobs.end)


class _Guard:
    """Refuses what is too large while it comes, and lets nobody keep or guess at an answer.

    Arguments:
        max_body: bytes.

    """

    def __init__(self, app: _App, max_body: int) -> None:
        self._app = app
        self._most = max_body

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        had, is_too_large = 0, False

        async def counted() -> _Message:
            nonlocal had, is_too_large
            message = await receive()
            had += len(message.get("body", b""))
            if had > self._most:
                is_too_large = True
                raise self._too_large()
            return message

        async def answered(message: _Message) -> None:
            if is_too_large:  # whatever the route makes of what it could not read
                return
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._most:
            await self._too_large().answer()(scope, receive, answered)
            return
        await self._app(scope, counted, answered)
        if is_too_large:
            is_too_large = False
            await self._too_large().answer()(scope, receive, answered)

    def _too_large(self) -> Problem:
        return Problem(413, f"the body has more than {self._most:,} bytes", "body-too-large")


_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]
