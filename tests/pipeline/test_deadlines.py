"""Every policy against a deadline: one that has passed calls nobody, a short one trims every wait to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock, takes

ALL: dict[str, Callable[[], sw.Policy]] = {
    "timeout": lambda: sw.Timeout(60),
    "timeout on threads": lambda: sw.Timeout(60, sync="thread"),
    "adaptive_timeout": sw.AdaptiveTimeout,
    "retry": lambda: sw.Retry(3, on=OSError),
    "circuit_breaker": sw.CircuitBreaker,
    "bulkhead": lambda: sw.Bulkhead(1, queue=5),
    "thread_bulkhead": lambda: sw.Bulkhead.threads(1, queue=5),
    "rate_limiter": lambda: sw.RateLimiter("1/min", wait=None),
    "adaptive_limit": lambda: sw.AdaptiveLimit(queue=5),
    "throttle": sw.Throttle,
    "admission_control": sw.AdmissionControl,
    "hedge": lambda: sw.Hedge(0.1),
    "cache": lambda: sw.Cache(60),
    "fallback": lambda: sw.Fallback(7),
    "fault": lambda: sw.Fault("drill", share=1, latency=30),
    "keyed": lambda: sw.Keyed(lambda *_: "a", lambda key: sw.Bulkhead(1)),
}


def test_the_table_holds_every_policy_of_the_front_door() -> None:
    """A new policy must not be forgotten here."""
    kinds = {policy.kind for policy in (make() for make in ALL.values())}
    front = {
        thing.kind
        for thing in (getattr(sw, name) for name in sw.__all__)
        if isinstance(thing, type) and issubclass(thing, sw.Policy) and thing.layer is not sw.Policy.layer
    }
    assert front - {"policy"} <= kinds


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a script under a policy, in either world."""
    if request.param == "sync":
        return lambda policy, script: policy(idempotent=True)(lambda: script())()

    def run(policy: Any, script: Any) -> Any:
        async def body() -> Any:
            return await script.acall()

        if policy.kind == "thread_bulkhead":
            return asyncio.run(policy.acall(script))
        return asyncio.run(policy(idempotent=True)(body)())

    return run


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_called_once_the_deadline_has_passed(seawall_time: VirtualClock, call: Any, name: str) -> None:
    """Work for an answer that nobody waits for is the fuel of an overload."""
    policy, script = ALL[name](), Script(1)
    with sw.deadline(1), sw.faults("drill"):
        seawall_time.advance(1)
        before = seawall_time.monotonic()
        with pytest.raises(sw.TimedOut) as caught:
            call(policy, script)
        assert seawall_time.monotonic() == before
    assert not script.calls
    assert (caught.value.policy, caught.value.started) == ("deadline", False)


@pytest.mark.parametrize("name", [name for name in ALL if ALL[name]().why_no_block is None])
def test_no_block_begins_once_the_deadline_has_passed(seawall_time: VirtualClock, name: str) -> None:
    """A permit block is a call like any other."""
    policy: Any = ALL[name]()
    with sw.deadline(1):
        seawall_time.advance(1)
        with pytest.raises(sw.TimedOut), policy.permit():
            pytest.fail("the block began")


def test_no_loop_of_attempts_begins_once_the_deadline_has_passed(seawall_time: VirtualClock) -> None:
    """Nor does its first attempt."""

    async def later() -> None:
        async for _ in sw.Retry(3).attempts():
            pytest.fail("an attempt began")

    with sw.deadline(1):
        seawall_time.advance(1)
        with pytest.raises(sw.TimedOut):
            for _ in sw.Retry(3).attempts():
                pytest.fail("an attempt began")
        with pytest.raises(sw.TimedOut):
            asyncio.run(later())


@pytest.mark.parametrize("name", ["timeout", "retry", "bulkhead", "fault", "fallback"])
def test_no_stream_begins_once_the_deadline_has_passed(seawall_time: VirtualClock, name: str) -> None:
    """The guarded call of a stream is its first item."""
    opened: list[int] = []

    @ALL[name]()
    def items() -> Iterator[int]:
        opened.append(1)
        yield 1

    with sw.deadline(1), sw.faults("drill"):
        seawall_time.advance(1)
        with pytest.raises(sw.TimedOut):
            list(items())
    assert not opened


def busy(policy: Any) -> Any:
    """Somebody has its only seat for ever."""
    return policy.permit()


