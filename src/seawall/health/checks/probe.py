"""What a ready-made check is: a function to look with, its kind in health bodies, and whether it is critical unless told
otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


class Probe:
    """A sync look, run in a thread of its own."""

    def __init__(self, look: Callable[[], Any], *, kind: str, critical: bool = True) -> None:
        self.look = look
        self.kind = kind
        self.critical = critical

    def __call__(self) -> Any:
        """Look once."""
        return self.look()


class AsyncProbe:
    """An async look."""

    def __init__(self, look: Callable[[], Awaitable[Any]], *, kind: str, critical: bool = True) -> None:
        self.look = look
        self.kind = kind
        self.critical = critical

    async def __call__(self) -> Any:
        """Look once."""
        return await self.look()
