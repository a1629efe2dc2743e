"""Observe mode, policy by policy: what would have been refused, held up or cut is counted and told, and nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock, capture_events, takes

Case = tuple[Callable[[], sw.Policy], Callable[[Any], Any]]


def full(policy: Any) -> Any:
    """All its room is taken for as long as the block lasts."""
    return policy.permit()


def spent(policy: Any) -> Any:
    """Its limit is spent."""
    assert policy.try_acquire()
    return ExitStack()


def opened(policy: Any) -> Any:
    """Its circuit is open."""
    assert isinstance(policy.try_call(Script(OSError())).error, OSError)
    return ExitStack()


def shedding(policy: Any) -> Any:
    """Its share is the highest there is: whatever is drawn below 0.9 is shed."""
    for _ in range(200):
        policy.try_call(Script(OSError()))
    return ExitStack()


REFUSING: dict[str, Case] = {
    "circuit_breaker": (lambda: sw.CircuitBreaker(consecutive_failures=1, open_for=1000), opened),
    "bulkhead": (lambda: sw.Bulkhead(1), full),
    "bulkhead with a queue": (lambda: sw.Bulkhead(1, queue=5, wait=3), full),
    "rate_limiter": (lambda: sw.RateLimiter("1/h"), spent),
    "rate_limiter that waits": (lambda: sw.RateLimiter("1/min", wait=300), spent),
    "adaptive_limit": (lambda: sw.AdaptiveLimit(initial=1, most=1), full),
    "adaptive_limit with a queue": (lambda: sw.AdaptiveLimit(initial=1, most=1, queue=5), full),
    "throttle": (sw.Throttle, shedding),
    "admission_control": (lambda: sw.AdmissionControl(shed=0.9, delay=lambda *_: 1.0), shedding),
}


@pytest.mark.parametrize("world", ["sync", "async"])
@pytest.mark.parametrize("name", REFUSING)
def test_a_policy_that_observes_refuses_nobody_and_makes_nobody_wait(seawall_time: VirtualClock, name: str, world: str) -> None:
    """How a limit gets into production without an incident: its numbers first."""
    make, provoke = REFUSING[name]
    policy = make()
    shadow = sw.Pipeline(policy, observe=True)
    with provoke(policy):
        if name == "admission_control":
            seawall_time.advance(1)
        with capture_events() as events:
            before, counted = seawall_time.monotonic(), policy.snapshot().rejected
            script = Script(1)
            for _ in range(50):
                if world == "sync":
                    assert shadow.call(script) == 1
                else:
                    assert asyncio.run(shadow.acall(script.acall)) == 1
            assert seawall_time.monotonic() == before
    kinds = [event.kind for event in events if not event.kind.startswith("call.")]
    waits = "queue" in name or "waits" in name
    told = sum(kind.endswith(".would_wait" if waits else ".would_reject") for kind in kinds)
    assert told >= (50 if name not in ("throttle", "admission_control") else 20), kinds
    assert not any(kind.endswith(".rejected") for kind in kinds)
    if not waits:
        assert policy.snapshot().rejected - counted == told
    assert len(script.calls) == 50


@pytest.mark.parametrize("name", REFUSING)
def test_the_same_policy_refuses_elsewhere_at_the_same_time(seawall_time: VirtualClock, name: str) -> None:
    """Whether it observes is the pipeline's business: the same circuit may guard one path and watch another."""
    make, provoke = REFUSING[name]
    policy = make()
    sw.Pipeline(policy, observe=True)
    with provoke(policy):
        if name == "admission_control":
            seawall_time.advance(1)
        with sw.deadline(0.5):
            assert any(policy.try_call(lambda: 1).rejection for _ in range(50))


