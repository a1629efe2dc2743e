"""The rate limiter as people use it: verbs, reservations, its place in a pipeline, bad input."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.testing import VirtualClock, capture_events, off


class Throttled(Exception):
    """What a client raises for a 429."""

    status_code = 429

    def __init__(self, retry_after: float | None) -> None:
        super().__init__("429")
        self.retry_after = retry_after


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    """Virtual time that stands still unless somebody waits."""
    clock = VirtualClock()
    yield clock
    clock.release()


# --- the verbs


def test_the_front_door_works_as_shown(clock: VirtualClock) -> None:
    """These lines stand in the README; they are what a new user types first."""
    limiter = sw.RateLimiter("100/min burst 20", clock=clock)
    assert limiter.try_acquire("tenant-42")
    decision = limiter.decide("tenant-42", cost=3)
    assert decision == sw.Decision(True, 16, 0.0, pytest.approx(2.4), sw.Limit(100, 60.0, 20))  # type: ignore[arg-type]
    assert limiter.peek("tenant-42").remaining == 16
    limiter.acquire("tenant-42", timeout=2)
    with pytest.raises(sw.RateLimited) as caught:
        limiter.acquire("tenant-42", cost=500)
    assert caught.value.retry_after == math.inf
    assert caught.value.policy == "rate_limiter"
    with limiter.reserve("tenant-42", cost=5) as r:
        r.settle(3)
    assert limiter.peek("tenant-42").remaining == 12


def test_async_twins_do_the_same(clock: VirtualClock) -> None:
    """One limiter, both faces."""
    limiter = sw.RateLimiter("10/s burst 3", clock=clock)

    async def main() -> None:
        assert await limiter.atry_acquire()
        assert (await limiter.adecide()).remaining == 1
        async with limiter.areserve(cost=1) as r:
            r.cancel()
        await limiter.aacquire()
        before = clock.monotonic()
        await limiter.aacquire()
        assert clock.monotonic() - before == pytest.approx(0.1)
        with pytest.raises(sw.RateLimited, match=r"has spent 10/1s burst 3; the call could pass in 0\.1 s"):
            await limiter.aacquire(timeout="50ms")

    asyncio.run(main())


def test_acquire_waits_its_turn_and_no_longer(clock: VirtualClock) -> None:
    """The wait is the interval; what cannot fit is refused without waiting at all."""
    limiter = sw.RateLimiter("10/s burst 1", clock=clock, name="gate")
    start = clock.monotonic()
    for _ in range(4):
        limiter.acquire()
    assert clock.monotonic() - start == pytest.approx(0.3)
    with pytest.raises(sw.RateLimited, match="gate has spent") as caught:
        limiter.acquire(timeout=0.05)
    assert caught.value.retry_after == pytest.approx(0.1)
    assert clock.monotonic() - start == pytest.approx(0.3)
    limiter.acquire(timeout=caught.value.retry_after)


def test_the_deadline_of_the_context_counts(seawall_time: VirtualClock) -> None:
    """Who has 50 ms left must not stand in a queue of 100."""
    limiter = sw.RateLimiter("10/s burst 1")
    limiter.acquire()
    with sw.deadline(0.05), pytest.raises(sw.RateLimited):
        limiter.acquire()
    with sw.deadline(1.0), pytest.raises(sw.RateLimited):
        limiter.acquire(cost=1, timeout=0.01)
    with sw.deadline(1.0):
        limiter.acquire()


def test_sync_verbs_that_may_wait_refuse_a_running_loop() -> None:
    """A blocked loop stops everybody, and the error says what to write instead."""
    waits, never = sw.RateLimiter("1/s", wait=1), sw.RateLimiter("1/s")

    async def main() -> None:
        with pytest.raises(sw.WrongTwin, match="await aacquire"):
            never.acquire()
        with pytest.raises(sw.WrongTwin, match="areserve"), waits.reserve():
            pass
        with never.reserve() as r:  # cannot wait, so it may
            r.cancel()
        assert never.try_acquire()

    asyncio.run(main())


def test_penalise_and_reset_act_on_one_key(clock: VirtualClock) -> None:
    """Abuse of one tenant is nobody else's business, and an operator can take it back."""
    limiter = sw.RateLimiter("10/s", clock=clock)
    with capture_events("limiter.") as events:
        limiter.penalise("bad", "30s")
    assert [(event.kind, event.data) for event in events] == [("limiter.penalised", {"key": "bad", "seconds": 30.0})]
    assert not limiter.try_acquire("bad")
    assert limiter.try_acquire("good")
    limiter.reset("bad")
    assert limiter.try_acquire("bad")


