"""A limit that follows the latencies: tight when the callee is quick, and able to grow again."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

import seawall as sw
from seawall.testing import Script, VirtualClock, takes


def serve(timeout: sw.AdaptiveTimeout, latencies: Any) -> list[bool]:
    """Call once per latency; which calls came through."""

    async def main() -> list[bool]:
        return [(await timeout.atry_call(Script(takes(latency, 1)).acall)).ok for latency in latencies]

    return asyncio.run(main())


def test_the_limit_follows_the_latencies_down(seawall_time: VirtualClock) -> None:
    """Ten seconds for a call that takes fifty milliseconds is ten seconds of waiting for nothing."""
    timeout, draw = sw.AdaptiveTimeout(), random.Random(1)
    assert timeout.limit == 10
    assert all(serve(timeout, (draw.uniform(0.04, 0.06) for _ in range(400))))
    assert timeout.limit == pytest.approx(0.12, abs=0.03)
    before = seawall_time.monotonic()
    assert serve(timeout, [60]) == [False]
    assert seawall_time.monotonic() - before < 0.2
    shot = timeout.snapshot()
    assert (shot.samples, shot.expired) == (401, 1)


def test_the_limit_grows_again_when_the_callee_is_slower_for_good(seawall_time: VirtualClock) -> None:
    """Cut calls count as "at least so long": otherwise a limit once too tight would cut everything for ever."""
    timeout, draw = sw.AdaptiveTimeout("p95"), random.Random(1)
    serve(timeout, (draw.uniform(0.04, 0.06) for _ in range(400)))
    through = serve(timeout, (draw.uniform(0.4, 0.6) for _ in range(400)))
    assert not any(through[:5])
    assert all(through[-50:])
    assert 0.5 < timeout.limit < 2.5


def test_the_limit_stays_within_its_bounds(seawall_time: VirtualClock) -> None:
    """Neither a callee in memory nor one that hangs may set a limit that makes no sense."""
    quick = sw.AdaptiveTimeout(least=0.2, most=1)
    serve(quick, [0.001] * 50)
    assert quick.limit == 0.2
    slow = sw.AdaptiveTimeout(least=0.2, most=1)
    serve(slow, [5.0] * 60)
    assert slow.limit == 1


def test_errors_of_the_callee_teach_nothing_and_restarting_forgets(seawall_time: VirtualClock) -> None:
    """A callee that fails in a millisecond is not quick."""
    timeout = sw.AdaptiveTimeout()
    for _ in range(30):
        with pytest.raises(OSError):
            timeout.call(Script(OSError()))
    assert timeout.snapshot().samples == 0
    assert timeout.call(lambda: sw.remaining()) == pytest.approx(10)
    timeout.restart()
    timeout.reopen()
    assert timeout.snapshot().samples == 0


@pytest.mark.parametrize("bad", [{"quantile": "95"}, {"quantile": 5}, {"factor": 0.5}, {"least": 20}, {"most": 0}, {"least": 0}])
def test_an_adaptive_timeout_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        sw.AdaptiveTimeout(**bad)
