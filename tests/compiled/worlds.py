"""Two worlds run one script: in one every call is plain, in the other compiled and plain calls share the state. Nothing may
differ.

A script is a pipeline, a seed and a mix. Each call of it has a start, a length, an end (a result, an error, a cancellation),
and may call again inside. What is compared after every call: what the caller saw, the events, and the full state of every policy.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import seawall as sw
from seawall.pipeline import compiler
from seawall.testing import VirtualClock

KINDS: Final = "TRCWSLBVF"
"""Timeout, Retry, breakers by Count, by time (W) and for Slow calls, rate Limiter, Bulkhead, a breaker that judges (V)alues,
Fallback."""


@dataclass(frozen=True)
class Script:
    """order: the policies' letters, outermost first. mix: 1 = all compiled, 2 = every other call, 3 = one in three."""

    order: str
    seed: int
    mix: int
    is_async: bool
    tells: bool
    calls: int = 12


@dataclass
class World:
    """What one way of running a script left behind."""

    seen: list[Any] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    fast: int = 0
    compiled: int = 0


def orders(upto: int, sample: int, seed: int = 0) -> Iterator[str]:
    """All orders of up to `upto` kinds, then a seeded sample of longer ones."""
    for length in range(1, upto + 1):
        for order in itertools.permutations(KINDS, length):
            yield "".join(order)
    chance = random.Random(seed)
    for _ in range(sample):
        yield "".join(chance.sample(KINDS, upto + 1))


def policy_of(letter: str, index: int, chance: random.Random) -> sw.extend.Policy:
    """One policy with numbers that a short script reaches."""
    name = f"{letter}{index}"
    if letter == "T":
        return sw.Timeout(chance.choice([0.3, 1.0, 2.5]) / (index + 1), name=name)
    if letter == "R":
        budget = chance.choice([None, sw.RetryBudget(0.2, floor_per_s=0.5)])
        return sw.Retry(chance.choice([1, 2, 3]), on=OSError, backoff=sw.Backoff(base=0.05), budget=budget, name=name)
    if letter == "L":
        return sw.RateLimiter(chance.choice(["3/s burst 2", "20/s burst 5"]), wait=chance.choice([0, 0.4]), name=name)
    if letter == "B":
        return sw.Bulkhead(chance.choice([1, 2]), queue=chance.choice([0, 1]), wait=0.2, name=name)
    if letter == "F":
        return sw.Fallback("instead", on=chance.choice([OSError, (OSError, sw.Rejected)]), name=name)
    return _breaker(letter, name, chance)


def _breaker(letter: str, name: str, chance: random.Random) -> sw.CircuitBreaker:
    rules: dict[str, Any] = {
        "consecutive_failures": chance.choice([2, 3, None]),
        "minimum_calls": 4,
        "open_for": chance.choice([0.5, sw.Backoff(base=0.3, cap=2)]),
        "probes": chance.choice([1, 2]),
        "ramp": chance.choice([None, 1.0]),
        "name": name,
    }
    if letter == "C":
        return sw.CircuitBreaker(window_calls=chance.choice([3, 10]), **rules)
    if letter == "S":
        return sw.CircuitBreaker(window=2, slow_call=0.25, slow_ratio=0.5, **rules)
    if letter == "V":
        return sw.CircuitBreaker(window_calls=10, failures=lambda seen: isinstance(seen, OSError) or seen == "bad", **rules)
    return sw.CircuitBreaker(window=chance.choice([0.6, 2]), **rules)


def run(script: Script, *, mixed: bool) -> World:
    """Run a script: all plain, or compiled and plain mixed call by call on the same state."""
    world = World()
    clock = VirtualClock(seed=script.seed)
    if script.is_async:
        asyncio.run(_run_async(script, world, clock, mixed=mixed))
        clock.release()
    else:
        _run_sync(script, world, clock, mixed=mixed)
    return world