def spend(policy: Any) -> Any:
    """Its limit is spent for a minute."""
    policy.acquire()
    return nullcontext()


def failing(policy: Any) -> Any:
    """The callee fails for ever."""
    return nullcontext()


WAITING: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], list[Any]]] = {
    "retry": (
        lambda: sw.Retry(9, on=OSError, budget=None, backoff=sw.Backoff(base=0.4, jitter="none")),
        failing,
        [OSError()] * 9,
    ),
    "retry that is told to wait": (
        lambda: sw.Retry(9, on=sw.RateLimited, budget=None),
        failing,
        [sw.RateLimited("full", policy="x", retry_after=30)] * 9,
    ),
    "bulkhead": (lambda: sw.Bulkhead(1, queue=5), busy, [1]),
    "bulkhead that serves the newest first": (lambda: sw.Bulkhead(1, queue=5, order="lifo"), busy, [1]),
    "rate_limiter": (lambda: sw.RateLimiter("1/min", wait=None), spend, [1]),
    "rate_limiter with a queue": (lambda: sw.RateLimiter("1/min", algorithm="leaky_bucket", wait=30), spend, [1]),
    "adaptive_limit": (lambda: sw.AdaptiveLimit(initial=1, most=1, queue=5), busy, [1]),
    "keyed": (lambda: sw.Keyed(lambda *_: "a", lambda key: BUSY), lambda _: busy(BUSY), [1]),
    "fault": (lambda: sw.Fault("drill", share=1, latency=30), failing, [1]),
}
BUSY = sw.Bulkhead(1, queue=5)


@pytest.mark.parametrize("name", WAITING)
def test_a_wait_never_outlasts_the_deadline(seawall_time: VirtualClock, call: Any, name: str) -> None:
    """Trimmed to it, or refused at once because it cannot fit; and the callee is not begun late."""
    make, provoke, script = WAITING[name]
    policy, callee = make(), Script(*script)
    with provoke(policy), sw.faults("drill"):
        before = seawall_time.monotonic()
        with sw.deadline(1), pytest.raises((sw.Rejected, sw.TimedOut, OSError)):
            call(policy, callee)
        assert seawall_time.monotonic() - before <= 1 + 1e-6
    assert all(isinstance(step, BaseException) for step in script) or not callee.calls


def test_a_follower_of_a_cache_waits_no_longer_than_its_own_deadline(seawall_time: VirtualClock) -> None:
    """Whoever fetches may have more time than whoever waits for it."""
    cache = sw.Cache(60)
    script = Script(takes(30, "answer"))

    async def impatient() -> None:
        with sw.deadline(1):
            await cache.acall(script.acall)

    async def main() -> None:
        leader = asyncio.create_task(cache.acall(script.acall))
        await asyncio.sleep(0)
        before = seawall_time.monotonic()
        with pytest.raises(sw.TimedOut):
            await impatient()
        assert seawall_time.monotonic() - before == pytest.approx(1)
        assert await leader == "answer"

    asyncio.run(main())


def test_a_copy_is_not_sent_when_it_could_not_answer_before_the_deadline(seawall_time: VirtualClock) -> None:
    """Hedging ends with the deadline: the race is cut, and no copy begins after it."""
    hedge = sw.Hedge(2, copies=3, budget=None)
    script = Script(*[takes(30, 1)] * 4)

    @hedge(idempotent=True)
    async def body() -> Any:
        return await script.acall()

    before = seawall_time.monotonic()
    with sw.deadline(5), pytest.raises(sw.TimedOut):
        asyncio.run(body())
    assert seawall_time.monotonic() - before == pytest.approx(5)
    assert len(script.calls) == 3


def test_a_thread_that_is_waited_for_is_given_up_at_the_deadline(seawall_time: VirtualClock) -> None:
    """Both kinds of worker threads."""
    for policy in (sw.Timeout(60, sync="thread"), sw.Bulkhead.threads(1)):
        before = seawall_time.monotonic()
        with sw.deadline(1), pytest.raises(sw.TimedOut):
            policy.call(seawall_time.sleep, 3)
        assert seawall_time.monotonic() - before == pytest.approx(1)
        seawall_time.sleep(5)


def test_the_callee_of_every_policy_sees_no_later_deadline(seawall_time: VirtualClock) -> None:
    """What a policy adds may only shrink what the caller has given."""
    for name, make in ALL.items():
        with sw.deadline(1), ExitStack():
            assert make().call(lambda: sw.remaining() or 0) <= 1, name
