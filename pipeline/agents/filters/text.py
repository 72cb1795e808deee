"""The text front end: `(type = alert AND priority > 5) OR source = monitoring`."""

from __future__ import annotations

import math
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ...core.errors import InvalidFilter, nearest
from .conditions import Condition, condition, literal
from .operators import OPERATORS
from .paths import TYPE, Path, parse_path
from .relation import Arithmetic, Constant, Expression, Field, Relation
from .tree import Inverse, Node, both, check_depth, either, negated, too_deep
from .values import MOST_DEPTH, MOST_MAPPING, check_length, place_in, wrong

if TYPE_CHECKING:
    from .grammar import Grammar, Token

_GRAMMAR = r"""
start: chain
?chain: not_ (LOGIC not_)*
?not_: NOT not_ -> inverse
    | "(" chain ")"
    | sum COMPARE sum -> compared
    | sum WORD sum -> worded
    | sum NOT WORD sum -> not_worded
    | sum IN list -> one_of
    | sum NOT IN list -> none_of
    | EXISTS PATH -> exists
?list: "(" sum ("," sum)* ")" -> list
    | "[" sum ("," sum)* "]" -> list
?sum: PATH
    | NUMBER
    | STRING
    | CONSTANT
    | SIGN atom -> signed
    | "(" sum ")"
    | atom ((SIGN | TIMES) atom)+ -> sum
?atom: PATH
    | NUMBER
    | STRING
    | CONSTANT
    | SIGN atom -> signed
    | "(" sum ")"

LOGIC.2: /(AND|OR)(?![\w.])/i
NOT.2: /NOT(?![\w.])/i
IN.2: /IN(?![\w.])/i
EXISTS.2: /EXISTS(?![\w.])/i
WORD.2: /(PREFIX|SUFFIX|CONTAINS|WILDCARD|LIKE|MATCHES|CIDR)(?![\w.])/i
CONSTANT.2: /(true|false|null)(?![\w.])/i
COMPARE: /==|!=|<>|<=|>=|=|<|>/
SIGN: /[+-]/
TIMES: /[*\/]/
NUMBER: /\d+(\.\d+)?(e[+-]?\d+)?(?![\w.])/i
STRING: /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"/s
PATH: /(?:[^\W\d]\w*|`(?:[^`]|``)+`)(?:-\w+)*(?:\.(?:\w+|`(?:[^`]|``)+`)(?:-\w+)*)*(?:\.\*)?/
%ignore /\s/
"""
_COMPARE = {
    "=": "$eq", "==": "$eq", "!=": "$ne", "<>": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte",
}  # fmt: skip
_FLIPPED = {"$gt": "$lt", "$gte": "$lte", "$lt": "$gt", "$lte": "$gte"}
_WORDS = {each.word: name for name, each in OPERATORS.items()}
_CONSTANTS = {"true": True, "false": False, "null": None}
_ROOTED = re.compile(r"(event|payload|data|metadata)\.|`")
_SIGNS = re.compile(r"[=<>!~&|^%]+")
_ESCAPED = re.compile(r"\\([\\'\"])")
_HYPHENED, _JOINED = re.compile(r"[\w.*-]*"), re.compile(r"(?<=- )(AND|OR)$", re.IGNORECASE)
_BACKTICKS = re.compile(r"`(?:[^`]|``)+`")


def parse_text(text: str, *, case_sensitive: bool = False) -> Node:
    """Return the tree of a composite filter; raise InvalidFilter with the place in the text."""
    check_length(text)
    return _parsed(text, case_sensitive)


def parse_relation(text: str, *, case_sensitive: bool = False) -> Relation:
    """Return the one comparison that a text holds; raise InvalidFilter when it holds another filter."""
    check_length(text, MOST_MAPPING)
    node = _parsed(text, case_sensitive)
    if not isinstance(node, Relation):
        raise wrong("$expr takes one comparison of two fields, or of what is computed from fields")
    return node


@lru_cache(maxsize=1024)
def _parsed(text: str, case_sensitive: bool) -> Node:
    from lark.exceptions import UnexpectedInput

    try:
        tree = _grammar().parse(text)
    except UnexpectedInput as exc:
        raise _misread(text, exc) from None
    return check_depth(_Reader(text, case_sensitive=case_sensitive).node(tree.children[0], 0))


@cache
def _grammar() -> Grammar:
    from .grammar import Grammar

    return Grammar(_GRAMMAR)


