"""The command that finds out what is wrong: doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.text import Text

from ..core.errors import PipelineError
from .group import CommandSet, app_of, examples
from .options import AsJson
from .output import out, print_json

if TYPE_CHECKING:
    from ..operations.checks import Check

commands = CommandSet()

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@commands.command(epilog=examples("pipeline doctor", "pipeline --broker-url redis://localhost/0 doctor --json"))
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check settings, broker, results, ledger, blobs, agents and workers; exit 1 when something does not work."""
    from ..operations.checks import fail
    from ..operations.doctor import examine

    checks: list[Check] = []
    try:
        for check in examine(app_of(ctx).bus, app=ctx.obj["app"], options=ctx.obj["options"]):
            checks.append(check)
            if not as_json:
                _print_check(check)
    except PipelineError as exc:
        checks.append(fail("settings", str(exc), "correct it where the message says"))
        if not as_json:
            _print_check(checks[-1])
    if as_json:
        print_json([check.as_data() for check in checks])
    raise typer.Exit(int(any(check.status == "fail" for check in checks)))


def _print_check(check: Check) -> None:
    line = Text.assemble((f"{check.status:<5}", _COLOURS[check.status]), f"{check.name}: {check.detail}")
    out.print(line)
    if check.mend and check.status != "ok":
        out.print(Text(f"      {check.mend}", style="dim"))