def test_a_timeout_that_observes_cuts_nothing_and_hands_no_deadline_on(seawall_time: VirtualClock) -> None:
    """A limit that is too short must not show as one."""
    timeout = sw.Timeout(1)
    shadow = sw.Pipeline(timeout, observe=True)
    seen: list[float | None] = []

    def body(seconds: float) -> float:
        seen.append(sw.remaining())
        seawall_time.sleep(seconds)
        return seconds

    async def later(seconds: float) -> float:
        seen.append(sw.remaining())
        await seawall_time.asleep(seconds)
        return seconds

    with capture_events("timeout.") as events:
        assert [shadow.call(body, length) for length in (1.0, 1.5)] == [1.0, 1.5]
        assert [asyncio.run(shadow.acall(later, length)) for length in (1.0, 1.5)] == [1.0, 1.5]
        with shadow.permit():
            seawall_time.sleep(2)
    assert [(event.kind, event.data["limit"]) for event in events] == [("timeout.would_expire", 1.0)] * 3
    assert (timeout.snapshot().expired, seen) == (3, [None] * 4)


def test_a_timeout_on_worker_threads_that_observes_leaves_the_call_where_it_is(seawall_time: VirtualClock) -> None:
    """No thread, no cut, only the count."""
    import threading

    timeout = sw.Timeout(1, sync="thread")
    shadow = sw.Pipeline(timeout, observe=True)
    homes: list[object] = []

    def body(seconds: float) -> None:
        homes.append(threading.current_thread())
        seawall_time.sleep(seconds)

    shadow.call(body, 0.5)
    shadow.call(body, 5)
    with pytest.raises(OSError):
        shadow.call(Script(takes(2, OSError())))
    assert homes == [threading.current_thread()] * 2
    assert (timeout.snapshot().expired, timeout.snapshot().abandoned) == (2, 0)


@pytest.mark.parametrize("world", ["sync", "async"])
def test_the_items_of_a_stream_are_watched_too(seawall_time: VirtualClock, world: str) -> None:
    """First item and further items have limits of their own."""
    timeout = sw.Timeout(9, first_item=1, item=2)
    shadow = sw.Pipeline(timeout, observe=True)

    @shadow
    def items() -> Iterator[int]:
        for number, length in enumerate((1.5, 1.5, 2.5)):
            seawall_time.sleep(length)
            yield number

    @shadow
    async def later() -> AsyncIterator[int]:
        for number, length in enumerate((1.5, 1.5, 2.5)):
            await seawall_time.asleep(length)
            yield number

    async def collect() -> list[int]:
        return [item async for item in later()]

    assert (list(items()) if world == "sync" else asyncio.run(collect())) == [0, 1, 2]
    assert timeout.snapshot().expired == 2


def test_an_adaptive_timeout_that_observes_learns_and_cuts_nothing(seawall_time: VirtualClock) -> None:
    """The best way to find a limit is to watch for a day."""
    timeout = sw.AdaptiveTimeout("p90", factor=2, least=0.01, most=1)
    shadow = sw.Pipeline(timeout, observe=True)
    for _ in range(100):
        asyncio.run(shadow.acall(seawall_time.asleep, 0.1))
    assert 0.15 < timeout.limit < 0.3
    assert timeout.snapshot().expired == 0
    samples = timeout.snapshot().samples
    asyncio.run(shadow.acall(seawall_time.asleep, 5))
    with pytest.raises(OSError):
        shadow.call(Script(takes(3, OSError())))
    assert (timeout.snapshot().expired, timeout.snapshot().samples) == (2, samples + 1)


@pytest.mark.parametrize("world", ["sync", "async"])
def test_a_thread_bulkhead_that_observes_never_lets_a_call_wait_for_a_thread(seawall_time: VirtualClock, world: str) -> None:
    """Its pool is the limit, so each call has a thread of its own."""
    import threading

    pool = sw.Bulkhead.threads(1)
    shadow = sw.Pipeline(pool, observe=True)
    gate, arrived = threading.Barrier(3, timeout=20), []

    def body() -> None:
        arrived.append(threading.current_thread())
        gate.wait()

    async def main() -> None:
        await asyncio.gather(*(shadow.acall(body) for _ in range(3)))  # type: ignore[arg-type]

    with capture_events("thread_bulkhead.would_reject") as events:
        if world == "async":
            asyncio.run(main())
        else:
            crew = [threading.Thread(target=shadow.call, args=(body,)) for _ in range(3)]
            for thread in crew:
                thread.start()
            for thread in crew:
                thread.join(20)
    assert len(set(arrived)) == 3
    assert len(events) == 2
    assert pool.snapshot().taken == 0


