"""Payload classes that survive the way: what is sent as JSON under a class's rules is what arrives under them.

Pydantic's core schema of a class says how it validates and serializes. From it follows, once for each class, whether
everything arrives that is sent (`Way.SAFE`), nothing or something else does (then the class is refused), or that
depends on the value, as with serializers of the user's own (`Way.BY_VALUE`): then each payload is read again before it
is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from functools import lru_cache
from typing import Any

import orjson
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    Secret,
    SecretBytes,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..errors import InvalidEvent, nearest


class Way(Enum):
    """How a class's payloads get through JSON."""

    SAFE = auto()
    BY_VALUE = auto()


#: Kinds of a core schema whose values are the same after JSON, when those within them are.
_SAFE = {
    *("model", "model-fields", "model-field", "dataclass", "dataclass-args", "dataclass-field"),
    *("typed-dict", "typed-dict-field", "default", "nullable", "definitions", "definition-ref"),
    *("str", "int", "float", "bool", "none", "decimal", "date", "time", "datetime", "timedelta", "uuid"),
    *("list", "set", "frozenset", "tuple", "dict"),
}
_FIELDS = ("model-field", "dataclass-field", "typed-dict-field")
_NEVER = {
    "callable": "a function is no JSON; leave the field out",
    "is-subclass": "a class is no JSON; send its name",
    "is-instance": "pydantic makes no such object of JSON; use a type that it validates",
    "generator": "an iterator is read only once; use a list",
}
_SECRETS = (SecretStr, SecretBytes, Secret)


@lru_cache(maxsize=4096)
def way_of(cls: type[BaseModel]) -> Way:
    """Return how a class's payloads get through JSON; raise InvalidEvent that names the field which never does."""
    try:
        cls.model_rebuild()
    except (PydanticUndefinedAnnotation, PydanticUserError) as exc:
        raise InvalidEvent(f"payload {cls.__name__}: {exc}") from exc
    parts = list(_walk(cls.__pydantic_core_schema__, cls.__name__, {}))  # all of them: each may raise
    # Where another model is expected, an instance of a class that adds fields to it may stand.
    models = sum(kind in ("model", "dataclass", "definition-ref") for kind, _ in parts)
    return Way.SAFE if models == 1 and all(is_safe for _, is_safe in parts) else Way.BY_VALUE


@lru_cache(maxsize=4096)
def names_of(cls: type[BaseModel]) -> frozenset[str] | None:
    """Return the names under which a class is given its fields; None when it decides itself about other names."""
    reads_others = any(each.info.mode != "after" for each in cls.__pydantic_decorators__.model_validators.values())
    if cls.model_config.get("extra") != "ignore" or reads_others or cls.__pydantic_custom_init__:
        return None
    by_name = cls.model_config.get("populate_by_name") or cls.model_config.get("validate_by_name")
    by_alias = cls.model_config.get("validate_by_alias", True)
    names: set[str] = set()
    for name, field in cls.model_fields.items():
        aliases = _aliases(field) if by_alias else []
        names.update(aliases if aliases and not by_name else [*aliases, name])
    return frozenset(names)


def unknown_names(cls: type[BaseModel], data: Mapping[str, Any], known: frozenset[str]) -> ValidationError:
    """Return what to raise for names that are none of a class's fields."""
    errors = []
    for name in data.keys() - known:
        told = {"cls": cls.__name__, "hint": nearest(name, known)}
        error = PydanticCustomError("extra_forbidden", "{cls} has no such field; {hint}", told)
        errors.append(InitErrorDetails(type=error, loc=(name,), input=data[name]))
    return ValidationError.from_exception_data(cls.__name__, errors)


def _aliases(field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [] if alias is None else [alias]
    return [str(one.path[0]) if isinstance(one, AliasPath) else one for one in choices]


def check_arrival(payload: BaseModel, data: Any) -> None:
    """Read again what a payload is sent as; raise InvalidEvent when that is not equal."""
    name = type(payload).__name__
    try:
        arrived = type(payload).model_validate_json(orjson.dumps(data))
    except Exception as exc:  # likewise
        raise InvalidEvent(f"payload: what {name} is sent as, {name} does not read: {exc}") from exc
    if arrived != payload:
        fields = (field for field in type(payload).model_fields if _differ(payload, arrived, field))
        where = next(fields, None)
        raise InvalidEvent(
            f"payload: {name}{f'.{where}' if where else ''} arrives as something else than is sent; "
            "use types and serializers that validation reads back to an equal value"
        )


def place_of(sought: object, value: Any, place: str = "data") -> str | None:
    """Return where in a payload an object is, such as data.pages.0.scan; None when it is not in it."""
    if value is sought:
        return place
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, (BaseModel, Mapping)):
        parts = value.items() if isinstance(value, Mapping) else value
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    found = (place_of(sought, part, f"{place}.{name}") for name, part in parts)
    return next((one for one in found if one is not None), None)


