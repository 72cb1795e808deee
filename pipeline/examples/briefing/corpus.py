"""What the briefing's researchers read: Python's own documentation, as it is installed with every interpreter."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters

from .search import Passage

_OF_NO_USE = """
antigravity curses ctypes distutils encodings ensurepip idlelib imp lib2to3 msilib nturl2path opcode pydoc pydoc_data
sre_compile sre_constants sre_parse test this tkinter turtle turtledemo util venv wsgiref xdrlib
"""
#: Parts of the standard library that are left out; the source of the rest is parsed, never imported.
SKIPPED = frozenset(_OF_NO_USE.split())
#: Modules written in C, harmless to import, whose docstrings no source file holds; with the name they are known by.
COMPILED = {
    "builtins": "",
    "itertools": "itertools",
    "math": "math",
    "time": "time",
    "_collections": "collections",
    "_csv": "csv",
    "_functools": "functools",
    "_heapq": "heapq",
    "_io": "io",
}
#: Docstrings beyond this many characters are manuals; their beginning says what the thing is.
LONGEST = 4000
#: Characters after which a section of the reference is continued in another passage.
PART = 900

_ASIDES = re.compile(r"^( *)See also:\n(?:\n|\1 +.*\n?)*|^-\[ Footnotes \]-\n(?:.*\n?)*", re.MULTILINE)
_UNDERLINE = re.compile(r"^(.+)\n([*=\-~^\"])\2+\n", re.MULTILINE)
_DEFINITION = re.compile(r"^(?:class |async |await )?[A-Za-z_][\w.]*(?:\(.*\)|\[.*\])?(?: -> .*)?$")
_NAME = re.compile(r"^(?:class |async |await )?([\w.]+)")
_EMPHASIS = re.compile(r"(?<![\w*])\*(\w[\w\s-]*\w)\*(?![\w*])")
_BULLET = re.compile(r"^(?:[*•-]|\d+\.|\[\d+\])\s+")
_MARKUP = (
    (re.compile(r"\s*\((?:see|described in|cf\.)[^()]*(?:\(\)[^()]*)*\)", re.IGNORECASE), ""),  # (see section ...)
    (re.compile(r":\w+:`~?([^`]+)`"), r"\1"),
    (re.compile(r"``?([^`]+)`?`"), r"\1"),
    (re.compile(r"(?<![\w*])\*\*?([^\s*](?:[^*]*[^\s*])?)\*\*?(?![\w*])"), r"\1"),
    (re.compile(r"\s*\[\d+\]"), ""),  # footnotes
    (re.compile(r"(\w)- (?=\w)"), r"\1-"),  # a compound that was broken at its hyphen
)
_NOT_PROSE = re.compile(
    r"::=|>>>|^[|+]|[|+]$|={3,}|-{4,}|\$|^(?:New in|Changed in|Deprecated|Added in|See |For more |Source code|\**PEP )"
)
_OPENING, _CLOSING = "\"'“*`@(", "\"'”*`)"


def reference() -> Iterator[Passage]:
    """Yield the sections and definitions of the language reference, long ones in parts."""
    topics = importlib.import_module("pydoc_data.topics").topics
    seen: set[str] = set()
    # Long topics contain short ones; the short one's heading says better what it is about.
    for text in sorted(topics.values(), key=len):
        for title, body in _sections(_ASIDES.sub("", text)):
            for part in _parts(prose_of(body)):
                if part not in seen:
                    seen.add(part)
                    # The reference sets a word in italics where it says what the word means.
                    yield Passage(clean(title), clean(part), " ".join(_EMPHASIS.findall(part)))


def _parts(blocks: list[str]) -> Iterator[str]:
    """Join paragraphs to parts of at least PART characters."""
    part = list[str]()
    for block in blocks:
        part.append(block)
        if sum(map(len, part)) >= PART:
            yield "\n".join(part)
            part = []
    if part:
        yield "\n".join(part)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Split a topic at its headings, and each part at its definitions."""
    parts = _UNDERLINE.split(text)
    for title, body in zip(parts[1::3], parts[3::3], strict=True):
        yield from _definitions(title, body)


