"""What a closed circuit remembers of its calls. The window of an epoch is also the permit of that epoch.

A late result therefore lands in a dead window and changes nothing. HOT: `CountWindow.append` and `TimeWindow.bucket.ok`
are written by compiled code without the lock; slow code writes them by one container call or one call-free line too,
and replaces what holds them instead of resetting it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile

from seawall.policies.verdict import Events, Permit

OK, FAILED, SLOW, SLOW_FAILED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Counts:
    """What a window holds. streak: failures in a row up to now; slow calls may also have failed."""

    calls: int
    failed: int
    slow: int
    streak: int


class CountWindow(deque[int]):
    """The last `size` calls, as OK, FAILED, SLOW or SLOW_FAILED. HOT: append."""

    __slots__ = ("epoch",)
    events: Events = ()

    def __init__(self, epoch: int, size: int) -> None:
        super().__init__(maxlen=size)
        self.epoch = epoch

    def record(self, now: float, code: int) -> None:
        """Remember one call; the oldest falls out."""
        self.append(code)

    def counts(self, now: float) -> Counts:
        """What it holds now."""
        codes = list(self)
        failed = codes.count(FAILED) + codes.count(SLOW_FAILED)
        slow = codes.count(SLOW) + codes.count(SLOW_FAILED)
        streak = sum(1 for _ in takewhile(lambda code: code in (FAILED, SLOW_FAILED), reversed(codes)))
        return Counts(len(codes), failed, slow, streak)


class Bucket:
    """One tenth of a time window. HOT: ok (`+= 1`, never set back)."""

    __slots__ = ("failed", "ok", "slow", "slow_failed", "starts_at")

    def __init__(self, starts_at: float) -> None:
        self.starts_at = starts_at
        self.ok = 0
        self.failed = 0
        self.slow = 0
        self.slow_failed = 0


class TimeWindow(Permit):
    """The calls of the last `span` seconds, in ten buckets. HOT: until (read), bucket (replaced), bucket.ok.

    A call counts in the bucket of its end: a call that hung for longer than the window still counts as fresh evidence.
    """

    __slots__ = ("_at_failure", "_gone", "_streak", "bucket", "epoch", "ring", "span", "until", "width")

    def __init__(self, epoch: int, span: float, now: float) -> None:
        self.epoch = epoch
        self.span = span
        self.width = span / 10
        self.bucket = Bucket(now)
        self.until = now + self.width
        self.ring: deque[Bucket] = deque([self.bucket])
        self._gone = 0  # successes in buckets that have left: with the ring a total that only grows
        self._at_failure = 0
        self._streak = 0

    def record(self, now: float, code: int) -> None:
        """Remember one call in the bucket of `now`."""
        if now >= self.until:
            self._turn(now)
        bucket = self.bucket
        if code == OK:
            bucket.ok += 1
        elif code == SLOW:
            bucket.slow += 1
        elif code == FAILED:
            bucket.failed += 1
        else:
            bucket.slow_failed += 1
        if code in (FAILED, SLOW_FAILED):
            self._count_streak()

    def counts(self, now: float) -> Counts:
        """What it holds now; buckets that ended more than a span ago are dropped first."""
        if now >= self.until:
            self._turn(now)
        ok = sum(bucket.ok for bucket in self.ring)
        failed = sum(bucket.failed for bucket in self.ring)
        slow = sum(bucket.slow for bucket in self.ring)
        both = sum(bucket.slow_failed for bucket in self.ring)
        return Counts(ok + failed + slow + both, failed + both, slow + both, self._live_streak())

    def _turn(self, now: float) -> None:
        steps = int((now - self.bucket.starts_at) / self.width)
        fresh = Bucket(self.bucket.starts_at + steps * self.width)
        self.ring.append(fresh)
        self._forget(fresh)
        self.bucket = fresh
        self.until = fresh.starts_at + self.width

    def resize(self, span: float) -> None:
        """Remember for another time from now on; what is older is forgotten, what was counted in wide buckets stays in them."""
        self.span = span
        self.width = span / 10
        self._forget(self.bucket)
        self.until = self.bucket.starts_at + self.width

    def _forget(self, newest: Bucket) -> None:
        while self.ring[0].starts_at <= newest.starts_at - self.span + self.width / 2:
            old = self.ring.popleft()
            self._gone += old.ok + old.slow

    def _successes(self) -> int:
        return self._gone + sum(bucket.ok + bucket.slow for bucket in self.ring)

    def _count_streak(self) -> None:
        total = self._successes()
        self._streak = self._streak + 1 if total == self._at_failure and self._streak else 1
        self._at_failure = total

    def _live_streak(self) -> int:
        return self._streak if self._successes() == self._at_failure else 0


class Forgetful(Permit):
    """The permit of a disabled circuit, and of a call that an observing circuit would have refused: it remembers nothing."""

    __slots__ = ("events",)
    epoch = -1

    def __init__(self, events: Events = ()) -> None:
        self.events = events


FORGETFUL = Forgetful()
Window = CountWindow | TimeWindow


def window_of(epoch: int, span: float, calls: int | None, now: float) -> Window:
    """An empty window of the last `calls` calls, or of the last `span` seconds when that is None."""
    return TimeWindow(epoch, span, now) if calls is None else CountWindow(epoch, calls)


def resized(window: Window, span: float, calls: int | None, now: float) -> Window:
    """The window with another length: itself where it can be, so that calls that run now still count; else a new one, with
    what it held if that counts in the same way."""
    if isinstance(window, TimeWindow) and calls is None:
        window.resize(span)
        return window
    if isinstance(window, CountWindow) and window.maxlen == calls:
        return window
    fresh = window_of(window.epoch, span, calls, now)
    if isinstance(window, CountWindow) and isinstance(fresh, CountWindow):
        fresh.extend(window)
    return fresh
