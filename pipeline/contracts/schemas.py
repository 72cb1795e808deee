"""JSON Schema of payload classes: for other programs, and to compare versions by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelField, ModelFieldsSchema

from ..core.event import Payload

DIALECT = GenerateJsonSchema.schema_dialect
#: Of a field: the names that it is read under, when there are several, and the one that it is sent under, when that is
#: not the property's.
READ_AS, SENT_AS = "x-read-as", "x-sent-as"
#: What only people read.
_ANNOTATIONS = frozenset({"title", "description", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
#: Keywords whose keys are names, and not keywords.
_NAMED = frozenset({"properties", "$defs", "patternProperties", "dependentRequired", "mapping"})
#: Keywords whose values are data.
_DATA = frozenset({"default", "const", "enum", READ_AS, SENT_AS, "required"})

Schema = dict[str, Any]


class _Generate(GenerateJsonSchema):
    """Pydantic's generator, and for each field under which names it is read and sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: The names of all fields, by the ids of their schemas.
        self._names: dict[int, str] = {}

    def model_fields_schema(self, schema: ModelFieldsSchema) -> JsonSchemaValue:
        self._names.update({id(field): name for name, field in schema["fields"].items()})
        return super().model_fields_schema(schema)

    def model_field_schema(self, schema: ModelField) -> JsonSchemaValue:
        own, alias = self._names[id(schema)], schema.get("validation_alias")
        made = super().model_field_schema(schema)  # which may go into other models
        read = [alias] if isinstance(alias, str) else [path for path in map(_word, alias or [own]) if path]
        sent = schema.get("serialization_alias") or own
        names: dict[str, Any] = {READ_AS: read} if len(read) > 1 else {}
        return {**made, **names, **({SENT_AS: sent} if read and sent != read[0] else {})}


def _word(path: Any) -> str:
    """Return a name under which a field is read; nothing for one within something else."""
    if isinstance(path, str):
        return path
    return str(path[0]) if isinstance(path, list) and len(path) == 1 else ""


def schema_of(cls: type[Payload]) -> Schema:
    """Return the JSON Schema (2020-12) of the data that a class reads."""
    return {"$schema": DIALECT, **cls.model_json_schema(schema_generator=_Generate)}


def bare(schema: Any) -> Any:
    """Return a schema without what only people read, so that equal ones are equal."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {}
    for key, part in schema.items():
        if key in _NAMED and isinstance(part, Mapping):
            found[key] = {name: bare(one) for name, one in part.items()}
        elif key not in _ANNOTATIONS:
            found[key] = part if key in _DATA else bare(part)
    return found
