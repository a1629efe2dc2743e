"""How a concurrency limit moves: four rules that look at one window of calls and answer the next limit.

Every algorithm is a frozen rule with `start()`, the memory in which nothing has happened, and `next(memory, limit,
window)`. The caller bounds the answer, and holds it down while the limit is not in use.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from seawall.core import units


@dataclass(frozen=True, slots=True)
class Window:
    """What one window of calls looked like.

    rtt: mean seconds of the calls that succeeded, p90: their 90th percentile; both None when none did. in_flight: the most
    calls at once; load: their mean number. throughput: successes per second. dropped: share of calls that timed out or
    were shed by the callee. full: whether the limit was reached.
    """

    rtt: float | None
    p90: float | None
    in_flight: int
    load: float
    throughput: float
    dropped: float
    full: bool


class Algorithm(Protocol):
    """What the limiter needs of an algorithm."""

    name: ClassVar[str]

    def start(self) -> Any:
        """A memory in which nothing has happened."""
        ...

    def next(self, memory: Any, limit: float, window: Window) -> float:
        """The limit after `window`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Aimd:
    """One more while all is well, a tenth less after a drop: feels nothing before calls are dropped or slow.

    slow: seconds of a window's mean beyond which it counts as dropped, > 0. Default 5. factor: what is left of the limit
    after a drop, in (0, 1]. Default 0.9.
    Source: Chiu and Jain 1989; defaults of Netflix concurrency-limits.
    """

    name: ClassVar[str] = "aimd"
    slow: float = 5.0
    factor: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "slow", units.seconds("slow", self.slow))
        units.ratio("factor", self.factor)

    def start(self) -> None:
        """It remembers nothing."""

    def next(self, memory: None, limit: float, window: Window) -> float:
        """Add one or multiply."""
        if window.dropped > 0 or (window.rtt is not None and window.rtt > self.slow):
            return limit * self.factor
        return limit + 1


class VegasMemory:
    """The rtt without load, and the probe that finds it anew: `before` is the limit that the probe interrupted."""

    __slots__ = ("before", "due", "noload", "probes", "settling")

    def __init__(self) -> None:
        self.noload = math.inf
        self.probes = 0
        self.due = 0.0
        self.before: float | None = None
        self.settling = False


@dataclass(frozen=True, kw_only=True)
class Vegas:
    """Keeps an estimated queue of 3 to 6 times log10(limit) at the callee.

    probe: the rtt without load is measured anew every U(0.5, 1) * probe * limit windows, >= 1. Default 30. It is measured
    at half the limit: measured under load, as is usual, it would take the queue it made itself for the callee's own time,
    and grow (Netflix concurrency-limits#165).
    Source: Brakmo and Peterson 1995; alpha, beta and threshold of Netflix concurrency-limits.
    """

    name: ClassVar[str] = "vegas"
    probe: float = 30.0

    def __post_init__(self) -> None:
        units.number("probe", self.probe, least=1)

    def start(self) -> VegasMemory:
        """No rtt known yet."""
        return VegasMemory()

    def next(self, memory: VegasMemory, limit: float, window: Window) -> float:
        """Up, down or as it is, by the estimated queue."""
        if memory.before is not None:
            return self._probed(memory, memory.before, limit, window)
        step = max(1.0, math.log10(limit))
        if window.dropped > 0 or window.rtt is None:
            return limit - step
        memory.noload = min(memory.noload, window.rtt)
        memory.due -= 1
        if memory.due <= 0 and self._next_probe(memory, limit) and window.full:
            memory.before, memory.settling = limit, True
            return limit / 2
        queue = math.ceil(limit * (1 - memory.noload / window.rtt))
        if queue <= step:
            return limit + 6 * step
        if queue < 3 * step:
            return limit + step
        return limit - step if queue > 6 * step else limit

    def _next_probe(self, memory: VegasMemory, limit: float) -> bool:
        """Say when the next probe is due; whether one is due now, which it is not before the first."""
        memory.probes += 1
        spread = 0.5 + 0.5 * (memory.probes * _GOLDEN % 1.0)
        memory.due = spread * self.probe * limit
        return memory.probes > 1

    def _probed(self, memory: VegasMemory, before: float, limit: float, window: Window) -> float:
        if memory.settling:  # its calls began under the full limit
            memory.settling = False
            return limit
        memory.before = None
        if window.rtt is not None:
            memory.noload = window.rtt
        return before


class GradientMemory:
    """The long-term rtt, and how many windows it has seen."""

    __slots__ = ("long", "seen")

    def __init__(self) -> None:
        self.long = 0.0
        self.seen = 0


