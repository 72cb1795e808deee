"""The commands that describe an app to others: asyncapi, graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...agents.loading import import_agents
from ...core.errors import ConfigError
from ..group import CommandSet, app_of, examples
from ..output import indented, printable, say

if TYPE_CHECKING:
    from ...app.app import Pipeline

commands = CommandSet()

To = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Where to; default the terminal.")
]


@commands.command(
    epilog=examples("pipeline asyncapi -o asyncapi.json", "pipeline --app shop.bus:app asyncapi --yaml --release 2.1.0")
)
def asyncapi(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, which is the default.")] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="YAML; needs PyYAML.")] = False,
    release: Annotated[str, typer.Option(metavar="VERSION", help="The application's own version.")] = "1.0.0",
    output: To = None,
) -> None:
    """Print an AsyncAPI 3 document: channels, operations, messages, schemas."""
    if as_json and as_yaml:
        raise typer.BadParameter("not both of them", param_hint="--json and --yaml")
    document = _with_agents(ctx).asyncapi(version=release)
    _write(_yaml(document) if as_yaml else indented(document), output)


@commands.command(epilog=examples("pipeline graph", "pipeline graph --svg -o agents.svg"))
def graph(
    ctx: typer.Context,
    as_svg: Annotated[bool, typer.Option("--svg", help="An SVG image instead of Mermaid text.")] = False,
    output: To = None,
) -> None:
    """Print who receives and sends which types, as a Mermaid text or an image."""
    from ...contracts.graph import mermaid, svg

    system = _with_agents(ctx).system
    _write(svg(system) if as_svg else mermaid(system), output)


def _with_agents(ctx: typer.Context) -> Pipeline:
    app = app_of(ctx)
    import_agents(app.celery)
    return app


def _yaml(document: dict[str, Any]) -> str:
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise ConfigError("--yaml needs PyYAML, which is not installed: pip install pyyaml, or use --json") from None
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=False, width=100))


def _write(text: str, output: Path | None) -> None:
    """Write a text to a file, or print it."""
    if output is None:
        typer.echo(printable(text, keep="\n"), nl=not text.endswith("\n"))
        return
    try:
        output.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    except OSError as exc:
        raise typer.BadParameter(f"{output}: {exc.strerror}", param_hint="--output") from None
    say(f"wrote {output}")
