"""Results of steps: JSON as they are kept, and what the function's return type makes of that."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_type_hints

import orjson
from pydantic import TypeAdapter, ValidationError

from ...contracts.blobs.blob import Blob
from ...core.errors import InvalidEvent, InvalidStep, PipelineError, explain, line_of

#: Bytes of JSON up to which a step's result is in the ledger itself.
LARGEST = 256 * 1024
#: How the text of a result begins that is a blob with the result.
KEPT = "@"
_BLOB: TypeAdapter[Blob] = TypeAdapter(Blob)


class Reader:
    """Writes a step's result as JSON, and reads it as what the function says that it returns.

    What is returned at the first time was written and read, too: so it is the same each time.
    """

    def __init__(self, name: str, adapter: TypeAdapter[Any], blobs: dict[str, Any] | None) -> None:
        self._name = name
        self._adapter = adapter
        self._blobs = blobs

    def dump(self, result: Any) -> str:
        """Return a result as JSON, or where that is kept; raise InvalidStep when it has no such form."""
        try:
            text = self._adapter.dump_json(result, warnings="error", context=self._blobs)
            orjson.loads(text)
        except Exception as exc:
            if isinstance(exc.__cause__, PipelineError) and not isinstance(exc.__cause__, InvalidEvent):
                raise exc.__cause__ from None  # the store of blobs says what to do
            raise InvalidStep(
                f"step {self._name!r} returned a {type(result).__name__} that JSON cannot hold: {line_of(exc)}; return "
                "a pydantic model or what JSON knows, and say so in the function's return type"
            ) from None
        if len(text) <= LARGEST:
            return text.decode()
        return KEPT + _BLOB.dump_json(Blob(text, media_type="application/json"), context=self._blobs).decode()

    def load(self, text: str) -> Any:
        """Return a result that was kept; raise InvalidStep when the function returns something else by now."""
        content: str | bytes = text
        if text.startswith(KEPT):
            content = _BLOB.validate_json(text[len(KEPT) :], context=self._blobs).read()
        try:
            return self._adapter.validate_json(content, context=self._blobs)
        except ValidationError as exc:
            raise InvalidStep(
                explain(exc, f"what step {self._name!r} has returned before") + "; `pipeline dead requeue --from-step` "
                "runs it again"
            ) from None


def reader(function: Callable[..., Any], name: str, blobs: dict[str, Any] | None) -> Reader:
    """Return what reads and writes the results of a function that is a step of some name.

    Arguments:
        blobs: pydantic's context, with which large content is kept and read.

    """
    try:
        return Reader(name, _adapter(get_type_hints(inspect.unwrap(function)).get("return", Any)), blobs)
    except Exception:  # hints that cannot be resolved, or that pydantic knows nothing of: plain JSON then
        return Reader(name, _adapter(Any), blobs)


#: By the type, not the function: one that is made anew for each delivery would be kept with all that it holds.
_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(maxsize=1024)(TypeAdapter)


def named(function: Callable[..., Any]) -> str:
    """Return what a function is called, for telling two apart."""
    plain = inspect.unwrap(function)
    return f"{getattr(plain, '__module__', '?')}.{getattr(plain, '__qualname__', type(plain).__name__)}"
