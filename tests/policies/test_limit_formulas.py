"""The limit algorithms against their published formulas, written a second time, over random windows; and the window itself."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from seawall.policies.limit_algorithms import Aimd, Correlation, Gradient2, Vegas, Window, gain
from seawall.policies.limit_window import KEPT, LEAST_SAMPLES, Filling


def windows(seed: int, many: int = 400) -> list[tuple[float, Window]]:
    """Random windows with the limit that held: quiet and loaded, with and without drops, some without any success."""
    draw = random.Random(seed)
    found = []
    for _ in range(many):
        limit = draw.choice([1.0, 7.5, 20.0, 64.0, 150.0])
        rtt = draw.choice([None, 0.1, 0.1, 0.11, 0.12, 0.15, 0.2, 0.35, 1.0, 5.5, 7.0])
        load = limit * draw.choice([0.1, 0.5, 0.9, 1.0, 1.0])
        found.append(
            (
                limit,
                Window(
                    rtt=rtt,
                    p90=None if rtt is None else rtt * draw.choice([1.0, 1.2, 2.0]),
                    in_flight=max(1, int(limit * draw.choice([0.1, 0.19, 0.21, 0.9, 1.0]))),
                    load=load,
                    throughput=load / (rtt or 1.0) * draw.choice([0.5, 0.9, 1.0]),
                    dropped=draw.choice([0.0, 0.0, 0.0, 0.01, 0.3, 0.9]) if rtt is not None else 1.0,
                    full=draw.random() < 0.6,
                ),
            )
        )
    return found


def aimd(slow: float, factor: float) -> Callable[[float, Window], float]:
    """Add one, or multiply."""

    def step(limit: float, window: Window) -> float:
        bad = window.dropped > 0 or (window.rtt or 0) > slow
        return limit * factor if bad else limit + 1

    return step


def vegas(probe: float) -> Callable[[float, Window], float]:
    """Brakmo's queue estimate with Netflix's bounds; every so many windows the rtt is measured at half the limit."""
    memory: dict[str, Any] = {"noload": math.inf, "probes": 0, "left": 0.0, "before": None, "settled": False}

    def step(limit: float, window: Window) -> float:
        if memory["before"] is not None:
            if not memory["settled"]:
                memory["settled"] = True
                return limit
            before, memory["before"] = memory["before"], None
            memory["noload"] = memory["noload"] if window.rtt is None else window.rtt
            return float(before)
        unit = max(1.0, math.log10(limit))
        if window.rtt is None or window.dropped:
            return limit - unit
        memory["noload"] = min(memory["noload"], window.rtt)
        memory["left"] -= 1
        if memory["left"] <= 0:
            memory["probes"] += 1
            share = (memory["probes"] * 0.6180339887498949) % 1
            memory["left"] = (1 + share) / 2 * probe * limit
            if memory["probes"] >= 2 and window.full:
                memory["before"], memory["settled"] = limit, False
                return limit / 2
        queue = math.ceil(limit - limit * memory["noload"] / window.rtt)
        if queue <= unit:
            return limit + 6 * unit
        return limit + unit if queue < 3 * unit else limit - unit if queue > 6 * unit else limit

    return step


def gradient2(tolerance: float, queue: float, memory: int) -> Callable[[float, Window], float]:
    """Netflix's Gradient2: the mean of the first ten, then an exponential average; a fifth of the way per window."""
    seen: list[float] = []
    long = [0.0]

    def step(limit: float, window: Window) -> float:
        if window.rtt is None:
            return limit * 9 / 10
        seen.append(window.rtt)
        count = len(seen)
        rate = 1 / count if count < 11 else 2 / (1 + memory)
        long[0] = long[0] * (1 - rate) + window.rtt * rate
        if long[0] / window.rtt > 2:
            long[0] *= 0.95
        gradient = min(1.0, max(0.5, tolerance * long[0] / window.rtt))
        if window.dropped:
            gradient = min(gradient, 0.9 - queue / limit)
        return limit + (limit * gradient + queue - limit) / 5

    return step