def differences(script: Script) -> list[str]:
    """Where the mixed world differs from the plain one."""
    plain, mixed = run(script, mixed=False), run(script, mixed=True)
    found = [f"call {i}: {a} != {b}" for i, (a, b) in enumerate(zip(plain.seen, mixed.seen, strict=False)) if a != b]
    if len(plain.seen) != len(mixed.seen):
        found.append(f"{len(plain.seen)} != {len(mixed.seen)} calls seen")
    if plain.events != mixed.events:
        pairs = itertools.zip_longest(plain.events, mixed.events)
        found.append(f"events: {next((a, b) for a, b in pairs if a != b)}")
    return found


class _Play:
    """A script's pipeline in one world, with its two forms of the guarded function."""

    def __init__(self, script: Script, world: World, clock: VirtualClock, function: Any, *, mixed: bool) -> None:
        self.script, self.world, self.clock = script, world, clock
        chance = random.Random(script.seed)
        policies = [policy_of(letter, index, chance) for index, letter in enumerate(script.order)]
        self.pipeline = sw.Pipeline(*policies, name="script", clock=clock)
        self._number = itertools.count()
        self._mixed = mixed
        for policy in policies:
            policy.subscribe(self._note)
        self.plain = _plain(self.pipeline, function, is_async=script.is_async)
        self.compiled: Any = compiler.compiled(
            self.pipeline, function, compiler.UNMARKED, is_async=script.is_async, plain=self.plain
        )
        if script.tells:
            self.pipeline.sinks.add(self._note)

    def _note(self, event: sw.Event) -> None:
        data = {name: _rounded(repr(value)) for name, value in event.data.items() if name != "error"}
        took = None if event.took is None else round(event.took, 6)
        self.world.events.append((event.kind, event.policy, round(event.at, 6), data, took))

    def form(self) -> Callable[..., Any]:
        """The form of the guard that makes the next call."""
        if not self._mixed or self.compiled is None or next(self._number) % self.script.mix:
            return self.plain
        return self._counted

    def _counted(self, *args: Any) -> Any:
        self.world.compiled += 1
        before = self.compiled.__seawall__.slow
        result = self.compiled(*args)
        if not self.script.is_async:
            self.world.fast += self.compiled.__seawall__.slow == before
        return result

    def look(self, what: Any) -> None:
        """Write down what a caller saw, and the state of everything."""
        self.world.seen.append((what, round(self.clock.monotonic(), 6), *map(_state_of, self.pipeline.policies)))


def _state_of(policy: Any) -> Any:
    shot = _rounded(repr(policy.snapshot()))
    state = getattr(getattr(policy, "cell", None), "state", None)
    if isinstance(policy, sw.RateLimiter):
        return shot, state.tat
    if isinstance(policy, sw.Bulkhead):
        return shot, len(state.free), len(state.queue)
    if isinstance(policy, sw.CircuitBreaker):
        window = state.current
        held = list(window) if isinstance(window, list | tuple) or hasattr(window, "maxlen") else None
        return shot, state.epoch, state.rounds, held, len(state.out), state.ramp_credit
    return shot


def _rounded(text: str) -> str:
    """Sums of floats may differ in their last digits: the forms read the clock at other places."""
    return re.sub(r"\d+\.\d+(e-\d+)?", lambda found: f"{float(found[0]):.6f}", text)


def _plain(pipeline: sw.Pipeline, function: Any, *, is_async: bool) -> Any:
    def plain(*args: Any) -> Any:
        return pipeline.plain_sync(function, args, {}, compiler.UNMARKED)

    async def aplain(*args: Any) -> Any:
        return await pipeline.plain_async(function, args, {}, compiler.UNMARKED)

    return aplain if is_async else plain


@dataclass(frozen=True)
class _Call:
    """wait: before it starts. took: how long each attempt takes. ends: of the attempts, in order; the last one stays."""

    wait: float
    took: tuple[float, ...]
    ends: tuple[str, ...]
    nests: bool
    cut_after: float | None
    within: float | None


