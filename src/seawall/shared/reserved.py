"""A reservation from a store: the correction is sent when the block ends, so that `settle` itself never waits."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from seawall.core import units
from seawall.pipeline.reservation import Reservation

if TYPE_CHECKING:
    from seawall.shared.limiter import SharedRateLimiter


class SharedReservation(Reservation):
    """As `Reservation`. The first settle or cancel counts, and takes effect at the end of the block."""

    _limiter: SharedRateLimiter
    _back = 0

    def settle(self, actual: int) -> None:
        """Charge what it really cost, >= 0, at the end of the block."""
        units.whole("actual", actual, least=0)
        if not self._entered:
            raise RuntimeError("settle a reservation inside its block")
        if self._open:
            self._back = self.cost - actual
        self._open = False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if self._back and self._grant is not None:
            self._limiter.correct(self._grant, self._back)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open = False
        if self._back and self._grant is not None:
            await self._limiter.acorrect(self._grant, self._back)


__all__: list[Any] = ["SharedReservation"]