class _Reader:
    """Makes the tree of conditions from what the grammar finds in one text."""

    def __init__(self, text: str, *, case_sensitive: bool) -> None:
        self.text = text
        self.case_sensitive = case_sensitive

    def node(self, tree: Any, depth: int) -> Node:
        """Return what a condition, or several, stand for."""
        if depth > 4 * MOST_DEPTH:  # of NOTs that undo each other; how deep the rest is, the tree says
            raise too_deep()
        kind, children = tree.data, tree.children
        if kind == "chain":
            parts = [[self.node(children[0], depth + 1)]]
            for word, child in zip(children[1::2], children[2::2], strict=True):
                node = self.node(child, depth + 1)
                if word.upper() == "AND":  # which binds before OR
                    parts[-1].append(node)
                else:
                    parts.append([node])
            return either([both(each) for each in parts])
        if kind == "inverse":
            return negated(self.node(children[1], depth + 1))
        if kind == "exists":
            return self.condition(self.path(children[1]), "$exists", True, children[1])
        if kind == "compared":
            return self.compared(*children)
        left, word = self.alone(children[0]), children[1 if kind in ("worded", "one_of") else 2]
        if kind in ("one_of", "none_of"):
            values = [self.value(each) for each in children[-1].children]
            return self.condition(left, "$in" if kind == "one_of" else "$nin", values, word)
        made = self.condition(left, _WORDS[word.upper()], self.value(children[-1]), word)
        return made if kind == "worded" else Inverse(made)

    def compared(self, left: Any, sign: Token, right: Any) -> Node:
        """Return the comparison of two sides, of which one alone may be a value."""
        op = _COMPARE[sign]
        if not self.is_value(left) and self.is_value(right, after=True):
            return self.equal(self.alone(left, or_none=True), op, self.literal(right), left, right, sign)
        if self.is_value(left) and right.data == "PATH":
            return self.equal(self.path(right), _FLIPPED.get(op, op), self.literal(left), right, left, sign)
        sides = self.expression(left, 0), self.expression(right, 0)
        if not any(True for side in sides for _ in side.parts()):
            raise self.wrong("two values are compared, and no field; write the field first", sign)
        if all(isinstance(side, Field) for side in sides) and sides[0] == sides[1]:
            raise self.wrong("a field is compared with itself", sign)
        return Relation(sides[0], op, sides[1], self.case_sensitive)

    def equal(self, path: Path | None, op: str, value: Any, field: Any, other: Any, sign: Token) -> Node:
        """Return the comparison with a value, of a field or of what is computed."""
        if path is None:
            return Relation(self.expression(field, 0), op, Constant(value))
        if other.data == "PATH" and other.endswith(".*") and op in ("$eq", "$ne") and path != TYPE:
            made = self.condition(path, "$wildcard", value, sign)
            return made if op == "$eq" else Inverse(made)
        try:
            return typed(path, op, value, self.case_sensitive, "")
        except InvalidFilter as exc:
            raise self.wrong(str(exc), sign) from None

    def condition(self, path: Path, op: str, value: Any, at: Token) -> Condition:
        """Return the condition, or raise InvalidFilter with its place."""
        try:
            return condition(path, op, value, case_sensitive=self.case_sensitive)
        except InvalidFilter as exc:  # places take long to say, and most are right
            raise self.wrong(str(exc), at) from None

    def is_value(self, side: Any, *, after: bool = False) -> bool:
        """Say whether a side is a value: a literal or, behind an operator, a single word without a root."""
        if side.data == "PATH":
            return after and not _ROOTED.match(side)
        return side.data in ("NUMBER", "STRING", "CONSTANT") or (
            side.data == "signed" and side.children[1].data == "NUMBER"
        )

    def value(self, side: Any) -> Any:
        """Return the value that a side is."""
        if not self.is_value(side, after=True):
            raise self.wrong("a value is expected here: a number, a word, a text in quotes, true, false or null", side)
        return self.literal(side)

    def literal(self, side: Any) -> Any:
        """Return the value of what is known to be one."""
        if side.data == "signed":
            return self.literal(side.children[1]) * (-1 if side.children[0] == "-" else 1)
        if side.data == "NUMBER":
            return self.number(side)
        if side.data == "STRING":
            return _ESCAPED.sub(r"\1", side[1:-1])
        if side.data == "CONSTANT":
            return _CONSTANTS[side.lower()]
        self.check_hyphens(side)
        return str(side)

    def number(self, token: Token) -> int | float:
        """Return a number that an event can have."""
        number = int(token) if token.isdecimal() and len(token) < 20 else float(token)
        if math.isinf(number):
            raise self.wrong("this number is too large", token)
        return number

    def alone(self, side: Any, *, or_none: bool = False) -> Any:
        """Return the path that a side is; None, where that is allowed, when it is something computed."""
        if side.data == "PATH":
            return self.path(side)
        if or_none:
            return None
        raise self.wrong("this operator looks at one field; write the field before it", side)

    def path(self, token: Token) -> Path:
        """Return the path that a token stands for."""
        self.check_hyphens(token)
        if token.endswith(".*"):
            raise self.wrong("a field has no `*`; write one after an operator, as in type = order.*", token)
        try:
            return parse_path(str(token))
        except InvalidFilter as exc:
            raise self.wrong(str(exc), token) from None

    def expression(self, side: Any, depth: int) -> Expression:
        """Return what a side of a comparison is computed from."""
        if depth >= MOST_DEPTH:
            raise too_deep(self.place(side))
        if side.data == "PATH":
            return Field(self.path(side))
        if self.is_value(side):
            return Constant(self.literal(side))
        if side.data == "signed":
            inner = self.expression(side.children[1], depth + 1)
            return Arithmetic(Constant(0), ((str(side.children[0]), inner),))
        terms: list[tuple[str, list[Any]]] = [("+", [side.children[0]])]
        for sign, each in zip(side.children[1::2], side.children[2::2], strict=True):
            if sign.data == "TIMES":  # which binds before + and -
                terms[-1][1].extend((sign, each))
            else:
                terms.append((str(sign), [each]))
        (_, first), *others = terms
        if not others:
            return self.product(first, depth)
        return Arithmetic(self.product(first, depth), tuple((sign, self.product(each, depth)) for sign, each in others))

    def product(self, factors: list[Any], depth: int) -> Expression:
        """Return what is multiplied and divided from left to right."""
        first, *rest = [self.expression(each, depth + 1) for each in factors[::2]]
        return Arithmetic(first, tuple(zip(map(str, factors[1::2]), rest, strict=True))) if rest else first

    def check_hyphens(self, token: Token) -> None:
        """Refuse a word with a hyphen, which may be a difference, a text or a field's name."""
        if "-" in token and "-" in _BACKTICKS.sub("", token):
            raise self.wrong(
                f"{token!s}: write quotes around a text, backticks around a name, or spaces around a minus", token
            )

    def wrong(self, message: str, at: Any) -> InvalidFilter:
        """Return the error for what is wrong at some token or tree."""
        return wrong(message, self.place(at))

    def place(self, at: Any) -> str:
        """Return where in the text a token stands, or the first one of a tree."""
        while hasattr(at, "children"):
            at = at.children[0]
        return place_in(self.text, at.start_pos)


