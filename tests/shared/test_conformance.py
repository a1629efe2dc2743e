"""One suite for every store: memory, Valkey and the oldest Redis give the same answers to the same questions."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import seawall as sw
from seawall.shared.limiter import SharedRateLimiter
from seawall.shared.quota import Quota
from seawall.testing import capture_events

Make = Callable[..., sw.RateLimiter]
ALGORITHMS = ["token_bucket", "leaky_bucket", "sliding_window", "sliding_log", "fixed_window"]
COUNTING = [each for each in ALGORITHMS if each != "leaky_bucket"]


# --- deciding


@pytest.mark.parametrize("algorithm", COUNTING)
def test_a_key_passes_what_its_limit_says_and_others_are_untouched(shared: Make, algorithm: Any) -> None:
    """The one thing that a limiter is for."""
    limiter = shared("3/h", algorithm=algorithm)
    assert isinstance(limiter, SharedRateLimiter)
    assert [limiter.try_acquire("a") for _ in range(5)] == [True, True, True, False, False]
    assert limiter.try_acquire("b")
    assert limiter.try_acquire()  # and without a key


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_limiters_of_one_name_share_one_count(shared: Make, algorithm: Any) -> None:
    """Two processes are two objects: what one spends, the other must miss."""
    one, two = shared("2/h", algorithm=algorithm), shared("2/h", algorithm=algorithm)
    assert one.try_acquire("k")
    assert two.try_acquire("k") == (algorithm != "leaky_bucket")
    assert not one.try_acquire("k")
    assert not two.try_acquire("k")


def test_the_algorithm_is_part_of_the_key(shared: Make) -> None:
    """A strategy that was switched on live keys must begin anew, not read what it cannot."""
    for algorithm in ALGORITHMS:
        assert shared("1/h", algorithm=algorithm).try_acquire("k")


@pytest.mark.parametrize("algorithm", COUNTING)
def test_a_decision_says_what_is_left_and_when_to_come_again(shared: Make, algorithm: Any) -> None:
    """Headers and sleeps are made of these numbers."""
    limiter = shared("10/h", algorithm=algorithm)
    first = limiter.decide("k", 7)
    assert (first.allowed, first.remaining, first.retry_after, first.degraded) == (True, 3, 0.0, False)
    refused = limiter.decide("k", 4)
    assert (refused.allowed, refused.remaining) == (False, 3)
    assert 0 < refused.retry_after <= 7200  # the counter has to slide out of the next window, too
    assert 0 < refused.reset_after <= 7200
    assert refused.limit == sw.Limit(10, 3600.0)
    assert limiter.decide("k", 3).allowed  # a refusal burnt nothing


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_cost_above_the_burst_never_passes_and_nothing_always_does(shared: Make, algorithm: Any) -> None:
    """A finite retry_after for what can never pass makes clients come back for ever."""
    limiter = shared("5/h", algorithm=algorithm)
    assert limiter.decide("k", 6).retry_after == math.inf
    assert limiter.decide("k", 5).allowed
    assert limiter.decide("k", 0).allowed
    assert limiter.peek("k", 0).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_look_spends_nothing(shared: Make, algorithm: Any) -> None:
    """Dashboards look; they must not use up what they watch."""
    limiter = shared("2/h", algorithm=algorithm)
    assert all(limiter.peek("k").allowed for _ in range(5))
    assert limiter.try_acquire("k")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_coming_back_after_retry_after_is_never_too_early(shared: Make, algorithm: Any) -> None:
    """A wait that ends a microsecond short is a second refusal."""
    limiter = shared("20/s burst 1" if algorithm in ("token_bucket", "leaky_bucket") else "1/50ms", algorithm=algorithm)
    for _ in range(3):
        while not (decision := limiter.decide("k")).allowed:
            time.sleep(decision.retry_after)
        refused = limiter.decide("k")
        if not refused.allowed:
            time.sleep(refused.retry_after)
            assert limiter.decide("k").allowed


async def test_tasks_and_threads_spend_the_same_count(shared: Make) -> None:
    """One limiter, two worlds."""
    limiter = shared("4/h")
    assert await limiter.atry_acquire("k")
    assert (await limiter.adecide("k")).remaining == 2
    assert await asyncio.to_thread(limiter.try_acquire, "k")
    assert (await limiter.apeek("k")).remaining == 1


def test_many_threads_never_pass_too_many(shared: Make) -> None:
    """L1: batches of many callers are decided one by one, all or none."""
    limiter = shared("50/h")
    passed: list[bool] = []

    def work() -> None:
        passed.extend(limiter.try_acquire("k") for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 320
    assert sum(passed) == 50


async def test_many_tasks_never_pass_too_many(shared: Make) -> None:
    """The same in one loop, where the asks of a turn leave together."""
    limiter = shared("50/h")
    answers = await asyncio.gather(*(limiter.atry_acquire("k") for _ in range(300)))
    assert sum(answers) == 50
    assert all(answers[:50])  # in order of arrival


# --- several limits, levels, quotas, priorities


@pytest.mark.parametrize("algorithm", COUNTING)
def test_several_limits_are_spent_from_all_or_none(shared: Make, algorithm: Any) -> None:
    """A refusal by the second limit must not have charged the first; and the binding one is named."""
    limiter = shared(["5/h", "3/min"], algorithm=algorithm)
    assert [limiter.try_acquire("k") for _ in range(4)] == [True, True, True, False]
    refused = limiter.decide("k")
    assert refused.limit == sw.Limit(3, 60.0)
    assert shared(["5/h", "3/min"], algorithm=algorithm).peek("k", 0).remaining == 0
    assert limiter.decide("k", 6).retry_after == math.inf


def test_a_hierarchy_is_one_decision_and_names_the_level_that_binds(shared: Make) -> None:
    """A user's refusal costs the tenant nothing, and support must know who was full."""
    limiter = shared({"all": "6/h", "tenant": "4/h", "user": "2/h"})
    assert [limiter.try_acquire(("t1", "u1")) for _ in range(3)] == [True, True, False]
    assert limiter.decide(("t1", "u1")).level == "user"
    assert [limiter.try_acquire(("t1", "u2")) for _ in range(3)] == [True, True, False]
    assert limiter.decide(("t1", "u3")).level == "tenant"
    assert [limiter.try_acquire(("t2", "u1")) for _ in range(3)] == [True, True, False]
    assert limiter.decide(("t3", "u1")).level == "all"
    limiter.reset(("t1", "u1"))
    assert limiter.peek(("t1", "u1")).level == "tenant"
    for bad in ("t1", ("t1",), ("t1", "u1", "x"), ""):
        with pytest.raises(TypeError, match=r"one part for each of \(tenant, user\)"):
            limiter.try_acquire(bad)


