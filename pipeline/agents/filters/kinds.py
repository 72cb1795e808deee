"""The kinds of filters, as objects: each makes its part of the tree, with `case_sensitive` and `negate` for options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .conditions import condition
from .jsonpath.query import parse_query
from .mapping import parse_mapping
from .paths import parse_path
from .text import parse_text, typed
from .tree import Node, negated
from .values import wrong


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What all kinds have.

    Attributes:
        case_sensitive: whether upper and lower case differ.
        negate: whether the event must not match; one that has not what is asked for, or errs, does not match either.

    """

    case_sensitive: bool = False
    negate: bool = False

    def node(self) -> Node:
        """Return the tree; raise InvalidFilter."""
        if not isinstance(self.case_sensitive, bool) or not isinstance(self.negate, bool):
            raise wrong(f"{type(self).__name__}: case_sensitive and negate are true or false")
        node = self._node()
        return negated(node) if self.negate else node

    def _node(self) -> Node:
        raise NotImplementedError

    def _text(self, text: Any) -> str:
        if not isinstance(text, str):
            raise wrong(f"{type(self).__name__} takes a text, not {text!r:.60}")
        return text


@dataclass(frozen=True)
class EventType(Kind):
    """Events of one type, or with a trailing `*` of every type that begins so: `EventType("order.*")`."""

    type: str

    def _node(self) -> Node:
        path = parse_path("event.type")
        if self._text(self.type) == "*":
            return condition(path, "$exists", True)
        return typed(path, "$eq", self.type, self.case_sensitive, "EventType")


@dataclass(frozen=True)
class Content(Kind):
    """Events with some text in them, in any field of the payload at any depth, or in those at or below a path."""

    text: str
    path: str = "payload"

    def _node(self) -> Node:
        at = parse_path(self._text(self.path), "Content")
        return condition(at, "$contains", self.text, case_sensitive=self.case_sensitive, place="Content")


@dataclass(frozen=True)
class Regex(Kind):
    """Events in which a regular expression (RE2) matches a part of a text at or below a path."""

    pattern: str
    path: str = "payload"

    def _node(self) -> Node:
        at = parse_path(self._text(self.path), "Regex")
        return condition(at, "$regex", self.pattern, case_sensitive=self.case_sensitive, place="Regex")


@dataclass(frozen=True)
class JsonPath(Kind):
    """Events in which a JSONPath (RFC 9535) selects something; its comparisons always tell upper from lower case."""

    query: str
    case_sensitive: bool = field(default=True, init=False, kw_only=True)

    def _node(self) -> Node:
        return parse_query(self._text(self.query))


@dataclass(frozen=True)
class Expression(Kind):
    """A composite filter in the text language, with options."""

    text: str

    def _node(self) -> Node:
        return parse_text(self._text(self.text), case_sensitive=self.case_sensitive)


@dataclass(frozen=True)
class Fields(Kind):
    """A mapping filter, with options."""

    mapping: Mapping[str, Any]

    def _node(self) -> Node:
        return parse_mapping(self.mapping, case_sensitive=self.case_sensitive)
