"""What a running saga needs of the `Sagas` that runs it, so that neither knows the other's inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, repeat
from typing import Any, Protocol

from seawall.core.clock import Clock
from seawall.saga.codec import Codec
from seawall.saga.commit import Committer
from seawall.saga.definition import Definition
from seawall.saga.errors import JournalError
from seawall.saga.port import Append, Journal, Row


class Host(Protocol):
    """What a running saga needs of the Sagas that runs it."""

    clock: Clock
    codec: Codec
    committer: Committer
    journal: Journal
    worker_id: str
    closing: bool

    def now(self) -> float: ...
    def emit(self, kind: str, row: Row, **data: Any) -> None: ...
    def ended(self, row: Row) -> None: ...
    def in_thread(self, fn: Callable[..., Any], *args: Any) -> asyncio.Future[Any]: ...
    async def read(self, run: Callable[[Any], Any]) -> Any: ...
    def definition(self, hash: str) -> tuple[Definition, Any]: ...
    def child_of(self, saga: type) -> Definition: ...
    def kick(self) -> None: ...


def storable(text: str | None) -> str | None:
    """An error's words as every database takes them: no NUL, and nothing that is half a character."""
    return None if text is None else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


async def persist(host: Host, row: Row, op: Append) -> None:
    """Commit, for as long as it takes: what a step did is not done again because the disk was full for a while. Raises
    LeaseLost."""
    op.error = storable(op.error)
    op.records = [record if record.error is None else replace(record, error=storable(record.error)) for record in op.records]
    for pause in chain((0.2, 0.5, 1.0, 2.0), repeat(5.0)):
        try:
            await host.committer.send(op)
            return
        except JournalError as error:
            if host.committer.closed:
                raise
            host.emit("saga.journal_failed", row, error=error)
            op.tries += 1
            await host.clock.asleep(pause)