def test_a_calendar_quota_counts_in_windows_of_the_calendar(shared: Make) -> None:
    """Invoices are by month, not by thirty days."""
    limiter = shared(Quota(3, every="month", tz="Europe/Berlin"))
    assert [limiter.try_acquire("k") for _ in range(4)] == [True, True, True, False]
    refused = limiter.decide("k")
    assert refused.limit == Quota(3, every="month", tz="Europe/Berlin")
    end = Quota(3, every="month", tz="Europe/Berlin").bounds(time.time())[2] / 1e9
    assert refused.retry_after == pytest.approx(end - time.time(), abs=5)
    mixed = shared([Quota(100, every="day"), sw.Limit(2, 3600.0)], name="mixed " + limiter.name)
    assert [mixed.try_acquire("k") for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("algorithm", COUNTING)
def test_lower_priorities_leave_headroom_to_higher_ones(shared: Make, algorithm: Any) -> None:
    """Priority classes on one count: the last units are for what is critical."""
    limiter = shared("10/h", algorithm=algorithm, headroom={"sheddable": 0.6, "default": 0.2})
    with sw.priority("sheddable"):
        assert sum(limiter.try_acquire("k") for _ in range(10)) == 4
    assert sum(limiter.try_acquire("k") for _ in range(10)) == 4
    with sw.priority("critical"):
        assert sum(limiter.try_acquire("k") for _ in range(10)) == 2


def test_observing_refuses_nothing_and_tells_what_it_would(shared: Make) -> None:
    """New limits are tried dark before they hurt."""
    limiter = shared("1/h", observe=True)
    with capture_events() as events:
        assert all(limiter.try_acquire("k") for _ in range(3))
        assert limiter.decide("k").allowed
        assert limiter.call(lambda: 7) == 7
        assert limiter.call(lambda: 7) == 7
    assert [event.kind for event in events].count("limiter.would_reject") == 4
    assert limiter.snapshot().rejected == 4


@pytest.mark.parametrize("algorithm", COUNTING)
def test_limits_change_live_and_debt_is_kept_in_units(shared: Make, algorithm: Any) -> None:
    """A raise must be felt at once, and a key that owes three calls owes three calls."""
    old, new = shared("5/h", algorithm=algorithm), shared("50/h", algorithm=algorithm)
    assert old.try_acquire("k", 5)
    assert not old.try_acquire("k")
    assert new.decide("k", 0).remaining == 45
    old.retune("50/h")
    assert old.try_acquire("k", 45)
    assert not new.try_acquire("k")
    new.retune("4/min")
    assert not new.try_acquire("k")
    with pytest.raises(ValueError, match="as many limits"):
        new.retune(["1/s", "2/s"])


# --- giving back, holding, beginning anew


@pytest.mark.parametrize("algorithm", COUNTING)
def test_reservations_are_settled_up_and_down(shared: Make, algorithm: Any) -> None:
    """Estimate, then correct: tokens of a model are known after the call."""
    limiter = shared("10/h", algorithm=algorithm)
    with limiter.reserve("k", 8) as reservation:
        reservation.settle(3)
        reservation.settle(9)  # only the first counts
    assert limiter.peek("k", 0).remaining == 7
    with limiter.reserve("k", 5) as reservation:
        reservation.cancel()
    assert limiter.peek("k", 0).remaining == 7
    with limiter.reserve("k", 5):
        pass
    assert limiter.peek("k", 0).remaining == 2
    with limiter.reserve("k", 2) as reservation:
        reservation.settle(4)  # post-paid: into debt
    assert not limiter.try_acquire("k")
    with pytest.raises(sw.RateLimited), limiter.reserve("k", 5):
        pytest.fail("entered")


async def test_reservations_of_tasks_are_settled_as_well(shared: Make) -> None:
    """The same law in a loop."""
    limiter = shared("10/h")
    async with limiter.areserve("k", 8) as reservation:
        reservation.settle(3)
    assert (await limiter.apeek("k", 0)).remaining == 7


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_penalty_holds_a_key_for_everybody_and_reset_ends_it(shared: Make, algorithm: Any) -> None:
    """A 429 from the callee concerns the fleet."""
    limiter, other = shared("10/s", algorithm=algorithm), shared("10/s", algorithm=algorithm)
    limiter.penalise("k", 30)
    refused = other.decide("k")
    assert not refused.allowed
    assert 28 < refused.retry_after <= 30.001
    assert other.try_acquire("another")
    assert limiter.decide("k", 0).allowed
    other.reset("k")
    assert limiter.try_acquire("k")


async def test_the_verbs_for_people_have_async_twins(shared: Make) -> None:
    """What asks a store must not block a loop."""
    limiter = shared("10/s")
    await limiter.apenalise("k", 30)
    assert not await limiter.atry_acquire("k")
    await limiter.areset("k")
    assert await limiter.atry_acquire("k")


# --- waiting


def test_waiters_pass_in_order_and_at_the_rate(shared: Make) -> None:
    """Strict order of arrival: a small cost does not overtake a large one."""
    limiter = shared("50/s burst 5")
    order: list[int] = []
    assert limiter.try_acquire("k", 5)
    costs = [5, 1, 1, 3, 1]

    def work(number: int, cost: int) -> None:
        limiter.acquire("k", cost, timeout=20)
        order.append(number)

    threads = []
    began = time.monotonic()
    for number, cost in enumerate(costs):
        threads.append(threading.Thread(target=work, args=(number, cost)))
        threads[-1].start()
        while limiter.snapshot().waiting <= number and time.monotonic() - began < 0.08:
            time.sleep(0.001)
    for thread in threads:
        thread.join(30)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert time.monotonic() - began >= (sum(costs) - 1) / 50


async def test_tasks_wait_in_order_of_arrival(shared: Make) -> None:
    """The order is exact where arrivals are: in one loop."""
    limiter = shared("100/s burst 1")
    assert await limiter.atry_acquire("k")
    order: list[int] = []

    async def work(number: int) -> None:
        await limiter.aacquire("k", timeout=20)
        order.append(number)

    await asyncio.gather(*(work(number) for number in range(12)))
    assert order == list(range(12))
    assert limiter.snapshot().waiting == 0


async def test_a_wait_that_cannot_fit_is_refused_at_once(shared: Make) -> None:
    """Sleeping until the deadline to fail then helps nobody; nor does standing behind a line that is too long."""
    limiter = shared("2/h")
    assert await limiter.atry_acquire("k", 2)
    began = time.monotonic()
    with pytest.raises(sw.RateLimited) as refused:
        await limiter.aacquire("k", timeout=60)
    assert refused.value.retry_after == pytest.approx(1800, rel=0.01)
    with sw.deadline(30), pytest.raises(sw.RateLimited):
        await limiter.aacquire("k")
    with pytest.raises(sw.RateLimited, match="can never pass"):
        await limiter.aacquire("k", cost=3)
    assert time.monotonic() - began < 5
    first = asyncio.ensure_future(limiter.aacquire("k"))
    await _until(lambda: limiter.snapshot().waiting == 1)
    with pytest.raises(sw.RateLimited, match="others waiting"):
        await limiter.aacquire("k", timeout=2000)  # its own unit would come at 1800 s, but somebody stands before it
    first.cancel()


async def test_the_line_is_bounded_and_the_cancelled_owe_nothing(shared: Make) -> None:
    """Unbounded lines kill processes; abandoned waiters that eat tokens starve the rest."""
    limiter = shared("5/s burst 1", queue=3)
    assert await limiter.atry_acquire("k")
    waiters = [asyncio.ensure_future(limiter.aacquire("k", timeout=30)) for _ in range(3)]
    await _until(lambda: limiter.snapshot().waiting == 3)
    with pytest.raises(sw.RateLimited, match="queue of 3 full"):
        await limiter.aacquire("k", timeout=30)
    assert not await limiter.atry_acquire("k")  # nobody overtakes
    waiters[0].cancel()
    waiters[1].cancel()
    await waiters[2]
    await asyncio.gather(*waiters, return_exceptions=True)
    decision = await limiter.adecide("k")
    assert not decision.allowed
    assert decision.retry_after <= 0.2  # only one unit was spent since


async def test_a_task_cancelled_while_its_ask_is_on_its_way_pays_nothing(shared: Make) -> None:
    """What is granted to nobody goes back."""
    limiter = shared("3/h")
    task = asyncio.ensure_future(limiter.aacquire("k"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        if not (task.done() and not task.cancelled()):
            await task
        else:
            raise asyncio.CancelledError
    spent = int(task.done() and not task.cancelled())
    deadline = time.monotonic() + 10
    while (left := (await limiter.apeek("k", 0)).remaining) != 3 - spent and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert left == 3 - spent


async def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# --- in a pipeline


def test_a_pipeline_of_threads_is_limited(shared: Make) -> None:
    """The same object as a layer."""
    pipeline = sw.Pipeline(shared("2/h", key="tenant"), name="stock")

    @pipeline
    def levels(tenant: str) -> int:
        return 1

    assert levels("a") + levels("a") + levels("b") == 3
    with pytest.raises(sw.RateLimited) as refused:
        levels("a")
    assert refused.value.retry_after == pytest.approx(1800, rel=0.01)


async def test_a_pipeline_of_tasks_is_limited_and_waits(shared: Make) -> None:
    """Tasks wait in the guards' own way of waiting, and the sync twin refuses to block the loop."""
    limiter = shared("20/s burst 1", wait=5)
    pipeline = sw.Pipeline(limiter, name="stock")

    @pipeline
    async def level() -> float:
        return time.monotonic()

    moments = await asyncio.gather(*(level() for _ in range(4)))
    assert sorted(moments) == list(moments)
    assert moments[-1] - moments[0] >= 0.14
    with pytest.raises(sw.WrongTwin):
        pipeline.call(lambda: 1)


async def test_the_sync_verbs_refuse_a_running_loop_when_a_store_is_asked(shared: Make, store: Any) -> None:
    """A mistake must show in the first test, not in the first outage."""
    limiter = shared()
    verbs: list[Callable[[], object]] = [limiter.try_acquire, limiter.decide, limiter.peek, limiter.reset]
    verbs += [limiter.acquire, lambda: limiter.penalise("k", 1)]
    for verb in verbs:
        if store.at_once and verb != limiter.acquire:
            verb()
        else:
            with pytest.raises(sw.WrongTwin, match="await a"):
                verb()
