"""AdaptiveLimit as people use it: refusals, queue, priorities, drops, cancellation, sync and async alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import seawall as sw
from seawall.policies.limit_algorithms import Aimd
from seawall.testing import Script, VirtualClock, capture_events, takes

Runner = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Runner:
    """Call a script through a pipeline or policy, in either world."""
    if request.param == "sync":
        return lambda policy, script: policy.call(script)
    return lambda policy, script: asyncio.run(policy.acall(script.acall))


def test_a_call_above_the_limit_is_refused_as_overloaded(seawall_time: VirtualClock) -> None:
    """The caller learns at once who refused it and why."""
    limit = sw.AdaptiveLimit(initial=1, name="stock")
    with limit.permit(), pytest.raises(sw.Overloaded, match="stock has its limit of 1 calls at once reached") as caught:
        limit.call(lambda: 1)
    assert (caught.value.policy, caught.value.retry_after) == ("stock", None)
    shot = limit.snapshot()
    assert (shot.limit, shot.taken, shot.rejected, shot.rtt) == (1, 0, 1, None)
    assert limit.at_rest
    assert limit.wait == 0


def test_the_limit_grows_with_what_the_callee_stands_and_tells_so(seawall_time: VirtualClock) -> None:
    """What was learned is seen in the snapshot and in the events."""

    async def main() -> None:
        with capture_events("adaptive_limit.moved") as events:
            for _ in range(40):
                await asyncio.gather(*(limit.acall(seawall_time.asleep, 0.1) for _ in range(limit.limit)))
        assert events[0].data == {"limit": 11, "before": 10, "rtt": pytest.approx(0.1)}

    limit = sw.AdaptiveLimit(initial=10, most=15)
    asyncio.run(main())
    shot = limit.snapshot()
    assert (shot.limit, shot.taken, shot.rtt) == (15, 0, pytest.approx(0.1))
    assert not limit.at_rest
    limit.restart()
    assert (limit.limit, limit.snapshot().windows) == (10, 0)


@pytest.mark.parametrize(
    ("error", "drops"),
    [
        (TimeoutError(), True),
        (SimpleNamespace(status_code=503), True),
        (ConnectionRefusedError(), False),
        (RuntimeError(), False),
        (ValueError(), False),
        (SimpleNamespace(status_code=429), False),
    ],
)
def test_timeouts_and_refusals_lower_the_limit_and_other_errors_do_not(
    seawall_time: VirtualClock, run: Runner, error: Any, drops: bool
) -> None:
    """A bug in the callee is no reason to call it less."""
    limit = sw.AdaptiveLimit(initial=20)
    pipeline = sw.Pipeline(limit, classifier=sw.DefaultClassifier(responses=True))
    script = Script(*[takes(0.2, error)] * 20)
    for _ in range(20):
        if isinstance(error, Exception):
            with pytest.raises(type(error)):
                run(pipeline, script)
        else:
            run(pipeline, script)
    assert (limit.limit < 20) is drops
    assert limit.snapshot().taken == 0


@pytest.mark.parametrize("outer", [True, False])
def test_an_attempt_cut_by_a_timeout_counts_as_dropped_wherever_the_timeout_stands(
    seawall_time: VirtualClock, outer: bool
) -> None:
    """A callee that answers nobody in time must be called less, though it never says no."""

    async def main() -> None:
        for _ in range(30):
            with pytest.raises(sw.TimedOut):
                await pipeline.acall(seawall_time.asleep, 9)

    limit = sw.AdaptiveLimit(initial=20, algorithm=Aimd(slow=60))
    timeout = sw.Timeout(1)
    pipeline = sw.Pipeline(timeout, limit) if outer else sw.Pipeline(limit, timeout)
    asyncio.run(main())
    assert limit.limit < 19


def test_priorities_decide_who_is_refused_first(seawall_time: VirtualClock) -> None:
    """Under overload the nightly export goes before the payment."""
    limit = sw.AdaptiveLimit(initial=10)
    blocks = [limit.permit() for _ in range(11)]
    for block in blocks[:7]:
        block.__enter__()
    with sw.priority("sheddable"):
        assert isinstance(limit.try_call(lambda: 1).rejection, sw.Overloaded)
    for block in blocks[7:10]:
        block.__enter__()
    assert isinstance(limit.try_call(lambda: 1).rejection, sw.Overloaded)
    with sw.priority("critical"):
        assert limit.call(lambda: 1) == 1
    for block in blocks[:10]:
        block.__exit__(None, None, None)


def test_waiters_are_served_in_time_or_refused(seawall_time: VirtualClock) -> None:
    """A queue takes bursts; the wait and the caller's deadline bound it."""

    async def body(index: int) -> int:
        await seawall_time.asleep(0.4)
        return index

    async def main() -> list[Any]:
        calls = [limit.atry_call(body, index) for index in range(4)]
        return [result.value if result.rejection is None else str(result.rejection) for result in await asyncio.gather(*calls)]

    limit = sw.AdaptiveLimit(initial=1, most=1, queue=2, wait="500ms", name="stock")
    assert limit.wait == 0.5
    assert asyncio.run(main()) == [
        0,
        1,
        "stock had no room within 0.5 s",
        "stock has its limit of 1 calls at once reached and its queue of 2 is full",
    ]
    patient = sw.AdaptiveLimit(initial=1, queue=2)
    assert patient.wait == float("inf")
    with patient.permit(), sw.deadline(1):
        before = seawall_time.monotonic()
        assert isinstance(patient.try_call(lambda: 1).rejection, sw.Overloaded)
        assert seawall_time.monotonic() - before == pytest.approx(1)
    assert sw.Pipeline(sw.Timeout(9), patient).explain().wall_time == 9