def test_limits_change_live(clock: VirtualClock) -> None:
    """An operator raises a limit in an incident: it must be felt at once, and hand out no burst."""
    limiter = sw.RateLimiter("2/min", clock=clock)
    assert [limiter.try_acquire("k") for _ in range(3)] == [True, True, False]
    limiter.retune("60/min burst 2")
    assert not limiter.try_acquire("k")
    assert limiter.peek("k").retry_after == pytest.approx(1.0)
    assert limiter.snapshot().limits == (sw.Limit(60, 60.0, 2),)
    with pytest.raises(ValueError, match="as many limits as before"):
        limiter.retune(["1/s", "2/s"])
    assert limiter.rule.limits == (sw.Limit(60, 60.0, 2),)
    limiter.restart()
    assert limiter.peek("k").remaining == 2


def test_refusals_and_overflow_are_told_and_counted(clock: VirtualClock) -> None:
    """Whoever is refused must show up on somebody's screen."""
    limiter = sw.RateLimiter("1/h", max_keys=1, clock=clock)
    told: list[sw.Event] = []
    limiter.subscribe(told.append)
    assert limiter.try_acquire("a")
    assert not limiter.try_acquire("a")
    assert not limiter.decide("a").allowed
    with pytest.raises(sw.RateLimited, match="for 'a'"):
        limiter.acquire("a", timeout=0)
    assert limiter.try_acquire("b")
    assert not limiter.decide("c").allowed
    kinds = [event.kind for event in told]
    assert kinds == ["limiter.rejected"] * 3 + ["limiter.overflow", "limiter.rejected"]
    shot = limiter.snapshot()
    assert (shot.rejected, shot.keys, shot.overflowing, shot.waiting) == (4, 1, True, 0)
    assert (shot.kind, shot.algorithm, shot.remaining) == ("rate_limiter", "token_bucket", 1)
    over = sw.RateLimiter("1/h", max_keys=1, clock=clock)
    assert over.decide("a").allowed
    with capture_events("limiter.overflow") as events:
        over.decide("b")
    assert len(events) == 1


def test_a_limiter_is_at_rest_when_nothing_is_owed(clock: VirtualClock) -> None:
    """Keyed forgets only what is as good as new."""
    for key in ("", "k"):
        limiter = sw.RateLimiter("10/s", clock=clock)
        assert limiter.at_rest
        limiter.try_acquire(key)
        assert not limiter.at_rest
        clock.advance(0.1)
        assert limiter.at_rest


def test_switched_off_it_passes_everything_and_spends_nothing(clock: VirtualClock) -> None:
    """Tests of business code must not fail on the second run within a minute."""
    limiter = sw.RateLimiter("1/h", clock=clock)
    assert limiter.try_acquire()
    with off():
        assert limiter.try_acquire()
        assert limiter.decide().allowed
        limiter.acquire(timeout=0)
        with limiter.reserve() as r:
            r.settle(5)
    assert limiter.snapshot().remaining == 0
    assert limiter.peek().retry_after == pytest.approx(3600)


# --- reservations


def test_a_reservation_is_settled_once_and_leaving_keeps_the_charge(clock: VirtualClock) -> None:
    """An estimate that is corrected twice would give tokens away."""
    limiter = sw.RateLimiter("1000/min", clock=clock)

    def left() -> int:
        return limiter.peek("k").remaining

    with limiter.reserve("k", cost=500) as r:
        assert (r.key, r.cost, left()) == ("k", 500, 500)
        r.settle(312)
        r.settle(0)
        r.cancel()
        assert left() == 688
    with limiter.reserve("k", cost=88):
        pass
    assert left() == 600
    with limiter.reserve("k", cost=100) as r:
        r.cancel()
    assert left() == 600
    with limiter.reserve("k", cost=100) as r:
        r.settle(150)
    r.settle(0)
    assert left() == 450
    with contextlib.suppress(OSError), limiter.reserve("k", cost=50):
        raise OSError
    assert left() == 400
    with pytest.raises(sw.RateLimited), limiter.reserve("k", cost=500):
        pass
    assert left() == 400


