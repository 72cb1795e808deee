"""The commands about the HTTP front: serve, token."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from ...agents.loading import import_agents
from ...core.errors import ConfigError
from ..group import CommandSet, app_of, examples
from ..options import AsJson
from ..output import print_json, say

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ...app.app import Pipeline

commands = CommandSet()

Host = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="Where it listens; others than this machine need tokens.")
]
#: Seconds that requests have to end in when the server is told to.
GRACE = 3


@commands.command(
    epilog=examples(
        "pipeline serve",
        "pipeline --app shop serve --port 9000",
        "pipeline --app shop serve --host 0.0.0.0      with tokens in PIPELINE_HTTP_TOKENS",
    )
)
def serve(
    ctx: typer.Context,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
) -> None:
    """Serve the app over HTTP: publish events, read the log and follow it, see agents, mend what is dead."""
    from ...http import Token, front
    from ...http.access import LOOPBACK, is_local

    app = app_of(ctx)
    settings = app.bus.settings
    tokens = [Token.read(text) for text in settings.http_tokens]
    if not (tokens or is_local(host)):
        raise ConfigError(
            f"{host} is reached from other machines, and no token is set: make one with `pipeline token NAME --scope "
            "publish`, and set PIPELINE_HTTP_TOKENS"
        )
    _import(app)
    listening = _bound(host, port)
    shown = f"[{host}]" if ":" in host else host
    # With tokens a name that leads here gives nobody anything; and a proxy has a name of its own.
    api = front(app, tokens=tokens, hosts=None if tokens else (*LOOPBACK, shown), rate=settings.http_rate)
    _serve(api, listening, f"http://{shown}:{listening.getsockname()[1]}")


@commands.command(
    epilog=examples(
        "pipeline token web-shop --scope publish",
        "pipeline token grafana --scope read --json",
        "pipeline token ops --scope read --scope operate",
    )
)
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will have it.")],
    scope: Annotated[list[str], typer.Option("--scope", metavar="SCOPE", help="publish, read or operate; repeatable.")],
    as_json: AsJson = False,
) -> None:
    """Make a token for the HTTP front, which is shown this once, and the line that lets it in."""
    from ...http import new_token

    text, kept = new_token(name, scope)
    if as_json:
        print_json({"token": text, "setting": str(kept)})
        return
    typer.echo(text)
    say(f"to let it in, add this to the list in PIPELINE_HTTP_TOKENS, or to `http_tokens`: {kept}")


def _import(app: Pipeline) -> None:
    try:
        import_agents(app.celery)
    except ConfigError as exc:  # who only publishes and reads may lack what the agents' modules need
        say(f"what agents declare in code is not known here: {exc}")


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise ConfigError that says why none can."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise ConfigError(f"cannot listen on {host}, port {port}: {reason}; choose another with --port") from None


def _serve(api: FastAPI, listening: socket.socket, address: str) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        """Ends those who follow the log first: their answers have no end of their own."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            api.state.tail.end()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        api,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    say(f"serving {address} (its routes: {address}/openapi.json); Ctrl-C ends it")
    Server(config).run(sockets=[listening])
