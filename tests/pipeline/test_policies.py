"""The policies as people use them, one by one and together, in virtual time, sync and async alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock, capture_events, takes

Runner = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Call a script through a pipeline or policy, in either world."""
    if request.param == "sync":
        return lambda policy, script: policy.call(script)
    return lambda policy, script: asyncio.run(policy.acall(script.acall))


@pytest.fixture(params=["sync", "async"])
def run_marked(request: pytest.FixtureRequest) -> Runner:
    """As `run`, for calls marked idempotent."""
    if request.param == "sync":
        return lambda policy, script: policy(idempotent=True).call(script)
    return lambda policy, script: asyncio.run(policy(idempotent=True).acall(script.acall))


class HttpError(Exception):
    def __init__(self, status: int, **headers: str) -> None:
        self.response = SimpleNamespace(status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


# --- retry


def test_a_retry_repeats_transient_errors_and_raises_the_last_one(seawall_time: VirtualClock, run_marked: Runner) -> None:
    """RT1: attempts are counted in all, and the callee's own error leaves, with a note."""
    script = Script(ConnectionResetError("one"), TimeoutError("two"), ConnectionResetError("three"), "never")
    with pytest.raises(ConnectionResetError, match="three") as caught:
        run_marked(sw.Retry(3), script)
    assert len(script.calls) == 3
    assert "no attempts left; 3 attempts made" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ConnectionRefusedError(), 3),
        (HttpError(429), 3),
        (ConnectionResetError(), 1),
        (TimeoutError(), 1),
        (HttpError(503), 1),
        (ValueError(), 1),
        (RuntimeError(), 1),
    ],
)
def test_an_unmarked_call_is_repeated_only_where_nothing_can_have_happened(
    seawall_time: VirtualClock, run: Runner, error: Exception, attempts: int
) -> None:
    """Charging a card twice is worse than failing once."""
    script = Script(error)
    with pytest.raises(type(error)):
        run(sw.Retry(3), script)
    assert len(script.calls) == attempts


def test_the_users_own_judgement_is_repeated_as_said(seawall_time: VirtualClock, run: Runner) -> None:
    """Types, tuples and predicates over error or result need no mark."""
    assert run(sw.Retry(3, on=KeyError), Script(KeyError(), 1)) == 1
    assert run(sw.Retry(3, on=(KeyError, OSError)), Script(OSError(), 1)) == 1
    assert run(sw.Retry(3, on=lambda x: x == "again" or isinstance(x, KeyError)), Script("again", KeyError(), 1)) == 1
    assert run(sw.Retry(3, on=lambda x: x == "again"), Script("again")) == "again"
    with pytest.raises(OSError):
        run(sw.Retry(3, on=KeyError), Script(OSError(), 1))
    with pytest.raises(OSError):
        run(sw.Retry(3, on=lambda x: x == "again"), Script(OSError(), 1))


def test_results_are_retried_when_the_classifier_judges_them(seawall_time: VirtualClock, run_marked: Runner) -> None:
    """A client that returns its 503 instead of raising it is retried all the same."""
    bad, good = SimpleNamespace(status_code=503), SimpleNamespace(status_code=200)
    pipeline = sw.Pipeline(sw.Retry(3), sw.CircuitBreaker(), classifier=sw.DefaultClassifier(responses=True))
    assert run_marked(pipeline, Script(bad, good)) is good
    assert pipeline.policy(sw.CircuitBreaker).snapshot().failed == 1


def test_our_own_rejections_are_repeated_only_when_named(seawall_time: VirtualClock, run: Runner) -> None:
    """`on=Exception` must not hammer an open circuit."""
    breaker = sw.CircuitBreaker()
    breaker.isolate()
    quiet = sw.Pipeline(sw.Retry(3, on=Exception, name="quiet"), breaker)
    with capture_events("breaker.rejected") as refusals:
        with pytest.raises(sw.CircuitOpen):
            run(quiet, Script(1))
        assert len(refusals) == 1
        with pytest.raises(sw.CircuitOpen):
            run(sw.Pipeline(sw.Retry(3, on=lambda error: True, name="predicate"), breaker), Script(1))
        assert len(refusals) == 2
        with pytest.raises(sw.CircuitOpen):
            run(sw.Pipeline(sw.Retry(3, on=(OSError, sw.CircuitOpen), name="named"), breaker), Script(1))
        assert len(refusals) == 5


def test_a_retry_after_is_obeyed_within_its_cap(seawall_time: VirtualClock, run: Runner) -> None:
    """The callee's wish counts, up to what we can stand."""
    before = seawall_time.monotonic()
    assert run(sw.Retry(2), Script(HttpError(429, Retry_After="7"), 1)) == 1
    assert seawall_time.monotonic() - before == pytest.approx(7)
    before = seawall_time.monotonic()
    assert run(sw.Retry(2, retry_after_cap=3), Script(HttpError(429, Retry_After="9999"), 1)) == 1
    assert seawall_time.monotonic() - before == pytest.approx(3)


def test_no_wait_is_begun_that_cannot_fit_the_deadline(seawall_time: VirtualClock, run: Runner) -> None:
    """Sleeping past the deadline only to fail is time stolen from the caller."""
    script = Script(ConnectionRefusedError())
    before = seawall_time.monotonic()
    with sw.deadline(1), pytest.raises(ConnectionRefusedError) as caught:
        run(sw.Retry(5, backoff=sw.Backoff(base=0.6, jitter="none"), budget=None), script)
    assert len(script.calls) == 2
    assert seawall_time.monotonic() - before == pytest.approx(0.6)
    assert "does not fit the deadline" in caught.value.__notes__[0]


