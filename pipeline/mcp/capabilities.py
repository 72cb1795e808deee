"""What agents can do as tools: with the schemas of what each takes and returns; a call asks the freest agent."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from ..app.overview import capabilities_of
from .tools import ACTS, MOST_PATIENCE, Tool

if TYPE_CHECKING:
    from ..app.app import Pipeline
    from ..contracts.capability import Capability


def capability_tools(app: Pipeline, taken: Collection[str]) -> dict[str, Tool]:
    """Return a tool for each thing that agents can do, by name.

    Arguments:
        taken: names of other tools; what is called like one of them begins with `call_`.

    """
    found: dict[str, Tool] = {}
    for one in capabilities_of(app).values():
        name = one.id
        while name in taken or name in found:
            name = f"call_{name}"
        found[name] = _tool(name, one)
    return found


def _tool(name: str, one: Capability) -> Tool:
    good_at = f" It is especially good at {', '.join(one.specializations)}." if one.specializations else ""
    described = f"Let an agent do {one.id!r}, and wait for what it returns.{good_at} {ACTS}"
    is_whole = _is_object(one.input)
    takes = one.input if is_whole and one.input is not None else _within(one.input)
    run = partial(_call, one, "" if is_whole else "data")
    return Tool(name, described, takes, run, one.output if _is_object(one.output) else None, "request")


async def _call(one: Capability, field: str, app: Pipeline, arguments: dict[str, Any]) -> Any:
    data = arguments.get(field) if field else arguments
    answer = await app.acall(one.id, data, timeout=min(one.timeout, MOST_PATIENCE))
    return answer.result


def _is_object(schema: dict[str, Any] | None) -> bool:
    return schema is not None and schema.get("type") == "object"


def _within(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the schema of an object whose `data` is what a schema says: arguments are objects."""
    inner = dict(schema or {})
    shared = {name: inner.pop(name) for name in ("$defs",) if name in inner}  # what it refers to from the top
    needed = {"required": ["data"]} if schema else {}
    return {"type": "object", "properties": {"data": inner}, "additionalProperties": False, **needed, **shared}
