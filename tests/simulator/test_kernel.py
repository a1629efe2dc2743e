"""Virtual time keeps asyncio's order, loses nothing, and has the same history for the same seed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from contextvars import ContextVar
from typing import Any

import pytest

from seawall.simulator.kernel import Cancelled, Kernel


def test_things_happen_at_their_moment_in_the_order_they_were_asked_for() -> None:
    """Ties decided by chance or by memory addresses would make no run repeatable."""
    kernel, seen = Kernel(), []
    for moment, name in [(2.0, "c"), (1.0, "a"), (2.0, "d"), (1.0, "b")]:
        kernel.call_at(moment, lambda name: seen.append((kernel.now(), name)), name)
    assert kernel.run() == 4
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c"), (2.0, "d")]


def test_a_run_can_be_stopped_and_gone_on_with() -> None:
    """Scenarios change the world in the middle of a run."""
    kernel, seen = Kernel(start=10.0), []
    for moment in (11.0, 12.0, 13.0):
        kernel.call_at(moment, seen.append, moment)
    kernel.run(until=12.0)
    assert (seen, kernel.now()) == ([11.0, 12.0], 12.0)
    kernel.run(until=12.5)
    assert kernel.now() == 12.5
    kernel.run()
    assert seen == [11.0, 12.0, 13.0]


def test_what_was_taken_back_does_not_happen_and_does_not_pile_up() -> None:
    """Each guarded call leaves a cancelled limit behind; a million of them must not stay in memory."""
    kernel, seen = Kernel(), []
    kept = kernel.call_later(5.0, seen.append, "kept")
    for _ in range(10_000):
        entry = kernel.call_later(1000.0, seen.append, "never")
        entry.cancel()
        entry.cancel()
    assert len(kernel._heap) < 500
    kernel.run()
    assert seen == ["kept"]
    kept.cancel()
    assert kernel.idle == 0


def test_a_task_has_its_turn_at_its_moment_even_before_an_entry_that_was_taken_back() -> None:
    """A cancelled limit of the same moment must not carry a waiting task along to the next moment."""
    kernel, seen = Kernel(), []

    async def sleeper() -> None:
        await kernel.sleep(1.0)
        seen.append(kernel.now())

    kernel.spawn(sleeper)
    kernel.run(until=0.5)
    entry = kernel.call_at(1.0, seen.append, "never")
    kernel.call_at(2.0, seen.append, "later")
    entry.cancel()
    kernel.run()
    assert seen == [1.0, "later"]


def test_a_moment_that_has_passed_is_now_and_no_number_is_refused() -> None:
    """A heap that holds what is not a number is in no order at all."""
    kernel, seen = Kernel(start=5.0), []
    kernel.call_at(1.0, seen.append, "late")
    kernel.run()
    assert (seen, kernel.now()) == (["late"], 5.0)
    with pytest.raises(ValueError, match="moment"):
        kernel.call_at(float("nan"), seen.append)


def test_tasks_wait_for_time_flags_and_each_other() -> None:
    """These three waits are all that guards know."""
    kernel = Kernel()
    flag = kernel.event()

    async def child() -> str:
        await kernel.sleep(1.0)
        flag.set()
        return "done"

    async def parent() -> list[Any]:
        task = kernel.spawn(child)
        found = [await flag.wait(0.5), kernel.now(), await flag.wait(), kernel.now(), await task]
        flag.set()
        return [*found, await flag.wait(), await flag.wait(0.25), kernel.now()]

    task = kernel.spawn(parent)
    kernel.run()
    assert task.result == [False, 0.5, True, 1.0, "done", True, False, 1.25]


def test_cancelling_raises_where_the_task_waits() -> None:
    """A limit cuts a call in the middle of its wait, and what it waited for forgets it."""
    kernel, seen = Kernel(), []

    async def sleeper() -> None:
        try:
            await kernel.sleep(100.0)
        except Cancelled as error:
            seen.append((kernel.now(), error.args))
            raise

    task = kernel.spawn(sleeper)
    kernel.call_at(3.0, task.cancel, "enough")
    kernel.run()
    assert seen == [(3.0, ("enough",))]
    assert task.done
    assert isinstance(task.error, Cancelled)
    assert kernel.now() == 3.0
    task.cancel()


def test_reaping_waits_for_the_end_of_those_it_ends() -> None:
    """A race must not leave before its losers have given back what they hold."""
    kernel, seen = Kernel(), []

    async def stubborn() -> None:
        try:
            await kernel.sleep(100.0)
        finally:
            await kernel.sleep(2.0)
            seen.append(kernel.now())

    async def reaper() -> float:
        tasks = [kernel.spawn(stubborn) for _ in range(3)]
        await kernel.sleep(1.0)
        await kernel.reap(tasks)
        return kernel.now()

    task = kernel.spawn(reaper)
    kernel.run()
    assert (task.result, seen) == (3.0, [3.0] * 3)


def test_a_failure_that_nobody_waits_for_ends_the_run() -> None:
    """An error that a simulation swallows makes its figures wrong, and nobody the wiser."""
    kernel = Kernel()

    async def fail() -> None:
        await kernel.sleep(1.0)
        raise LookupError("lost")

    kernel.spawn(fail)
    with pytest.raises(LookupError, match="lost"):
        kernel.run()

    async def catch() -> str:
        try:
            await kernel.spawn(fail)
        except LookupError as error:
            return str(error)
        return "missed"

    task = kernel.spawn(catch)
    kernel.run()
    assert task.result == "lost"


def test_two_waiters_for_one_flag_are_refused() -> None:
    """The second would wait for ever."""
    kernel = Kernel()
    flag = kernel.event()

    async def wait() -> None:
        await flag.wait()

    kernel.spawn(wait)
    kernel.spawn(wait)
    with pytest.raises(RuntimeError, match="two tasks"):
        kernel.run()


def test_each_task_has_a_context_of_its_own() -> None:
    """Deadlines and attempts travel in the context; one task's must not leak into another's."""
    kernel, seen = Kernel(), []
    variable: ContextVar[str] = ContextVar("variable", default="none")

    async def run(name: str) -> None:
        variable.set(name)
        await kernel.sleep(1.0)
        seen.append(variable.get())

    kernel.spawn(run, "a")
    kernel.spawn(run, "b")
    kernel.run()
    assert (seen, variable.get()) == (["a", "b"], "none")


HISTORY = """
import hashlib
from seawall.simulator.kernel import Kernel
kernel, seen = Kernel(seed=7), hashlib.sha256()