def correlation(points: int, least_gain: float, recent: int, baseline: int, headroom: float) -> Callable[[float, Window], float]:
    """A median of three, two exponential averages, a queue estimate, and the slope of what more calls have brought."""
    last: list[float] = []
    seen: list[tuple[float, float, float]] = []
    means: dict[str, float] = {}

    def step(limit: float, window: Window) -> float:
        unit = max(1.0, math.log10(limit))
        if window.rtt is None or window.p90 is None:
            return limit / 2
        last.append(window.p90)
        middle = statistics.median_high(last[-3:])
        before = means.setdefault("slow", middle)
        means["fast"] = means.get("fast", middle) + (middle - means.get("fast", middle)) * 2 / (recent + 1)
        means["slow"] = before + (means["fast"] - before) * 2 / (baseline + 1)
        seen.append((math.log(window.load), math.log(window.throughput), math.log(window.rtt)))
        queue = limit - limit * before / means["fast"]
        if window.dropped:
            return limit * max(0.5, 1 - window.dropped)
        turned = window.full and slope(seen[-points:]) < least_gain
        if limit > headroom * window.in_flight or queue > 6 * unit or turned:
            return limit - unit
        return limit if queue >= 3 * unit else limit + unit

    return step


def slope(points: list[tuple[float, float, float]]) -> float:
    """The mean of d(throughput)/d(load) and 1 - d(rtt)/d(load) by least squares; 1 where nothing can be said."""
    if len(points) < 3:
        return 1.0
    loads = [load for load, _, _ in points]
    if statistics.pvariance(loads) < 1e-4:
        return 1.0
    up = statistics.linear_regression(loads, [throughput for _, throughput, _ in points]).slope
    down = statistics.linear_regression(loads, [rtt for _, _, rtt in points]).slope
    return (up + 1 - down) / 2


CASES: list[tuple[Any, Callable[[float, Window], float]]] = [
    (Aimd(), aimd(5.0, 0.9)),
    (Aimd(slow=0.1, factor=0.5), aimd(0.1, 0.5)),
    (Vegas(), vegas(30.0)),
    (Vegas(probe=1.0), vegas(1.0)),
    (Gradient2(), gradient2(1.0, 4.0, 600)),
    (Gradient2(tolerance=1.5, queue=1.0, memory=5), gradient2(1.5, 1.0, 5)),
    (Correlation(), correlation(10, 0.5, 5, 10, 5.0)),
    (Correlation(points=3, least_gain=1.0, recent=1, baseline=3, headroom=1.0), correlation(3, 1.0, 1, 3, 1.0)),
]


@pytest.mark.parametrize(("algorithm", "formula"), CASES, ids=lambda case: getattr(case, "name", ""))
def test_every_step_is_that_of_the_published_formula(algorithm: Any, formula: Callable[[float, Window], float]) -> None:
    """400 random windows, each step compared: a constant that drifts is seen at once."""
    memory = algorithm.start()
    for number, (limit, window) in enumerate(windows(seed=11)):
        assert algorithm.next(memory, limit, window) == pytest.approx(formula(limit, window), rel=1e-9), (number, limit, window)


@pytest.mark.parametrize("start", [5.0, 40.0])
def test_the_formulas_agree_along_a_path_of_their_own(start: float) -> None:
    """The limit follows the algorithm here, under a load that comes and goes: probes, filters and averages get their turn."""
    draw = random.Random(3)
    pairs: list[tuple[Any, Callable[[float, Window], float]]] = [
        (Vegas(probe=1.0), vegas(1.0)),
        (Correlation(), correlation(10, 0.5, 5, 10, 5.0)),
        (Gradient2(), gradient2(1.0, 4.0, 600)),
    ]
    for algorithm, formula in pairs:
        memory, limit = algorithm.start(), start
        for number in range(500):
            knee = 30 if number // 100 % 2 else 60
            rtt = 0.1 * max(1.0, limit / knee) * draw.uniform(0.98, 1.02)
            window = Window(rtt, rtt * 1.1, int(limit), limit, limit / rtt, 0.0, full=True)
            expected = formula(limit, window)
            limit = algorithm.next(memory, limit, window)
            assert limit == pytest.approx(expected, rel=1e-6), (algorithm, number)
            limit = min(200.0, max(1.0, limit))