def _differ(one: BaseModel, other: BaseModel, field: str) -> bool:
    return bool(getattr(one, field) != getattr(other, field))


def _walk(schema: Any, place: str, config: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the kind of each part of a core schema and whether it is safe; raise InvalidEvent for what never is."""
    if isinstance(schema, (list, tuple)):
        for part in schema:
            yield from _walk(part, place, config)
    if not isinstance(schema, dict):
        return
    kind = schema.get("type")
    if isinstance(kind, str):
        if kind in _NEVER:
            raise InvalidEvent(f"payload field {place}: {_NEVER[kind]}")
        if kind in ("model", "dataclass", "typed-dict"):
            place = getattr(schema.get("cls"), "__name__", place)
            config = schema.get("config") or {}
        yield kind, _is_safe(kind, schema, place)
    for name, part in _parts(schema):
        if isinstance(part, dict) and part.get("type") in _FIELDS:
            field = f"{place}.{name or part.get('name')}"
            _check_field(part, name or part["name"], field, config)
            yield from _walk(part, field, config)
        else:
            yield from _walk(part, place, config)


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a part of a core schema consists of, fields with their names."""
    if schema.get("type") == "json-or-python":
        yield "", schema["json_schema"]
        return
    for key, part in schema.items():
        if key == "fields":
            yield from part.items() if isinstance(part, dict) else (("", field) for field in part)
        elif key not in (
            "type",
            "metadata",
            "config",
            "cls",
            "computed_fields",
            "serialization",
            "default",
            "function",
        ):
            yield "", part


def _is_safe(kind: str, schema: dict[str, Any], place: str) -> bool:
    if any(isinstance(schema.get("cls"), type) and issubclass(schema["cls"], secret) for secret in _SECRETS):
        raise _secret(place)
    function = (schema.get("serialization") or {}).get("function")
    if getattr(function, "__name__", "") in ("_serialize_secret_field", "_serialize_secret"):
        raise _secret(place)
    if function is not None or schema.get("custom_init") or schema.get("root_model"):
        return False
    if kind in ("model", "dataclass"):
        after = schema.get("post_init")
        named = getattr(schema["cls"], after, None) if isinstance(after, str) else after or None
        is_own = named is not None and getattr(named, "__name__", "") != "init_private_attributes"
        return not is_own and _is_plain(schema.get("config") or {})
    if kind == "dict":
        return bool(schema.get("keys_schema", {}).get("type") == "str")
    if kind == "enum":
        return all(type(member.value) in (str, int) for member in schema["members"])
    if kind == "literal":
        if any(isinstance(value, Enum) for value in schema["expected"]):
            raise InvalidEvent(
                f"payload field {place}: JSON has no member of an enum; use Literal['text'], or the enum"
            )
        return all(type(value) in (str, int, bool, type(None)) for value in schema["expected"])
    return kind in _SAFE


def _is_plain(config: dict[str, Any]) -> bool:
    """Say whether a class's settings leave what is sent as it is."""
    return config.get("extra_fields_behavior") != "allow" and not any(name.startswith("ser_json") for name in config)


def _secret(place: str) -> InvalidEvent:
    return InvalidEvent(f"payload field {place}: a secret is sent as asterisks; send a reference to where it is kept")


def _check_field(field: dict[str, Any], name: str, place: str, config: dict[str, Any]) -> None:
    """Raise InvalidEvent for a field that is not sent, or sent under a name under which it is not read."""
    required = field["schema"].get("type") != "default" and field.get("required", True)
    if field.get("serialization_exclude") or (field.get("serialization_exclude_if") and required):
        raise InvalidEvent(f"payload field {place}: it is excluded, so no agent would get it; make it a PrivateAttr")
    sent = field.get("serialization_alias") or name
    if sent not in (read := _read_names(field, name, config)):
        raise InvalidEvent(
            f"payload field {place}: it is sent as {sent!r}, but read as {' or '.join(map(repr, read)) or 'a path'}; "
            "use alias=..., or set both aliases to one name"
        )


def _read_names(field: dict[str, Any], name: str, config: dict[str, Any]) -> list[str]:
    alias = field.get("validation_alias")
    if alias is None or config.get("validate_by_alias") is False:
        return [name]
    paths = [[alias]] if isinstance(alias, str) else [alias] if not isinstance(alias[0], list) else alias
    names = [path[0] for path in paths if len(path) == 1]
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    return [*names, name] if by_name else names
