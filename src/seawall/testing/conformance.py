"""What every guard must do, whoever wrote it: `conform(make)` runs your policy through it, and raises at the first breach."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from seawall.pipeline.pipeline import Pipeline
from seawall.pipeline.policy import Policy
from seawall.testing.modes import capture_events, virtual_time

MOST_STEPS = 200  # of a task before its cancellation: no guarded call of the suite takes as many


def conform(make: Callable[[], Policy], *, at_rest: Callable[[Policy], bool] | None = None) -> None:
    """Check a policy of your own.

    make: makes a fresh one that lets a first call through. at_rest: whether it holds nothing when all calls are over; None =
        not asked.
    Raises AssertionError that says which rule is broken. It checks: results and errors pass unchanged, sync and async, decorated,
    called and as a block; nothing stays held after success, failure, an early closed stream, or a cancellation at any await
    point; refusals are Rejected with this policy's name, and are told; the snapshot is a frozen dataclass with kind and name.
    """
    for check in (
        _passes_results,
        _passes_errors,
        _guards_blocks,
        _holds_streams,
        _survives_cancellation,
        _tells_refusals,
        _shows_itself,
    ):
        with virtual_time():
            policy = make()
            check(policy)
            resting = at_rest is None or at_rest(policy)
            _require(resting, f"{check.__name__.strip('_')}: something is still held when all calls are over")


def _require(condition: object, rule: str) -> None:
    """As assert, which `python -O` would leave out."""
    if not condition:
        raise AssertionError(rule)


def _passes_results(policy: Policy) -> None:
    _require(policy.call(lambda x: x, 5) == 5, "a result must pass unchanged")

    @policy
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    policy.restart()
    _require(asyncio.run(later(6)) == 6, "an awaited result must pass unchanged")
    _require(later.__name__ == "later", "a decorated function must keep its name")


def _passes_errors(policy: Policy) -> None:
    error = OSError("the callee's own")

    def failing() -> None:
        raise error

    result = policy.try_call(failing)
    _require(not result.ok, "the callee's error must not be swallowed")
    _require(result.error is error, "the callee's error must leave as it came")


def _guards_blocks(policy: Policy) -> None:
    if policy.why_no_block is None:
        with policy.permit() as permit:
            permit.settle("fine")


def _holds_streams(policy: Policy) -> None:
    @policy
    def items() -> Iterator[int]:
        yield 1
        yield 2

    stream = items()
    _require(next(stream) == 1, "a stream's items must pass")
    stream.close()  # type: ignore[attr-defined]


def _survives_cancellation(policy: Policy) -> None:
    async def body() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def cancel_after(steps: int) -> bool:
        task = asyncio.create_task(Pipeline(policy).acall(body))
        for _ in range(steps):
            await asyncio.sleep(0)
        ended = task.done()
        task.cancel()
        await asyncio.wait([task])
        return ended

    for steps in range(MOST_STEPS):
        policy.restart()
        if asyncio.run(cancel_after(steps)):
            return
    raise AssertionError("a guarded call never ended")


def _tells_refusals(policy: Policy) -> None:
    with capture_events() as events:
        for _ in range(10_000):
            refused = policy.try_call(lambda: None).rejection
            if refused is not None:
                _require(refused.policy == policy.name, "a refusal must name its policy")
                _require(events, "a refusal must be told")
                break
    policy.restart()


def _shows_itself(policy: Policy) -> None:
    shot: Any = policy.snapshot()
    _require(dataclasses.is_dataclass(type(shot)), "a snapshot must be a dataclass")
    _require(type(shot).__dataclass_params__.frozen, "a snapshot must be frozen")
    _require((shot.kind, shot.name) == (policy.kind, policy.name), "a snapshot must carry kind and name")