def test_a_spent_budget_ends_the_retries_with_the_real_error(seawall_time: VirtualClock, run: Runner) -> None:
    """RT2: and the caller learns what was wrong, not that a budget was."""
    shared = sw.RetryBudget(0.1, floor_per_s=0.1, ttl=10)
    pipeline = sw.Pipeline(sw.Retry(4, budget=shared, backoff=sw.Backoff(base=0.001)))
    script = Script(ConnectionRefusedError())
    with capture_events("retry.") as events, pytest.raises(ConnectionRefusedError) as caught:
        run(pipeline, script)
    assert len(script.calls) == 2
    assert [event.kind for event in events] == ["retry.scheduled", "retry.budget_spent", "retry.gave_up"]
    assert "budget is spent" in caught.value.__notes__[0]
    assert shared.snapshot().calls == 1
    assert pipeline.policy(sw.Retry).snapshot().gave_up == 1


def test_attempts_of_an_outage_stay_within_the_budgets_share(seawall_time: VirtualClock) -> None:
    """RT2 in a pipeline: 3 attempts allowed, yet an outage sees 1.1 per call."""
    pipeline = sw.Pipeline(sw.Retry(3, backoff=sw.Backoff(base=0.001, cap=0.001, jitter="none")))
    script = Script(ConnectionRefusedError())
    for _ in range(3000):
        with pytest.raises(ConnectionRefusedError):
            pipeline.call(script)
        seawall_time.advance(0.01)
    assert len(script.calls) / 3000 == pytest.approx(1.1, abs=0.03)


@pytest.mark.parametrize("mode", ["tokens", "in_flight"])
def test_other_budgets_hold_in_a_pipeline(seawall_time: VirtualClock, mode: Any, run: Runner) -> None:
    """Each way of counting ends a storm of retries, and lets a few through."""
    budget = sw.RetryBudget(0.1, mode=mode)
    retry = sw.Retry(10, budget=budget, backoff=sw.Backoff(base=0.001))
    script = Script(ConnectionRefusedError())
    with pytest.raises(ConnectionRefusedError):
        run(retry, script)
    assert len(script.calls) == {"tokens": 6, "in_flight": 4}[mode]
    assert run(retry, Script(1)) == 1
    assert budget.cell.state.active == 0
    with pytest.raises(ValueError, match="mode"):
        sw.RetryBudget(mode="none")  # type: ignore[arg-type]


def test_a_retry_weighs_what_the_user_says(seawall_time: VirtualClock) -> None:
    """The budget is charged by the call's own size."""
    retry = sw.Retry(5, budget=sw.RetryBudget(0, floor_per_s=1), cost=lambda size: size / 2)
    heavy = Script(ConnectionRefusedError())

    def send(size: int) -> None:
        heavy(size)

    with pytest.raises(ConnectionRefusedError):
        retry.call(send, 10)
    assert len(heavy.calls) == 3
    with pytest.raises(ValueError, match="cost"):
        sw.Retry(cost=0)


def test_nested_retries_are_noticed(seawall_time: VirtualClock, run: Runner) -> None:
    """Three layers of three attempts are 27 calls: the inner one says so once, naming both lines, or yields."""

    def layers(nested: Any) -> int:
        callee = Script(OSError())
        inner = sw.Pipeline(sw.Retry(3, on=OSError, budget=None, nested=nested))
        outer = sw.Retry(3, on=OSError, budget=None)

        class Through(Script):
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return inner.call(callee)

            async def acall(self, *args: Any, **kwargs: Any) -> Any:
                return await inner.acall(callee.acall)

        with pytest.raises(OSError):
            run(outer, Through(1))
        return len(callee.calls)

    assert layers("allow") == 9
    assert layers("yield") == 3
    with pytest.warns(sw.NestedRetryWarning, match=r"SW010.*test_policies.py:\d+ runs inside .*test_policies.py:\d+") as told:
        assert layers("warn") == 9
    assert len(told) == 1


def test_attempt_and_depth_are_told_to_the_callee(seawall_time: VirtualClock, run: Runner) -> None:
    """Headers and logs want the number of the attempt."""
    seen: list[tuple[int, int]] = []

    class Telling(Script):
        def _note(self) -> None:
            context = sw.current()
            seen.append((context.attempt, context.depth))

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self._note()
            return super().__call__()

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            self._note()
            return await super().acall()

    run(sw.Retry(3, on=OSError), Telling(OSError(), OSError(), 1))
    assert seen == [(1, 1), (2, 1), (3, 1)]
    assert sw.current().attempt == 1


def test_attempts_of_a_loop_are_repeated_like_calls(seawall_time: VirtualClock) -> None:
    """Blocks of code that are no function can be retried too."""
    tried = []
    for attempt in sw.Retry(3, on=OSError).attempts():
        with attempt:
            tried.append(attempt.number)
            if attempt.number < 3:
                raise OSError
    assert tried == [1, 2, 3]
    with pytest.raises(OSError):
        for attempt in sw.Retry(2, on=OSError, budget=None).attempts():
            with attempt:
                raise OSError
    with pytest.raises(ValueError, match="out"):
        for attempt in sw.Retry(2, on=OSError).attempts():
            with attempt:
                raise ValueError("out")

    async def main() -> list[int]:
        numbers = []
        async for attempt in sw.Retry(3, on=OSError).attempts():
            with attempt:
                numbers.append(attempt.number)
                if attempt.number < 2:
                    raise OSError
        return numbers

    assert asyncio.run(main()) == [1, 2]


