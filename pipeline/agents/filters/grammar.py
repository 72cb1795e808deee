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
    """A token, as much of lark's as is needed: what is cut, its kind, and where it begins."""

    __slots__ = ("start_pos", "type")
    line = column = end_line = end_column = end_pos = None
    start_pos: int
    type: str


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
            token.type, token.start_pos = name, found.start(name)
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
        self._begin, self._end = table.start_states["start"], table.end_states["start"]
        # Lark's names compare themselves in Python, so they are plain texts here.
        rows = {state: {str(name): row[name] for name in row} for state, row in table.states.items()}
        #: The state that follows one, by the token or the rule that has been read.
        self._next = {
            state: {name: to for name, (action, to) in row.items() if action is Shift} for state, row in rows.items()
        }
        #: The rule that ends before a token: how many parts it has, its name, and what makes its tree.
        self._ending = {
            state: {
                name: (len(rule.expansion), str(rule.origin.name), make[rule])
                for name, (action, rule) in row.items()
                if action is not Shift
            }
            for state, row in rows.items()
        }
        cutter = _Cutter(parser.lexer_conf)
        self._cut = {state: cutter.of(row) for state, row in table.states.items()}

    def parse(self, text: str) -> Tree[Any]:
        """Return the tree of a text; raise lark's UnexpectedInput."""
        tree: Tree[Any] | None = self._read(text)
        return self._lark.parse(text) if tree is None else tree  # lark says what is wrong

    def _read(self, text: str) -> Any:
        """Return the tree of a text, and None where it is wrong."""
        following, ending, cut = self._next, self._ending, self._cut
        state, at = self._begin, 0
        states: list[int] = [state]
        values: list[Any] = []
        while True:
            found = cut[state](text, at)
            if found is None:
                return None
            name, token = str(found.lastgroup), None
            if name == _END:
                name = "$END"
            else:
                token, at = Token(found[name]), found.end()
                token.type, token.start_pos = name, at - len(token)
            while (to := following[state].get(name)) is None:
                rule = ending[state].get(name)
                if rule is None:
                    return None
                size, read, make = rule
                made = make(values[-size:])
                del values[-size:], states[-size:]
                state = following[states[-1]][read]
                values.append(made)
                states.append(state)
                if state == self._end and token is None:
                    return made
            state = to
            states.append(state)
            values.append(token)
