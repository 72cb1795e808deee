"""The grammars of texts, for lark; tokens are cut in one step each, with what stands between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import Any

from lark import Lark, Tree
from lark.exceptions import UnexpectedCharacters
from lark.lexer import Lexer
from lark.parsers.lalr_analysis import Shift

_Match = Callable[[str, int], re.Match[str] | None]
#: What the end of a text is called among the tokens.
_END = "_END"


class Token(str):
    """A token, as much of lark's as is needed.

    Attributes:
        data: its kind, under the name that a tree has its own under.
        start_pos: where it begins.

    """

    __slots__ = ("data", "start_pos")
    line = column = end_line = end_column = end_pos = None
    data: str
    start_pos: int

    @property
    def type(self) -> str:
        """The kind, as lark asks for it."""
        return self.data


class _Cutter(Lexer):
    """Cuts the token that may come next out of a text; lark's own lexers count lines, too, and take twice as long.

    Arguments:
        conf: the grammar's terminals, and those between them that say nothing.

    """

    __future_interface__ = 1

    def __init__(self, conf: Any) -> None:
        def first(terminal: Any) -> tuple[int, int, int, str]:  # lark's own order
            pattern = terminal.pattern
            return -terminal.priority, -pattern.max_width, -len(pattern.value), terminal.name

        patterns = {each.name: each.pattern.to_regexp() for each in sorted(conf.terminals, key=first)}
        self._between = "|".join(patterns.pop(name) for name in conf.ignore)
        self._patterns = patterns
        self._of_names = cache(self._of)
        self._of_states: dict[int, _Match] = {}

    def lex(self, lexer_state: Any, parser_state: Any) -> Iterator[Any]:
        """Cut tokens as the parser's state allows; one that is not allowed is the parser's to refuse."""
        text: str = getattr(lexer_state.text, "text", lexer_state.text)
        states = parser_state.parse_conf.parse_table.states
        stack: list[int] = parser_state.state_stack
        at = 0
        while True:
            match = self._of_states.get(stack[-1])
            if match is None:
                match = self._of_states[stack[-1]] = self.of(states[stack[-1]])
            found = match(text, at) or self._of_names(frozenset(self._patterns))(text, at)
            if found is None:
                raise self._wrong(text, at, states[stack[-1]])
            name = str(found.lastgroup)
            if name == _END:
                return
            token = Token(found[name])
            token.data, token.start_pos = name, found.start(name)
            yield token
            at = found.end()

    def of(self, row: Collection[str]) -> _Match:
        """Return what cuts the next token where these may come."""
        return self._of_names(frozenset(row))

    def _of(self, names: Collection[str]) -> _Match:
        tokens = "|".join(f"(?P<{name}>{regexp})" for name, regexp in self._patterns.items() if name in names)
        return re.compile(rf"(?:{self._between})*+(?:{tokens}|(?P<{_END}>\Z))").match

    def _wrong(self, text: str, at: int, allowed: Collection[str]) -> UnexpectedCharacters:
        between = re.compile(rf"(?:{self._between})*+").match(text, at)
        position = between.end() if between else at
        known = {*allowed} & self._patterns.keys()
        return UnexpectedCharacters(text, position, 1, position + 1, allowed=known)  # type: ignore[no-untyped-call]  # lark's classes are partly untyped


class _Row:
    """What may come in a state of the parser: rows name each other, so that none is looked up.

    Attributes:
        cut: cuts the next token.
        following: the row that follows, by the token or the rule that has been read.
        ending: the rule that ends before a token: how many parts it has, its name, and what makes its tree.

    """

    __slots__ = ("cut", "ending", "following")

    def __init__(self, cut: _Match) -> None:
        self.cut = cut
        self.following: dict[str, _Row] = {}
        self.ending: dict[str, tuple[int, str, Callable[[list[Any]], Any] | None]] = {}


class Grammar:
    """Reads texts by the tables that lark makes of a grammar; lark's own loop takes half as long again.

    Arguments:
        grammar: as lark has it, with the rule `start` and no rule that may be empty; its tokens know where they begin,
            and no lines.

    """

    def __init__(self, grammar: str) -> None:
        self._lark = Lark(grammar, parser="lalr", lexer=_Cutter, maybe_placeholders=False)
        parser: Any = self._lark.parser
        table, make = parser.parser._parse_table, parser.parser.parser.callbacks
        cutter = _Cutter(parser.lexer_conf)
        rows = {state: _Row(cutter.of(row)) for state, row in table.states.items()}
        for state, row in table.states.items():
            for name, (action, to) in row.items():  # lark's names compare themselves in Python: here plain texts
                if action is Shift:
                    rows[state].following[str(name)] = rows[to]
                else:
                    rows[state].ending[str(name)] = len(to.expansion), str(to.origin.name), _make(to, make[to])
        self._begin, self._end = rows[table.start_states["start"]], rows[table.end_states["start"]]

    def parse(self, text: str) -> Tree[Any]:
        """Return the tree of a text; raise lark's UnexpectedInput."""
        tree: Tree[Any] | None = self._read(text)
        return self._lark.parse(text) if tree is None else tree  # lark says what is wrong

    def _read(self, text: str) -> Any:
        """Return the tree of a text, and None where it is wrong."""
        row, at = self._begin, 0
        rows = [row]
        values: list[Any] = []
        while True:
            found = row.cut(text, at)
            if found is None:
                return None
            name, token = str(found.lastgroup), None
            if name == _END:
                name = "$END"
            else:
                token, at = Token(found[name]), found.end()
                token.data, token.start_pos = name, at - len(token)
            while (to := row.following.get(name)) is None:
                rule = row.ending.get(name)
                if rule is None:
                    return None
                size, read, make = rule
                if make is None:
                    row = rows[-1] = rows[-2].following[read]
                    continue
                values[-size:] = (make(values[-size:]),)
                del rows[-size:]
                row = rows[-1].following[read]
                rows.append(row)
                if row is self._end and token is None:
                    return values[-1]
            row = to
            rows.append(row)
            values.append(token)


def _make(rule: Any, make: Any) -> Any:
    """Return what makes a rule's tree; None where its only part stands for it, as in most steps of precedence."""
    alone = len(rule.expansion) == 1 and rule.options.expand1 and not rule.alias
    return None if alone and not getattr(rule.expansion[0], "filter_out", False) else make
