"""Why a filter matches an event or not, and whether a filter fits what is declared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from ...core.errors import nearest
from .conditions import Condition
from .operators import OPERATORS
from .paths import ATTRIBUTES, PAYLOAD, Path
from .tree import Node, leaves
from .values import Failed, Leaf, inverse, kind_of

#: Steps into a declared payload that are followed.
_MOST_SCHEMAS = 256
#: What JSON Schema calls what values are.
_KINDS = {
    "integer": "a number", "number": "a number", "string": "a text", "boolean": "a boolean", "null": "null",
    "object": "an object",
}  # fmt: skip


@dataclass(frozen=True)
class Explained:
    """What one condition comes to for one event.

    Attributes:
        text: the condition.
        result: `true`, `false`, `missing` or `error`.
        value: what the event has there; of several fields or attributes a mapping.
        fields: the names that exist where the condition looks.
        error: what went wrong.

    """

    text: str
    result: str
    value: Any
    fields: tuple[str, ...]
    error: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        data = {"text": self.text, "result": self.result, "value": self.value, "fields": list(self.fields)}
        return data if self.error is None else {**data, "error": self.error}


def explain(leaf: Leaf, event: Mapping[str, Any], *, inverted: bool = False) -> Explained:
    """Return what a condition comes to for an event, or its NOT."""
    found = leaf.build()(event)
    result = inverse(found) if inverted else found
    try:
        value, fields = leaf.seen(event)
    except Exception:  # what is wrong there, the result says
        value, fields = None, []
    word = "error" if isinstance(result, Failed) else "missing" if result is None else str(result).lower()
    error = result.error if isinstance(result, Failed) else None
    return Explained(f"NOT ({leaf.text})" if inverted else leaf.text, word, value, tuple(fields), error)


def check_paths(paths: Iterable[Path], payload: Any = None) -> list[str]:
    """Return a warning for each path that no event can have, with the names that there are.

    Arguments:
        paths: of a filter.
        payload: what the data is validated into, any type that pydantic knows; None when nothing is declared.

    """
    schema = _schema(payload)
    warnings = []
    for path in paths:
        if path.root == PAYLOAD and schema is not None:
            warnings.append(_lost(path, schema))
        elif path.root == "event" and path.attribute is None:
            warnings.append(_misspelt(path.names[0], schema or {}))
    return [warning for warning in warnings if warning]


def _schema(payload: Any) -> Mapping[str, Any] | None:
    if payload is None:
        return None
    try:
        return TypeAdapter(payload).json_schema(mode="serialization")
    except Exception:  # a type that has no JSON schema: nothing is known of its fields
        return None


def _misspelt(name: str, schema: Mapping[str, Any]) -> str:
    if any(name in place.get("properties", {}) for place in _resolved([schema], schema, name)):
        return f"event.{name} is no attribute that the bus knows; the payload has such a field: payload.{name}"
    hint = nearest(name, ATTRIBUTES)
    return f"event.{name} is no attribute that the bus knows; {hint}" if hint.startswith("did") else ""


def check_kinds(nodes: Iterable[Node], payload: Any = None) -> list[str]:
    """Return a warning for each condition on a field that is of another kind in the declared payload.

    Arguments:
        nodes: of a filter.
        payload: as check_paths() takes it.

    """
    schema = _schema(payload)
    conditions = (leaf for node in nodes for leaf, _ in leaves(node) if isinstance(leaf, Condition))
    if schema is None:
        return []
    return [warning for each in conditions if each.path.root == PAYLOAD and (warning := _contradicted(each, schema))]


def _contradicted(made: Condition, schema: Mapping[str, Any]) -> str:
    """Return what a condition asks of a field that never has it; nothing where it may, or little is known."""
    if made.op == "$exists":
        return ""
    places = _places(made.path, schema)
    declared = (
        {str(place.get("type")) for place in _resolved(places, schema, "")} if isinstance(places, list) else set()
    )
    if not declared or not declared <= set(_KINDS) or (OPERATORS[made.op].deep and "object" in declared):
        return ""
    given = made.value if isinstance(made.value, tuple) else (made.value,)
    asked = {kind_of(value) for value in given} - {_KINDS[kind] for kind in declared}
    if not asked:
        return ""
    kinds = " or ".join(sorted("an integer" if kind == "integer" else _KINDS[kind] for kind in declared))
    return f"{made.text} asks for {' or '.join(sorted(asked))}, but {made.path} is {kinds} in the declared payload"


def _lost(path: Path, schema: Mapping[str, Any]) -> str:
    """Return where a path leaves the declared payload; nothing when it does not."""
    found = _places(path, schema)
    return found if isinstance(found, str) else ""


def _places(path: Path, schema: Mapping[str, Any]) -> list[Mapping[str, Any]] | str:
    """Return the schemas of what a path finds, none where nothing is known of it, or where it leaves the payload."""
    places = [schema]
    for number, name in enumerate(path.names):
        places = _resolved(places, schema, name)
        inner: list[Mapping[str, Any]] = []
        names: set[str] = set()
        is_open = not places
        for place in places:
            found, known = _within(place, name)
            names.update(known)
            is_open = is_open or found is True
            inner.extend([found] if isinstance(found, Mapping) else [])
        if is_open:
            return []
        if not inner:
            parent = str(Path(PAYLOAD, path.names[:number]))
            there = f"{parent} has the fields {', '.join(sorted(names))}" if names else f"{parent} has no fields"
            return f"{path} can never exist in the declared payload: {there}"
        places = inner
    return places


def _resolved(places: list[Mapping[str, Any]], schema: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Return the schemas that may have a field, behind references and alternatives, and in the elements of arrays."""
    left, found = list(places), []
    for _ in range(_MOST_SCHEMAS):
        if not left:
            break
        place = left.pop()
        if "$ref" in place:
            left.append(schema["$defs"][place["$ref"].rpartition("/")[2]])
        elif several := [*place.get("anyOf", ()), *place.get("oneOf", ()), *place.get("allOf", ())]:
            left.extend(several)
        elif isinstance(place.get("items"), Mapping) and not name.isdecimal() and "prefixItems" not in place:
            left.append(place["items"])
        else:
            found.append(place)
    return found


def _within(place: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any] | bool, Iterable[str]]:
    """Return the schema of a field, True when nothing is known of it, or False; and the names that are known."""
    kind = place.get("type")
    if kind == "array":
        items = place.get("items")
        if not isinstance(items, Mapping) or place.get("prefixItems"):
            return True, ()
        return items, ()
    if kind not in ("object", None):
        return False, ()
    properties: Mapping[str, Any] = place.get("properties", {})
    if name in properties:
        return properties[name], properties
    others = place.get("additionalProperties", not properties)
    return (others if isinstance(others, Mapping) else bool(others)), properties