@pytest.mark.parametrize(
    "bad",
    [{"attempts": 0}, {"on": 5}, {"on": ()}, {"on": BaseException}, {"budget": 1}, {"backoff": 1}, {"retry_after_cap": -1}],
)
def test_a_retry_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        sw.Retry(**bad)


# --- timeout


def test_an_attempt_that_takes_too_long_is_cut_and_counts_as_a_failure(seawall_time: VirtualClock) -> None:
    """T1: at the limit, exactly, and the breaker learns of it."""
    pipeline = sw.Pipeline(sw.CircuitBreaker(), sw.Timeout(2), name="p")
    before = seawall_time.monotonic()
    with pytest.raises(sw.TimedOut, match=r"p took longer than the 2 s of timeout") as caught:
        asyncio.run(pipeline.acall(Script(takes(60, 1)).acall))
    assert seawall_time.monotonic() - before == pytest.approx(2)
    assert (caught.value.policy, caught.value.limit) == ("timeout", 2)
    assert pipeline.policy(sw.CircuitBreaker).snapshot().failed == 1
    assert pipeline.policy(sw.Timeout).snapshot().expired == 1


def test_a_task_is_as_it_was_after_a_timeout(seawall_time: VirtualClock) -> None:
    """T1: no cancellation is left behind, whether the body let it through or swallowed it."""

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "swallowed"
        return "done"

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(sw.TimedOut):
            await sw.Timeout(1).acall(asyncio.sleep, 60)
        assert task.cancelling() == 0
        assert await sw.Timeout(1).acall(stubborn) == "swallowed"
        assert task.cancelling() == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_an_outside_cancellation_stays_a_cancellation(seawall_time: VirtualClock) -> None:
    """A task that was cancelled must not be told that it timed out, not even at the same moment."""

    async def main() -> None:
        bulkhead = sw.Bulkhead(1)
        pipeline = sw.Pipeline(bulkhead, sw.Timeout(1))
        task = asyncio.create_task(pipeline.acall(asyncio.sleep, 60))  # type: ignore[arg-type]
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        both = asyncio.create_task(pipeline.acall(asyncio.sleep, 60))  # type: ignore[arg-type]
        asyncio.get_running_loop().call_later(1, both.cancel)
        await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await both
        assert bulkhead.snapshot().taken == 0

    asyncio.run(main())


@pytest.mark.parametrize(("start", "failed"), [(0.0, 1), (4.0, 1), (6.0, 0)])
def test_being_cut_by_an_outer_limit_blames_the_callee_only_after_a_fair_chance(
    seawall_time: VirtualClock, start: float, failed: int
) -> None:
    """An attempt that was begun late says nothing about the callee when the total limit cuts it."""
    breaker = sw.CircuitBreaker()
    late = Script(takes(start, ConnectionRefusedError()), takes(60, 1)) if start else Script(takes(60, 1))
    pipeline = sw.Pipeline(
        sw.Timeout(10), sw.Retry(2, budget=None, backoff=sw.Backoff(base=0.001)), sw.CircuitBreaker(), name="p"
    )
    breaker = pipeline.policy(sw.CircuitBreaker)
    with pytest.raises(sw.TimedOut):
        asyncio.run(pipeline.acall(late.acall))
    assert breaker.snapshot().failed == failed + (1 if start else 0)


def test_the_callers_own_deadline_blames_nobody(seawall_time: VirtualClock, run: Runner) -> None:
    """A caller in a hurry must not open the circuit for everybody else."""
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    pipeline = sw.Pipeline(breaker, sw.Timeout(30))

    async def patient() -> None:
        with sw.deadline(1):
            await pipeline.acall(asyncio.sleep, 60)

    with pytest.raises(sw.TimedOut, match="caller's deadline"):
        asyncio.run(patient())
    assert breaker.state == "closed"
    script = Script(takes(2, TimeoutError()))
    with sw.deadline(1), pytest.raises(TimeoutError):
        run(pipeline, script)
    assert breaker.state == "closed"
    with pytest.raises(TimeoutError):
        run(pipeline, Script(TimeoutError()))
    assert breaker.state == "open"


def test_a_call_is_not_begun_after_its_deadline(seawall_time: VirtualClock, run: Runner) -> None:
    """Nothing is sent when nobody waits for the answer any more."""
    script = Script(1)
    with sw.deadline(1):
        seawall_time.advance(2)
        with pytest.raises(sw.TimedOut, match="before the call began") as caught:
            run(sw.CircuitBreaker(), script)
    assert not script.calls
    assert not caught.value.started


def test_plain_functions_are_handed_the_nearest_deadline(seawall_time: VirtualClock) -> None:
    """A sync callee can size its own socket timeouts."""
    pipeline = sw.Pipeline(sw.Timeout(10), sw.Timeout(2, connect=0.5, read="1.5s", name="attempt"))

    def look() -> tuple[Any, ...]:
        context = sw.current()
        return sw.remaining(), context.connect, context.read

    assert pipeline.call(look) == (pytest.approx(2), 0.5, 1.5)
    with sw.deadline(1):
        assert pipeline.call(look)[0] == pytest.approx(1)
    assert sw.remaining() is None
    slow_key = sw.Keyed(lambda: seawall_time.advance(2), lambda key: sw.Bulkhead(1))
    with pytest.raises(sw.TimedOut, match="no time is left to begin"):
        sw.Pipeline(sw.Timeout(1), slow_key, sw.Timeout(1, name="inner")).call(look)


