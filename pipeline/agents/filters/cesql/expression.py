"""CESQL 1.0, the dialect `sql` of the CloudEvents Subscriptions API: expressions on attributes.

Written after the specification of CloudEvents SQL 1.0, chapters 2 and 3. An error, and a missing attribute, end the
evaluation as soon as they are met (section 4.1): what is short-circuited is not met.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ....core.errors import InvalidFilter
from ..paths import EVENT, Path, attribute_path
from ..tree import too_deep
from ..values import (
    MISSING,
    MOST_DEPTH,
    Absent,
    Result,
    Test,
    Trouble,
    as_text,
    check_length,
    guarded,
    kind_of,
    like,
    place_in,
    unknown,
    wrong,
)
from .functions import FUNCTIONS, LEAST, MOST, boolean, integer, string

if TYPE_CHECKING:
    from ..grammar import Grammar, Token

_GRAMMAR = r"""
start: logic
?logic: comparison (LOGIC comparison)*
?comparison: sum (COMPARE sum)*
?sum: product (SIGN product)*
?product: member (TIMES member)*
?member: unary (NOT? LIKE STRING | NOT? IN set)*
set: "(" logic ("," logic)* ")"
?unary: NOT unary -> inverse
    | SIGN unary -> signed
    | INTEGER
    | STRING
    | BOOLEAN
    | NAME
    | EXISTS NAME -> exists
    | FUNCTION "(" [logic ("," logic)*] ")" -> call
    | "(" logic ")"

