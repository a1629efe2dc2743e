"""What a running saga needs of the `Sagas` that runs it, so that neither knows the other's inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from seawall.core.clock import Clock
from seawall.saga.codec import Codec
from seawall.saga.commit import Committer
from seawall.saga.definition import Definition
from seawall.saga.port import Journal, Row


class Host(Protocol):
    """What a running saga needs of the Sagas that runs it."""

    clock: Clock
    codec: Codec
    committer: Committer
    journal: Journal
    worker_id: str
    closing: bool

    def emit(self, kind: str, row: Row, **data: Any) -> None: ...
    def ended(self, row: Row) -> None: ...
    def in_thread(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]: ...
    async def read(self, run: Callable[[Any], Any]) -> Any: ...
    def definition(self, hash: str) -> tuple[Definition, Any]: ...
    def child_of(self, saga: type) -> Definition: ...
    def kick(self) -> None: ...