def test_a_reservation_is_used_inside_its_block_only() -> None:
    """Every misuse says what to do."""
    limiter = sw.RateLimiter("10/s")
    r = limiter.reserve()
    with pytest.raises(RuntimeError, match="inside its block"):
        r.settle(0)
    with r, pytest.raises(ValueError, match="actual must be >= 0; got -1"):
        r.settle(-1)
    with pytest.raises(RuntimeError, match="entered once"), r:
        pass


def test_a_reservation_waits_as_the_limiter_does(clock: VirtualClock) -> None:
    """Big calls wait for their tokens before they are sent, not after."""
    limiter = sw.RateLimiter("10/s burst 5", wait=1, clock=clock)

    async def main() -> None:
        async with limiter.areserve(cost=5), limiter.areserve(cost=5) as r:
            r.cancel()

    start = clock.monotonic()
    with limiter.reserve(cost=5), limiter.reserve(cost=5):
        pass
    assert clock.monotonic() - start == pytest.approx(0.5)
    asyncio.run(main())
    assert clock.monotonic() - start == pytest.approx(1.5)


# --- in a pipeline


def test_keys_and_costs_come_from_the_arguments(clock: VirtualClock) -> None:
    """A limit per tenant, by what the call asks for."""
    limiter = sw.RateLimiter("10/min", key="tenant", cost=lambda tenant, items: len(items), clock=clock)

    @limiter
    def load(tenant: str, items: list[int]) -> int:
        return len(items)

    assert load("a", list(range(8))) == 8
    with pytest.raises(sw.RateLimited, match="for 'a'"):
        load("a", [1, 2, 3])
    assert load("b", [1, 2, 3]) == 3
    assert load("a", []) == 0


@pytest.mark.parametrize("key", ["text", 7, uuid.UUID(int=5), ("tenant", 3), b"raw", frozenset({1})])
def test_keys_may_be_anything_that_equals_its_like(key: Any, clock: VirtualClock) -> None:
    """Identifiers are not always text."""
    limiter = sw.RateLimiter("1/min", key=lambda k: k, clock=clock)
    assert limiter.call(lambda k: 1, key) == 1
    assert not limiter.try_acquire(key)


@pytest.mark.parametrize("key", [None, object(), ["a"], lambda: 0, Throttled(1)])
def test_keys_that_would_give_every_object_a_limit_of_its_own_are_refused(key: Any) -> None:
    """A request object as the key would switch the limit off, silently."""
    limiter = sw.RateLimiter("1/min", key="request")

    def handle(request: Any) -> int:
        return 1

    with pytest.raises(TypeError, match="key must be text, or another hashable value that equals its like"):
        limiter.call(handle, key)
    for verb in (limiter.try_acquire, limiter.decide, limiter.peek, limiter.reserve, limiter.reset):
        with pytest.raises(TypeError, match="key must be"):
            verb(key)
    with pytest.raises(TypeError, match="key must be"):
        limiter.penalise(key, 1)


def test_a_call_waits_for_its_turn_within_its_wait(clock: VirtualClock) -> None:
    """Smoothing instead of refusing, for as long as the caller said."""
    paced = sw.RateLimiter("10/s", algorithm="leaky_bucket", wait="1s", clock=clock)
    start = clock.monotonic()
    moments = [paced.call(clock.monotonic) - start for _ in range(4)]
    assert moments == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert paced.wait == 1.0
    forever = sw.RateLimiter("1/h", wait=None, clock=clock)
    forever.call(int)
    forever.call(int)
    assert clock.monotonic() - start == pytest.approx(3600.3)
    assert forever.wait == math.inf


def test_a_call_with_a_deadline_does_not_wait_beyond_it(clock: VirtualClock) -> None:
    """An outer Timeout is the caller's patience: the limiter refuses at once instead of using it up."""
    pipeline = sw.Pipeline(sw.Timeout(0.5), sw.RateLimiter("1/s", wait=None), clock=clock)
    pipeline.call(int)
    start = clock.monotonic()
    with pytest.raises(sw.RateLimited):
        pipeline.call(int)
    assert clock.monotonic() == start