@dataclass(frozen=True, kw_only=True)
class Gradient2:
    """Follows the ratio of the long-term rtt to that of the last window.

    tolerance: growth of the rtt that is let pass, >= 1. Default 1; with Netflix's 1.5 it settles half above the knee. queue:
    calls that may wait at the callee, >= 0. Default 4. memory: windows of the long-term mean, >= 1. Default 600.
    Known defect: under overload that lasts, the long-term rtt takes the queue in and the limit creeps up
    (Netflix/concurrency-limits#134). Source: Netflix concurrency-limits, Gradient2Limit.
    """

    name: ClassVar[str] = "gradient2"
    tolerance: float = 1.0
    queue: float = 4.0
    memory: int = 600

    def __post_init__(self) -> None:
        units.number("tolerance", self.tolerance, least=1)
        units.number("queue", self.queue)
        units.whole("memory", self.memory)

    def start(self) -> GradientMemory:
        """No rtt known yet."""
        return GradientMemory()

    def next(self, memory: GradientMemory, limit: float, window: Window) -> float:
        """A fifth of the way to where the gradient points; a tenth down when nothing but drops came back."""
        if window.rtt is None:
            return limit * 0.9
        self._learn(memory, window.rtt)
        gradient = min(1.0, max(0.5, self.tolerance * memory.long / window.rtt))
        if window.dropped > 0:
            gradient = min(gradient, 1.0 - self.queue / limit - 0.1)
        return 0.8 * limit + 0.2 * (limit * gradient + self.queue)

    def _learn(self, memory: GradientMemory, rtt: float) -> None:
        memory.seen += 1
        weight = 1.0 / memory.seen if memory.seen <= 10 else 2.0 / (self.memory + 1)
        memory.long += weight * (rtt - memory.long)
        if memory.long > 2 * rtt:  # the load has gone: forget it faster
            memory.long *= 0.95


class CorrelationMemory:
    """The last windows as logarithms of (load, throughput, rtt), the median filter, the recent rtt and its baseline."""

    __slots__ = ("baseline", "last", "points", "recent")

    def __init__(self, points: int) -> None:
        self.points: deque[tuple[float, float, float]] = deque(maxlen=points)
        self.last: deque[float] = deque(maxlen=3)
        self.recent = 0.0
        self.baseline = 0.0


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Vegas on filtered percentiles, turned back as soon as more calls at once bring more rtt instead of more throughput.

    points: windows over which load and throughput are compared, >= 3. Default 10. least_gain: share of additional load that
    must come back as throughput, in (0, 1]. Default 0.5. recent: windows of the smoothed rtt, >= 1. Default 5. baseline:
    windows of the rtt it is compared with, >= 1. Default 10. headroom: the limit is at most so many times the calls at
    once, >= 1. Default 5.
    Source: the design of failsafe-go's adaptive limiter. Where that compares correlation coefficients over 50 windows, this
    compares regression slopes over 10, which do not depend on how far the limit has moved: less lag, a quarter of the swing.
    """

    name: ClassVar[str] = "correlation"
    points: int = 10
    least_gain: float = 0.5
    recent: int = 5
    baseline: int = 10
    headroom: float = 5.0

    def __post_init__(self) -> None:
        units.whole("points", self.points, least=3)
        units.ratio("least_gain", self.least_gain)
        units.whole("recent", self.recent)
        units.whole("baseline", self.baseline)
        units.number("headroom", self.headroom, least=1)

    def start(self) -> CorrelationMemory:
        """No window seen yet."""
        return CorrelationMemory(self.points)

    def next(self, memory: CorrelationMemory, limit: float, window: Window) -> float:
        """Up, down or as it is: by drops, by the estimated queue, and by what more calls at once have brought."""
        step = max(1.0, math.log10(limit))
        if window.rtt is None or window.p90 is None:
            return limit / 2
        queue = limit * (1 - self._learn(memory, window.p90) / memory.recent)
        memory.points.append((math.log(window.load), math.log(window.throughput), math.log(window.rtt)))
        if window.dropped > 0:
            return limit * (1 - min(0.5, window.dropped))
        if limit > self.headroom * window.in_flight or queue > 6 * step:
            return limit - step
        if window.full and gain(memory.points) < self.least_gain:
            return limit - step
        return limit + step if queue < 3 * step else limit

    def _learn(self, memory: CorrelationMemory, p90: float) -> float:
        """Take one rtt in; the baseline before it."""
        memory.last.append(p90)
        filtered = sorted(memory.last)[len(memory.last) // 2]
        if not memory.recent:
            memory.recent = memory.baseline = filtered
        before = memory.baseline
        memory.recent += 2 / (self.recent + 1) * (filtered - memory.recent)
        memory.baseline += 2 / (self.baseline + 1) * (memory.recent - memory.baseline)
        return before


def gain(points: Collection[tuple[float, float, float]]) -> float:
    """The share of additional load that came back as throughput: about 1 below the callee's knee, 0 above it.

    Little's law gives it twice, as the slope of throughput over load and as 1 - the slope of rtt over load; the mean of
    both has less noise. 1 where the load has hardly varied: nothing speaks against more.
    """
    if len(points) < 3:
        return 1.0
    load = [point[0] for point in points]
    mean = sum(load) / len(load)
    spread = sum((x - mean) ** 2 for x in load)
    if spread < len(load) * 1e-4:  # less than one per cent
        return 1.0
    up = sum((x - mean) * (y - z) for x, y, z in points)
    return 0.5 + 0.5 * up / spread


_GOLDEN: Final = (math.sqrt(5) - 1) / 2

ALGORITHMS: Final[dict[str, Algorithm]] = {
    "correlation": Correlation(),
    "aimd": Aimd(),
    "vegas": Vegas(),
    "gradient2": Gradient2(),
}
"""The algorithms by name, with their defaults."""
