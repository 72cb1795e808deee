"""The AsyncAPI document, as the official parser for Node reads it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import Payload, Pipeline
from tests.commands import process

PARSER = "@asyncapi/parser@3"
#: What npm says where the registry does not answer.
AWAY = re.compile(r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT)\b")
SCRIPT = """
import { Parser } from '@asyncapi/parser';
import { readFileSync } from 'node:fs';
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
console.log(JSON.stringify({
  told: diagnostics.map(one => one.code),
  operations: document?.operations().all().map(one => [
    one.id(), one.action(), one.channels().all().map(channel => channel.address()),
    one.messages().all().map(message => message.id()),
  ]),
  schemas: document?.schemas().all().map(schema => schema.id()),
}));
"""


def missing(what: str, name: str) -> None:
    if name in os.environ.get("TESTS_REQUIRE", "").split(","):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, Any]]:
    """Read a document with the official parser, which is installed into a temporary directory."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing("node or npm is not installed; the parser of AsyncAPI needs them", "node")
    directory = tmp_path_factory.mktemp("node")
    command = [str(npm), "install", "--prefix", str(directory), "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(
        [*command, "--fetch-retries=1", PARSER], capture_output=True, text=True, timeout=300, check=False
    )
    if AWAY.search(done.stderr):
        missing("the registry of npm does not answer", "index")
    assert done.returncode == 0, done.stderr
    (directory / "parse.mjs").write_text(SCRIPT)

    def read(document: Path) -> dict[str, Any]:
        found = subprocess.run(
            [str(node), str(directory / "parse.mjs"), str(document)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        result: dict[str, Any] = json.loads(found.stdout)
        return result

    return read


class Placed(Payload, type="order.placed"):
    """Somebody has ordered something."""

    order_id: str
    place: tuple[str, int] = ("", 0)


class Paid(Payload, type="order.paid", version="2.0.0"):
    order_id: str


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Pipeline:
    """An app with everything that a document tells of."""
    app = Pipeline("shop", directory=tmp_path / "state", ledger_url="", namespace="eu")

    @app.agent(on=Placed, did="did:web:example.com:billing")
    def billing(order: Placed) -> Paid | None:
        """Send bills."""

    @app.agent(on=["order.*", "#", "*.paid"])
    def audit(data: Any) -> None: ...

    @app.agent()
    def stock(order: Placed) -> dict[str, int]: ...

    @app.agent(on="parcel.*")
    def parcels(data: dict[str, int]) -> None: ...

    app.join("checks", on=Placed, agents=[billing, stock], emits="order.checked")
    app.schedule("daily at 7", 60, Placed(order_id="A"))
    return app


def test_the_official_parser_finds_nothing_wrong(
    app: Pipeline, tmp_path: Path, parse: Callable[[Path], dict[str, Any]]
) -> None:
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(app.asyncapi()))
    found = parse(path)

    assert found["told"] in ([], ["asyncapi-latest-version"])  # there is a newer one by now
    operations = {id: (action, *channels, messages) for id, action, channels, messages in found["operations"]}
    paid, placed = "order.paid-2.0.0", "order.placed-1.0.0"
    checked = ["order.checked-1.0.0", "order.failed-1.0.0"]
    assert operations["billing.receive.order.placed"] == ("receive", "order.placed", [placed])
    assert operations["billing.receive"] == ("receive", "eu.agent.billing", [placed])
    assert operations["billing.send.order.paid-2.0.0"] == ("send", "order.paid", [paid])
    assert operations["audit.receive.(words)"] == ("receive", "#", [placed, paid, *checked])
    assert operations["audit.receive.(word).paid"] == ("receive", "*.paid", [paid])
    assert operations["parcels.receive.parcel.(word)"] == ("receive", "parcel.*", ["any-event"])
    assert operations["checks.send.order.failed-1.0.0"] == ("send", "order.failed", checked[1:])
    assert operations["schedule:daily at 7"] == ("send", "order.placed", [placed])
    assert {"Placed", "Paid", "cloudevents-1.0"} <= set(found["schemas"])


def test_the_official_parser_refuses_a_document_that_is_wrong(
    app: Pipeline, tmp_path: Path, parse: Callable[[Path], dict[str, Any]]
) -> None:
    wrong = app.asyncapi()
    wrong["operations"]["billing.receive"]["channel"]["$ref"] = "#/channels/of-nobody"
    path = tmp_path / "asyncapi.json"
    path.write_text(json.dumps(wrong))
    assert "invalid-ref" in parse(path)["told"]


@pytest.mark.usefixtures("no_settings")
def test_the_command_writes_what_the_official_parser_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parse: Callable[[Path], dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, form in (("asyncapi.json", "--json"), ("asyncapi.yaml", "--yaml")):
        done = process("asyncapi", form, "-o", file)
        assert done.returncode == 0, done.stderr
        assert parse(tmp_path / file)["told"] in ([], ["asyncapi-latest-version"])