async def client(name):
    for _ in range(200):
        await kernel.sleep(kernel.random())
        seen.update(f"{name} {kernel.now()!r};".encode())

for name in "abcd":
    kernel.spawn(client, name)
kernel.run()
print(seen.hexdigest())
"""


def test_the_same_seed_is_the_same_history_in_every_process() -> None:
    """A failure that is found once has to be found again, on any machine, whatever the hash seed."""
    found = set()
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", HISTORY],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found.add(done.stdout)
    assert len(found) == 1
    assert len(found.pop().strip()) == hashlib.sha256().digest_size * 2


def test_the_order_is_asyncios() -> None:
    """Code that runs on both must see the same order of events, ties included."""

    async def story(sleep: Any, spawn: Any, now: Any) -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def walker(name: str, steps: list[float]) -> None:
            for step in steps:
                await sleep(step)
                seen.append((name, now()))

        tasks = [spawn(walker, "a", [0.25, 0.25, 0.5]), spawn(walker, "b", [0.5, 0.0, 0.5]), spawn(walker, "c", [1.0, 0.0, 0.25])]
        for task in tasks:
            await task
        return seen

    kernel = Kernel()
    task = kernel.spawn(story, kernel.sleep, kernel.spawn, kernel.now)
    kernel.run()

    from seawall.testing import VirtualClock

    clock = VirtualClock(start=0.0)

    async def main() -> list[tuple[str, float]]:
        await clock.asleep(0.0)
        return await story(clock.asleep, lambda function, *args: asyncio.create_task(function(*args)), clock.monotonic)

    assert task.result == asyncio.run(main())