def test_async_calls_wait_in_order(clock: VirtualClock) -> None:
    """FIFO through the guard, each at its interval."""
    limiter = sw.RateLimiter("10/s burst 1", wait=5, clock=clock)
    order: list[tuple[int, float]] = []

    @limiter
    async def work(number: int) -> None:
        order.append((number, clock.monotonic() - start))

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(6)))

    start = clock.monotonic()
    asyncio.run(main())
    assert [number for number, _ in order] == list(range(6))
    assert [moment for _, moment in order] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_throttled_call_pauses_its_key_when_asked_to(clock: VirtualClock) -> None:
    """A 429 with a Retry-After: everybody who shares the key should stop asking, not only the unlucky one."""
    polite = sw.RateLimiter("10/s", key="host", penalise=True, clock=clock)
    deaf = sw.RateLimiter("10/s", key="host", clock=clock)

    def fetch(host: str, wait: float | None = None) -> int:
        if wait is not None:
            raise Throttled(wait)
        return 1

    for limiter in (polite, deaf):
        with pytest.raises(Throttled):
            limiter.call(fetch, "a", 3.0)
    assert deaf.call(fetch, "a") == 1
    assert polite.call(fetch, "b") == 1
    with pytest.raises(sw.RateLimited) as caught:
        polite.call(fetch, "a")
    assert caught.value.retry_after == pytest.approx(3.0)
    clock.advance(3.0)
    assert polite.call(fetch, "a") == 1
    with pytest.raises(Throttled):
        polite.call(fetch, "b", 999.0)
    assert polite.peek("b").retry_after == 60.0


def test_a_block_can_be_limited_unless_it_needs_arguments(clock: VirtualClock) -> None:
    """A block has no arguments, and the error says what to use."""
    limiter = sw.RateLimiter("1/s", clock=clock)
    with limiter.permit():
        pass
    with pytest.raises(sw.RateLimited), limiter.permit():
        pass
    for needs in (sw.RateLimiter("1/s", key="k"), sw.RateLimiter("1/s", cost=lambda: 2)):
        with pytest.raises(sw.Misplaced, match="use reserve\\(\\) or acquire\\(\\)"):
            needs.permit()


def test_the_same_limiter_in_two_pipelines_is_one_limit(clock: VirtualClock) -> None:
    """Two ways to one callee share what the callee allows."""
    shared = sw.RateLimiter("2/min", clock=clock)
    one, two = sw.Pipeline(shared, name="one"), sw.Pipeline(shared, name="two")
    one.call(int)
    two.call(int)
    with pytest.raises(sw.RateLimited):
        one.call(int)


