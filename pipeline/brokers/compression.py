"""Compressed messages are refused: Kombu would inflate them in the worker's main process before anyone looks."""

from __future__ import annotations

from typing import Any

from kombu.exceptions import ContentDisallowed


class RefusesCompression:
    """Mixed into a Kombu message class: a compressed body becomes a decode error instead of a gigabyte."""

    errors: list[Any] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Note the refusal before Kombu's constructor gets to the body."""
        if self._is_compressed(*args):
            refused = ContentDisallowed("compressed messages are refused; send them uncompressed")
            self.errors = [(type(refused), refused, None)]
        super().__init__(*args, **kwargs)

    @staticmethod
    def _is_compressed(raw: Any, *_: Any) -> bool:
        """Say whether a raw message, as AMQP (an object) or a virtual transport (a dict) has it, is compressed."""
        headers = raw.get("headers") if isinstance(raw, dict) else raw.properties.get("application_headers")
        return isinstance(headers, dict) and bool(headers.get("compression"))
