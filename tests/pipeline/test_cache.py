"""Caching: one fetch per key, bounds that hold, and an old answer when there is no new one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import seawall as sw
from seawall.policies.cache import CacheRule, Entry, Found, Lead
from seawall.testing import Script, VirtualClock, capture_events, takes


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Any:
    """Call a script through a policy, in either world."""
    if request.param == "sync":
        return lambda policy, script, *args: policy.call(script, *args)
    return lambda policy, script, *args: asyncio.run(policy.acall(script.acall, *args))


def test_an_answer_is_kept_for_its_time_by_all_arguments(seawall_time: VirtualClock, run: Any) -> None:
    """The same question within the ttl costs nothing."""
    cache, script = sw.Cache(10), Script("a", "b", "c", "d")
    assert [run(cache, script, 1), run(cache, script, 1), run(cache, script, 2)] == ["a", "a", "b"]
    seawall_time.advance(10)
    assert run(cache, script, 1) == "c"
    shot = cache.snapshot()
    assert (shot.entries, shot.hits, shot.misses, shot.flights) == (2, 1, 3, 0)
    cache.forget(((1,), ()))
    assert run(cache, script, 1) == "d"


def test_errors_are_not_kept_unless_named(seawall_time: VirtualClock, run: Any) -> None:
    """A lost connection is no answer; "there is no such thing" is one."""
    script = Script(OSError(), KeyError("none"), "found")
    cache = sw.Cache(10, negative=KeyError, negative_ttl=3)
    with pytest.raises(OSError):
        run(cache, script)
    for _ in range(2):
        with pytest.raises(KeyError):
            run(cache, script)
    assert len(script.calls) == 2
    seawall_time.advance(3)
    assert run(cache, script) == "found"


def test_an_old_answer_is_served_when_fetching_fails(seawall_time: VirtualClock, run: Any) -> None:
    """Yesterday's price list is better than none, for a while."""
    cache, script = sw.Cache(10, stale_if_error=60), Script("old", OSError(), OSError(), "new")
    run(cache, script)
    seawall_time.advance(11)
    with capture_events("cache.") as events:
        assert run(cache, script) == "old"
    assert [event.kind for event in events] == ["cache.stale_served"]
    seawall_time.advance(60)
    with pytest.raises(OSError):
        run(cache, script)
    assert run(cache, script) == "new"


def test_an_old_answer_is_served_at_once_while_a_new_one_is_fetched(seawall_time: VirtualClock) -> None:
    """Nobody waits for a refresh, one refresh runs per key, and it inherits nobody's deadline."""
    cache = sw.Cache(10, stale_while_revalidate=60)
    seen: list[Any] = []

    async def fetch() -> str:
        seen.append(sw.remaining())
        await asyncio.sleep(5)
        if len(seen) == 3:
            raise OSError
        return f"v{len(seen)}"

    async def main() -> None:
        assert await cache.acall(fetch) == "v1"
        seawall_time.advance(11)
        with sw.deadline(1):
            assert [await cache.acall(fetch), await cache.acall(fetch)] == ["v1", "v1"]
        await asyncio.sleep(6)
        assert await cache.acall(fetch) == "v2"
        seawall_time.advance(11)
        with capture_events("cache.refresh_failed") as events:
            assert await cache.acall(fetch) == "v2"
            await asyncio.sleep(6)
            assert await cache.acall(fetch) == "v2"
        assert len(events) == 1
        await asyncio.sleep(6)
        assert not cache.tasks

    asyncio.run(main())
    assert seen[:2] == [None, None]


def test_a_refresh_of_plain_functions_runs_on_a_thread() -> None:
    """The sync world gets its old answer at once as well."""
    clock = VirtualClock()
    cache, fetched = sw.Cache(10, stale_while_revalidate=60, clock=clock), threading.Event()
    calls: list[int] = []

    def fetch() -> int:
        calls.append(1)
        if len(calls) == 2:
            fetched.set()
        return len(calls)

    assert cache.call(fetch) == 1
    clock.advance(11)
    assert cache.call(fetch) == 1
    assert fetched.wait(10)
    for _ in range(1000):
        if cache.call(fetch) == 2:
            break
        threading.Event().wait(0.005)
    assert cache.call(fetch) == 2


