"""The commands about versions of event types: what they print, what they write, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.group import load_app
from pipeline.cli.main import cli
from tests.commands import write_module

pytestmark = pytest.mark.usefixtures("empty_directory")

SOURCE = """
from pipeline import Payload, Pipeline

app = Pipeline("shop", directory={{directory!r}})

class Order(Payload, type="order.placed", version="{version}"):
    {fields}

@app.agent(on=Order)
def billing(order: Order) -> None: ...

{more}
"""
UPCASTER = """
@app.upcaster("order.placed", "1.0.0", "2.0.0")
def newer(data): return data
"""
LOCK = Path("schemas.lock.json")

Schemas = Callable[..., Any]


@pytest.fixture
def schemas(empty_directory: Path) -> Iterator[Schemas]:
    """Run a command on an app whose one class has that version and those fields."""
    with ExitStack() as apps:

        def call(*arguments: str, version: str = "1.0.0", fields: str = "order_id: str", more: str = "") -> Any:
            name = write_module(empty_directory, SOURCE.format(version=version, fields=fields, more=more))
            apps.enter_context(closing(load_app(name)))
            return CliRunner().invoke(cli, ["--app", name, "schemas", *arguments])

        yield call


def test_types_are_listed_with_their_versions_modes_and_upcasters(schemas: Schemas) -> None:
    (row,) = json.loads(schemas("list", "--json", version="2.0.0", more=UPCASTER).stdout)
    assert row.pop("class").endswith(".Order")
    assert row == {
        "type": "order.placed", "versions": ["2.0.0"], "mode": "backward", "upcasters": ["1.0.0 -> 2.0.0"],
    }  # fmt: skip
    heading, line = schemas("list", more='app.types.add(Order, mode="full")').stdout.splitlines()
    assert heading.split() == ["type", "versions", "mode", "class", "upcasters"]
    assert line.split()[:3] == ["order.placed", "1.0.0", "full"]


def test_an_app_without_classes_has_nothing_to_list(empty_directory: Path) -> None:
    name = write_module(
        empty_directory, "from pipeline import Pipeline\napp = Pipeline('shop', directory={directory!r})\n"
    )
    result = CliRunner().invoke(cli, ["--app", name, "schemas", "list"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "pipeline: no event type has a class\n")
    load_app(name).close()


def test_a_schema_is_printed_for_each_version(schemas: Schemas) -> None:
    second = "class More(Order, version='1.1.0'):\n    note: str = ''\n\napp.types.add(More)"
    newest = json.loads(schemas("show", "order.placed", more=second).stdout)
    assert set(newest["properties"]) == {"order_id", "note"}
    assert newest["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    first = json.loads(schemas("show", "order.placed", "--version", "1.0.0", more=second).stdout)
    assert set(first["properties"]) == {"order_id"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["order.place"], "no class of type 'order.place' is known; did you mean 'order.placed'?"),
        (["order.placed", "--version", "1.1.0"], "order.placed has no class of version 1.1.0; known: 1.0.0"),
        (["order.placed", "--version", "1"], "--version: '1' is not a semantic version"),
    ],
)
def test_what_is_not_known_is_said_in_one_line(schemas: Schemas, arguments: list[str], said: str) -> None:
    result = schemas("show", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_lock_is_written_and_agrees(schemas: Schemas) -> None:
    written = schemas("lock")
    assert (written.exit_code, written.stdout) == (0, "schemas.lock.json: 1 event types, 1 changes; commit it\n")
    checked = schemas("check")
    assert (checked.exit_code, checked.stdout) == (
        0, "schemas.lock.json and the classes of 1 event types agree\n",
    )  # fmt: skip
    assert json.loads(schemas("check", "--json").stdout)["ok"] is True


def test_without_a_lock_the_check_says_how_to_make_one(schemas: Schemas) -> None:
    result = schemas("check", "--file", "other.json")
    assert result.exit_code == 1
    assert "other.json: there is no such file; `pipeline schemas lock` writes it" in result.stderr


def test_a_new_version_has_to_be_locked(schemas: Schemas) -> None:
    schemas("lock")
    more = {"version": "1.1.0", "fields": "order_id: str; note: str = ''"}
    result = schemas("check", **more)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "order.placed 1.1.0 is not in the lock; run `pipeline schemas lock`" in result.stderr
    done = json.loads(schemas("lock", "--json", **more).stdout)
    assert done == {"file": "schemas.lock.json", "types": 1, "changes": ["order.placed 1.1.0 is not in the lock"]}
    assert schemas("check", **more).exit_code == 0
    assert list(json.loads(LOCK.read_text())["types"]["order.placed"]["versions"]) == ["1.0.0", "1.1.0"]


def test_a_change_that_breaks_readers_ends_the_check_and_is_not_locked_unless_forced(schemas: Schemas) -> None:
    schemas("lock")
    before = LOCK.read_bytes()
    broken = {"version": "1.1.0", "fields": "order_id: str; total: float"}
    result = schemas("check", **broken)
    heading, line = result.stdout.splitlines()
    assert result.exit_code == 1
    assert heading.split() == ["type", "from", "to", "rule", "path", "before", "after", "breaks"]
    assert line.split() == [
        "order.placed",
        "1.0.0",
        "1.1.0",
        "field-required",
        "total",
        "absent",
        "required",
        "new",
        "reader",
    ]
    assert "needs a higher major version and an upcaster" in result.stderr
    found = json.loads(schemas("check", "--json", **broken).stdout)
    assert [each["rule"] for each in found["findings"]] == ["field-required"]
    refused = schemas("lock", **broken)
    assert refused.exit_code == 1
    assert "schemas.lock.json stays as it was; --force writes it all the same" in refused.stderr
    assert json.loads(schemas("lock", "--json", **broken).stdout)["ok"] is False
    assert LOCK.read_bytes() == before
    assert schemas("lock", "--force", **broken).exit_code == 0
    assert "1.1.0" in LOCK.read_text()


def test_a_class_that_changes_under_its_version_ends_the_check(schemas: Schemas) -> None:
    schemas("lock")
    result = schemas("check", fields="order_id: str; note: str = ''")
    assert result.exit_code == 1
    assert "order.placed 1.0.0 has changed since it was locked: give the class a higher version" in result.stderr


def test_a_new_major_version_with_an_upcaster_passes(schemas: Schemas) -> None:
    schemas("lock")
    second = {"version": "2.0.0", "fields": "order_id: int"}
    assert "upcaster-missing" in schemas("check", **second).stdout
    assert schemas("lock", **second, more=UPCASTER).exit_code == 0
    assert schemas("check", **second, more=UPCASTER).exit_code == 0


def test_a_gap_between_upcasters_ends_every_command(schemas: Schemas) -> None:
    result = schemas("list", more=UPCASTER)
    assert result.exit_code == 1
    assert "the upcaster of order.placed from 1.0.0 to 2.0.0" in result.stderr


def test_a_lock_that_cannot_be_written_is_said(schemas: Schemas) -> None:
    result = schemas("lock", "--file", "missing/lock.json")
    assert result.exit_code == 1
    assert "missing/lock.json cannot be written: No such file or directory" in result.stderr


@pytest.mark.parametrize("command", ["list", "show", "check", "lock"])
def test_each_command_has_an_example(schemas: Schemas, command: str) -> None:
    shown = schemas(command, "--help").stdout
    assert f"schemas {command}" in shown.partition("Examples:")[2]
