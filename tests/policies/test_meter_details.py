"""The meters against naive ones that search nanosecond by nanosecond, over random histories of a dozen nanoseconds a period."""

from __future__ import annotations

import random
from typing import Any

import pytest

from seawall.core.units import Limit
from seawall.policies.fixed_window import FixedWindow
from seawall.policies.gcra import Gcra, interval, period
from seawall.policies.meter import END, NEVER, Together, nanoseconds, seconds_until
from seawall.policies.shaper import Shaper
from seawall.policies.sliding_log import SlidingLog
from seawall.policies.sliding_window import SlidingWindow

NANO = 1e-9


class Naive:
    """What all naive meters share: a number per window or moment, until when nothing passes, and a search in single steps."""

    def __init__(self, count: int, length: int, at: int) -> None:
        self.count, self.length, self.held = count, length, at
        self.used: dict[int, int] = {}
        self.newest = at // length

    def fits(self, at: int, cost: int) -> bool:
        raise NotImplementedError

    def wait(self, at: int, cost: int) -> int:
        if cost > self.count:
            return NEVER
        if cost == 0:
            return 0
        return next(moment for moment in range(max(at, self.held), at + 10_000) if self.fits(moment, cost)) - at

    def hold(self, until: int) -> None:
        self.held = max(self.held, until)