def test_a_hundred_calls_at_once_are_one_call(seawall_time: VirtualClock) -> None:
    """A cold cache must not be a stampede; an error goes to all who waited."""
    cache = sw.Cache(10)

    async def main(script: Script) -> list[Any]:
        return await asyncio.gather(*(cache.acall(script.acall) for _ in range(100)), return_exceptions=True)

    fine = Script(takes(1, "x"))
    assert asyncio.run(main(fine)) == ["x"] * 100
    assert len(fine.calls) == 1
    seawall_time.advance(100)
    broken = Script(takes(1, OSError("down")))
    assert {str(error) for error in asyncio.run(main(broken))} == {"down"}
    assert len(broken.calls) == 1


def test_sixteen_threads_at_once_are_one_call() -> None:
    """Threads coalesce too."""
    cache, gate, calls, got = sw.Cache(60), threading.Event(), [], []

    def fetch() -> str:
        calls.append(1)
        gate.wait(10)
        return "x"

    threads = [threading.Thread(target=lambda: got.append(cache.call(fetch))) for _ in range(16)]
    for thread in threads:
        thread.start()
    while cache.snapshot().flights == 0 or sum(map(len, cache.cell.state.flights.values())) < 15:
        threading.Event().wait(0.001)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert (len(calls), got) == (1, ["x"] * 16)


def test_a_cancelled_leader_hands_its_flight_to_a_follower(seawall_time: VirtualClock) -> None:
    """One impatient caller must not cost a hundred others their answer; a follower's own cancellation harms nobody."""
    cache = sw.Cache(10)

    async def main() -> None:
        script = Script(takes(10, "first"), takes(1, "second"))
        leader = asyncio.create_task(cache.acall(script.acall))
        await asyncio.sleep(0)
        followers = [asyncio.create_task(cache.acall(script.acall)) for _ in range(5)]
        await asyncio.sleep(0)
        followers[0].cancel()
        leader.cancel()
        results = await asyncio.gather(leader, *followers, return_exceptions=True)
        assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
        assert results[2:] == ["second"] * 4
        assert len(script.calls) == 2
        assert cache.snapshot().flights == 0

    asyncio.run(main())


def test_every_await_point_of_leader_and_follower_can_be_cancelled() -> None:
    """No flight is left in the air."""

    async def body() -> str:
        for _ in range(3):
            await asyncio.sleep(0)
        return "x"

    async def attempt(steps: int, victim: int) -> None:
        cache = sw.Cache(10)
        tasks = [asyncio.create_task(cache.acall(body)) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        tasks[victim].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result == "x" or isinstance(result, asyncio.CancelledError) for result in results)
        assert [r for n, r in enumerate(results) if n != victim] == ["x", "x"]
        assert cache.snapshot().flights == 0

    for steps in range(8):
        for victim in range(3):
            asyncio.run(attempt(steps, victim))


def test_a_follower_gives_up_at_its_deadline(seawall_time: VirtualClock) -> None:
    """Waiting for somebody else's fetch is waiting, too."""
    cache = sw.Cache(10)

    async def main() -> None:
        leader = asyncio.create_task(cache.acall(Script(takes(10, "x")).acall))
        await asyncio.sleep(0)
        with sw.deadline(1), pytest.raises(sw.TimedOut):
            await cache.acall(Script("y").acall)
        assert await leader == "x"

    asyncio.run(main())
    clock = VirtualClock()
    alone, hold = sw.Cache(10, clock=clock), threading.Event()
    thread = threading.Thread(target=lambda: alone.call(lambda: hold.wait(10)))
    thread.start()
    while alone.snapshot().flights == 0:
        threading.Event().wait(0.001)
    run = sw.Pipeline(sw.Timeout(1), alone, clock=clock)
    with pytest.raises(sw.TimedOut, match="no answer came"):
        run.call(lambda: 1)
    hold.set()
    thread.join(10)


