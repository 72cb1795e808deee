"""Queues with a window of messages of their own: their consumers live on channels beside the others' one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Apart:
    """Mixed into channels: what a queue with a window of its own holds leaves the others' window as it is.

    Attributes:
        windows: for each such queue, how many of its messages may be held unacknowledged; to be set before it is
            consumed.

    """

    windows: Mapping[str, int] = {}
    _beside: dict[str, Any] | None = None

    def basic_consume(self, queue: str, *args: Any, **options: Any) -> Any:
        """Consume from a queue."""
        most = self.windows.get(queue)
        if most is None:
            return super().basic_consume(queue, *args, **options)  # type: ignore[misc]  # a mixin: the class beside it has the method
        self._beside = {} if self._beside is None else self._beside
        channel = self._beside.get(queue) or self._channel_for(queue)
        self._beside[queue] = self._beside[options["consumer_tag"]] = channel
        channel.basic_qos(0, most, False)
        return channel.basic_consume(queue, *args, **options)

    def _channel_for(self, queue: str) -> Any:
        """Return another channel of the same connection."""
        raise NotImplementedError

    def basic_cancel(self, consumer_tag: str, *args: Any, **options: Any) -> Any:
        """End a consumer."""
        channel = (self._beside or {}).pop(consumer_tag, None)
        if channel is None:
            return super().basic_cancel(consumer_tag, *args, **options)  # type: ignore[misc]  # a mixin: the class beside it has the method
        return channel.basic_cancel(consumer_tag, *args, **options)