class NaiveFixed(Naive):
    """How much in each window, by its number."""

    def window(self, at: int) -> int:
        return max(self.newest, at // self.length)

    def fits(self, at: int, cost: int) -> bool:
        return self.used.get(self.window(at), 0) + cost <= self.count

    def spend(self, at: int, cost: int) -> None:
        self.newest = self.window(at)
        self.used[self.newest] = self.used.get(self.newest, 0) + cost

    def refund(self, at: int, amount: int, since: int) -> None:
        self.newest = self.window(at)
        if since // self.length == self.newest:
            self.used[self.newest] = max(0, self.used.get(self.newest, 0) - amount)

    def remaining(self, at: int) -> int:
        return 0 if at < self.held else max(0, self.count - self.used.get(self.window(at), 0))

    def reset_after(self, at: int) -> int:
        window = self.window(at)
        return max(self.held, (window + 1) * self.length if self.used.get(window, 0) else at) - at

    def carried(self, at: int, count: int, length: int) -> NaiveFixed:
        fresh = NaiveFixed(count, length, at)
        fresh.held = self.held
        fresh.newest = self.window(at) if length == self.length else at // length
        fresh.used = {fresh.newest: self.used.get(self.window(at), 0)}
        return fresh


class NaiveSliding(NaiveFixed):
    """This window, and of the one before the part that a span ending now still covers."""

    def parts(self, at: int) -> tuple[int, int, int]:
        window = self.window(at)
        covered = min(self.length, (window + 1) * self.length - at)
        return self.used.get(window, 0), self.used.get(window - 1, 0), covered

    def fits(self, at: int, cost: int) -> bool:
        if at < self.newest * self.length:
            return False
        now, before, covered = self.parts(at)
        return (self.count - now - cost) * self.length >= before * covered

    def refund(self, at: int, amount: int, since: int) -> None:
        self.newest = self.window(at)
        if self.newest - 1 <= since // self.length <= self.newest:
            window = since // self.length
            self.used[window] = max(0, self.used.get(window, 0) - amount)

    def remaining(self, at: int) -> int:
        now, before, covered = self.parts(at)
        return 0 if at < self.held else max(0, (self.count * self.length - before * covered) // self.length - now)

    def reset_after(self, at: int) -> int:
        now, before, _ = self.parts(at)
        end = self.window(at) + (2 if now else 1)
        return max(self.held, end * self.length if now or before else at) - at

    def carried(self, at: int, count: int, length: int) -> NaiveSliding:
        fresh = NaiveSliding(count, length, at)
        fresh.held = self.held
        if length == self.length:
            fresh.newest, fresh.used = self.window(at), dict(self.used)
            return fresh
        now, before, covered = self.parts(at)
        fresh.used = {at // length: now - (-before * covered // self.length)}
        return fresh


class NaiveLog(Naive):
    """How much at each moment. What was too old once has gone, also for a clock that ran back."""

    def live(self, at: int) -> int:
        self.forget(at)
        return sum(cost for moment, cost in self.used.items() if moment > at - self.length)

    def fits(self, at: int, cost: int) -> bool:
        return self.live(at) + cost <= self.count

    def forget(self, at: int) -> None:
        self.used = {moment: cost for moment, cost in self.used.items() if moment > at - self.length}

    def wait(self, at: int, cost: int) -> int:
        if cost > self.count:
            return NEVER
        self.forget(at)
        kept = dict(self.used)
        waits = super().wait(at, cost)
        self.used = kept  # the search has looked ahead
        return waits

    def spend(self, at: int, cost: int) -> None:
        self.forget(at)
        at = max([at, *self.used])
        if cost or at in self.used:
            self.used[at] = self.used.get(at, 0) + cost

    def refund(self, at: int, amount: int, since: int) -> None:
        self.forget(at)
        found = min((moment for moment in self.used if moment >= since), default=None)
        if since > at - self.length and found is not None:
            self.used[found] = max(0, self.used[found] - amount)
            if not self.used[found]:
                del self.used[found]

    def remaining(self, at: int) -> int:
        return 0 if at < self.held else max(0, self.count - self.live(at))

    def reset_after(self, at: int) -> int:
        self.forget(at)
        return max(self.held, max(self.used) + self.length if self.used else at) - at

    def carried(self, at: int, count: int, length: int) -> NaiveLog:
        fresh = NaiveLog(count, length, at)
        fresh.held = self.held
        fresh.used = {moment: cost for moment, cost in self.used.items() if moment > at - self.length}
        return fresh


class NaiveBucket(Naive):
    """A bucket whose level is counted in nanoseconds that it still needs to be full."""

    def __init__(self, count: int, length: int, at: int) -> None:
        super().__init__(count, length, at)
        self.step = -(-length // count)
        self.full_at, self.held = at, 0

    def fits(self, at: int, cost: int) -> bool:
        return max(self.full_at, at) + cost * self.step - at <= self.count * self.step

    def spend(self, at: int, cost: int) -> None:
        self.full_at = max(self.full_at, at) + cost * self.step

    def refund(self, at: int, amount: int, since: int) -> None:
        self.full_at = max(at, self.full_at - amount * self.step)

    def remaining(self, at: int) -> int:
        return max(0, (self.count * self.step - max(0, self.full_at - at)) // self.step)

    def reset_after(self, at: int) -> int:
        return max(0, self.full_at - at)

    def hold(self, until: int) -> None:
        self.full_at = max(self.full_at, until + (self.count - 1) * self.step)

    def carried(self, at: int, count: int, length: int) -> NaiveBucket:
        fresh = NaiveBucket(count, length, at)
        owed = -(-max(0, self.full_at - at) * fresh.step // self.step)
        fresh.full_at = at + min(owed, count * fresh.step)
        return fresh


class NaiveShaper(NaiveBucket):
    """The moment at which the next one may leave."""

    def fits(self, at: int, cost: int) -> bool:
        return at >= self.full_at

    def remaining(self, at: int) -> int:
        return int(at >= self.full_at)

    def hold(self, until: int) -> None:
        self.full_at = max(self.full_at, until)

    def carried(self, at: int, count: int, length: int) -> NaiveShaper:
        bucket = super().carried(at, count, length)
        fresh = NaiveShaper(count, length, at)
        fresh.full_at = bucket.full_at
        return fresh


PAIRS: list[tuple[Any, Any]] = [
    (FixedWindow, NaiveFixed),
    (SlidingWindow, NaiveSliding),
    (SlidingLog, NaiveLog),
    (Gcra, NaiveBucket),
    (Shaper, NaiveShaper),
]


def limit(count: int, length: int) -> Limit:
    return Limit(count, length * NANO)


@pytest.mark.parametrize(("kind", "naive"), PAIRS)
@pytest.mark.parametrize("seed", range(12))
def test_each_meter_answers_as_a_search_in_single_steps_does(kind: Any, naive: Any, seed: int) -> None:
    """Spent, given back, held, retuned, with time that may stand still or run back a little: every answer, every time."""
    draw = random.Random(seed)
    count, length = draw.choice([(3, 12), (5, 12), (1, 7), (12, 12)])
    meter, model = kind(limit(count, length)), naive(count, length, 1000)
    value, at = meter.blank(1000), 1000
    spent: list[tuple[int, int]] = []
    for _ in range(120):
        at = max(1000, at + draw.choice([0, 0, 1, 2, 5, 12, 13, 30, -1]))
        step = draw.random()
        if step < 0.45:
            cost = draw.choice([0, 1, 1, 2, count, count + 1])
            assert meter.wait(value, at, cost) == model.wait(at, cost), (at, cost)
            if cost <= count and (model.wait(at, cost) == 0 or draw.random() < 0.2):
                value = meter.spend(value, at, cost)
                model.spend(at, cost)
                spent.append((at, cost))
        elif step < 0.6 and spent:
            since, cost = spent.pop(draw.randrange(len(spent)))
            amount = max(1, cost - draw.choice([0, 0, 1]))
            value = meter.refund(value, at, amount, since)
            model.refund(at, amount, since)
        elif step < 0.65:
            until = at + draw.choice([1, 4, 20])
            value = meter.hold(value, at, until)
            model.hold(until)
        elif step < 0.7:
            count, length = draw.choice([(count, length), (2, 12), (4, 9), (count, length + 3)])
            fresh = kind(limit(count, length))
            value, model = fresh.carry(value, at, meter), model.carried(at, count, length)
            meter, spent = fresh, []
        assert meter.remaining(value, at) == model.remaining(at), at
        assert meter.reset_after(value, at) == model.reset_after(at), at
        assert meter.drained(value, at) is (model.reset_after(at) == 0)
        ahead = [draw.randint(0, count) for _ in range(draw.randint(0, 3))]
        before = meter.copy(value)
        assert meter.forecast(value, at, ahead, 1) == search(meter, before, at, ahead)
        assert meter.remaining(value, at) == model.remaining(at), "a forecast spends nothing"


def search(meter: Any, value: Any, at: int, ahead: list[int]) -> int:
    """How long one unit waits behind others, by letting each of them pass in turn."""
    moment = at
    for cost in ahead:
        moment += meter.wait(value, moment, cost)
        value = meter.spend(value, moment, cost)
    return int(moment + meter.wait(value, moment, 1) - at)


@pytest.mark.parametrize("kind", [pair[0] for pair in PAIRS])
def test_a_fresh_key_is_as_if_nothing_had_happened(kind: Any) -> None:
    """Whenever it comes."""
    meter = kind(limit(4, 12))
    for at in (1000, 1005, 99_999):
        value = meter.blank(at)
        assert meter.remaining(value, at) == meter.room == (1 if kind is Shaper else 4)
        assert (meter.reset_after(value, at), meter.drained(value, at)) == (0, True)
        assert meter.wait(value, at, 4) == 0
        assert meter.wait(value, at, 5) == NEVER
        begun = meter.begin(at, 0)
        assert meter.remaining(begun, at) == 0
        assert meter.begin(at, None) is not begun
    assert meter.tightest(value, at) is meter.limit
    assert meter.binding(value, at, 4) == (0, meter.limit)


def test_limits_that_are_decided_together_are_as_tight_as_the_tightest() -> None:
    """All or none; and the answer names the limit that asked for it."""
    second, minute = FixedWindow(limit(3, 10)), FixedWindow(limit(4, 60))
    both = Together((second, minute))
    assert (both.capacity, both.room, both.limit) == (3, 3, second.limit)
    value = both.spend(both.blank(0), 0, 3)
    assert both.wait(value, 0, 1) == 10
    assert both.binding(value, 0, 1) == (10, second.limit)
    assert both.tightest(value, 0) is second.limit
    assert both.remaining(value, 10) == 1
    assert both.tightest(value, 10) is minute.limit
    value = both.spend(value, 10, 1)
    assert both.binding(value, 20, 1) == (40, minute.limit)
    assert both.reset_after(value, 20) == 40
    assert not both.drained(value, 59)
    assert both.drained(value, 60)
    assert both.remaining(both.refund(value, 20, 1, 10), 20) == 1
    assert both.wait(both.hold(value, 20, 90), 20, 1) == 70
    assert both.remaining(both.begin(0, 1), 0) == 1
    assert both.copy(value) == value
    other = Together((FixedWindow(limit(9, 10)), FixedWindow(limit(5, 60))))
    assert other.remaining(other.carry(value, 20, both), 20) == 1
    assert both.forecast(both.blank(0), 0, [3], 1) == 10
    assert both.forecast(both.blank(0), 0, [3, 1], 1) == 60
    assert both.forecast(both.blank(5), 5, [3, 1, 3], 3) == 115


def test_periods_and_intervals_at_their_bounds() -> None:
    """One unit a nanosecond is the most, a billion seconds the longest."""
    assert interval(limit(12, 12)) == 1
    with pytest.raises(ValueError, match="nanosecond for each"):
        interval(limit(13, 12))
    assert interval(limit(5, 12)) == 3
    assert period(Limit(1, 1e9)) == 10**18
    assert period(Limit(1, 1e-9)) == 1
    for bad in (1e9 + 0.5, 0.9e-9):
        with pytest.raises(ValueError, match="per must be in"):
            period(Limit(1, bad))


def test_moments_are_read_exactly_and_for_ever_has_its_place() -> None:
    """Rounded down on the way in, and never a moment early on the way out."""
    assert nanoseconds(1.9999999999) == 1_999_999_999
    assert nanoseconds(float("inf")) == END < NEVER
    assert (END, NEVER) == (2**126, 2**127)
    assert seconds_until(1.0, END) == seconds_until(1.0, NEVER) == float("inf")
    assert seconds_until(5.0, 4_000_000_000) == 0
    assert seconds_until(1.0, 3_500_000_000) == 2.5
    draw = random.Random(4)
    for _ in range(3000):
        now = draw.uniform(0, 10 ** draw.uniform(0, 9))
        moment = nanoseconds(now) + draw.randrange(1, 10**10)
        pause = seconds_until(now, moment)
        assert nanoseconds(now + pause) >= moment
        assert pause <= (moment - nanoseconds(now)) / 1e9 + 1e-6


@pytest.mark.parametrize("verb", ["wait", "spend", "refund", "remaining", "reset_after", "carry"])
def test_every_look_at_a_log_drops_what_is_too_old(verb: str) -> None:
    """The only meter whose memory grows with its calls must give it back whoever looks."""
    meter = SlidingLog(limit(5, 12))
    value = meter.blank(0)
    for at in range(5):
        meter.spend(value, at, 1)
    look = {
        "wait": lambda: meter.wait(value, 14, 1),
        "spend": lambda: meter.spend(value, 14, 0),
        "refund": lambda: meter.refund(value, 14, 1, 0),
        "remaining": lambda: meter.remaining(value, 14),
        "reset_after": lambda: meter.reset_after(value, 14),
        "carry": lambda: SlidingLog(limit(9, 20)).carry(value, 14, meter),
    }
    look[verb]()
    assert (list(value.entries), value.used) == ([(3, 1), (4, 1)], 2)
    fresh = meter.spend(meter.blank(0), 0, 3)
    assert meter.reset_after(fresh, 500) == 0


def test_a_clock_that_ran_back_behind_the_newest_window_waits_for_it() -> None:
    """What was counted in a window counts, also for who believes it has not begun."""
    meter = SlidingWindow(limit(3, 12))
    value = meter.spend(meter.blank(0), 120, 1)
    assert meter.wait(value, 115, 1) == 5