def _calls(script: Script) -> list[_Call]:
    chance = random.Random(script.seed * 7919 + 1)
    calls = []
    bad = 0.1
    for _ in range(script.calls):
        bad = chance.choice([bad, 0.05, 0.9])  # outages come in phases
        ends = tuple("error" if chance.random() < bad else chance.choice(["ok", "ok", "ok", "bad", "fatal"]) for _ in range(3))
        took = tuple(chance.choice([0.0, chance.uniform(0.001, 0.1), chance.uniform(0.2, 1.5)]) for _ in range(3))
        cut = chance.uniform(0.01, 0.5) if chance.random() < 0.15 else None
        within = chance.uniform(0.05, 0.8) if chance.random() < 0.15 else None
        calls.append(_Call(chance.uniform(0.0005, chance.choice([0.01, 0.3])), took, ends, chance.random() < 0.15, cut, within))
    return calls


class Fatal(BaseException):
    """What no policy may swallow, as an interrupt."""


def _end(word: str) -> Any:
    if word == "error":
        raise OSError("down")
    if word == "fatal":
        raise Fatal("stop")
    return word


def _run_sync(script: Script, world: World, clock: VirtualClock, *, mixed: bool) -> None:
    attempts: dict[int, int] = {}

    def callee(number: int, call: _Call) -> Any:
        turn = min(attempts.get(number, 0), 2)
        attempts[number] = turn + 1
        if call.nests and turn == 0:
            play.look(_caught(lambda: play.form()(number + 1000, _Call(0, call.took, ("ok", "ok", "ok"), False, None, None))))
        clock.advance(call.took[turn])
        return _end(call.ends[turn])

    play = _Play(script, world, clock, callee, mixed=mixed)
    for number, call in enumerate(_calls(script)):
        clock.advance(call.wait)
        if call.within is None:
            play.look(_caught(lambda n=number, c=call: play.form()(n, c)))
        else:
            play.look(_caught(lambda n=number, c=call: _within(clock, c.within, lambda: play.form()(n, c))))


def _within(clock: VirtualClock, seconds: float, work: Callable[[], Any]) -> Any:
    """Under a deadline of the caller's, on the script's clock."""
    token = sw.core.context.DEADLINE.set(clock.monotonic() + seconds)
    try:
        return work()
    finally:
        sw.core.context.DEADLINE.reset(token)


def _caught(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except BaseException as error:
        return f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"


async def _run_async(script: Script, world: World, clock: VirtualClock, *, mixed: bool) -> None:
    clock.adopt(asyncio.get_running_loop())
    attempts: dict[int, int] = {}

    async def callee(number: int, call: _Call) -> Any:
        turn = min(attempts.get(number, 0), 2)
        attempts[number] = turn + 1
        if call.nests and turn == 0:
            await clock.asleep(
                0.0017 + number * 1.3e-5
            )  # two limits that end at the very same moment may be told apart by nobody
            play.look(await _acaught(play.form()(number + 1000, _Call(0, call.took, ("ok", "ok", "ok"), False, None, None))))
        if call.took[turn]:
            await clock.asleep(call.took[turn])
        return _end(call.ends[turn])

    play = _Play(script, world, clock, callee, mixed=mixed)

    async def one(number: int, call: _Call) -> None:
        if call.within is not None:
            sw.core.context.DEADLINE.set(clock.monotonic() + call.within)
        before = play.compiled.__seawall__.slow if play.compiled is not None else 0
        play.look(await _acaught(play.form()(number, call)))
        if play.compiled is not None:
            world.fast += play.compiled.__seawall__.slow == before

    tasks = []
    for number, call in enumerate(_calls(script)):
        if call.wait:
            await clock.asleep(call.wait)
        task = asyncio.create_task(one(number, call))
        tasks.append(task)
        if call.cut_after is not None:
            asyncio.get_running_loop().call_later(call.cut_after, task.cancel)
    await asyncio.wait(tasks)


async def _acaught(work: Any) -> Any:
    try:
        return await work
    except BaseException as error:
        return f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