def typed(path: Path, op: str, value: Any, case_sensitive: bool, place: str) -> Node:
    """Return a comparison, where `order.*` for the event's type is every type that begins so."""
    if op in ("$eq", "$ne") and isinstance(value, str) and "*" in value and path == TYPE:
        start, _, rest = value.partition("*")
        if rest or not start:
            raise wrong(
                f"{value!r}: an event type may end with one `*`, as in 'order.*'; write WILDCARD for others", place
            )
        made = condition(path, "$prefix", start, case_sensitive=case_sensitive, place=place)
        return made if op == "$eq" else Inverse(made)
    return condition(path, op, value, case_sensitive=case_sensitive, place=place)


# -- what is wrong with a text


def _misread(text: str, error: Any) -> InvalidFilter:
    """Return an error that says what one might have meant."""
    token = getattr(error, "token", None)
    ended = token is not None and token.type == "$END"
    position = len(text.rstrip()) if ended else error.pos_in_stream
    place = place_in(text, position)
    expected = set(getattr(error, "expected", None) or getattr(error, "allowed", None) or ())
    if word := _hyphenated(text, len(_JOINED.sub("", text[:position].rstrip()).rstrip())):
        return wrong(f"a word that ends with a hyphen stands in quotes: {literal(word)}", place)
    if ended:
        return wrong(f"the text ends too early; {_expected(expected)}", place)
    start = position
    while start and _SIGNS.match(text[start - 1]):
        start -= 1
    if (signs := _SIGNS.match(text, start)) and signs[0] not in _COMPARE:
        meant = {"&&": "AND", "&": "AND", "||": "OR", "|": "OR", "!": "NOT", "=~": "MATCHES", "~": "MATCHES"}
        hint = f"write {meant[signs[0]]}" if signs[0] in meant else nearest(signs[0], [*_COMPARE, *_WORDS])
        return wrong(f"unknown operator {signs[0]!r}; {hint}", place_in(text, start))
    if token is not None and token.type == "PATH" and "WORD" in expected:
        return wrong(f"unknown operator {str(token)!r}; {nearest(token.upper(), set(_WORDS))}", place)
    if text[position] in "'\"`":
        return wrong("what begins with this quote has no end", place)
    return wrong(f"this is not expected here; {_expected(expected)}", place)


def _hyphenated(text: str, end: int) -> str:
    """Return the word whose hyphen ends there, and which is read as a minus; nothing where there is none."""
    start = end - 1
    while start > 0 and _HYPHENED.fullmatch(text[start - 1]):
        start -= 1
    word = _HYPHENED.match(text, start) if text[start:end].endswith("-") and start < end - 1 else None
    return word[0] if word else ""


def _expected(names: set[str]) -> str:
    """Return what would be right, in words."""
    if "COMPARE" in names:
        return "an operator would be, such as = or CONTAINS; texts of more than letters, digits and _ need quotes"
    if "LOGIC" in names or "$END" in names:
        closing = ", or a closing parenthesis" if "RPAR" in names else ""
        return f"AND or OR would be{closing}; texts of more than letters, digits and _ need quotes"
    if "EXISTS" in names:
        return "a condition would be, such as priority > 5"
    if names <= {"RPAR", "COMMA", "RSQB", "SIGN", "TIMES"} and names:
        return "the parenthesis is not closed"
    return "a field would be, a number, or a text in quotes"
