"""Reads JSONPath as RFC 9535 writes it down, and as filters bound it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from ....core.errors import InvalidFilter
from ..values import MOST_DEPTH, Trouble, compiled, unknown, wrong
from .functions import FUNCTIONS, Function, compared, joined
from .walk import WILD, Finds, Says, Segment, exists, nodes, single

if TYPE_CHECKING:
    from ..grammar import Grammar, Token

_GRAMMAR = r"""
start: ROOT segment*
?segment: MEMBER
    | DEEP
    | "[" selector ("," selector)* "]" -> child
    | "..[" selector ("," selector)* "]" -> deep
?selector: STRING
    | SLICE
    | INDEX
    | WILD
    | "?" either -> condition
?either: both ("||" both)*
?both: basic ("&&" basic)*
?basic: comparable COMPARE comparable -> compared
    | test
    | "!" test -> inverse
    | "(" either ")"
    | "!" "(" either ")" -> inverse
?test: query
    | call
?comparable: STRING
    | NUMBER
    | CONSTANT
    | query
    | call
query: (HERE | ROOT) segment*
call: FUNCTION [comparable ("," comparable)*] ")"

ROOT: "$"
HERE: "@"
WILD: "*"
MEMBER: /\.(?:\*|[A-Za-z_\u0080-\U0010ffff][\w\u0080-\U0010ffff-]*)/
DEEP: /\.\.(?:\*|[A-Za-z_\u0080-\U0010ffff][\w\u0080-\U0010ffff-]*)/
STRING: /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/s
INDEX: /-?[1-9][0-9]*|0/
SLICE.2: /((-?[1-9][0-9]*|0)[ \t\n\r]*)?:([ \t\n\r]*(-?[1-9][0-9]*|0))?([ \t\n\r]*:([ \t\n\r]*(-?[1-9][0-9]*|0))?)?/
NUMBER: /-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-]?[0-9]+)?/i
CONSTANT: /(true|false|null)(?!\w)/
FUNCTION: /[a-z][a-z0-9_]*\(/
COMPARE: /==|!=|<=|>=|<|>/
%ignore /[ \t\n\r]/
"""
T = TypeVar("T")

_CONSTANTS = {"true": True, "false": False, "null": None}
_BLANK = " \t\n\r"
_FURTHEST = 2**53 - 1
#: What JSON has in place of what a text in single quotes has; `\"` is nothing there.
_IN_DOUBLE_QUOTES = {"\\'": "'", '"': '\\"', '\\"': "\\?"}
_SINGLE = re.compile(r"\\.|\"", re.DOTALL)
_PLAIN = re.compile(r"[^\\\x00-\x1f]*")


class Reader:
    """Makes segments of what the grammar finds in one text, and counts what takes time.

    Attributes:
        sweeps: how many `..` there are, and queries from the root within conditions that go through several values.
        selectors: how many there are in each bracket, multiplied.

    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.sweeps = 0
        self.selectors = 1

    def read(self) -> tuple[Segment, ...]:
        """Return the segments; raise InvalidFilter with the place in the text."""
        from lark.exceptions import UnexpectedInput

        if self.text[0] in _BLANK or self.text[-1] in _BLANK:
            position = 0 if self.text[0] in _BLANK else len(self.text) - 1
            raise self.wrong("there is no space before a query, nor behind it", position)
        try:
            tree = _grammar().parse(self.text)
        except UnexpectedInput as exc:
            token = getattr(exc, "token", None)
            if token is not None and token.type == "$END":
                raise self.wrong("the query ends too early", len(self.text)) from None
            raise self.wrong("this is not expected here", exc.pos_in_stream or 0) from None
        return self.segments(tree.children[1:], 0)

    def segments(self, trees: list[Any], depth: int) -> tuple[Segment, ...]:
        """Return what stands behind `$` or `@`."""
        return tuple([self.segment(tree, depth) for tree in trees])

    def segment(self, tree: Any, depth: int) -> Segment:
        """Return one step."""
        if tree.data == "MEMBER":
            return Segment((_named(tree[1:]),))
        deep = tree.data in ("DEEP", "deep")
        self.sweeps += deep
        if tree.data == "DEEP":
            return Segment((_named(tree[2:]),), deep)
        self.selectors *= len(tree.children)
        return Segment(tuple([self.selector(each, depth) for each in tree.children]), deep)

    def selector(self, tree: Any, depth: int) -> Any:
        """Return one of those between brackets."""
        if tree.data == "condition":
            return self.condition(tree.children[0], depth + 1)
        if tree.data == "STRING":
            return self.string(tree)
        if tree.data == "WILD":
            return WILD
        if tree.data == "INDEX":
            return self.index(tree, tree)
        return slice(*[self.index(each, tree) if each.strip() else None for each in tree.split(":")])

    def index(self, text: str, token: Token) -> int:
        """Return an index, or an end or a step of a slice."""
        number = int(text)
        if not -_FURTHEST <= number <= _FURTHEST:
            raise self.wrong("index out of range", token.start_pos)
        return number

    def string(self, token: Token) -> str:
        """Return what a text in quotes says."""
        inside = token[1:-1]
        if _PLAIN.fullmatch(inside):
            return inside
        if token[0] == "'":
            inside = _SINGLE.sub(lambda found: _IN_DOUBLE_QUOTES.get(found[0], found[0]), inside)
        try:
            return str(orjson.loads(f'"{inside}"'))
        except ValueError:
            raise self.wrong("what stands in these quotes is no text as JSON has it", token.start_pos) from None

    # -- conditions

    def condition(self, tree: Any, depth: int) -> Says:
        """Return what says whether a condition is met."""
        if depth > 4 * MOST_DEPTH:
            raise self.wrong("it is too deep", 0)
        kind, children = tree.data, tree.children
        if kind == "compared":
            left, sign, right = children
            return compared(str(sign), self.value(left, depth), self.value(right, depth))
        if kind == "query":
            segments = self.query(tree, depth)
            return _rooted(children[0], exists(segments))
        if kind == "call":
            return self.call(tree, depth, logical=True)
        several = [self.condition(each, depth + 1) for each in children]
        if kind == "inverse":
            (inner,) = several
            return lambda value, root: not inner(value, root)
        return joined("||" if kind == "either" else "&&", several)

    def query(self, tree: Any, depth: int) -> tuple[Segment, ...]:
        """Return the segments of a query within a condition."""
        root, *trees = tree.children
        segments = self.segments(trees, depth)
        self.sweeps += root == "$" and any(each.only is None for each in segments)
        return segments

    def value(self, tree: Any, depth: int) -> Finds:
        """Return what finds a value: a side of a comparison, or an argument."""
        if tree.data == "query":
            return self.single(tree, depth)
        if tree.data == "call":
            return self.call(tree, depth, logical=False)
        literal = self.literal(tree)
        return lambda value, root: literal

    def literal(self, token: Token) -> Any:
        """Return what a token of a comparison says."""
        if token.data == "STRING":
            return self.string(token)
        return _number(token) if token.data == "NUMBER" else _CONSTANTS[token]

    def single(self, tree: Any, depth: int) -> Finds:
        """Return what finds the value of a query that selects one at most."""
        root = tree.children[0]
        find = single(self.query(tree, depth))
        if find is None:
            raise self.wrong("a query that may select several values is no value", root.start_pos)
        return _rooted(root, find)

    def call(self, tree: Any, depth: int, *, logical: bool) -> Finds:
        """Return what calls a function."""
        token, *given = tree.children
        name = token[:-1]
        function = FUNCTIONS.get(name)
        if function is None:
            raise self.wrong(str(unknown("function of JSONPath", name, FUNCTIONS)), token.start_pos)
        if len(given) != function.takes:
            raise self.wrong(f"{name}() takes {function.takes}, not {len(given)} arguments", token.start_pos)
        if function.logical is not logical:
            how = "is a condition, and no value" if function.logical else "is a value, and has to be compared"
            raise self.wrong(f"what {name}() returns {how}", token.start_pos)
        call, arguments = function.call, [self.argument(function, each, token, depth) for each in given]
        if function.logical and given[1].data == "STRING":
            self.check_pattern(given[1])
        return lambda value, root: call(*[argument(value, root) for argument in arguments])

    def argument(self, function: Function, tree: Any, token: Token, depth: int) -> Finds:
        """Return what finds an argument of a function."""
        if not function.nodes:
            return self.value(tree, depth)
        if tree.data != "query":
            raise self.wrong(f"{token}) takes a query", token.start_pos)
        return _rooted(tree.children[0], nodes(self.query(tree, depth)))

    def check_pattern(self, token: Token) -> None:
        """Refuse a pattern that RE2 refuses."""
        try:
            compiled(self.string(token))
        except Trouble as exc:
            raise self.wrong(str(exc), token.start_pos) from None

    def wrong(self, message: str, position: int | None) -> InvalidFilter:
        """Return the error for what is wrong at some place in the text."""
        return wrong(f"JSONPath {self.text!r:.100} at character {(position or 0) + 1}: {message}")


@cache
def _grammar() -> Grammar:
    from ..grammar import Grammar

    return Grammar(_GRAMMAR)


def _named(text: str) -> Any:
    return WILD if text == "*" else text


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def _rooted(sign: str, asks: Callable[[Any, Any], T]) -> Callable[[Any, Any], T]:
    """Return what asks the root of all where a query begins with `$`."""
    return asks if sign == "@" else lambda value, root: asks(root, root)
