"""The commands that describe an app: asyncapi, graph."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.commands import process

pytestmark = pytest.mark.usefixtures("empty_directory")

Run = Callable[..., Any]


def test_the_document_is_json_unless_yaml_is_asked_for(run: Run) -> None:
    found = json.loads(run("asyncapi").stdout)
    assert found["asyncapi"] == "3.0.0"
    assert found["operations"].keys() >= {"billing.receive.order.created", "audit.receive.(words)"}
    assert json.loads(run("asyncapi", "--json").stdout) == yaml.safe_load(run("asyncapi", "--yaml").stdout) == found
    assert run("asyncapi", "--yaml").stdout.startswith("asyncapi: 3.0.0\n")


def test_the_release_is_the_version_of_the_application(run: Run) -> None:
    assert json.loads(run("asyncapi", "--release", "2.1.0").stdout)["info"]["version"] == "2.1.0"


def test_both_forms_at_once_are_a_usage_error(run: Run) -> None:
    result = run("asyncapi", "--json", "--yaml")
    assert result.exit_code == 2
    assert "not both of them" in result.stderr


def test_without_pyyaml_the_command_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    result = run("asyncapi", "--yaml")
    assert result.exit_code == 1
    assert result.stderr == "pipeline: --yaml needs PyYAML, which is not installed: pip install pyyaml, or use --json\n"
    assert run("asyncapi").exit_code == 0


@pytest.mark.parametrize("command", [("asyncapi",), ("asyncapi", "--yaml"), ("graph",), ("graph", "--svg")])
def test_a_file_gets_what_the_terminal_would(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    result = run(*command, "-o", "made.txt")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "pipeline: wrote made.txt\n"
    assert (tmp_path / "made.txt").read_text() == run(*command).stdout


@pytest.mark.parametrize("command", ["asyncapi", "graph"])
def test_a_file_that_cannot_be_written_is_named(run: Run, command: str) -> None:
    result = run(command, "--output", "no/such/place.txt")
    assert result.exit_code == 2
    assert "no/such/place.txt: No such file or directory" in " ".join(result.stderr.replace("│", "").split())


def test_the_graph_is_mermaid_or_an_image(run: Run) -> None:
    text = run("graph").stdout
    assert text.startswith("flowchart LR\n")
    assert 'type0["order.created"]' in text
    image = ElementTree.fromstring(run("graph", "--svg").stdout)
    assert "billing" in {each.text for each in image.iter("{http://www.w3.org/2000/svg}text")}


def test_agents_in_modules_of_the_settings_are_described_too() -> None:
    found = json.loads(process("asyncapi").stdout)
    assert found["operations"]["schedule:word-of-the-day"]["action"] == "send"
    assert found["components"]["messages"]["email.sent-1.0.0"]["title"] == "EmailSent"