def _definitions(title: str, body: str) -> Iterator[tuple[str, str]]:
    """Yield the text under a heading, then `str.split(...)` and the like with the indented text below each."""
    current, lines = title, list[str]()
    for block in re.split(r"\n\s*\n", body):
        if block.strip() and not block.startswith(" "):
            names = [line for line in block.splitlines() if _DEFINITION.match(line)]
            is_definition = len(names) == len(block.splitlines()) and any("(" in name or "." in name for name in names)
            if is_definition or current != title:
                yield current, "\n\n".join(lines)
                current, lines = (_NAME.split(names[0])[1] if is_definition else title), []
            if is_definition:
                continue
        lines.append(block)
    yield current, "\n\n".join(lines)


def library() -> Iterator[Passage]:
    """Yield the docstrings of the standard library's public modules, classes and functions."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*root.glob("*.py"), *root.glob("*/*.py"), *root.glob("*/*/*.py")]):
        names = path.relative_to(root).with_suffix("").parts
        if names[-1] == "__init__":
            names = names[:-1]
        if names[0] in sys.stdlib_module_names and not any(n.startswith("_") or n in SKIPPED for n in names):
            yield from _module(".".join(names), path)
    for source, name in COMPILED.items():
        yield from _compiled(source, name)


def _module(name: str, path: Path) -> Iterator[Passage]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # one unreadable module does not spoil the index
    yield from _passage(name, ast.get_docstring(tree))
    yield from _members(name, tree.body)


def _members(prefix: str, body: list[ast.stmt]) -> Iterator[Passage]:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            yield from _passage(f"{prefix}.{node.name}", ast.get_docstring(node))
            if isinstance(node, ast.ClassDef):
                yield from _members(f"{prefix}.{node.name}", node.body)


def _compiled(source: str, name: str) -> Iterator[Passage]:
    module = importlib.import_module(source)
    if source != "builtins":
        yield from _passage(name, module.__doc__)
    for key, value in vars(module).items():
        if not key.startswith("_") and callable(value) and not _is_error(value):
            title = f"{name}.{key}".removeprefix(".")
            yield from _passage(title, value.__doc__)
            for method, member in vars(value).items() if isinstance(value, type) else ():
                if not method.startswith("_"):
                    yield from _passage(f"{title}.{method}", getattr(member, "__doc__", None))


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _passage(title: str, docstring: object) -> Iterator[Passage]:
    if isinstance(docstring, str):
        prose = "\n".join(prose_of(clean(docstring[:LONGEST])))
        if prose:
            yield Passage(title, prose, re.split(r"\.\s", prose, maxsplit=1)[0])


def prose_of(text: str) -> list[str]:
    """Return the paragraphs of `text` that are sentences: no code, tables, grammar or change notes."""
    return [block for block in map(_finished, _blocks(text)) if _is_prose(block)]


def _blocks(text: str) -> Iterator[str]:
    """Yield lines that belong together, joined: a blank line, a bullet or another indentation begins a new block."""
    block, indentation = list[str](), 0
    for line in text.splitlines():
        words = line.lstrip()
        content = _BULLET.sub("", words, count=1)
        at = len(line) - len(content)
        if block and (not words or content != words or at != indentation):
            yield " ".join(block)
            block = []
        if words:
            block, indentation = [*block, content.rstrip()], at
    yield " ".join(block)


def _finished(block: str) -> str:
    """Return a block without what only leads over to an example: a last sentence that has no end, or a colon."""
    end = max(block.rfind(mark) for mark in (". ", ".) ", "! ", "? "))
    return block if block.rstrip(_CLOSING)[-1:] in (".", "!", "?") else block[: end + 1].rstrip()


def _is_prose(block: str) -> bool:
    letters = sum(map(block.count, ascii_letters + " "))
    return (
        len(block) > 20
        and (block[0] in _OPENING or block[0].isupper())
        and letters >= 0.8 * len(block)
        and not _NOT_PROSE.search(block)
    )


def clean(text: str) -> str:
    """Return a sentence without the marks of reStructuredText."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text