@pytest.mark.parametrize(
    "bad", [{"seconds": 0}, {"connect": 3}, {"read": 0}, {"first_item": -1}, {"item": "x"}, {"sync": "process"}]
)
def test_a_timeout_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        sw.Timeout(**{"seconds": 2, **bad})


# --- circuit breaker


def test_a_circuit_opens_probes_and_closes(seawall_time: VirtualClock, run: Runner) -> None:
    """B1 and B2, end to end."""
    breaker = sw.CircuitBreaker(consecutive_failures=2, probes=1, name="stock")
    with capture_events("breaker.") as events:
        for _ in range(2):
            with pytest.raises(OSError):
                run(breaker, Script(OSError()))
        with pytest.raises(sw.CircuitOpen, match="stock is open") as caught:
            run(breaker, Script(1))
        assert (caught.value.policy, caught.value.retry_after) == ("stock", pytest.approx(5))
        seawall_time.advance(5)
        assert run(breaker, Script(1)) == 1
    assert breaker.state == "closed"
    kinds = [event.kind for event in events]
    assert kinds == ["breaker.opened", "breaker.rejected", "breaker.half_opened", "breaker.closed"]
    assert events[0].data["reason"] == "2 failures in a row"
    shot = breaker.snapshot()
    assert (shot.opened, shot.rejected, shot.retry_after) == (1, 1, 0)


def test_waiting_in_a_queue_is_no_slow_call(seawall_time: VirtualClock) -> None:
    """A full bulkhead of ours must not open the circuit of a fast callee."""
    breaker = sw.CircuitBreaker(slow_call=1.5, slow_ratio=0.1, minimum_calls=1)
    pipeline = sw.Pipeline(breaker, sw.Bulkhead(1, queue=5))

    async def main() -> None:
        await asyncio.gather(*(pipeline.acall(Script(takes(1, 1)).acall) for _ in range(4)))

    asyncio.run(main())
    shot = breaker.snapshot()
    assert (shot.calls, shot.slow, shot.opened) == (4, 0, 0)
    with pytest.raises(sw.CircuitOpen):
        for _ in range(2):
            asyncio.run(pipeline.acall(Script(takes(2, 1)).acall))


def test_the_user_says_what_a_failure_is(run: Runner) -> None:
    """Types narrow it, a predicate sees results too, and neither ever blames a cancellation or a rejection."""
    narrow = sw.CircuitBreaker(consecutive_failures=1, failures=(OSError,))
    with pytest.raises(KeyError):
        run(narrow, Script(KeyError()))
    assert narrow.state == "closed"
    with pytest.raises(OSError):
        run(narrow, Script(OSError()))
    assert narrow.state == "open"
    odd = sw.CircuitBreaker(consecutive_failures=1, failures=lambda x: x == "bad" or isinstance(x, KeyError))
    assert run(odd, Script("good")) == "good"
    with pytest.raises(OSError):
        run(odd, Script(OSError()))
    assert odd.state == "closed"
    assert run(odd, Script("bad")) == "bad"
    assert odd.state == "open"
    odd.reset()
    with pytest.raises(KeyError):
        run(odd, Script(KeyError()))
    assert odd.state == "open"
    full = sw.Bulkhead(1)
    outside = sw.CircuitBreaker(consecutive_failures=1, failures=lambda x: True, name="outside")
    with full.permit(), pytest.raises(sw.BulkheadFull):
        run(sw.Pipeline(outside, full), Script(1))
    assert outside.state == "closed"
    with pytest.raises(TypeError, match="failures"):
        sw.CircuitBreaker(failures=3)  # type: ignore[arg-type]


def test_a_predicate_that_raises_leaves_no_permit_behind(run: Runner) -> None:
    """The user's own bug must not take a seat or a probe for ever."""

    def broken(value: Any) -> bool:
        raise ZeroDivisionError

    breaker = sw.CircuitBreaker(consecutive_failures=1, failures=broken)
    bulkhead = sw.Bulkhead(1)
    pipeline = sw.Pipeline(bulkhead, breaker)
    for script in (Script(1), Script(OSError())):
        with pytest.raises(ZeroDivisionError):
            run(pipeline, script)
    assert bulkhead.snapshot().taken == 0
    assert breaker.state == "closed"


def test_people_can_take_a_circuit_into_their_hands(run: Runner) -> None:
    """Isolate, observe, disable, reset."""
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    breaker.isolate()
    with pytest.raises(sw.CircuitOpen, match="isolated by hand"):
        run(breaker, Script(1))
    breaker.observe()
    with capture_events("breaker.would_reject") as events:
        for _ in range(3):
            with pytest.raises(OSError):
                run(breaker, Script(OSError()))
    assert len(events) == 2
    breaker.disable()
    assert (run(breaker, Script(1)), breaker.state) == (1, "disabled")
    breaker.reset()
    assert breaker.state == "closed"


