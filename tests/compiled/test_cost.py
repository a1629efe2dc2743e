"""What a guarded call executes, counted in Python instructions: a regression shows here whatever mood the machine is in.

Every instruction of every Python frame of one guarded call of an empty function is counted, less those of the bare call. The
bounds are what was measured on 3.11, where it is most, and a little; a change that needs more has to say why and move them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import seawall as sw
from seawall.pipeline import compiler

pytestmark = pytest.mark.skipif(not compiler.enabled(), reason="SEAWALL_COMPILE=0: nothing is compiled that could be counted")


def bare() -> None:
    """Does nothing."""


async def abare() -> None:
    """Does nothing, later."""


def instructions(call: Callable[[], Any], versus: Callable[[], Any] = bare) -> int:
    """How many instructions one call executes more than `versus`, once everything has been called before."""
    for _ in range(3):
        call()
    count = _by_tracing if sys.version_info < (3, 12) else _by_monitoring
    return count(call) - count(versus)


def _by_tracing(call: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def _by_monitoring(call: Callable[[], Any]) -> int:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    tool, counts = 4, [0]

    def count(*_: Any) -> None:
        counts[0] += 1

    monitoring.use_tool_id(tool, "seawall tests")
    try:
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, count)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        call()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    return counts[0]


def drive(coroutine: Any) -> None:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it suspended")


def four() -> list[Any]:
    """Rate limit, retry, breaker, bulkhead."""
    return [sw.RateLimiter("1000000000/s"), sw.Retry(3), sw.CircuitBreaker(window_calls=100), sw.Bulkhead(10, queue=10)]


CASES: dict[str, tuple[Callable[[], sw.Pipeline], int]] = {
    "nothing": (lambda: sw.Pipeline(), 13),
    "breaker, count window": (lambda: sw.Pipeline(sw.CircuitBreaker(window_calls=100)), 26),
    "breaker, time window": (lambda: sw.Pipeline(sw.CircuitBreaker()), 38),
    "retry": (lambda: sw.Pipeline(sw.Retry(3, budget=None)), 14),
    "bulkhead": (lambda: sw.Pipeline(sw.Bulkhead(10, queue=10)), 42),
    "limiter": (lambda: sw.Pipeline(sw.RateLimiter("1000000000/s")), 41),
    "four policies": (lambda: sw.Pipeline(*four()), 93),
    "sync timeout": (lambda: sw.Pipeline(sw.Timeout(1)), 47),
}


@pytest.mark.parametrize("case", CASES)
def test_a_guarded_call_executes_no_more_than_it_did(case: str) -> None:
    """Nanoseconds depend on the machine, instructions do not."""
    make, bound = CASES[case]
    guarded = make()(bare)
    assert instructions(guarded) <= bound


def test_an_async_guard_executes_no_more_than_it_did() -> None:
    """The same for coroutines."""
    guarded = sw.Pipeline(*four())(abare)
    assert instructions(lambda: drive(guarded()), lambda: drive(abare())) <= 96


def test_the_plain_guards_would_not_pass() -> None:
    """A bound that everything keeps would be none."""
    pipeline = sw.Pipeline(sw.CircuitBreaker(window_calls=100))
    assert instructions(lambda: pipeline.plain_sync(bare, (), {}, compiler.UNMARKED)) > 400
