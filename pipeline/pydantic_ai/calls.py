"""Tools whose calls are steps: what has come to something is not called again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ModelRetry, ToolFailed
from pydantic_ai.messages import ToolReturn, ToolReturnContent
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import ToolsetTool, WrapperToolset
from pydantic_core import PydanticCustomError, to_json, to_jsonable_python

from ..core.errors import InvalidStep, line_of
from .run import Run

#: Bytes are base64, as in pydantic-ai's messages.
_BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_CONTENT: TypeAdapter[list[Any]] = TypeAdapter(list[ToolReturnContent], config=_BYTES)
_RETURN: TypeAdapter[list[ToolReturn[Any]]] = TypeAdapter(list[ToolReturn[Any]], config=_BYTES)


@dataclass
class OnceTools(WrapperToolset[Any]):
    """Tools whose calls are steps: one that has come to something is not made again."""

    run: Run

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Return what the tool returns, or raise what it says to the model."""
        call = partial(self.wrapped.call_tool, name, tool_args, ctx, tool)
        return _told(await self.run.step(f"{name} {ctx.tool_call_id}", _called, name, call))


#: What a tool says to the model, or to who has begun the run, instead of returning something.
SAID = (ModelRetry, ToolFailed, ApprovalRequired, CallDeferred, ValidationError)


async def _called(name: str, call: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """Return what a call has come to, as JSON data: also what it has said instead of returning something."""
    try:
        result = await call()
    except SAID as exc:
        return _said(exc)
    try:
        if isinstance(result, ToolReturn):
            return {"return": _RETURN.dump_python([result], mode="json")}
        return {"content": _CONTENT.dump_python([result], mode="json")}
    except Exception as exc:
        raise InvalidStep(
            f"tool {name!r} returned a {type(result).__name__} that JSON cannot hold: {line_of(exc)}; return a "
            "pydantic model or what JSON knows"
        ) from None


def _said(exc: Exception) -> dict[str, Any]:
    match exc:
        case ModelRetry():
            return {"retry": exc.message}
        case ToolFailed():
            return {"failed": exc.message}
        case ValidationError():
            details = exc.errors(include_url=False, include_context=False)
            return {"invalid": [exc.title, to_jsonable_python(details, serialize_unknown=True)]}
        case _:  # of versions of pydantic-ai, some know kinds
            about = {name: value for name in ("metadata", "kind") if (value := getattr(exc, name, None)) is not None}
            kind = "approval" if isinstance(exc, ApprovalRequired) else "deferred"
            return {kind: to_jsonable_python(about)}


def _told(outcome: Mapping[str, Any]) -> Any:
    """Return what a tool has returned, or raise what it has said."""
    ((kind, said),) = outcome.items()
    match kind:
        case "content":
            return _CONTENT.validate_json(to_json(said))[0]
        case "return":
            return _RETURN.validate_json(to_json(said))[0]
        case "retry":
            raise ModelRetry(said)
        case "failed":
            raise ToolFailed(said)
        case "approval":
            raise ApprovalRequired(**said)
        case "deferred":
            raise CallDeferred(**said)
        case _:
            raise _invalid(*said)


def _invalid(title: str, details: list[dict[str, Any]]) -> ValidationError:
    """Return the error that pydantic has raised in a tool, which the model is told of."""
    again = [
        {
            "type": PydanticCustomError(one["type"], "{message}", {"message": one["msg"]}),
            "loc": tuple(one["loc"]),
            "input": one.get("input"),
        }
        for one in details
    ]
    return ValidationError.from_exception_data(title, again)  # type: ignore[arg-type]  # as its docs say
