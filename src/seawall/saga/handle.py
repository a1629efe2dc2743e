"""One saga as its starter sees it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from seawall.core import units
from seawall.core.runtime import refuse_under_loop
from seawall.saga import operate, store
from seawall.saga.errors import ResultTimeout, SagaCompensated, SagaStuck
from seawall.saga.plan import TERMINAL
from seawall.saga.port import Row

if TYPE_CHECKING:
    from seawall.saga.sagas import Sagas

Out = TypeVar("Out")


class Handle(Generic[Out]):
    """A saga that was started. id: the user's; name: the saga's; new: whether this start made it."""

    def __init__(self, sagas: Sagas, saga_id: str, user_id: str, name: str, *, new: bool = False) -> None:
        self._sagas = sagas
        self.saga_id = saga_id
        self.id = user_id
        self.name = name
        self.new = new

    def __repr__(self) -> str:
        return f"<saga {self.name} {self.id}>"

    async def result(self, timeout: float | str | None = None) -> Out:
        """The saga's output, once it has completed.

        timeout: seconds (or text) to wait; None = without end. Raises SagaCompensated when it was taken back, SagaStuck when it
        waits for a human, ResultTimeout when it has not ended in time: the saga itself goes on.
        """
        limit = None if timeout is None else units.seconds("timeout", timeout)
        waiter = self._sagas.waiter(self.saga_id)
        try:
            async with asyncio.timeout(limit):
                row = await self._ended(waiter)
        except TimeoutError:
            raise ResultTimeout(
                f"{self.name} {self.id} has not ended within {limit:g} s; ask again, or see why it waits"
            ) from None
        finally:
            self._sagas.no_waiter(self.saga_id, waiter)
        return self._out(row)

    async def _ended(self, waiter: asyncio.Future[Row]) -> Row:
        pause = 0.05
        while True:
            if not self._sagas.runs(self.saga_id):
                row: Row = await self._sagas.read(lambda tx: store.find(tx, self.saga_id))
                if row.status in (*TERMINAL, "stuck"):
                    return row
            done, _ = await asyncio.wait([waiter], timeout=pause)
            if done and waiter.result() is not None:
                return waiter.result()
            if done:
                waiter = self._sagas.waiter(self.saga_id)
            pause = min(1.0, pause * 2)

    def result_sync(self, timeout: float | str | None = None) -> Out:
        """The same for a thread without a loop."""
        refuse_under_loop("handle.result_sync", "handle.result")
        limit = None if timeout is None else units.seconds("timeout", timeout)
        clock = self._sagas.clock
        until = None if limit is None else clock.monotonic() + limit
        pause = 0.02
        while True:
            row = self._sagas.journal.read(lambda tx: store.find(tx, self.saga_id))
            if row.status in (*TERMINAL, "stuck"):
                return self._out(row)
            if until is not None and clock.monotonic() >= until:
                raise ResultTimeout(f"{self.name} {self.id} has not ended within {limit:g} s")
            clock.wait(threading.Event(), pause)
            pause = min(1.0, pause * 2)

    def _out(self, row: Row) -> Out:
        if row.status == "completed":
            value: Out = self._sagas.output_of(row)
            return value
        kind = SagaStuck if row.status == "stuck" else SagaCompensated
        raise kind(
            f"{row.name} {row.user_id} is {row.status}: {row.error}",
            id=row.user_id,
            name=row.name,
            status=row.status,
            cause=row.error,
        )

    async def status(self) -> str:
        """Its status now."""
        return str((await self._sagas.read(lambda tx: store.find(tx, self.saga_id))).status)

    async def signal(self, name: str, payload: Any = None, *, id: str | None = None) -> bool:
        """Send a signal; it is kept until a `wait_signal` step asks for it. id: makes it idempotent; False when it came
        before."""
        return await self._sagas.signal(self.saga_id, name, payload, signal_id=id)

    async def cancel(self, reason: str, *, actor: str = "caller") -> None:
        """Take the saga back. Raises NotAllowed when it has ended or has passed its pivot."""
        word = operate.Word("cancel", actor, reason)
        await self._sagas.operate(self.saga_id, word)