@pytest.mark.parametrize("limit", [1.0, 2.0, 10.0])
def test_a_small_limit_is_probed_as_often_as_said(limit: float) -> None:
    """Every U(0.5, 1) * 30 * limit windows: the draw is a sequence without chance, and part of the promise."""
    algorithm, formula = Vegas(), vegas(30.0)
    memory = algorithm.start()
    for number in range(2000):
        window = Window(0.1, 0.1, 9, 9.0, 90.0, 0.0, full=True)
        assert algorithm.next(memory, limit, window) == pytest.approx(formula(limit, window)), number


def test_the_second_rtt_is_filtered_upwards() -> None:
    """Of two, the higher one stands for both; of three, the middle one."""
    algorithm = Correlation(recent=1, baseline=1)
    memory = algorithm.start()
    for p90, recent in ((0.1, 0.1), (0.3, 0.3), (0.2, 0.2), (0.1, 0.2), (0.15, 0.15)):
        algorithm.next(memory, 5.0, Window(p90, p90, 5, 5.0, 50.0, 0.0, full=False))
        assert memory.recent == pytest.approx(recent)


def test_steps_at_the_exact_bounds() -> None:
    """Where a comparison is exact, it is part of the promise."""
    full = {"p90": 0.1, "in_flight": 100, "load": 100.0, "throughput": 1000.0, "dropped": 0.0, "full": True}
    assert Aimd().next(None, 10.0, Window(rtt=5.0, **full)) == 11.0  # type: ignore[arg-type]
    flat = [(1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.01, 1.0, 1.0)]
    assert gain(flat) == 1.0
    assert gain(flat[:2]) == 1.0
    assert gain([(1.0, 2.0, 1.0), (2.0, 3.0, 1.0)]) == 1.0
    assert gain([(1.0, 2.0, 1.0), (2.0, 2.0, 2.0), (3.0, 2.0, 3.0)]) == pytest.approx(0.0)
    assert gain([(1.0, 1.0, 1.0), (2.0, 2.0, 1.0), (3.0, 3.0, 1.0)]) == pytest.approx(1.0)
    vegas_memory = Vegas(probe=1e6).start()
    steady = Window(rtt=0.1, **full)  # type: ignore[arg-type]
    assert Vegas(probe=1e6).next(vegas_memory, 100.0, steady) == 112.0
    idle = Window(0.1, 0.1, 4, 4.0, 40.0, 0.0, full=False)
    assert Correlation().next(Correlation().start(), 20.0, idle) == pytest.approx(20 + math.log10(20))
    assert Correlation().next(Correlation().start(), 20.1, idle) == pytest.approx(20.1 - math.log10(20.1))
    queued = Window(rtt=0.1 / 0.94, **full)  # type: ignore[arg-type]
    assert Vegas(probe=1e6).next(vegas_memory, 100.0, queued) == 100.0


