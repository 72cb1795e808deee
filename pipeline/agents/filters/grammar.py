"""The grammars of texts, for lark; tokens are cut in one step each, with what stands between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from typing import Any

from lark import Lark
from lark.exceptions import UnexpectedCharacters
from lark.lexer import Lexer

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
                match = self._of_states[stack[-1]] = self._of_names(frozenset(states[stack[-1]]))
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

    def _of(self, names: Collection[str]) -> _Match:
        tokens = "|".join(f"(?P<{name}>{regexp})" for name, regexp in self._patterns.items() if name in names)
        return re.compile(rf"(?:{self._between})*+(?:{tokens}|(?P<{_END}>\Z))").match

    def _wrong(self, text: str, at: int, allowed: Collection[str]) -> UnexpectedCharacters:
        between = re.compile(rf"(?:{self._between})*+").match(text, at)
        position = between.end() if between else at
        known = {*allowed} & self._patterns.keys()
        return UnexpectedCharacters(text, position, 1, position + 1, allowed=known)  # type: ignore[no-untyped-call]  # lark's classes are partly untyped


def lalr(grammar: str) -> Lark:
    """Return the parser of a grammar, whose tokens know where they begin, and no lines."""
    return Lark(grammar, parser="lalr", lexer=_Cutter, maybe_placeholders=False)
