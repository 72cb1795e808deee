"""JSON Schema of payload classes: a valid one, and what of it counts as a change."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from pydantic import AliasChoices, Field

from pipeline import Payload, families
from pipeline.contracts.schemas import bare, schema_of

ALL = [each for each in vars(families).values() if isinstance(each, type) and issubclass(each, Payload)]


class Address(Payload):
    title: str = Field(description="Of a person.")


class Parcel(Payload, type="parcel.sent"):
    customer_id: str = Field(validation_alias=AliasChoices("customer_id", "customer"), serialization_alias="customer")
    to: Address
    weight: float = Field(alias="kg")


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_each_family_has_a_schema_that_validators_take(cls: type[Payload]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(cls))


def test_a_schema_accepts_what_its_class_sends() -> None:
    done = families.TaskCompleted(task_id="t1", result={"status": "success", "metrics": {"duration_ms": 1.5}})  # type: ignore[arg-type]
    schema = schema_of(families.TaskCompleted)
    jsonschema.validate(done.model_dump(mode="json"), schema)
    with pytest.raises(jsonschema.ValidationError, match="status"):
        jsonschema.validate({"task_id": "t1", "result": {}}, schema)


def test_a_schema_says_under_which_names_a_field_is_read_and_sent() -> None:
    fields: dict[str, Any] = schema_of(Parcel)["properties"]
    names = {name: {key: value for key, value in part.items() if key.startswith("x-")} for name, part in fields.items()}
    assert names == {
        "customer_id": {"x-read-as": ["customer_id", "customer"], "x-sent-as": "customer"},
        "to": {},
        "kg": {},
    }


def test_what_only_people_read_is_left_out_and_names_of_fields_stay() -> None:
    assert bare(schema_of(Parcel))["$defs"]["Address"] == {
        "properties": {"title": {"type": "string"}}, "required": ["title"], "type": "object",
    }  # fmt: skip
    assert bare({"default": {"title": "Dr"}, "enum": [{"title": "x"}]}) == {
        "default": {"title": "Dr"}, "enum": [{"title": "x"}],
    }  # fmt: skip
