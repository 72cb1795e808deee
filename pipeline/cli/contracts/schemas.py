"""The commands about versions of event types: schemas list, show, check, lock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...agents.loading import import_agents
from ...core.errors import ConfigError
from ..group import CommandSet, app_of, examples
from ..options import AsJson
from ..output import print_json, print_table, report, say

if TYPE_CHECKING:
    from ...contracts.lock import Lock, Report
    from ...contracts.registry import Types

commands = CommandSet(
    no_args_is_help=True, help="Show event types and their versions, and check a change.", rich_markup_mode=None
)

File = Annotated[Path, typer.Option("--file", dir_okay=False, help="The lock; default schemas.lock.json.")]
LOCK = Path("schemas.lock.json")


@commands.command("list", epilog=examples("pipeline schemas list", "pipeline schemas list --json"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the event types that have a class, with their versions."""
    types = _types(ctx)
    rows = [
        {
            "type": name,
            "versions": [str(version) for version in types.versions(name)],
            "mode": types.mode(name),
            "class": _class_name(list(types.versions(name).values())[-1]),
            "upcasters": [f"{up.before} -> {up.after}" for up in types.upcasters if up.type == name],
        }
        for name in types
    ]
    if as_json:
        print_json(rows)
    elif rows:
        headings = ("type", "versions", "mode", "class", "upcasters")
        print_table(headings, [[_cell(row[name]) for name in headings] for row in rows])
    else:
        say("no event type has a class")


@commands.command(
    epilog=examples("pipeline schemas show order.placed", "pipeline schemas show order.placed --version 1.0.0")
)
def show(
    ctx: typer.Context,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The event type.")],
    version: Annotated[str, typer.Option(help="Which version; default the newest.")] = "",
) -> None:
    """Print the JSON Schema of an event type's data."""
    from ...contracts.schemas import schema_of
    from ...contracts.versions import version_of

    versions = _types(ctx).versions(type)
    wanted = version_of(version, "--version") if version else max(versions)
    if wanted not in versions:
        raise ConfigError(f"{type} has no class of version {version}; known: {', '.join(map(str, versions))}")
    print_json(schema_of(versions[wanted]))


@commands.command(epilog=examples("pipeline schemas check", "pipeline schemas check --json"))
def check(ctx: typer.Context, file: File = LOCK, as_json: AsJson = False) -> None:
    """Compare the classes with the lock; exit 1 when a change breaks readers, or the lock is not up to date."""
    from ...contracts.lock import check, read_lock

    types = _types(ctx)
    found = check(types, read_lock(file))
    if as_json:
        print_json(found.as_data())
    else:
        _print(found)
        for line in found.unlocked:
            say(f"{line}; run `pipeline schemas lock`, and commit {file}")
        if found.is_good:
            typer.echo(f"{file} and the classes of {len(list(types))} event types agree")
    raise typer.Exit(int(not found.is_good))


@commands.command(epilog=examples("pipeline schemas lock", "pipeline schemas lock --force"))
def lock(
    ctx: typer.Context,
    file: File = LOCK,
    force: Annotated[bool, typer.Option("--force", help="Write it although readers break.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the schemas of all versions into the lock; exit 1, and write nothing, when a change breaks readers."""
    from ...contracts.lock import check, encoded, lock_of, read_lock

    types = _types(ctx)
    before: Lock = read_lock(file) if file.exists() else {}
    found = check(types, before)
    if not (found.may_be_locked or force):
        if as_json:
            print_json(found.as_data())
        else:
            _print(found)
            say(f"{file} stays as it was; --force writes it all the same")
        raise typer.Exit(1)
    after = lock_of(types, before)
    try:
        file.write_bytes(encoded(after))
    except OSError as exc:
        raise ConfigError(f"{file} cannot be written: {exc.strerror}") from None
    done: dict[str, Any] = {"file": str(file), "types": len(after), "changes": [*found.unlocked, *found.unraised]}
    report(done, f"{file}: {len(after)} event types, {len(done['changes'])} changes; commit it", as_json=as_json)


def _types(ctx: typer.Context) -> Types:
    app = app_of(ctx)
    import_agents(app.celery)
    app.bus.types.check()
    return app.bus.types


def _print(found: Report) -> None:
    """Print what breaks, and for whom."""
    if found.broken:
        headings = ("type", "from", "to", "rule", "path", "before", "after", "breaks")
        print_table(headings, [[_cell(value) for value in each.as_data().values()] for each in found.broken])
        say("a change that breaks new readers needs a higher major version and an upcaster: see docs/schemas.md")
    for line in found.unraised:
        say(line)


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _cell(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