LOGIC.3: /(AND|OR|XOR)(?![a-z0-9_])/i
NOT.3: /NOT(?![a-z0-9_])/i
LIKE.3: /LIKE(?![a-z0-9_])/i
IN.3: /IN(?![a-z0-9_])/i
EXISTS.3: /EXISTS(?![a-z0-9_])/i
BOOLEAN.3: /(TRUE|FALSE)(?![a-z0-9_])/i
FUNCTION.2: /[A-Za-z][A-Za-z_]*(?=\s*\()/
INTEGER.2: /\d+(?![A-Za-z0-9_])/
NAME: /[A-Za-z0-9]+/
STRING: /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/s
COMPARE: /!=|<>|<=|>=|=|<|>/
SIGN: /[+-]/
TIMES: /[*\/%]/
%ignore /\s/
"""
Value = str | int | bool
Evaluate = Callable[[Mapping[str, Any]], Value]

_ORDER: Mapping[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Sql:
    """An expression of CESQL."""

    expression: str
    attributes: tuple[str, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The attributes in it."""
        return tuple(Path(EVENT, (name,)) for name in self.attributes)

    @property
    def text(self) -> str:
        """The expression."""
        return self.expression

    def as_data(self) -> dict[str, Any]:
        """Return it as a mapping filter has it."""
        return {"sql": self.expression}

    def seen(self, event: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """Return the values of its attributes, and the attributes that there are."""
        return {path.names[0]: path.value(event) for path in self.paths}, self.paths[0].around(event)

    def build(self) -> Test:
        """Return the function that tries it on an event."""
        evaluate, _ = _compiled(self.expression)

        def test(event: Mapping[str, Any]) -> Result:
            value = evaluate(event)
            if not isinstance(value, bool):
                raise Trouble(f"the expression comes to {kind_of(value)}, not to true or false", value)
            return value

        return guarded(self, test)


def parse_sql(text: str, place: str = "") -> Sql:
    """Return the condition for an expression of CESQL; raise InvalidFilter with the place in the text."""
    check_length(text)
    try:
        _, attributes = _compiled(text)
    except InvalidFilter as exc:
        raise wrong(str(exc), place) from None
    if not attributes:
        raise wrong("CESQL: the expression looks at no attribute, and is the same for every event", place)
    return Sql(text, attributes)


@lru_cache(maxsize=256)
def _compiled(text: str) -> tuple[Evaluate, tuple[str, ...]]:
    """Return the function that evaluates an expression, and the attributes in it."""
    from lark.exceptions import UnexpectedInput

    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as exc:
        token = getattr(exc, "token", None)
        ended = token is not None and token.type == "$END"
        at = place_in(text, len(text) if ended else exc.pos_in_stream or 0)
        reason = "the expression ends too early" if ended else "this is not expected here"
        raise wrong(f"CESQL, {at}: {reason}; texts are written in quotes") from None
    reader = _Reader(text)
    evaluate = reader.read(tree.children[0], 0)
    return evaluate, tuple(dict.fromkeys(reader.attributes))


@cache
def _grammar() -> Grammar:
    from ..grammar import Grammar

    return Grammar(_GRAMMAR)


class _Reader:
    """Makes the function that evaluates what the grammar finds, and gathers the attributes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.attributes: list[str] = []

    def read(self, tree: Any, depth: int) -> Evaluate:
        """Return the function that evaluates a part of the expression."""
        if depth > MOST_DEPTH:
            raise too_deep()
        if leaf := _LEAVES.get(tree.data):
            return leaf(self, tree)
        read: Callable[[list[Any], int], Evaluate] = getattr(self, f"_{tree.data}")
        return read(tree.children, depth + 1)

    def _logic(self, children: list[Any], depth: int) -> Evaluate:
        first = self.read(children[0], depth)
        rest = [(str(word).upper(), self.read(each, depth)) for word, each in _pairs(children)]

        def evaluate(event: Mapping[str, Any]) -> Value:
            result = boolean(first(event))
            for word, each in rest:  # all three have one precedence, and go from left to right
                if word == "XOR":
                    result = result is not boolean(each(event))
                elif result is (word == "AND"):
                    result = boolean(each(event))
            return result

        return evaluate

    def _comparison(self, children: list[Any], depth: int) -> Evaluate:
        result = self.read(children[0], depth)
        for sign, each in _pairs(children):
            result = _compared(result, str(sign), self.read(each, depth))
        return result

    def _sum(self, children: list[Any], depth: int) -> Evaluate:
        first = self.read(children[0], depth)
        rest = [(_ARITHMETIC[sign], self.read(each, depth)) for sign, each in _pairs(children)]

        def evaluate(event: Mapping[str, Any]) -> Value:
            total = integer(first(event))
            for compute, each in rest:
                total = within(compute(total, integer(each(event))))
            return total

        return evaluate

    _product = _sum

    def _member(self, children: list[Any], depth: int) -> Evaluate:
        result, negated = self.read(children[0], depth), False
        for each in children[1:]:
            kind = each.data
            if kind == "NOT":
                negated = True
            elif kind in ("STRING", "set"):
                if kind == "set":
                    result = _one_of(result, [self.read(member, depth) for member in each.children], negated)
                else:
                    result = self._liked(result, each, negated)
                negated = False
        return result

    def _liked(self, value: Evaluate, token: Token, negated: bool) -> Evaluate:
        try:
            pattern = like(_unquoted(token))
        except Trouble as exc:
            raise self.wrong(str(exc), token) from None
        return lambda event: pattern.matches(string(value(event))) is not negated

    def _inverse(self, children: list[Any], depth: int) -> Evaluate:
        inner = self.read(children[1], depth)
        return lambda event: not boolean(inner(event))

    def _signed(self, children: list[Any], depth: int) -> Evaluate:
        sign, inner = children
        if inner.data == "INTEGER":
            number = self._number(inner, -1 if sign == "-" else 1)
            return lambda event: number
        if sign == "+":
            raise self.wrong("a + belongs before a number, or between two values", sign)
        value = self.read(inner, depth)
        return lambda event: within(-integer(value(event)))

    def _integer(self, token: Token) -> Evaluate:
        number = self._number(token, 1)
        return lambda event: number

    def _number(self, token: Token, sign: int) -> int:
        number = sign * int(token[:20])
        if not LEAST <= number <= MOST:
            raise self.wrong("an integer has at most 32 bits in CESQL", token)
        return number

    def _string(self, token: Token) -> Evaluate:
        text = _unquoted(token)
        return lambda event: text

    def _boolean(self, token: Token) -> Evaluate:
        value = token.upper() == "TRUE"
        return lambda event: value

    def _attribute(self, token: Token) -> Evaluate:
        get = self._named(token).getter()

        def evaluate(event: Mapping[str, Any]) -> Value:
            value = get(event)
            if value is MISSING:
                raise Absent
            if isinstance(value, (bool, str)):
                return value
            if isinstance(value, int) and LEAST <= value <= MOST:
                return value
            return as_text(value) if hasattr(value, "astimezone") else str(value)

        return evaluate

    def _exists(self, children: list[Any], depth: int) -> Evaluate:
        get = self._named(children[1]).getter()
        return lambda event: get(event) is not MISSING

    def _named(self, token: Token) -> Path:
        path = attribute_path(token.lower())
        self.attributes.append(path.names[0])
        return path

    def _call(self, children: list[Any], depth: int) -> Evaluate:
        name, arguments = children[0].upper(), [self.read(each, depth) for each in children[1:] if each is not None]
        if name not in FUNCTIONS:
            raise unknown("function of CESQL", str(children[0]), FUNCTIONS, place_in(self.text, children[0].start_pos))
        function = FUNCTIONS[name]
        if not function.fewest <= len(arguments) <= function.most:
            raise self.wrong(f"{name} does not take {len(arguments)} arguments", children[0])
        return lambda event: function.call(*(argument(event) for argument in arguments))

    def wrong(self, message: str, token: Token) -> Exception:
        """Return the error for what is wrong at a token."""
        return wrong(f"CESQL, {place_in(self.text, token.start_pos or 0)}: {message}")


#: What reads the parts that are one token.
_LEAVES: Mapping[str, Callable[[_Reader, Token], Evaluate]] = {
    "BOOLEAN": _Reader._boolean, "INTEGER": _Reader._integer, "NAME": _Reader._attribute, "STRING": _Reader._string,
}  # fmt: skip


def _pairs(children: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(children[1::2], children[2::2], strict=True))


def _unquoted(token: str) -> str:
    """Return what a literal in quotes says; a backslash escapes the quote alone."""
    quote, inside = token[0], token[1:-1]
    return inside.replace(f"\\{quote}", quote)


def _cast_like(value: Value, other: Value) -> Value:
    """Return a value cast to the type of another."""
    if isinstance(other, bool):
        return boolean(value)
    return integer(value) if isinstance(other, int) else string(value)


def _compared(left: Evaluate, sign: str, right: Evaluate) -> Evaluate:
    if sign in _ORDER:
        compare = _ORDER[sign]
        return lambda event: compare(integer(left(event)), integer(right(event)))
    wanted = sign == "="

    def equal(event: Mapping[str, Any]) -> Value:
        one, other = left(event), right(event)
        return (_cast_like(one, other) == other) is wanted

    return equal


def _one_of(value: Evaluate, members: list[Evaluate], negated: bool) -> Evaluate:
    def evaluate(event: Mapping[str, Any]) -> Value:
        one = value(event)
        return any(_cast_like(each(event), one) == one for each in members) is not negated

    return evaluate


def within(number: int) -> int:
    """Return a number of 32 bits; raise Trouble for a larger one."""
    if not LEAST <= number <= MOST:
        raise Trouble("a number is larger than 32 bits")
    return number


def _divide(one: int, other: int) -> int:
    if not other:
        raise Trouble("a division by zero")
    quotient = abs(one) // abs(other)
    return quotient if (one < 0) is (other < 0) else -quotient


def _rest(one: int, other: int) -> int:
    return one - other * _divide(one, other)


_ARITHMETIC: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divide, "%": _rest,
}  # fmt: skip
