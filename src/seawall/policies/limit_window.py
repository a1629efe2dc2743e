"""One window of calls while it fills: what the limit algorithms look at when it is over."""

from __future__ import annotations

from seawall.policies.limit_algorithms import Window

LEAST_SAMPLES = 10
KEPT = 1024  # rtts kept of one window; of more, every second one is dropped, again and again


class Filling:
    """The window that fills now. It begins with its first result."""

    __slots__ = ("_rtts", "_skip", "_stride", "begun_at", "dropped", "ends_at", "full", "in_flight", "seen", "sum", "total")

    def __init__(self) -> None:
        self.begun_at: float | None = None
        self.ends_at = 0.0
        self.seen = 0
        self.dropped = 0
        self.in_flight = 0
        self.total = 0
        self.sum = 0.0
        self.full = False
        self._rtts: list[float] = []
        self._stride = 1
        self._skip = 0

    def begin(self, now: float, length: float) -> None:
        """Its first result comes in."""
        self.begun_at = now
        self.ends_at = now + length

    def add(self, took: float, in_flight: int, limit: int, *, dropped: bool) -> None:
        """Take one result in."""
        self.seen += 1
        self.total += in_flight
        self.in_flight = max(self.in_flight, in_flight)
        self.full = self.full or in_flight >= limit
        if dropped:
            self.dropped += 1
            return
        self.sum += took
        self._skip += 1
        if self._skip >= self._stride:
            self._skip = 0
            self._rtts.append(took)
        if len(self._rtts) >= KEPT:
            del self._rtts[::2]
            self._stride *= 2

    def is_over(self, now: float) -> bool:
        """Whether it is long enough and holds enough."""
        return now >= self.ends_at and self.seen >= LEAST_SAMPLES

    def close(self, now: float) -> Window:
        """What it held."""
        good = self.seen - self.dropped
        elapsed = max(1e-9, now - (self.begun_at or 0.0))
        rtts = sorted(self._rtts)
        return Window(
            rtt=self.sum / good if good else None,
            p90=rtts[len(rtts) * 9 // 10] if rtts else None,
            in_flight=self.in_flight,
            load=self.total / self.seen,
            throughput=good / elapsed,
            dropped=self.dropped / self.seen,
            full=self.full,
        )
