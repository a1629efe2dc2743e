"""Known keys pass without the lock; that must change no count, whoever works under the lock meanwhile."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

import seawall as sw
from seawall.core import runtime
from seawall.policies import limiter_steps
from seawall.policies.key_table import GRACE, REST
from seawall.policies.limiter_state import Turn
from seawall.policies.rate_limit import RateLimitRule
from seawall.testing import VirtualClock

BURST = 30_000


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads change places as often as Python allows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def passed(limiter: sw.RateLimiter, key: str, calls: int) -> int:
    """How many of 16 threads' calls pass: most just ask, some decide, one looks, retunes and gives back."""
    counts = [0] * 16

    def ask(number: int) -> None:
        for turn in range(calls):
            if number == 0 and turn % 50 == 0:
                limiter.snapshot()
                limiter.retune(f"1/h burst {BURST}")
            elif number % 4 == 1:
                counts[number] += limiter.decide(key).allowed
            elif number == 2 and turn % 20 == 0:
                with limiter.reserve(key, 3) as held:
                    held.settle(1)
                    counts[number] += 1
            else:
                counts[number] += limiter.try_acquire(key)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


@pytest.mark.parametrize("key", ["a", ""])
def test_sixteen_threads_with_and_without_the_lock_count_as_one(key: str, frequent_switches: None) -> None:
    """L1: a lost update under load would be a unit too many, for ever."""
    limiter = sw.RateLimiter(f"1/h burst {BURST}")
    early = passed(limiter, key, 1500)
    assert early + limiter.peek(key).remaining == BURST, "before the limit is reached each call has spent one unit"
    while limiter.try_acquire(key):
        early += 1
    assert early == BURST


@pytest.mark.skipif(not runtime.one_line_is_one_step(), reason="SEAWALL_COMPILE=0: everything takes the lock")
def test_known_keys_pass_without_the_lock_and_new_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate is what makes a decision three times cheaper, so it must be open when it can be."""
    clock = VirtualClock()
    limiter = sw.RateLimiter("2/h", clock=clock)
    state = limiter.cell.state
    asked: list[str] = []
    take = limiter.rule.take
    monkeypatch.setattr(type(limiter.rule), "take", lambda *words: asked.append(words[3]) or take(*words[1:]))
    assert [limiter.try_acquire("a"), limiter.try_acquire("a"), limiter.try_acquire("a")] == [True, True, False]
    assert asked == ["a", "a"], "until the hand rests"
    clock.advance((GRACE + REST) / 1e9)
    assert not limiter.try_acquire("a")
    assert asked == ["a", "a", "a"], "the hand goes round again"
    state.closed = True
    assert limiter_steps.at_once(state, 0, "a") is None, "somebody works under the lock"
    state.reopen()
    assert limiter_steps.at_once(state, 0, "nobody") is None


def test_at_once_spends_to_the_last_unit_and_not_one_more() -> None:
    """What it says without the lock is what it would say under it, for a key and for calls without one."""
    rule = RateLimitRule(limits="2/s")  # type: ignore[arg-type]  # the rule reads text
    state = rule.start(100.0)
    state.closed, at = False, 100 * 10**9
    for key in ("", "a"):
        if key:
            assert rule.take(state, 100.0, key)
            assert rule.take(state, 100.0, key), "the hand rests from the second one on"
            state.table.put(key, at - 5)
        assert [limiter_steps.at_once(state, at, key) for _ in range(2)] == [True, True]
        assert not limiter_steps.at_once(state, at, key)
        assert state.value(key) == at + 10**9
        assert not limiter_steps.at_once(state, at + 5 * 10**8 - 1, key)
        assert limiter_steps.at_once(state, at + 5 * 10**8, key)
    assert state.table.rests_until == at + REST
    state.table.put("a", at)
    assert limiter_steps.at_once(state, at + REST, "a") is None, "the hand has rested"
    assert limiter_steps.at_once(state, at + REST - 1, "a")
    state.queue.append(Turn(100.0, 200.0, 1, "", at))
    before = state.tat
    assert limiter_steps.at_once(state, at + REST, "") is None, "somebody waits"
    assert state.tat == before
    state.queue.clear()
    assert limiter_steps.at_once(state, at + REST, "")


@pytest.mark.parametrize("algorithm", ["leaky_bucket", "sliding_window", "sliding_log", "fixed_window"])
def test_other_algorithms_always_take_the_lock(algorithm: str) -> None:
    """What they know of a key is no single number."""
    limiter = sw.RateLimiter("2/h", algorithm=algorithm)  # type: ignore[arg-type]
    limiter.try_acquire("a")
    assert limiter.cell.state.closed


def test_who_waits_for_a_key_is_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """First come, first served: the gate stays closed while anybody stands in a queue."""
    clock = VirtualClock()
    limiter = sw.RateLimiter("1/s", clock=clock)
    assert limiter.try_acquire("a")
    assert limiter.try_acquire("b")
    waiter = limiter.line_up(clock.threads, "a", 1, 5.0)
    assert waiter.ticket is not None
    clock.advance(1.5)
    assert limiter.cell.state.closed
    assert not limiter.try_acquire("a"), "its turn is the waiter's"
    limiter.leave(waiter.ticket, clock.monotonic())
    assert limiter.try_acquire("b"), "and nobody waits for this one"
    assert not limiter.cell.state.closed or not runtime.one_line_is_one_step()


def test_a_build_without_the_global_lock_takes_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """There single lines are not atomic."""
    monkeypatch.setattr(runtime, "_HAS_GLOBAL_LOCK", False)
    limiter = sw.RateLimiter("2/h")
    assert [limiter.try_acquire("a") for _ in range(3)] == [True, True, False]
    assert limiter.cell.state.closed