def test_an_observing_pipeline_refuses_nothing_and_counts_what_it_would_have(run: Runner) -> None:
    """Shadow mode is how a limit gets into production without an incident."""
    bulkhead, limiter = sw.Bulkhead(1), sw.RateLimiter("1/h")
    shadow = sw.Pipeline(limiter, bulkhead, observe=True)
    with bulkhead.permit(), capture_events() as events:
        assert run(shadow, Script(1)) == 1
        assert run(shadow, Script(1)) == 1
    assert bulkhead.snapshot().rejected == 2
    assert limiter.snapshot().rejected == 1
    assert {"bulkhead.would_reject", "limiter.would_reject"} <= {event.kind for event in events}
    assert bulkhead.snapshot().taken == 0
    assert shadow.snapshot().observes


# --- bulkhead, fallback, limiter, keyed


def test_a_full_bulkhead_refuses_at_once_or_after_its_wait(seawall_time: VirtualClock, run: Runner) -> None:
    """BH1: a bounded queue, and a bounded time in it."""
    bulkhead = sw.Bulkhead(1, queue=1, wait=2)
    before = seawall_time.monotonic()
    with bulkhead.permit():
        with pytest.raises(sw.BulkheadFull, match="no seat free within 2 s"):
            run(bulkhead, Script(1))
        assert seawall_time.monotonic() - before == pytest.approx(2)
        with sw.deadline(1), pytest.raises((sw.BulkheadFull, sw.TimedOut)):
            run(bulkhead, Script(1))
        assert seawall_time.monotonic() - before == pytest.approx(3)
    assert run(bulkhead, Script(1)) == 1
    bulkhead.resize(3)
    assert bulkhead.snapshot().limit == 3


def test_a_fallback_answers_for_what_it_takes(run: Runner) -> None:
    """A lesser answer, never for what it was not asked about."""
    assert run(sw.Fallback("stale"), Script(OSError())) == "stale"
    assert run(sw.Fallback(lambda error: type(error).__name__), Script(OSError())) == "OSError"
    assert run(sw.Fallback(0, on=(OSError,)), Script(5)) == 5
    assert run(sw.Fallback(0, on=lambda error: "x" in str(error)), Script(OSError("x"))) == 0
    with pytest.raises(KeyError):
        run(sw.Fallback(0, on=OSError), Script(KeyError()))
    for bad in (3, (), BaseException):
        with pytest.raises(TypeError, match="on must"):
            sw.Fallback(0, on=bad)  # type: ignore[arg-type]
    fallback = sw.Fallback(0)
    run(fallback, Script(OSError()))
    assert fallback.snapshot().used == 1


def test_an_async_fallback_is_awaited_and_a_sync_one_may_not_need_it() -> None:
    """The fallback may itself call somebody."""

    async def other(error: Exception) -> str:
        await asyncio.sleep(0)
        return "other"

    assert asyncio.run(sw.Fallback(other).acall(Script(OSError()).acall)) == "other"
    with pytest.raises(sw.WrongTwin):
        sw.Fallback(other).call(Script(OSError()))


def test_one_policy_per_key_bounded_and_never_forgetful_of_an_open_circuit(seawall_time: VirtualClock, run: Runner) -> None:
    """A host that is down must stay down however many others are asked."""
    hosts = sw.Keyed("host", lambda host: sw.CircuitBreaker(consecutive_failures=1), max_keys=3, name="hosts")

    @hosts
    def get(host: str, *, fail: bool = False) -> str:
        if fail:
            raise OSError
        return host

    with pytest.raises(OSError):
        get("down", fail=True)
    with pytest.raises(sw.CircuitOpen) as caught:
        get(host="down")
    assert caught.value.policy == "hosts[down]"
    for number in range(10):
        assert get(f"host-{number}") == f"host-{number}"
        seawall_time.advance(0.01)
    with capture_events("keyed.") as events:
        shot = hosts.snapshot()
        assert "down" in shot.keys
        assert len(shot.keys) == 3
        assert shot.overflowed == 8
        get("yet another")
    assert not events
    seawall_time.advance(60)
    get("late")
    assert "late" in hosts.snapshot().keys
    assert "down" in hosts.snapshot().keys
    with pytest.raises(sw.Misplaced, match="no parameter 'host'"):
        hosts.call(lambda: 1)


def test_when_most_circuits_are_open_the_fault_is_ours_and_calls_pass(seawall_time: VirtualClock) -> None:
    """A broken network card of ours must not close the door to every host in the world."""
    hosts = sw.Keyed("host", lambda host: sw.CircuitBreaker(consecutive_failures=1, open_for=60), max_open=0.5, name="hosts")

    @hosts
    def get(host: int, *, fail: bool = False) -> int:
        if fail:
            raise OSError
        return host

    for host in range(3):
        with pytest.raises(OSError):
            get(host, fail=True)
    with pytest.raises(sw.CircuitOpen):
        get(0)
    with capture_events("keyed.") as events:
        for host in range(3, 10):
            seawall_time.advance(0.2)
            if host < 6:
                with pytest.raises(OSError):
                    get(host, fail=True)
            else:
                assert get(host) == host
        seawall_time.advance(0.2)
        assert len(hosts.snapshot().keys) == 10
        assert get(0) == 0
        assert get(1) == 1
    assert [(event.kind, event.data["open"], event.data["keys"]) for event in events] == [("keyed.panicking", 6, 10)]
    for host in range(10, 14):
        get(host)
    seawall_time.advance(0.2)
    with pytest.raises(sw.CircuitOpen):
        get(0)
    with pytest.raises(ValueError, match="max_open"):
        sw.Keyed("x", lambda x: sw.CircuitBreaker(), max_open=0)