# --- bad input


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: sw.RateLimiter("fast"), ValueError, "spec must read like"),
        (lambda: sw.RateLimiter("10/s", store="ftp://localhost"), ValueError, "store must be a URL whose scheme is one of"),
        (lambda: sw.RateLimiter("10/s", store=5), TypeError, "store must be a URL such as"),
        (lambda: sw.RateLimiter("10/s", key=""), TypeError, "key must be an argument's name"),
        (lambda: sw.RateLimiter("10/s", key=5), TypeError, "got 5"),  # type: ignore[arg-type]
        (lambda: sw.RateLimiter("10/s", cost=-1), ValueError, "cost must be >= 0; got -1"),
        (lambda: sw.RateLimiter("10/s", cost=math.nan), TypeError, "cost must be a whole number >= 0; got nan"),  # type: ignore[arg-type]
        (lambda: sw.RateLimiter("10/s", wait=-1), ValueError, "wait must be a non-negative.*got -1"),
        (lambda: sw.RateLimiter("10/s", wait=math.inf), ValueError, "wait .*got inf"),
        (lambda: sw.RateLimiter("10/s", wait=math.nan), ValueError, "got nan"),
        (lambda: sw.RateLimiter("10/s", wait="soon"), ValueError, "got 'soon'"),
        (lambda: sw.RateLimiter("10/s", max_keys=0), ValueError, "max_keys must be >= 1; got 0"),
        (lambda: sw.RateLimiter("10/s", queue=-1), ValueError, "queue must be >= 0; got -1"),
        (lambda: sw.RateLimiter("10/s", initial=11), ValueError, "initial must be in"),
        (lambda: sw.RateLimiter("10/s", penalise="yes"), TypeError, "penalise must be True or False; got 'yes'"),  # type: ignore[arg-type]
        (lambda: sw.RateLimiter("10/s").try_acquire(cost=-1), ValueError, "cost must be >= 0; got -1"),
        (lambda: sw.RateLimiter("10/s").try_acquire("k", 1.5), TypeError, "got 1.5"),  # type: ignore[arg-type]
        (lambda: sw.RateLimiter("10/s").decide(cost=math.inf), TypeError, "got inf"),  # type: ignore[arg-type]
        (lambda: sw.RateLimiter("10/s").peek(cost="x"), TypeError, "got 'x'"),  # type: ignore[arg-type]
        (lambda: sw.RateLimiter("10/s").acquire(timeout=-1), ValueError, "timeout .*got -1"),
        (lambda: sw.RateLimiter("10/s").acquire(timeout=math.nan), ValueError, "timeout .*got nan"),
        (lambda: sw.RateLimiter("10/s").reserve(cost=-5), ValueError, "cost must be >= 0; got -5"),
        (lambda: sw.RateLimiter("10/s").penalise("k", 0), ValueError, "seconds .*got 0"),
        (lambda: sw.RateLimiter("10/s").penalise("k", 1e10), ValueError, "seconds must be at most 1e\\+09; got"),
        (lambda: sw.RateLimiter("10/s").retune("never"), ValueError, "spec must read like"),
        (lambda: sw.RateLimiter("10/s", cost=lambda: -2).call(int), ValueError, "cost must be >= 0; got -2"),
        (lambda: sw.RateLimiter("10/s", cost=lambda: None).call(int), TypeError, "cost .*got None"),  # type: ignore[arg-type, return-value]
        (lambda: sw.RateLimiter("10/s", key="nobody").call(lambda: 1), sw.Misplaced, "nobody"),
    ],
)
def test_bad_input_is_named_with_its_range_and_value(make: Any, error: type[Exception], words: str) -> None:
    """Where it is written wrong is where it must fail, with words that say what would be right."""
    with pytest.raises(error, match=words):
        make()


def test_async_timeouts_are_read_too() -> None:
    """The twin must not let pass what the sync verb refuses."""
    with pytest.raises(ValueError, match="timeout"):
        asyncio.run(sw.RateLimiter("10/s").aacquire(timeout=-1))


# --- threads and processes


def test_sixteen_threads_get_exactly_the_burst(clock: VirtualClock) -> None:
    """L1: not one more, whatever verb they use and however often the interpreter switches."""
    limiter = sw.RateLimiter(["5000/h", "6000/h"], clock=clock)
    keyed = sw.RateLimiter("2000/h", clock=clock)
    plain = sw.RateLimiter("3000/h", clock=clock)
    counts = [[0, 0, 0] for _ in range(16)]

    @plain
    def guarded() -> None:
        """Nothing to do but to be let through."""

    def work(mine: list[int]) -> None:
        for number in range(500):
            mine[0] += limiter.try_acquire() if number % 2 else limiter.decide().allowed
            mine[1] += keyed.try_acquire("k")
            with contextlib.suppress(sw.RateLimited):
                if number % 2:
                    guarded()
                else:
                    plain.acquire(timeout=0)
                mine[2] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(mine,)) for mine in counts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert [sum(column) for column in zip(*counts, strict=True)] == [5000, 2000, 3000]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_waiters_and_keeps_the_debt() -> None:
    """Workers forked from a busy parent must not stand in a queue of ghosts, nor get a fresh burst."""
    limiter = sw.RateLimiter("1/h")
    assert limiter.try_acquire()
    ghost = threading.Thread(target=limiter.acquire, daemon=True)
    ghost.start()
    while limiter.snapshot().waiting == 0:
        pass
    gc.collect()
    child = os.fork()
    if child == 0:
        shot = limiter.snapshot()
        os._exit(0 if (shot.waiting, shot.remaining) == (0, 0) and not limiter.try_acquire() else 1)
    assert os.waitpid(child, 0)[1] == 0
    limiter.reset()
    ghost.join()
