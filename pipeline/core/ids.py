"""What tells one thing from another: ids of events and deliveries, the bus's own signature, and places in a program.

The ids are UUIDs, made without the UUID class, which takes most of the time of a delivery.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b, sha1
from hmac import compare_digest
from pathlib import Path
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any
from uuid import UUID, uuid5
from zlib import crc32

import orjson

from .times import random_bytes

#: Namespace of the ids that are derived from event ids which are not UUIDs themselves.
FOREIGN_IDS = uuid5(UUID(int=0), "pipeline/foreign-event-id")
_FOREIGN = FOREIGN_IDS.bytes
_UUID_LENGTH = 36


def new_id() -> str:
    """Return a fresh event id, a random UUID (RFC 9562, version 4)."""
    return _format(random_bytes(16), 0x40)


def derived_id(id: str, name: str) -> str:
    """Return `uuid5(id, name)` (RFC 9562, version 5); an id that is no UUID is made one first."""
    return _format(sha1(_namespace(id) + name.encode(), usedforsecurity=False).digest(), 0x50)


def delivery_id(event_id: str, agent: str) -> str:
    """Return the id of the delivery of one event to one agent: `uuid5(event id, agent)`."""
    return derived_id(event_id, agent)


def member_id(flow: str, position: int) -> str:
    """Return the id of the delivery that is one step of a flow."""
    return derived_id(flow, f"member/{position}")


def foreign_id(source: str, id: str) -> str:
    """Return the id that the bus knows another program's event by: its own one is unique for its source only."""
    return _format(sha1(_FOREIGN + f"{len(source)}:{source}{id}".encode(), usedforsecurity=False).digest(), 0x50)


def caused_id(delivery: str, position: int, secret: bytes = b"") -> str:
    """Return the id of the event that a delivery emits at `position` (0, 1, ...).

    Arguments:
        secret: the ledger's; without it nobody can say beforehand what the id will be (RFC 9562, version 8).

    """
    if not secret:
        return derived_id(delivery, str(position))
    digest = blake2b(f"{delivery}/{position}".encode(), key=secret, digest_size=16, person=b"event id").digest()
    return _format(digest, 0x80)


def is_sampled(event_id: str, share: float) -> bool:
    """Say whether an event is among a share (0 to 1) of all, by its id alone: everybody says the same of it, always.

    Its place is the first 8 bytes of BLAKE2b of the id, as a fraction; with a larger share the events of a smaller one
    are sampled, too.
    """
    if share >= 1:
        return True
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "big") < share * 2**64


def _namespace(id: str) -> bytes:
    if len(id) == _UUID_LENGTH:
        try:
            namespace = bytes.fromhex(id.replace("-", ""))
        except ValueError:
            namespace = b""
        if len(namespace) == 16:
            return namespace
    return uuid5(FOREIGN_IDS, id).bytes


def _format(raw: bytes, version: int) -> str:
    """Return 16 bytes as a UUID of the given version and RFC 9562's variant."""
    octets = bytearray(raw[:16])
    octets[6] = octets[6] & 0x0F | version
    octets[8] = octets[8] & 0x3F | 0x80
    text = octets.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# -- what the bus says itself


class Seal:
    """Signs what the bus says about its messages with a secret of the ledger: others can neither say it nor change it.

    Attributes:
        ledger: the ledger's id.
        secret: 32 bytes that are made with the ledger, and that never leave it and the processes that use it.

    """

    __slots__ = ("_signing", "ledger", "secret")

    def __init__(self, ledger: str, secret: bytes) -> None:
        self.ledger = ledger
        self.secret = secret
        self._signing = blake2b(key=secret, digest_size=16, person=b"message")

    def sign(self, said: Mapping[str, Any], body: bytes, agent: str = "") -> str:
        """Return the signature of a message: nothing that was signed can be taken for something else.

        Arguments:
            said: its headers, without the signature.
            body: its body: who could change that would need no header.
            agent: the agent whose queue alone it is sent to.

        """
        signing = self._signing.copy()
        signing.update(orjson.dumps((agent, said), option=orjson.OPT_SORT_KEYS))  # JSON says where it ends
        signing.update(body)
        return signing.hexdigest()

    def is_on(self, signature: object, said: Mapping[str, Any], body: bytes, agent: str = "") -> bool:
        """Say whether a signature is the one of a message, for anything that a stranger may have sent as one."""
        if not isinstance(signature, str) or not signature.isascii():
            return False
        try:
            return compare_digest(self.sign(said, body, agent), signature)
        except TypeError:  # headers that JSON cannot have
            return False


