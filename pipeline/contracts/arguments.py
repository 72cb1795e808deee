"""Arguments of an action: JSON that matches a pydantic model or a JSON Schema, and is read as what the model says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from ..core.errors import InvalidEvent, explain, line_of
from .schemas import DIALECT

#: What arguments have to be: a pydantic model, or a JSON Schema (2020-12); None for any JSON object.
Schema = type[BaseModel] | Mapping[str, Any] | None
#: Problems that an error names.
_NAMED = 3


def as_json(args: Any, what: str) -> dict[str, Any]:
    """Return arguments as a JSON object: of a model, a mapping, or nothing; raise InvalidEvent when there is none."""
    try:
        data = args.model_dump(mode="json", by_alias=True) if isinstance(args, BaseModel) else args
        found = orjson.loads(orjson.dumps({} if data is None else data))
    except (TypeError, ValueError, PydanticSerializationError) as exc:
        raise InvalidEvent(f"{what}: its arguments are no JSON: {line_of(exc)}") from None
    if not isinstance(found, dict):
        raise InvalidEvent(f"{what}: arguments are a model or a mapping, not a {type(args).__name__}")
    return found


def json_schema(schema: Schema, what: str) -> dict[str, Any] | None:
    """Return the JSON Schema of what arguments have to be; raise InvalidEvent when it is none."""
    if schema is None:
        return None
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {"$schema": DIALECT, **schema.model_json_schema()}
    if not isinstance(schema, Mapping):
        raise InvalidEvent(f"{what}: schema: a pydantic model or a JSON Schema, not {schema!r:.60}")
    found = as_json(schema, f"{what}: schema")
    validator(found, what)
    return found


def check(schema: Any, args: Any, what: str) -> None:
    """Raise InvalidEvent that names the wrong fields when arguments are not what a JSON Schema asks for."""
    if schema is not None:
        check_with(validator(schema, what), args, what)


def check_with(validator: Any, args: Any, what: str) -> None:
    """Raise InvalidEvent that names the wrong fields when arguments are not what a validator() asks for."""
    errors = list(validator.iter_errors(args))
    if errors:
        problems = [f"{_place(error)}{error.message}" for error in errors[:_NAMED]]
        more = f" (and {len(errors) - _NAMED} more)" if len(errors) > _NAMED else ""
        raise InvalidEvent(f"{what} does not validate: {'; '.join(problems)}{more}")


def read(schema: Schema, args: Any, what: str) -> Any:
    """Return arguments as the model's type, or as they are; raise InvalidEvent that names the wrong fields."""
    if isinstance(schema, type):
        try:
            return schema.model_validate(args)
        except ValidationError as exc:
            raise InvalidEvent(explain(exc, what)) from None
    check(schema, args, what)
    return args


def validator(schema: Any, what: str) -> Any:
    """Return what tests data; patterns cannot be slow, and nothing is fetched from anywhere.

    Raises InvalidEvent when it is no JSON Schema.
    """
    import jsonschema_rs

    try:
        options = jsonschema_rs.RegexOptions()
        return jsonschema_rs.validator_for(schema, pattern_options=options, retriever=_refuse)
    except ValueError as exc:
        reason = str(exc).partition("\n")[0]
        raise InvalidEvent(f"{what}: its schema is no JSON Schema that can be used: {reason}") from None


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema is not fetched from {uri}; write it into this one, under $defs")


def _place(error: Any) -> str:
    path = ".".join(map(str, error.instance_path))
    return f"{path}: " if path else ""