@pytest.mark.parametrize(
    ("make", "bad", "named"),
    [
        (Correlation, {"points": 2}, "points"),
        (Correlation, {"headroom": 0.9}, "headroom"),
        (Correlation, {"recent": 0}, "recent"),
        (Correlation, {"baseline": 0}, "baseline"),
        (Correlation, {"least_gain": 0}, "least_gain"),
        (Vegas, {"probe": 0.9}, "probe"),
        (Gradient2, {"tolerance": 0.9}, "tolerance"),
        (Gradient2, {"queue": -1}, "queue"),
        (Gradient2, {"memory": 0}, "memory"),
        (Aimd, {"slow": 0}, "slow"),
        (Aimd, {"factor": 0}, "factor"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(make: Any, bad: dict[str, Any], named: str) -> None:
    """And those at the bound are taken."""
    with pytest.raises((ValueError, TypeError), match=named):
        make(**bad)
    Correlation(points=3, headroom=1.0, recent=1, baseline=1, least_gain=1.0)
    Vegas(probe=1.0)
    Gradient2(tolerance=1.0, queue=0.0, memory=1)
    Aimd(factor=1.0)


# --- the window


@pytest.mark.parametrize("many", [1, 9, 10, 11, 57, KEPT - 1, KEPT])
def test_a_window_says_what_was_in_it(many: int) -> None:
    """Counted once more from a list of everything."""
    draw = random.Random(many)
    filling = Filling()
    filling.begin(50.0, 2.0)
    seen = [(draw.random(), draw.randrange(1, 40), draw.random() < 0.2) for _ in range(many)]
    seen[0] = (seen[0][0], 5, False)
    for took, in_flight, dropped in seen:
        filling.add(took, in_flight, 39, dropped=dropped)
    good = sorted(took for took, _, dropped in seen if not dropped)
    window = filling.close(54.0)
    assert window.rtt == pytest.approx(sum(good) / len(good))
    assert window.p90 == good[len(good) * 9 // 10]
    assert window.in_flight == max(in_flight for _, in_flight, _ in seen)
    assert window.load == pytest.approx(sum(in_flight for _, in_flight, _ in seen) / many)
    assert window.throughput == pytest.approx(len(good) / 4)
    assert window.dropped == pytest.approx(1 - len(good) / many)
    assert window.full is any(in_flight >= 39 for _, in_flight, _ in seen)
    assert [filling.is_over(moment) for moment in (51.999, 52.0, 60.0)] == [False, many >= 10, many >= 10]
    assert LEAST_SAMPLES == 10


def test_a_window_is_full_once_the_limit_was_reached() -> None:
    """Whatever came after."""
    filling = Filling()
    filling.begin(0.0, 1.0)
    filling.add(0.1, 3, 4, dropped=False)
    assert not filling.close(1.0).full
    filling.add(0.1, 4, 4, dropped=False)
    filling.add(0.1, 1, 4, dropped=True)
    assert filling.close(1.0).full
    assert filling.close(1.0).in_flight == 4


def test_a_window_of_drops_has_no_rtt_and_one_of_no_time_no_infinite_throughput() -> None:
    """Nothing is divided by nothing."""
    filling = Filling()
    assert (filling.begun_at, filling.seen) == (None, 0)
    filling.begin(5.0, 1.0)
    filling.add(0.1, 2, 9, dropped=True)
    shut = filling.close(5.0)
    assert (shut.rtt, shut.p90, shut.dropped, shut.throughput) == (None, None, 1.0, 0.0)
    filling.add(0.1, 2, 9, dropped=False)
    assert filling.close(5.0).throughput == pytest.approx(1e9)


@pytest.mark.parametrize("times", [2, 5, 9])
def test_a_large_window_keeps_every_second_rtt_again_and_again(times: int) -> None:
    """Bounded memory, and the percentile of a steady ramp stays where it is; exactly which are kept is part of it."""
    filling = Filling()
    filling.begin(0.0, 1.0)
    many = KEPT * times
    kept: list[float] = []
    stride = 1
    for number in range(1, many + 1):
        filling.add(float(number), 1, 9, dropped=False)
        if number % stride == 0:
            kept.append(float(number))
        if len(kept) == KEPT:
            kept, stride = kept[1::2], stride * 2
    assert filling._rtts == kept
    window = filling.close(1.0)
    assert window.p90 == kept[len(kept) * 9 // 10]
    assert window.p90 == pytest.approx(0.9 * many, rel=0.01)
    assert window.rtt == pytest.approx((many + 1) / 2)