def test_a_keyed_circuit_pauses_a_throttled_key_only(seawall_time: VirtualClock) -> None:
    """A 429 for one tenant says nothing about the others."""
    tenants = sw.Keyed(lambda tenant, *rest: tenant, lambda tenant: sw.CircuitBreaker())
    throttled = Script(HttpError(429, Retry_After="3"))
    with pytest.raises(HttpError):
        tenants.call(throttled, "a")
    with pytest.raises(sw.CircuitOpen):
        tenants.call(lambda tenant: 1, "a")
    assert tenants.call(lambda tenant: 1, "b") == 1
    seawall_time.advance(3)
    assert tenants.call(lambda tenant: 1, "a") == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((5, lambda key: sw.Bulkhead(1)), "key"),
        (("", lambda key: sw.Bulkhead(1)), "key"),
        (("x", 5), "make"),
        (("x", lambda key: 5), "make must return a policy"),
    ],
)
def test_a_keyed_policy_that_cannot_work_is_refused_when_made(arguments: Any, error: str) -> None:
    """The error names the parameter."""
    with pytest.raises(TypeError, match=error):
        sw.Keyed(*arguments)


def test_a_maker_that_stops_making_policies_is_told_so() -> None:
    """The second key must not get a broken guard."""
    made: list[Any] = [sw.Bulkhead(1), 5]
    keyed = sw.Keyed(lambda x: x, lambda key: made.pop(0))
    with pytest.raises(sw.Misplaced, match="no policy"):
        keyed.call(lambda x: x, 1)


def test_a_limiter_in_a_pipeline_spends_by_key_and_cost(seawall_time: VirtualClock, run: Runner) -> None:
    """One tenant's burst is not another's."""
    limiter = sw.RateLimiter("10/s", key="tenant", cost=lambda tenant, n: n)

    @limiter
    def read(tenant: str, n: int) -> int:
        return n

    assert read("a", 10) == 10
    with pytest.raises(sw.RateLimited) as caught:
        read("a", 5)
    assert caught.value.retry_after == pytest.approx(0.5)
    assert read("b", 10) == 10
    with pytest.raises(sw.RateLimited) as never:
        read("c", 11)
    assert never.value.retry_after == float("inf")
    waiting = sw.RateLimiter("10/s burst 1", wait=1)
    before = seawall_time.monotonic()
    for _ in range(3):
        run(waiting, Script(1))
    assert seawall_time.monotonic() - before == pytest.approx(0.2)
    with sw.deadline(0.05), pytest.raises(sw.RateLimited):
        run(waiting, Script(1))


# --- permit blocks


def test_a_block_is_guarded_like_a_call() -> None:
    """Code that is no function deserves a guard as well."""
    breaker = sw.CircuitBreaker(consecutive_failures=1)
    with breaker.permit() as permit:
        permit.settle("fine")
    with pytest.raises(OSError), breaker.permit():
        raise OSError
    assert breaker.state == "open"
    with pytest.raises(sw.CircuitOpen), breaker.permit():
        raise AssertionError("never entered")
    breaker.reset()
    with breaker.permit() as permit:
        permit.settle(ConnectionResetError())
    assert breaker.state == "open"
    with pytest.raises(RuntimeError, match="inside its block"):
        breaker.permit().settle(1)
    breaker.reset()
    block = breaker.permit()
    with block, pytest.raises(RuntimeError, match="entered once"), block:
        pass


def test_a_block_under_several_policies_gives_everything_back(seawall_time: VirtualClock) -> None:
    """Half-entered blocks leave nothing behind, and a limit that cuts one blames the callee."""
    bulkhead, breaker = sw.Bulkhead(1), sw.CircuitBreaker(consecutive_failures=1)
    pipeline = sw.Pipeline(bulkhead, breaker, sw.Timeout(1))

    async def main() -> None:
        with pytest.raises(sw.TimedOut):
            async with pipeline.permit():
                await asyncio.sleep(5)
        assert breaker.state == "open"
        with pytest.raises(sw.CircuitOpen):
            async with pipeline.permit():
                raise AssertionError("never entered")
        breaker.reset()
        async with pipeline.permit():
            assert sw.remaining() == pytest.approx(1)
        queue = sw.Pipeline(sw.Timeout(1), sw.Bulkhead(1, queue=1, name="queue"))
        async with queue.policy("queue").permit():  # type: ignore[type-var]
            with pytest.raises((sw.TimedOut, sw.BulkheadFull)):
                async with queue.permit():
                    raise AssertionError("never entered")
        assert queue.policies[1].snapshot().waiting == 0

    asyncio.run(main())
    assert bulkhead.snapshot().taken == 0
    assert sw.remaining() is None


@pytest.mark.parametrize(
    "policy",
    [
        sw.Retry(),
        sw.Fallback(0),
        sw.Keyed("x", lambda x: sw.Bulkhead(1)),
        sw.Bulkhead.threads(1),
        sw.Timeout(1, sync="thread"),
    ],
)
def test_a_policy_that_cannot_hold_a_block_says_so(policy: sw.Policy) -> None:
    """A permit block around a Retry would run once and pretend."""
    with pytest.raises(sw.Misplaced, match="cannot guard a block"):
        sw.Pipeline(sw.CircuitBreaker(), policy).permit()


# --- explain


