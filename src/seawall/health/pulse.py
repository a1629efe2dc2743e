"""The pulse of an event loop: a task that should wake at fixed times, and how late it does.

Liveness looks at nothing else. A loop that has not run its tasks for long cannot be helped but by a restart; a database that is
down can, and restarting its clients makes it worse.
"""

from __future__ import annotations

from collections import deque
from typing import Final

BEAT: Final = 0.25  # seconds between two beats
REMEMBERED: Final = 40  # beats: ten seconds


class Pulse:
    """How late the loop is. Written by the loop's task, read by anybody."""

    __slots__ = ("_lags", "beaten_at")

    def __init__(self) -> None:
        self.beaten_at: float | None = None  # None = no task beats
        self._lags: deque[float] = deque(maxlen=REMEMBERED)

    def begin(self, now: float) -> None:
        """The task begins."""
        self.beaten_at = now

    def beat(self, now: float) -> float:
        """The task woke; how many seconds too late."""
        lag = 0.0 if self.beaten_at is None else max(0.0, now - self.beaten_at - BEAT)
        self._lags.append(lag)
        self.beaten_at = now
        return lag

    def end(self) -> None:
        """The task ended in order: nobody expects beats any more."""
        self.beaten_at = None

    def lag(self, now: float) -> float:
        """Seconds that the loop is late at this moment; 0 when no task beats."""
        beaten_at = self.beaten_at
        return 0.0 if beaten_at is None else max(0.0, now - beaten_at - BEAT)

    def worst(self, now: float) -> float:
        """The worst lag of the last ten seconds or so, this moment included."""
        return max([self.lag(now), *self._lags.copy()])
