"""Every kind of callable gets the guard that fits it, or is refused with advice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import seawall as sw
from seawall.core.registrars import hold
from seawall.testing import Script, capture_events


def guarded(**options: Any) -> tuple[sw.Pipeline, sw.CircuitBreaker]:
    breaker = sw.CircuitBreaker(consecutive_failures=2, **options)
    return sw.Pipeline(breaker), breaker


def test_plain_functions_and_methods_keep_their_signature_and_are_guarded() -> None:
    """A decorator must change what happens, not what it looks like."""
    pipeline, breaker = guarded()

    class Stock:
        @pipeline
        def level(self, sku: str, *, more: int = 0) -> str:
            """How many."""
            return sku * (1 + more)

        @pipeline
        @staticmethod
        def still(n: int) -> int:
            return n

        @pipeline
        @classmethod
        def named(cls, n: int) -> str:
            return f"{cls.__name__}{n}"

    assert Stock().level("a", more=1) == "aa"
    assert Stock.still(3) == Stock().still(3) == 3
    assert Stock.named(1) == Stock().named(1) == "Stock1"
    assert str(inspect.signature(Stock.level)) == "(self, sku: 'str', *, more: 'int' = 0) -> 'str'"
    assert Stock.level.__doc__ == "How many."
    assert Stock.level.__name__ == "level"
    assert breaker.snapshot().calls == 5
    assert pipeline.name.endswith("Stock.level")


def test_async_functions_partials_and_objects_are_guarded_as_async() -> None:
    """Objects with an async __call__ and partials of async functions are async too."""
    pipeline, breaker = guarded()

    async def twice(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    class Twice:
        async def __call__(self, n: int) -> int:
            return 2 * n

    for function in (twice, functools.partial(twice, 3), Twice()):
        wrapped = pipeline(function)
        assert inspect.iscoroutinefunction(wrapped)
        assert asyncio.run(wrapped(*([] if isinstance(function, functools.partial) else [3]))) == 6
    assert breaker.snapshot().calls == 3


def test_lambdas_and_cached_functions_are_guarded() -> None:
    """A cache around a plain function is a plain function."""
    pipeline, breaker = guarded()
    assert pipeline(lambda x: x + 1)(1) == 2
    assert pipeline(functools.lru_cache(lambda x: x + 1))(1) == 2
    assert pipeline.call(max, 1, 2) == 2
    assert breaker.snapshot().calls == 3


def test_work_that_would_run_after_the_guard_is_refused() -> None:
    """Nothing runs silently unguarded: awaitables, generators and coroutines made by plain functions are caught."""
    pipeline, _ = guarded()

    async def work() -> None: ...

    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(sw.WrongTwin, match="acall"):
        pipeline.call(work)
    with pytest.raises(sw.WrongTwin, match="async def"):
        pipeline(lambda: work())()
    with pytest.raises(sw.Misplaced, match="generator function itself"):
        pipeline(lambda: items())()
    with pytest.raises(sw.WrongTwin, match="call"):
        asyncio.run(pipeline.acall(len, "x"))  # type: ignore[arg-type]


def test_functions_that_return_awaitables_are_guarded_when_awaited_under_acall() -> None:
    """A plain function that returns a coroutine is no reason to be unguarded."""
    pipeline, breaker = guarded()

    async def work(n: int) -> int:
        return n

    assert asyncio.run(pipeline.acall(lambda: work(4))) == 4
    assert breaker.snapshot().calls == 1


def test_what_a_decorator_cannot_guard_is_refused_with_advice() -> None:
    """The error says which decorator goes on top."""
    pipeline, _ = guarded()

    async def check() -> None: ...

    hold(check, "@health.ready")
    with pytest.raises(sw.Misplaced, match=r"put @health.ready on top"):
        pipeline(check)
    with pytest.raises(sw.Misplaced, match="is a class; decorate its methods"):
        pipeline(dict)
    with pytest.raises(sw.Misplaced, match="only callables"):
        pipeline(5)  # type: ignore[type-var]
    with pytest.raises(sw.Misplaced, match="take the cache away"):
        pipeline(functools.cache(check))

    @contextlib.contextmanager
    def opened() -> Iterator[int]:
        yield 1

    with pytest.raises(sw.Misplaced, match="directly on the generator function"):
        pipeline(opened)


def test_a_sync_call_that_may_wait_is_refused_under_a_running_loop() -> None:
    """It would block every other task; the error names the twin."""
    waiting = sw.Pipeline(sw.Retry(2))

    @waiting
    def read() -> int:
        return 1

    @waiting
    def items() -> Iterator[int]:
        yield 1

    async def main() -> None:
        with pytest.raises(sw.WrongTwin, match="acall"):
            waiting.call(read)
        with pytest.raises(sw.WrongTwin, match="acall"):
            read()
        with pytest.raises(sw.WrongTwin, match="async generator"):
            list(items())
        with pytest.raises(sw.WrongTwin, match="async for"):
            list(sw.Retry(2).attempts())
        with pytest.raises(sw.WrongTwin, match="async with"), sw.Bulkhead(1, queue=1).permit():
            pass
        with pytest.raises(sw.WrongTwin, match="aacquire"):
            sw.RateLimiter("1/s").acquire()
        assert sw.CircuitBreaker().call(lambda: 1) == 1

    asyncio.run(main())


def test_marked_calls_carry_one_key_through_all_attempts(seawall_time: Any) -> None:
    """The callee recognises a repeated call by its key."""
    seen: list[str | None] = []
    pipeline = sw.Pipeline(sw.Retry(3, budget=None))

    @pipeline(idempotency_key=lambda order: f"order-{order}")
    def charge(order: int) -> int:
        seen.append(sw.call_key())
        if len(seen) < 3:
            raise ConnectionResetError
        return order

    assert charge(7) == 7
    assert seen == ["order-7"] * 3
    assert sw.call_key() is None
    seen.clear()
    marked = pipeline(idempotent=True)
    assert marked.call(lambda: sw.call_key()) != marked.call(lambda: sw.call_key())

    async def key() -> str | None:
        seen.append(sw.call_key())
        if len(seen) < 2:
            raise ConnectionResetError
        return sw.call_key()

    assert asyncio.run(marked.acall(key)) == seen[0] == seen[1]
    with pytest.raises(TypeError, match="idempotency_key"):
        pipeline(idempotency_key="order")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="idempotent"):
        pipeline(idempotent="yes")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not empty"):
        pipeline(idempotency_key=lambda: "").call(lambda: 1)


def test_try_call_returns_rejections_and_errors_as_values() -> None:
    """On hot paths raising is the cost."""
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    fine = breaker.try_call(lambda: 5)
    assert (fine.ok, fine.value, fine.unwrap()) == (True, 5, 5)
    failed = breaker.try_call(Script(OSError("gone")))
    assert isinstance(failed.error, OSError)
    refused = breaker.try_call(lambda: 5)
    assert isinstance(refused.rejection, sw.CircuitOpen)
    assert not refused.ok
    with pytest.raises(sw.CircuitOpen):
        refused.unwrap()

    async def main() -> None:
        assert (await breaker.atry_call(Script(1).acall)).rejection is not None
        breaker.reset()
        assert (await breaker.atry_call(Script(1).acall)).value == 1
        assert isinstance((await breaker.atry_call(Script(OSError()).acall)).error, OSError)
        breaker.reset()
        runtime = await breaker.atry_call(Script(RuntimeError()).acall)
        assert isinstance(runtime.error, RuntimeError)
        breaker.reset()
        with pytest.raises(sw.WrongTwin):
            await breaker.atry_call(len, "x")  # type: ignore[arg-type]

    asyncio.run(main())
    breaker.reset()
    with pytest.raises(sw.WrongTwin):
        breaker.try_call(Script(1).acall)


def test_the_pipeline_tells_of_its_calls_and_of_its_policies() -> None:
    """One subscription hears everything about a call, in order."""
    pipeline = sw.Pipeline(sw.Retry(2, on=OSError, backoff=sw.Backoff(base=0.001)), sw.CircuitBreaker(), name="stock")
    heard: list[sw.Event] = []
    end = pipeline.subscribe(heard.append)
    with capture_events("retry.") as captured:
        assert pipeline.call(Script(OSError(), 3)) == 3
    end()
    pipeline.call(lambda: 1)
    assert [event.kind for event in heard] == ["retry.scheduled", "call.ended"]
    assert heard[1].data["outcome"] == "success"
    assert [event.kind for event in captured] == ["retry.scheduled"]
    with pytest.raises(ValueError, match="x"):
        pipeline.call(int, "x")


def test_a_pipeline_says_what_is_wrong_with_it_when_made() -> None:
    """Two circuits of one name, a policy against itself, a stranger: each raises where it is written."""
    breaker = sw.CircuitBreaker()
    with pytest.raises(ValueError, match="stands in the pipeline twice"):
        sw.Pipeline(breaker, breaker)
    with pytest.raises(ValueError, match="two policies are called 'a'"):
        sw.Pipeline(sw.CircuitBreaker(name="a"), sw.Bulkhead(1, name="a"))
    with pytest.raises(TypeError, match="made of policies"):
        sw.Pipeline(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot stand in another"):
        sw.Pipeline(sw.Pipeline())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no layer"):
        sw.Pipeline(sw.RetryBudget())
    with pytest.raises(TypeError, match="name"):
        sw.Pipeline(name="")
    with pytest.raises(TypeError, match="name"):
        sw.CircuitBreaker(name="")
    with pytest.raises(TypeError, match="clock"):
        sw.Pipeline(clock=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="clock"):
        sw.CircuitBreaker(clock=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="classifier"):
        sw.Pipeline(classifier=1)  # type: ignore[arg-type]
    mine, theirs = sw.testing.VirtualClock(), sw.testing.VirtualClock()
    with pytest.raises(ValueError, match="another clock"):
        sw.Pipeline(sw.Bulkhead(1, clock=mine), clock=theirs)
    assert sw.Pipeline(sw.Bulkhead(1, clock=mine)).clock is mine


def test_unnamed_policies_are_numbered_and_found() -> None:
    """Names must tell two timeouts apart without anybody's work."""
    pipeline = sw.Pipeline(sw.Timeout(10), sw.Retry(), sw.Timeout(1), name="p")
    assert [policy.name for policy in pipeline.policies] == ["timeout", "retry", "timeout-2"]
    assert pipeline.policy(sw.Retry).name == "retry"
    assert pipeline.policy("timeout-2").seconds == 1  # type: ignore[type-var]
    with pytest.raises(LookupError, match="2 policies that match"):
        pipeline.policy(sw.Timeout)
    with pytest.raises(LookupError, match="'timeout', 'retry', 'timeout-2'"):
        pipeline.policy("breaker")
    assert repr(pipeline) == "<Pipeline 'p': timeout > retry > timeout-2>"
    assert repr(pipeline.policies[1]) == "<Retry 'retry'>"
    again = sw.Pipeline(pipeline.policies[0], sw.Timeout(3))
    assert [policy.name for policy in again.policies] == ["timeout", "timeout-2"]
    assert [shot.name for shot in pipeline.snapshot().policies] == ["timeout", "retry", "timeout-2"]