def test_explain_works_out_the_worst_case() -> None:
    """The numbers that nobody computes before the outage."""
    pipeline = sw.Pipeline(
        sw.Timeout(10, name="total"),
        sw.Retry(4),
        sw.CircuitBreaker(slow_call=1, window_calls=50),
        sw.RateLimiter("100/s", wait=0.5),
        sw.Bulkhead(20, queue=50, wait=1),
        sw.Timeout(2, name="attempt"),
        name="stock",
    )
    told = pipeline.explain()
    assert (told.attempts, told.wall_time, told.load_factor) == (4, 10, 1.1)
    assert "stock: at most 4 attempts, 10 s" in str(told)
    unbounded = sw.Pipeline(sw.Retry(3, backoff=sw.Backoff(base=1, cap=1)), sw.Bulkhead(1, queue=1)).explain()
    assert unbounded.wall_time == float("inf")
    assert "no limit" in str(unbounded)
    bounded = sw.Pipeline(sw.Retry(3, backoff=sw.Backoff(base=1, cap=1)), sw.Bulkhead(1, queue=1, wait=1), sw.Timeout(2))
    assert bounded.explain().wall_time == 3 * 3 + 2


@pytest.mark.parametrize(
    ("policies", "code"),
    [
        ((sw.Timeout(1),), "SW001"),
        ((sw.CircuitBreaker(), sw.Retry()), "SW002"),
        ((sw.Retry(budget=None),), "SW003"),
        ((sw.Timeout(0.2), sw.Retry(5)), "SW004"),
        ((sw.Hedge(), sw.Retry()), "SW005"),
        ((sw.Fallback(0), sw.CircuitBreaker()), "SW006"),
        ((sw.Bulkhead(1), sw.RateLimiter("1/s", wait=1)), "SW007"),
        ((sw.Keyed("x", lambda x: sw.CircuitBreaker(failure_ratio=None)), sw.Retry()), "SW002"),
    ],
)
def test_explain_finds_what_would_surprise(policies: tuple[sw.Policy, ...], code: str) -> None:
    """Each finding has a stable code, a reason and a fix."""
    findings = {finding.code: finding for finding in sw.Pipeline(*policies).explain().findings}
    assert code in findings
    assert findings[code].fix in str(findings[code])
    budget = sw.RetryBudget()
    clean = sw.Pipeline(
        sw.Fallback(0, on=OSError),
        sw.Timeout(30, sync="thread"),
        sw.Retry(budget=budget),
        sw.Hedge("p95", budget=budget),
        sw.CircuitBreaker(),
        sw.RateLimiter("1/s", wait=1),
        sw.Bulkhead(1),
    )
    assert clean.explain().findings == ()


def test_explain_counts_copies_and_the_share_of_capacity_that_is_safe() -> None:
    """A retrying client keeps a collapse up when load times attempts per call is above one."""
    budget = sw.RetryBudget(0.25)
    told = sw.Pipeline(sw.Retry(3, budget=budget), sw.Hedge(copies=2, budget=budget)).explain()
    assert (told.attempts, told.load_factor, told.safe_load) == (9, 1.25, 0.8)
    bare = sw.Pipeline(sw.Retry(3, budget=None), sw.Hedge(copies=1, budget=None)).explain()
    assert (bare.attempts, bare.load_factor, bare.safe_load) == (6, 6, pytest.approx(1 / 6, abs=1e-5))
    assert sw.Pipeline(sw.Hedge("p99")).explain().load_factor == 1.1
    assert "after p99" in str(sw.Pipeline(sw.Hedge("p99")).explain())


def test_the_recommended_order_is_found_from_any_order() -> None:
    """Nobody should have to know it by heart."""
    policies = [
        sw.Timeout(2, name="attempt"), sw.Bulkhead(5), sw.Fallback(0), sw.RateLimiter("1/s"), sw.CircuitBreaker(),
        sw.Timeout(10, name="total"), sw.Hedge(), sw.Retry(),
    ]  # fmt: skip
    pipeline = sw.Pipeline.recommended(*policies, name="stock")
    kinds = ["fallback", "total", "retry", "hedge", "circuit_breaker", "rate_limiter", "bulkhead", "attempt"]
    assert [policy.name for policy in pipeline.policies] == kinds
    assert [p.name for p in sw.Pipeline.recommended(sw.Timeout(1), sw.Retry()).policies] == ["retry", "timeout"]
    adaptive = sw.Pipeline.recommended(sw.AdaptiveTimeout(most=10), sw.Timeout(5), sw.Retry())
    assert [p.name for p in adaptive.policies] == ["timeout", "retry", "adaptive_timeout"]
    assert adaptive.order().splitlines()[0].startswith("1. timeout: outside Retry")
    for twice in (sw.Retry, sw.CircuitBreaker, sw.Hedge, sw.Throttle, sw.AdaptiveLimit):
        with pytest.raises(ValueError, match="want the same place"):
            sw.Pipeline.recommended(twice(), twice())
    with pytest.raises(ValueError, match="want the same place"):
        sw.Pipeline.recommended(sw.Timeout(1), sw.Timeout(2), sw.Timeout(3))
    with pytest.raises(TypeError, match="no recommended place"):
        sw.Pipeline.recommended(sw.RetryBudget())


# --- threads


