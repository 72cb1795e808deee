"""The commands about bridges to other systems: bridge list, bridge run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ...agents.loading import import_agents
from ...core.errors import ConfigError, nearest
from ..group import INTERRUPTED, CommandSet, app_of, examples, saying_warnings
from ..options import AsJson
from ..output import print_json, print_table, say

if TYPE_CHECKING:
    from ...app.app import Pipeline
    from ...bridges.bridge import Bridge

commands = CommandSet(no_args_is_help=True, help="Run and list bridges to other systems.", rich_markup_mode=None)


@commands.command(epilog=examples("pipeline bridge run", "pipeline --app shop bridge run warehouse"))
def run(
    ctx: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Which; default all.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where Prometheus reads what was put aside.")
    ] = None,
) -> None:
    """Take what comes over bridges, and answer requests, until Ctrl-C; what goes out is sent by workers.

    Several of these processes share the work. It ends with 1 when another system stays away.
    """
    from ...bridges.running import Door, run_all
    from ...telemetry.step import served
    from ...telemetry.tally import Tally

    app = app_of(ctx)
    wanted = [one for one in _named(app, names or []) if one.comes_in]
    if not wanted:
        raise ConfigError("nothing comes over these bridges: they have neither into= nor answer=, and workers send")
    most = app.settings.max_event_bytes
    door = Door(app.check, app.publish_many, app.arequest, app.bus_id, f"{app.source}/bridges", most)
    count = None
    if metrics_port is not None:
        tally = Tally(app.settings.metrics_labels)
        served(tally, metrics_port, app.settings.metrics_host)
        count = tally.count
    with saying_warnings():
        interrupted = run_all(wanted, door, say, count)
    if interrupted:
        raise typer.Exit(INTERRUPTED)


@commands.command("list", epilog=examples("pipeline bridge list", "pipeline --app shop bridge list --json"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the bridges that the app declares."""
    found = _named(app_of(ctx), [])
    if as_json:
        print_json([one.as_data() for one in found])
        return
    rows = [
        (
            one.name,
            one.system.kind,
            str(one.system),
            *(" ".join(way) for way in (one.out, one.into, one.ask, one.answer)),
        )
        for one in found
    ]
    print_table(("name", "system", "at", "out", "into", "ask", "answer"), rows)


def _named(app: Pipeline, names: list[str]) -> list[Bridge]:
    import_agents(app.celery)  # a worker does that, too: bridges may be declared beside agents
    bridges = app.bridges
    if not bridges:
        raise ConfigError('the app declares no bridge: app.bridge("warehouse", Nats("nats://..."), out="order.#")')
    for name in names:
        if name not in bridges:
            raise ConfigError(f"there is no bridge {name!r}; {nearest(name, bridges)}")
    return [bridges[name] for name in names or bridges]
