"""Something that ends once, on whatever thread, and that others may want to hear of."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ending:
    """done: whether it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self.done = False

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` when it has ended; at once when it already has."""
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
                return
        callback()

    def end(self) -> None:
        """It has ended."""
        with self._lock:
            self.done = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