def test_a_thread_that_is_given_up_on_keeps_its_seat_until_it_ends() -> None:
    """A limit of one never means one live call plus the ones nobody waits for."""
    go_on, pipeline = threading.Event(), sw.Pipeline(sw.Bulkhead(1), sw.Timeout(0.5, sync="thread"))
    bulkhead, timeout = pipeline.policy(sw.Bulkhead), pipeline.policy(sw.Timeout)
    ended = threading.Event()

    def hang() -> None:
        go_on.wait(10)

    with pytest.raises(sw.TimedOut):
        pipeline.call(hang)
    assert (bulkhead.snapshot().taken, timeout.snapshot().abandoned) == (1, 1)
    with pytest.raises(sw.BulkheadFull):
        pipeline.call(lambda: 1)
    go_on.set()
    for _ in range(1000):
        if bulkhead.snapshot().taken == 0:
            break
        ended.wait(0.005)
    assert (bulkhead.snapshot().taken, timeout.snapshot().abandoned) == (0, 0)
    assert pipeline.call(lambda: 1) == 1
    with pytest.raises(KeyError):
        pipeline.call(Script(KeyError()))


def test_a_retry_around_abandoned_threads_keeps_every_seat_apart() -> None:
    """Each attempt's seat waits for its own thread, and no other."""
    first = threading.Event()
    calls: list[int] = []
    pipeline = sw.Pipeline(
        sw.Retry(2, on=sw.TimedOut, backoff=sw.Backoff(base=0.001)), sw.Bulkhead(2), sw.Timeout(1, sync="thread")
    )

    def hang_once() -> str:
        calls.append(1)
        if len(calls) == 1:
            first.wait(10)
        return "done"

    assert pipeline.call(hang_once) == "done"
    assert pipeline.policy(sw.Bulkhead).snapshot().taken == 1
    first.set()
    for _ in range(1000):
        if pipeline.policy(sw.Bulkhead).snapshot().taken == 0:
            break
        threading.Event().wait(0.005)
    assert pipeline.policy(sw.Bulkhead).snapshot().taken == 0


def test_too_many_abandoned_threads_shed_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that never end must not pile up without an end."""
    monkeypatch.setattr("seawall.pipeline.threads.ABANDONED_MAX", 1)
    go_on, timeout = threading.Event(), sw.Timeout(0.02, sync="thread")
    with pytest.raises(sw.TimedOut):
        timeout.call(lambda: go_on.wait(10))
    with pytest.raises(sw.Overloaded, match="worker threads that still run"):
        timeout.call(lambda: 1)
    go_on.set()


def test_context_and_deadline_cross_into_our_threads(seawall_time: VirtualClock) -> None:
    """A worker thread must know whose call it runs and how long it has."""
    pipeline = sw.Pipeline(sw.Timeout(5, sync="thread"))

    def look() -> tuple[float | None, str, str | None]:
        return sw.remaining(), sw.current().priority, sw.call_key()

    with sw.priority("critical"):
        left, level, key = pipeline(idempotency_key=lambda: "k").call(look)
    assert (left, level, key) == (pytest.approx(5), "critical", "k")
    with sw.deadline(1):
        assert pipeline.call(look)[0] == pytest.approx(1)
    nested = sw.Pipeline(sw.Timeout(1, name="outer"), sw.Timeout(5, sync="thread", name="inner"))
    with pytest.raises(sw.TimedOut):
        nested.call(seawall_time.sleep, 3)
    with sw.deadline(1):
        with pytest.raises(sw.TimedOut):
            pipeline.call(seawall_time.sleep, 3)


def test_a_dependency_has_a_thread_pool_of_its_own() -> None:
    """A slow dependency takes its own threads, and nobody else's."""
    pool = sw.Bulkhead.threads(2, queue=1, name="reports")
    go_on = threading.Event()
    names: list[str] = []

    def work() -> int:
        names.append(threading.current_thread().name)
        go_on.wait(10)
        return 7

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(pool.acall(work)) for _ in range(4)]  # type: ignore[arg-type]
        while len(names) < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    assert sorted(map(str, results)) == ["7", "7", "7", str(next(r for r in results if isinstance(r, sw.BulkheadFull)))]
    assert all(name.startswith("seawall-reports") for name in names)
    assert pool.call(lambda: 3) == 3
    assert pool.snapshot().taken == 0
    with pytest.raises(TypeError, match="fixed size"):
        pool.resize(3)


def test_a_pool_call_cut_by_an_async_limit_keeps_its_seat_until_the_thread_ends() -> None:
    """Cancelling the waiter does not end the work."""
    go_on = threading.Event()
    pipeline = sw.Pipeline(sw.Timeout(0.05), sw.Bulkhead.threads(1))
    pool = pipeline.policies[1]

    async def main() -> None:
        with pytest.raises(sw.TimedOut):
            await pipeline.acall(lambda: go_on.wait(10))  # type: ignore[arg-type]
        assert pool.snapshot().taken == 1
        go_on.set()
        while pool.snapshot().taken:
            await asyncio.sleep(0.001)

    asyncio.run(main())
    with sw.deadline(0.05), pytest.raises(sw.TimedOut):
        go_on.clear()
        pool.call(lambda: go_on.wait(10))
    go_on.set()


def test_a_worker_whose_loop_is_gone_wakes_nobody() -> None:
    """A loop that was closed while its worker ran is no error in that worker."""
    go_on, ended = threading.Event(), threading.Event()
    pool = sw.Bulkhead.threads(1)

    def work() -> None:
        go_on.wait(10)
        ended.set()

    async def main() -> None:
        task = asyncio.create_task(pool.acall(work))  # type: ignore[arg-type]
        await asyncio.sleep(0.02)
        task.cancel()

    asyncio.run(main())
    go_on.set()
    assert ended.wait(10)
    assert pool.call(lambda: 1) == 1


def _unused(value: Awaitable[Any]) -> None: ...
