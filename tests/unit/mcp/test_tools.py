"""Tools for models: their schemas are ones that clients take, and capabilities are called what they are called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline import Pipeline, capability
from pipeline.mcp.capabilities import capability_tools
from pipeline.mcp.tools import ALLOWED, tools


@pytest.fixture
def app(tmp_path: Path, no_settings: None) -> Iterator[Pipeline]:
    one = Pipeline("shop", directory=tmp_path)
    yield one
    one.close()


def handler(data: Any) -> Any:
    return data


def test_every_tool_has_a_name_and_a_schema_that_clients_take() -> None:
    for tool in tools(ALLOWED).values():
        assert re.fullmatch(r"[a-z_]{1,64}", tool.name)
        assert tool.takes["type"] == "object"
        Draft202012Validator.check_schema(tool.takes)
    assert set(tools(ALLOWED)) - set(tools()) == {"publish", "request"}


def test_a_capability_takes_its_own_arguments_where_they_are_an_object_and_data_else(app: Pipeline) -> None:
    point = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
    listed = {"type": "array", "items": {"$ref": "#/$defs/P"}, "$defs": {"P": point}}
    for name, schema in (("plain", point), ("listed", listed), ("anything", None)):
        app.agent(name=name, capability=capability(name, input=schema, output=schema))(handler)
    found = capability_tools(app, ())
    assert (found["plain"].takes, found["plain"].returns) == (point, point)
    assert found["listed"].returns is found["anything"].returns is None
    validator = Draft202012Validator(found["listed"].takes)
    assert validator.is_valid({"data": [{"x": 1}]})
    assert not validator.is_valid({"data": [{"y": 1}]})
    assert not validator.is_valid({})
    assert Draft202012Validator(found["anything"].takes).is_valid({})


def test_a_capability_that_is_called_like_another_tool_gives_way(app: Pipeline) -> None:
    for name in ("events", "call_events"):
        app.agent(name=name, capability=capability(name))(handler)
    assert list(capability_tools(app, tools())) == ["call_events", "call_call_events"]
