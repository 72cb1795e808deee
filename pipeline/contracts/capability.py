"""Capabilities: what an agent can do, as others find it, with the JSON Schemas of what it takes and returns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from ..core.errors import InvalidAgent, InvalidEvent
from ..core.times import time_limit
from .arguments import Schema, check_with, json_schema, validator

_ID = re.compile(r"[a-z][a-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Capability:
    """Something that an agent can do.

    Attributes:
        id: what others ask for.
        type: the type of the events that ask for it; None until an agent has it.
        input, output: the JSON Schemas of the event's data and of what the handler returns; None for anything.
        max_concurrent: how many a worker does at once, where the agent does not say it.
        timeout: seconds that one may take, where the agent does not say it.
        specializations: what it is especially good at, in free words.

    """

    id: str
    type: str | None = None
    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    max_concurrent: int = 5
    timeout: float = 30.0
    specializations: tuple[str, ...] = ()

    def check_input(self, data: Any) -> None:
        """Raise InvalidEvent that names the wrong fields for data that is not what it takes."""
        if self._takes is not None:
            check_with(self._takes, data, f"input of capability {self.id!r}")

    def check_output(self, data: Any) -> None:
        """Raise InvalidEvent that names the wrong fields for what it does not return."""
        if self._returns is not None:
            check_with(self._returns, data, f"output of capability {self.id!r}")

    @cached_property
    def _takes(self) -> Any:
        return None if self.input is None else validator(self.input, f"input of capability {self.id!r}")

    @cached_property
    def _returns(self) -> Any:
        return None if self.output is None else validator(self.output, f"output of capability {self.id!r}")

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "id": self.id,
            "type": self.type,
            "input": self.input,
            "output": self.output,
            "max_concurrent": self.max_concurrent,
            "timeout": self.timeout,
            "specializations": list(self.specializations),
        }

    @classmethod
    def of(cls, data: dict[str, Any]) -> Capability:
        """Return what as_data() has made; what a newer version has added to it is left out."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**known, "specializations": tuple(known.get("specializations", ()))})


def capability(
    id: str,
    *,
    input: Schema = None,  # the field's word
    output: Schema = None,
    max_concurrent: int = 5,
    timeout: float | timedelta | str = 30.0,
    specializations: Iterable[str] = (),
    type: str | None = None,  # the field's word
) -> Capability:
    """Return something that an agent can do, for `@app.agent(capability=...)`.

    Arguments:
        id: what others ask for: lower-case letters, digits, '_', '-' and '.'.
        input: a pydantic model or a JSON Schema (2020-12) of the data of an event that asks for it; default anything.
        output: the same of what the handler returns.
        max_concurrent: how many a worker does at once, where the agent has no `max_concurrent`.
        timeout: how long one may take, where the agent has no `timeout`: seconds, a timedelta, or a text such as "30s".
        specializations: what it is especially good at, in free words.
        type: the type of the events that ask for it; default what the agent listens to, when that is just one type,
            else ID.requested.

    Raises InvalidAgent that says what is wrong.

    """
    if not _ID.fullmatch(id):
        raise InvalidAgent(f"{id!r} is no capability: use lower-case letters, digits, '_', '-' and '.'")
    if max_concurrent < 1:
        raise InvalidAgent(f"capability {id!r}: max_concurrent is more than 0")
    try:
        schemas = [json_schema(one, f"capability {id!r}: {of}") for one, of in ((input, "input"), (output, "output"))]
    except InvalidEvent as exc:
        raise InvalidAgent(str(exc)) from None
    words = (specializations,) if isinstance(specializations, str) else tuple(specializations)
    return Capability(
        id=id,
        type=type,
        input=schemas[0],
        output=schemas[1],
        max_concurrent=max_concurrent,
        timeout=time_limit(timeout, f"capability {id!r}: timeout", InvalidAgent),
        specializations=words,
    )


def of_agent(name: str, said: Capability | Iterable[Capability], patterns: tuple[str, ...]) -> tuple[Capability, ...]:
    """Return what an agent can do, each with its type; raise InvalidAgent for what is none, or is there twice.

    Arguments:
        patterns: what the agent listens to besides.

    """
    given = (said,) if isinstance(said, Capability) else tuple(said)
    for one in given:
        if not isinstance(one, Capability):
            raise InvalidAgent(f"agent {name!r}: capability={one!r} is no capability(...)")
    single = patterns[0] if len(patterns) == 1 and not {"*", "#"} & {*patterns[0].split(".")} else None
    found = [replace(one, type=one.type or single or f"{one.id}.requested") for one in given]
    for field in ("id", "type"):
        values = [getattr(one, field) for one in found]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise InvalidAgent(f"agent {name!r}: two of its capabilities have the {field} {twice!r}")
    return tuple(found)