def test_a_worker_thread_that_was_given_up_on_keeps_its_place_until_it_ends(seawall_time: VirtualClock) -> None:
    """A place that is free while its call still runs is a limit that does not hold."""
    limit = sw.AdaptiveLimit(initial=2)
    pipeline = sw.Pipeline(limit, sw.Timeout(1, sync="thread"))
    taken: list[int] = []

    def work() -> None:
        seawall_time.sleep(3)
        taken.append(limit.snapshot().taken)

    with pytest.raises(sw.TimedOut):
        pipeline.call(work)
    assert limit.snapshot().taken == 1 or taken
    while limit.snapshot().taken:
        seawall_time.sleep(0.1)
    assert taken == [1]


def test_a_storm_of_cancellations_loses_no_place_and_strands_no_waiter(seawall_time: VirtualClock, soak_seed: int) -> None:
    """2000 tasks of all priorities, one in five cancelled at random; at the end everything is as in the beginning."""
    draw = random.Random(soak_seed)
    limit = sw.AdaptiveLimit(initial=20, most=40, queue=500, wait=20)
    pipeline = sw.Pipeline(sw.Timeout(600), limit, sw.Timeout(0.9))

    async def one(level: Any) -> None:
        with sw.priority(level):
            await pipeline.acall(seawall_time.asleep, draw.random())

    async def main() -> None:
        tasks = []
        for _ in range(2000):
            task = asyncio.create_task(one(draw.choice(["critical", "default", "sheddable"])))
            tasks.append(task)
            if draw.random() < 0.2:
                asyncio.get_running_loop().call_later(draw.random() * 20, task.cancel)
            await seawall_time.asleep(draw.random() * 0.02)
        done, pending = await asyncio.wait(tasks)
        assert not pending
        errors = [task.exception() for task in done if not task.cancelled()]
        assert all(error is None or isinstance(error, sw.Overloaded | sw.TimedOut) for error in errors)
        assert sum(error is None for error in errors) > 200
        assert sum(task.cancelled() for task in done) > 20

    asyncio.run(main())
    shot = limit.snapshot()
    assert (shot.taken, shot.waiting) == (0, 0)
    assert shot.shed > 0


@pytest.mark.parametrize("bad", [{"initial": 0}, {"algorithm": "best"}, {"wait": "soon"}, {"queue": 1.5}])
def test_a_limit_that_cannot_work_is_refused_when_made(bad: dict[str, Any]) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
        sw.AdaptiveLimit(**bad)


def test_partitions_are_read_from_an_argument_and_shown(seawall_time: VirtualClock, run: Runner) -> None:
    """Batch may borrow what live leaves idle, and live gets its own as soon as it asks."""
    limit = sw.AdaptiveLimit(initial=10, partitions={"batch": 0.2, "live": 0.8}, partition="kind")
    assert "arguments" in str(limit.why_no_block)

    async def main() -> tuple[int, int]:
        @limit
        async def work(kind: str) -> dict[str, int]:
            await seawall_time.asleep(0.5)
            return dict(limit.snapshot().partitions)

        batch = await asyncio.gather(*(work("batch") for _ in range(12)), return_exceptions=True)
        both = await asyncio.gather(*(work(kind) for kind in ["batch"] * 10 + ["live"] * 9), return_exceptions=True)
        assert both[-2:] != []
        return sum(isinstance(one, dict) for one in batch), sum(isinstance(one, dict) for one in both[10:])

    assert asyncio.run(main()) == (10, 8)
    assert limit.snapshot().partitions == {"batch": 0, "live": 0, "others": 0}


def test_tenants_share_one_limit_and_a_queue(seawall_time: VirtualClock) -> None:
    """The tenant that sends everything at once waits behind its own calls, not in front of everybody's."""
    limit = sw.AdaptiveLimit(initial=2, most=2, queue=50, tenant=lambda tenant: tenant, max_tenants=5)
    order: list[str] = []

    @limit
    async def work(tenant: str) -> None:
        await seawall_time.asleep(0.004)
        order.append(tenant)

    async def main() -> None:
        await asyncio.gather(*(work("loud") for _ in range(6)), *(work("quiet") for _ in range(2)))

    asyncio.run(main())
    assert order.index("quiet") < 4
    assert sorted(order) == ["loud"] * 6 + ["quiet"] * 2
    assert limit.snapshot().tenants == 0
    with pytest.raises(sw.Misplaced, match="hashable"):
        asyncio.run(work(["a", "list"]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"partitions": {"a": 0.5}}, "belong together"),
        ({"partition": "kind"}, "belong together"),
        ({"tenant": 5}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"partitions": {"a": 2}, "partition": "kind"}, "partitions"),
        ({"tenant": "t", "max_tenants": 0}, "max_tenants"),
    ],
)
def test_shares_that_cannot_work_are_refused_when_made(bad: dict[str, Any], named: str) -> None:
    """The error names the parameter."""
    with pytest.raises((ValueError, TypeError), match=named):
        sw.AdaptiveLimit(**bad)