# -- declarations


@dataclass(frozen=True)
class Place:
    """Where in a program something is declared, and what with.

    Attributes:
        names: of the code that it consists of, a decorator's included: module, qualified name, file and line of each.
        codes: that code itself; a module that is imported again has made it anew.
        facts: whatever else it consists of.

    """

    names: tuple[tuple[str, str, str, int, int], ...]
    codes: tuple[CodeType, ...] = ()
    facts: tuple[Any, ...] = ()

    def is_again(self, other: Place) -> bool:
        """Say whether both are one declaration: the same one in a module that was imported again, or said twice."""
        if self.names != other.names:
            return False
        imported_again = any(one is not two for one, two in zip(self.codes, other.codes, strict=True))
        return imported_again or _equal(self.facts, other.facts)

    def __str__(self) -> str:
        module, name, file, line, _ = self.names[0]
        return f"{module}.{name} ({file}:{line})" if file else f"{module}.{name}"


def place_of(function: Callable[..., Any], *facts: Any) -> Place:
    """Return where a function is written, whatever it is wrapped in, and the facts that it was declared with."""
    layers = list(_layers(function))
    functions: list[FunctionType] = []
    held: list[Any] = []
    later = layers[::-1]  # the innermost function first: that is the one people know
    while later:
        part = later.pop(0)
        if type(part) is not FunctionType:
            held.append(part)
        elif not any(part is one for one in functions):
            functions.append(part)
            later += _held(part)
    names = [_name_of(one.__code__, one.__globals__) for one in functions]
    if not names:  # written in C
        named = getattr(function, "__module__", None) or "", getattr(function, "__qualname__", repr(function))
        names = [(*named, "", 0, 0)]
    return Place(tuple(names), tuple(one.__code__ for one in functions), (*held, *facts))


def place_of_call(frame: FrameType, *facts: Any) -> Place:
    """Return where a declaration is made that is a call, by the frame of its caller, and the facts that it gives."""
    module, name, file, _, _ = _name_of(frame.f_code, frame.f_globals)
    return Place(((module, name, file, frame.f_lineno, 0),), (frame.f_code,), facts)


def _layers(function: Any) -> Iterator[Any]:
    """Yield what a callable consists of: what it wraps, the innermost function last, and what it is bound to."""
    seen: list[Any] = []
    while function is not None and not any(function is one for one in seen):
        seen.append(function)
        if isinstance(function, functools.partial):
            yield from (*function.args, *function.keywords.items())
            function = function.func
            continue
        if inspect.ismethod(function):
            yield function.__self__
            function = function.__func__
            continue
        yield function
        if getattr(function, "__wrapped__", None) is not None:
            function = function.__wrapped__
        elif not inspect.isroutine(function):
            function = getattr(type(function), "__call__", None)  # noqa: B004  # what runs, not whether it can


def _held(function: FunctionType) -> list[Any]:
    """Return what a function carries with it: its defaults, and what it has from the function around it."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *cells]


def _is_empty(cell: CellType) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:
        return True


def _name_of(code: CodeType, space: dict[str, Any]) -> tuple[str, str, str, int, int]:
    module = str(space.get("__name__", ""))
    if module == "__main__":  # `python -m` and whoever imports it then run one module under two names
        spec = space.get("__spec__")
        module = spec.name if spec is not None else Path(code.co_filename).stem
    column = 0
    if code.co_name == "<lambda>":  # of those of one line only the column differs
        columns = (column for _, _, column, _ in code.co_positions() if column)
        # Python 3.12 knows no column of those that return a constant.
        column = min(columns, default=crc32(repr(code.co_consts).encode()))
    return module, code.co_qualname, code.co_filename, code.co_firstlineno, column


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    try:
        return one is other or bool(one == other)
    except Exception:  # whatever a stranger's == does
        return False
