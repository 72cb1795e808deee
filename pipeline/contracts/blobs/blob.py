"""Blob: a payload field for content that need not fit into an event."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from ...core.errors import InvalidEvent, PipelineError
from .source import Given, Kept, Shelf, Source
from .store import CHUNK

#: What a payload's validators and serializers find an app's blobs under, in pydantic's context.
KEY = "blobs"
_ID = re.compile(r"[0-9a-f]{64}")
#: What a media type looks like.
MEDIA_TYPE = r"[A-Za-z0-9_.+-]{1,100}/[A-Za-z0-9_.+-]{1,100}(;[ -~]{0,50})?"
_MEDIA_TYPE = re.compile(MEDIA_TYPE)
_FORMS = 'a blob is {"id": SHA-256, "size": bytes, "media_type": "..."} or {"content": base64, "media_type": "..."}'


class Blob:
    """Content of any size: `report: Blob` in a payload, `Report(pdf=Blob(Path("report.pdf"), media_type=...))`.

    Up to the setting `blob_threshold` it travels in the event; what is larger is kept in a store, and the event says
    which it is. A handler reads it when it needs it. What is read is compared with what was published.

    Attributes:
        media_type: such as "application/pdf".

    """

    def __init__(self, content: bytes | Path | BinaryIO, *, media_type: str = "application/octet-stream") -> None:
        """Read nothing yet.

        Arguments:
            content: bytes; the Path of a file, which is streamed; or a file opened for reading bytes, from where it
                stands to its end.
            media_type: what kind of content it is.

        Raises InvalidEvent when there is no such file, or it can be read only once.

        """
        self.media_type = _checked_type(media_type)
        self._source: Source = Given(content)

    @classmethod
    def _of(cls, source: Source, media_type: str) -> Blob:
        blob = cls.__new__(cls)
        blob.media_type, blob._source = _checked_type(media_type), source
        return blob

    @property
    def id(self) -> str:
        """The SHA-256 of its content, in hex."""
        return self._source.id

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self._source.size

    def read(self) -> bytes:
        """Return the content; raises BlobMissing, BlobAltered or BlobUnavailable."""
        with self.open() as file:
            return file.read()

    async def aread(self) -> bytes:
        """Return the content, while the event loop goes on; errors as read()."""
        return await asyncio.to_thread(self.read)

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Lend the content as a file: `with blob.open() as file: ...`.

        Raises BlobMissing, BlobUnavailable, and BlobAltered before the last bytes are handed out: a handler that reads
        to the end does not succeed on altered content.
        """
        return self._source.open()

    async def chunks(self, size: int = CHUNK) -> AsyncIterator[bytes]:
        """Stream the content, while the event loop goes on: `async for chunk in blob.chunks(): ...`; errors as open().

        Arguments:
            size: bytes of a chunk; the last one may be shorter.

        """
        opened = self.open()
        file = await asyncio.to_thread(opened.__enter__)
        try:
            while chunk := await asyncio.to_thread(file.read, size):
                yield chunk
        finally:
            opened.__exit__(None, None, None)

    def __repr__(self) -> str:
        return f"Blob({self._source!r}, media_type={self.media_type!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Blob):
            return NotImplemented
        return (self.size, self.media_type, self.id) == (other.size, other.media_type, other.id)

    def __hash__(self) -> int:
        return hash((self.id, self.media_type))

    # -- as a field

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic read and write it."""
        written = core_schema.plain_serializer_function_ser_schema(_written, info_arg=True, when_used="json")
        return core_schema.with_info_plain_validator_function(_read, serialization=written)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Tell others what it looks like in an event."""
        type_ = {"type": "string", "description": "the kind of content, such as application/pdf"}
        kept = {"id": {"type": "string", "pattern": f"^{_ID.pattern}$", "description": "SHA-256 of the content"}}
        size = {"size": {"type": "integer", "minimum": 0, "description": "bytes"}}
        inside = {"content": {"type": "string", "contentEncoding": "base64"}}
        return {
            "title": "Blob",
            "anyOf": [
                {"type": "object", "properties": {**kept, **size, "media_type": type_}, "required": ["id", "size"]},
                {"type": "object", "properties": {**inside, "media_type": type_}, "required": ["content"]},
            ],
        }


@lru_cache(maxsize=4096)
def may_hold_blobs(cls: type[BaseModel]) -> bool:
    """Say whether a class has a field of the type Blob, anywhere in it."""
    cls.model_rebuild(raise_errors=False)
    return _is_in(cls.__pydantic_core_schema__)


def _is_in(schema: Any) -> bool:
    if isinstance(schema, (list, tuple)):
        return any(map(_is_in, schema))
    if not isinstance(schema, Mapping):
        return False
    if schema.get("type") == "function-plain" and schema["function"].get("function") is _read:
        return True
    return any(_is_in(part) for name, part in schema.items() if name != "metadata")


def is_id(word: str) -> bool:
    """Say whether a word is the id of a blob, and so harmless in a file's name."""
    return bool(_ID.fullmatch(word))


def is_blob(value: Any) -> bool:
    """Say whether JSON data is what an event says of a blob whose content is kept beside it."""
    return (
        isinstance(value, Mapping)
        and value.keys() == {"id", "size", "media_type"}
        and isinstance(value["id"], str)
        and is_id(value["id"])
        and type(value["size"]) is int
        and isinstance(value["media_type"], str)
        and _MEDIA_TYPE.fullmatch(value["media_type"]) is not None
    )


def _checked_type(text: Any) -> str:
    if not isinstance(text, str) or not _MEDIA_TYPE.fullmatch(text):
        raise InvalidEvent(f"media_type: {text!r:.100} is none such as 'application/pdf'")
    return text


def _shelf_in(context: Any) -> Shelf | None:
    found: Shelf | None = context.get(KEY) if isinstance(context, Mapping) else None
    return found


def _read(value: Any, info: ValidationInfo) -> Blob:
    """Return the blob that an event has; its content stays where it is."""
    if isinstance(value, Blob):
        return value
    if not isinstance(value, Mapping) or ("id" in value) == ("content" in value):
        raise ValueError(_FORMS)
    media_type = value.get("media_type", "application/octet-stream")
    if "content" in value:
        try:
            return Blob._of(Given(base64.b64decode(value["content"], validate=True)), media_type)
        except (binascii.Error, TypeError, ValueError) as exc:
            if isinstance(exc, InvalidEvent):
                raise
            raise ValueError(f"content: no base64 ({exc})") from exc
    id, size, shelf = value["id"], value.get("size"), _shelf_in(info.context)
    if not isinstance(id, str) or not is_id(id):
        raise ValueError("id: no SHA-256 in lower-case hex")
    if type(size) is not int or size < 0:
        raise ValueError("size: no number of bytes")
    if shelf is not None:
        shelf.check_size(size)
    return Blob._of(Kept(id, size, shelf), media_type)


def _written(blob: Blob, info: SerializationInfo) -> dict[str, Any]:
    """Return what an event says of a blob; its content is kept before."""
    try:
        return _kept(blob, _shelf_in(info.context))
    except PipelineError as exc:
        exc.about = blob
        raise


def _kept(blob: Blob, shelf: Shelf | None) -> dict[str, Any]:
    source = blob._source
    if isinstance(source, Given):
        is_kept = shelf is not None and shelf.keep(source)
    else:
        is_kept = True
        if shelf is not None:
            shelf.renew(source.id)
    if is_kept:
        return {"id": source.id, "size": source.size, "media_type": blob.media_type}
    return {"content": base64.b64encode(blob.read()).decode(), "media_type": blob.media_type}