def test_what_is_kept_is_bounded_by_entries_and_bytes(seawall_time: VirtualClock) -> None:
    """A cache without a bound is a leak with a good name."""
    few = sw.Cache(10, size=3)
    for number in range(10):
        few.call(lambda n: n, number)
    assert few.snapshot().entries == 3
    heavy = sw.Cache(10, size_bytes=100, weigh=len, key="text")

    @heavy
    def echo(text: str) -> str:
        return text

    for letter in "abcdef":
        echo(letter * 30)
    assert (heavy.snapshot().entries, heavy.snapshot().bytes) == (3, 90)
    with capture_events("cache.too_large") as events:
        echo("x" * 101)
    assert len(events) == 1
    assert heavy.snapshot().entries == 3
    heavy.reopen()
    assert heavy.snapshot().bytes == 90
    heavy.restart()
    assert heavy.snapshot().bytes == 0


def test_what_cannot_be_kept_is_refused_with_advice() -> None:
    """Streams and unhashable keys must not be cached by accident."""
    cache = sw.Cache(10)

    @cache
    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(sw.Misplaced, match="cannot keep a stream"):
        next(items())
    with pytest.raises(TypeError, match="key must be hashable"):
        cache.call(lambda x: x, [1])
    with pytest.raises(sw.Misplaced):
        cache.permit()
    for bad, named in (
        ({"ttl": 0}, "ttl"),
        ({"size": 0}, "size"),
        ({"size_bytes": 5}, "size_bytes and weigh"),
        ({"size_bytes": 0, "weigh": len}, "size_bytes"),
        ({"key": 5}, "key"),
        ({"negative": 5}, "negative"),
        ({"stale_if_error": -1}, "stale_if_error"),
    ):
        with pytest.raises((ValueError, TypeError), match=named):
            sw.Cache(**{"ttl": 10, **bad})  # type: ignore[arg-type]


class CacheMachine(RuleBasedStateMachine):
    """The rule against a dictionary of what was stored when."""

    @initialize(size=st.integers(1, 3), swr=st.sampled_from([0.0, 5.0]), sie=st.sampled_from([0.0, 10.0]))
    def begin(self, size: int, swr: float, sie: float) -> None:
        self.cache = CacheRule(ttl=4, size=size, stale_while_revalidate=swr, stale_if_error=sie)
        self.state = self.cache.start(0)
        self.now = 0.0
        self.kept: list[tuple[int, float]] = []
        self.flying: dict[int, int] = {}

    @rule(key=st.integers(0, 4))
    def look(self, key: int) -> None:
        answer = self.cache.look(self.state, self.now, key)
        stored = next((at for other, at in self.kept if other == key), None)
        age = None if stored is None else self.now - stored - 4
        if age is not None and age < max(0.0, self.cache.stale_while_revalidate):
            assert isinstance(answer, Found)
            assert answer.refresh == (age >= 0 and key not in self.flying)
            self.kept.append(self.kept.pop([other for other, _ in self.kept].index(key)))
            if answer.refresh:
                self.flying[key] = 0
        elif key in self.flying:
            assert not isinstance(answer, Found | Lead)
            self.flying[key] += 1
        else:
            assert isinstance(answer, Lead)
            assert (answer.stale is not None) == (age is not None and age < self.cache.stale_if_error)
            self.flying[key] = 0

    @rule(key=st.integers(0, 4), well=st.booleans())
    def land(self, key: int, well: bool) -> None:
        if key not in self.flying:
            return
        woken = self.cache.land(self.state, self.now, key, Entry(key, self.now, 4.0) if well else None)
        assert len(woken) == self.flying.pop(key)
        if well:
            self.kept = [entry for entry in self.kept if entry[0] != key] + [(key, self.now)]
            self.kept = self.kept[-self.cache.size :]

    @rule(steps=st.integers(1, 6))
    def pass_time(self, steps: int) -> None:
        self.now += steps

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "state"):
            assert list(self.state.entries) == [key for key, _ in self.kept]
            assert {key: len(line) for key, line in self.state.flights.items()} == self.flying


CacheMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


class TestCache(CacheMachine.TestCase):  # type: ignore[name-defined,misc]
    """Freshness, order of use and flights in every order that Hypothesis finds."""