def test_the_same_object_in_two_pipelines_is_the_same_circuit() -> None:
    """Sharing is by object, as everybody expects."""
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    first, second = sw.Pipeline(breaker), sw.Pipeline(sw.Retry(1), breaker)
    with pytest.raises(OSError):
        first.call(Script(OSError()))
    with pytest.raises(sw.CircuitOpen) as caught:
        second.call(lambda: 1)
    assert caught.value.policy == "circuit_breaker"
    assert caught.value.retry_after == pytest.approx(5, abs=1)


def test_a_single_policy_is_a_pipeline_of_its_own() -> None:
    """Every verb of a pipeline works on a policy alone."""
    retry = sw.Retry(2, on=OSError, backoff=sw.Backoff(base=0.001))

    @retry
    def one() -> int:
        return 1

    @retry(idempotent=True)
    async def two() -> int:
        return 2

    assert (one(), asyncio.run(two())) == (1, 2)
    assert asyncio.run(retry.acall(Script(OSError(), 3).acall)) == 3
    assert retry.snapshot().retried == 1
    with pytest.raises(TypeError, match="keeps no state"):
        sw.Policy().snapshot()
    with pytest.raises(TypeError, match="no layer"):
        sw.Policy().layer(None, lambda run: None)


def test_switched_off_policies_pass_everything_through() -> None:
    """`off()` is for tests that are about something else."""
    breaker = sw.CircuitBreaker()
    breaker.isolate()

    @breaker
    def items() -> Iterator[int]:
        yield from (1, 2)

    @breaker
    async def later() -> AsyncIterator[int]:
        yield 1

    async def collect() -> list[int]:
        return [item async for item in later()]

    with sw.testing.off():
        assert breaker.call(lambda: 1) == 1
        assert asyncio.run(breaker.acall(Script(2).acall)) == 2
        assert list(items()) == [1, 2]
        assert asyncio.run(collect()) == [1]
    with pytest.raises(sw.CircuitOpen):
        breaker.call(lambda: 1)
