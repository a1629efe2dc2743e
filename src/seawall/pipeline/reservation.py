"""Spending from a limiter outside pipelines: an estimate that is corrected later, and one caller's wait for its turn."""

from __future__ import annotations

from collections.abc import Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seawall.core import units
from seawall.core.runtime import refuse_under_loop
from seawall.pipeline import guard_sync
from seawall.pipeline.switch import SWITCH
from seawall.policies.limiter_state import Grant
from seawall.policies.verdict import Rejection, Ticket

if TYPE_CHECKING:
    from seawall.pipeline.limiter import RateLimiter


class Reservation:
    """An estimate that was spent, and can be corrected once. Leaving without `settle` is a full charge.

    key, cost: whose, and how much. Made by `RateLimiter.reserve`; enter it once, with `with` or `async with`.
    """

    def __init__(self, limiter: RateLimiter, key: Hashable, cost: int) -> None:
        self.key = key
        self.cost = cost
        self._limiter = limiter
        self._grant: Grant | None = None
        self._entered = False
        self._open = False

    def settle(self, actual: int) -> None:
        """Charge what it really cost, >= 0: what is over is given back, what is missing is charged, into debt if need be.

        The first settle or cancel counts; later ones, and those after the block, do nothing.
        Raises RuntimeError before the block, ValueError or TypeError for a bad amount.
        """
        units.whole("actual", actual, least=0)
        if not self._entered:
            raise RuntimeError("settle a reservation inside its block")
        if self._open and self._grant is not None and actual != self.cost:
            limiter = self._limiter
            limiter.cell.apply(limiter.rule.refund, limiter.clock.monotonic(), self._grant, self.cost - actual)
        self._open = False

    def cancel(self) -> None:
        """Give everything back: nothing was done."""
        self.settle(0)

    def __enter__(self) -> Reservation:
        if self._limiter.may_wait:
            refuse_under_loop("with ... reserve()", "async with ... areserve()")
        waiter = self._ask(self._limiter.clock.threads)
        if waiter is not None and waiter.ticket is not None:
            guard_sync.wait(waiter, waiter)
        return self._begin(waiter)

    async def __aenter__(self) -> Reservation:
        waiter = self._ask(self._limiter.clock.tasks)
        if waiter is not None and waiter.ticket is not None:
            from seawall.pipeline import guard_async

            await guard_async.wait(waiter, waiter)
        return self._begin(waiter)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open = False

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open = False

    def _ask(self, port: Any) -> Waiter | None:
        if self._entered:
            raise RuntimeError("a reservation is entered once; ask for another one with reserve()")
        if SWITCH.off:
            return None
        return self._limiter.line_up(port, self.key, self.cost, self._limiter.wait)

    def _begin(self, waiter: Waiter | None) -> Reservation:
        self._grant = None if waiter is None else waiter.grant
        self._entered = self._open = True
        return self


class Waiter:
    """One caller outside pipelines: what the guards' `wait` needs of a held permit and of a run, in one."""

    __slots__ = ("_key", "_limiter", "grant", "port", "ticket")

    def __init__(self, limiter: RateLimiter, port: Any, answer: Any, key: Hashable) -> None:
        self._limiter = limiter
        self._key = key
        self.port = port
        self.ticket: Any = answer if isinstance(answer, Ticket) else None
        self.grant: Grant | None = None if self.ticket is not None else answer

    def pending(self) -> float | None:
        """Seconds until it has to look again, or None when its turn came. Raises RateLimited when it cannot come in time."""
        answer = self._limiter.poll(self.ticket, self.port.now())
        if isinstance(answer, float):
            return answer
        self.ticket = None
        if isinstance(answer, Rejection):
            self._limiter.turn_down(answer, self._key)
        self.grant = answer
        return None

    def abandon(self) -> None:
        """The caller gives up, cancelled or interrupted: nothing stays spent."""
        if self.ticket is not None:
            ticket, self.ticket = self.ticket, None
            self._limiter.leave(ticket, self.port.now())