def test_what_adds_to_a_call_goes_on(seawall_time: VirtualClock) -> None:
    """Attempts, copies and answers from memory refuse nobody."""
    retried = Script(OSError(), 1)
    assert sw.Pipeline(sw.Retry(2, on=OSError), observe=True).call(retried) == 1
    assert len(retried.calls) == 2
    cached, script = sw.Pipeline(sw.Cache(60), observe=True), Script(1, 2)
    assert [cached.call(script) for _ in range(3)] == [1, 1, 1]
    answered = sw.Pipeline(sw.Fallback(7), observe=True)
    assert answered.call(Script(OSError())) == 7
    hedged = sw.Pipeline(sw.Hedge(0.1, budget=None), observe=True)

    @hedged(idempotent=True)
    async def slow() -> int:
        await seawall_time.asleep(1)
        return 1

    assert asyncio.run(slow()) == 1
    assert hedged.policy(sw.Hedge).snapshot().sent == 1


def test_deadlines_of_the_caller_hold(seawall_time: VirtualClock) -> None:
    """They are the caller's word, no policy of this pipeline; `incoming(dark=True)` observes those."""
    shadow = sw.Pipeline(sw.Timeout(9), observe=True)
    with sw.deadline(1), pytest.raises(sw.TimedOut):
        asyncio.run(shadow.acall(seawall_time.asleep, 5))


def test_single_policies_observe_among_others_that_refuse(seawall_time: VirtualClock) -> None:
    """A new limit is tried out inside a pipeline that works."""
    per_key = sw.Keyed("key", lambda key: sw.Bulkhead(1), name="per-key")
    pipeline = sw.Pipeline(sw.Timeout(1, name="new"), sw.Bulkhead(1), per_key, observe=["new", "per-key"])
    assert asyncio.run(pipeline.acall(_sleeper(seawall_time), 5, key="a")) == 5
    assert pipeline.policy("new").snapshot().expired == 1
    shot = pipeline.snapshot()
    assert (shot.observes, shot.observed) == (True, ("new", "per-key"))
    with pipeline.policy(sw.Bulkhead).permit():
        assert isinstance(pipeline.try_call(lambda seconds, key: 1, 1, key="a").rejection, sw.BulkheadFull)
    keyed = pipeline.policy(sw.Keyed).pick("a")
    assert isinstance(keyed, sw.Bulkhead)
    with keyed.permit():
        assert pipeline.call(lambda seconds, key: 1, 1, key="a") == 1
    assert keyed.snapshot().rejected == 1
    assert sw.Pipeline(sw.Timeout(1)).snapshot().observed == ()


def test_a_sync_call_under_a_loop_is_no_longer_refused_where_nothing_waits(seawall_time: VirtualClock) -> None:
    """What would have to wait only observes, so it blocks no loop; a Retry still would."""

    async def main() -> None:
        assert sw.Pipeline(sw.Bulkhead(1, queue=1), observe=True).call(lambda: 1) == 1
        for policy in (sw.Retry(2), sw.Bulkhead.threads(1), sw.Keyed("a", lambda a: sw.Retry(2))):
            with pytest.raises(sw.WrongTwin):
                sw.Pipeline(policy, observe=True).call(lambda a=1: a)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("bad", "named"), [("bulkhead", "list of names"), (5, "list of names"), ([5], "list of names"), (["other"], "'other'")]
)
def test_names_that_no_policy_has_are_refused(bad: Any, named: str) -> None:
    """A misspelt name would enforce what should only watch."""
    with pytest.raises((ValueError, TypeError), match=named):
        sw.Pipeline(sw.Bulkhead(1), observe=bad)


def _sleeper(clock: VirtualClock) -> Any:
    async def sleep(seconds: float, key: str) -> float:
        await clock.asleep(seconds)
        return seconds

    return sleep
