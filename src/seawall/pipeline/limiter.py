"""The rate limiter as people use it: a policy in a pipeline, and an object to ask by itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.errors import RateLimited
from seawall.core.outcome import Outcome, Verdict
from seawall.core.runtime import refuse_under_loop
from seawall.core.units import Limit
from seawall.pipeline import guard_sync
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.run import Run
from seawall.policies.rate_limit import NO_KEY, Algorithm, LimiterRule, LimiterState, Standing
from seawall.policies.verdict import Events, Rejection, Ticket

T = TypeVar("T")
Cost = int | Callable[..., int]


@dataclass(frozen=True, slots=True)
class _Answered(Generic[T]):
    """What a step of ours answers, with what it has to tell."""

    value: T
    events: Events


@dataclass(frozen=True, slots=True)
class Decision:
    """What a limiter decided.

    allowed: whether it passed. remaining: what could be spent at once now. retry_after: seconds until the same cost would
    pass, 0 when it did, `inf` when it never can. reset_after: seconds until everything could be spent at once. limit: the
    limit that decided.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float
    limit: Limit


@dataclass(frozen=True, slots=True)
class LimiterSnapshot:
    """One limiter at one moment. keys: accounts in memory; waiting: calls in line; rejected: calls refused since made."""

    kind: str
    name: str
    limits: tuple[Limit, ...]
    remaining: int
    keys: int
    waiting: int
    rejected: int


class RateLimiter(Guarding[LimiterState]):
    """At most so many calls per time: per process, per key.

    spec: "100/s burst 20", a `Limit`, or a list of them that are decided together, all or none.
    algorithm: "token_bucket" (default), "leaky_bucket" (evenly spaced, the burst is how many may stand in line),
        "sliding_window" (two counters, at most 4/3 of the count in any window), "sliding_log" (exact, memory per admission),
        "fixed_window" (at most twice the count around an edge).
    key: in a pipeline, the name of an argument or a function of the arguments whose value has an account of its own.
        Default None = one account.
    cost: what one call in a pipeline spends, >= 1, or a function of its arguments. Default 1.
    wait: seconds that a call in a pipeline may stand in line, >= 0. Default 0 = refuse at once.
    max_keys: accounts in memory, >= 1. Default 100 000. Only accounts that are full again are forgotten; when there are none,
        new keys share one account, with an event "rate_limiter.overflowed".
    store: None or "memory:" = this process. Stores that many processes share are not part of this release.
    initial: what an account begins with: "full" (default), "empty" or a number.
    queue: how many may stand in line per key, >= 0. Default 1000.
    name, clock: see `Policy`.

    Raises RateLimited with an exact `retry_after`, `inf` for a cost that can never pass; ValueError or TypeError for a
    parameter out of range. Source of the token bucket: GCRA, in whole nanoseconds.
    """

    kind = "rate_limiter"
    error = RateLimited

    def __init__(
        self,
        spec: str | Limit | Sequence[str | Limit],
        *,
        algorithm: Algorithm = "token_bucket",
        key: str | Callable[..., Hashable] | None = None,
        cost: Cost = 1,
        wait: float | str = 0,
        max_keys: int = 100_000,
        store: str | None = None,
        initial: int | Literal["full", "empty"] = "full",
        queue: int = 1000,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        if store not in (None, "memory:"):
            raise ValueError(f'store must be None or "memory:"; got {store!r} (shared stores are not part of this release)')
        specs = spec if isinstance(spec, Sequence) and not isinstance(spec, str) else [spec]
        limits = tuple(Limit.parse(one) for one in specs)
        self.rule = LimiterRule(limits=limits, algorithm=algorithm, max_keys=max_keys, queue=queue, initial=initial)
        if key is not None and not (isinstance(key, str) and key) and not callable(key):
            raise TypeError(f"key must be an argument's name or a function of the arguments; got {key!r}")
        self._key = key
        self._cost = cost if callable(cost) else units.whole("cost", cost)
        self.wait = units.seconds("wait", wait, zero=True)
        self.may_wait = self.wait > 0
        super().__init__(self.rule, name=name, clock=clock)

    # --- asking it by itself

    def try_acquire(self, key: Hashable = NO_KEY, cost: int = 1) -> bool:
        """Spend `cost` if it fits now; whether it did. Never waits. Raises ValueError or TypeError for a bad cost."""
        units.whole("cost", cost)
        return self.cell.apply(self._take, self.clock.monotonic(), key, cost).value

    async def atry_acquire(self, key: Hashable = NO_KEY, cost: int = 1) -> bool:
        """As `try_acquire`; in memory it never suspends."""
        return self.try_acquire(key, cost)

    def decide(self, key: Hashable = NO_KEY, cost: int = 1) -> Decision:
        """Spend `cost` if it fits now, and say where the key stands. Never waits."""
        units.whole("cost", cost)
        return self.cell.apply(self._decide, self.clock.monotonic(), key, cost).value

    async def adecide(self, key: Hashable = NO_KEY, cost: int = 1) -> Decision:
        """As `decide`; in memory it never suspends."""
        return self.decide(key, cost)

    def peek(self, key: Hashable = NO_KEY, cost: int = 1) -> Decision:
        """Where the key stands, and whether `cost` would pass; spends nothing."""
        units.whole("cost", cost, least=0)
        return _decision(self.cell.apply(self.rule.stand, self.clock.monotonic(), key, cost))

    def acquire(self, key: Hashable = NO_KEY, cost: int = 1, *, timeout: float | str | None = None) -> None:
        """Stand in line until `cost` was spent, first come first served.

        timeout: seconds to wait at most, >= 0; None = as long as the deadline of the context allows.
        Raises RateLimited, at once when the turn cannot come in time; WrongTwin under a running event loop.
        """
        refuse_under_loop("acquire", "aacquire")
        held = self._line_up(self.clock.threads, key, cost, timeout)
        if held.ticket is not None:
            guard_sync.wait(held, held.run)

    async def aacquire(self, key: Hashable = NO_KEY, cost: int = 1, *, timeout: float | str | None = None) -> None:
        """As `acquire`, for tasks; one line for tasks and threads together."""
        from seawall.pipeline import guard_async

        held = self._line_up(self.clock.tasks, key, cost, timeout)
        if held.ticket is not None:
            await guard_async.wait(held, held.run)

    def reserve(self, key: Hashable = NO_KEY, cost: int = 1) -> Reservation:
        """Spend an estimate now and correct it when the cost is known; for `with`. Raises RateLimited."""
        return Reservation(self, key, units.whole("cost", cost))

    def areserve(self, key: Hashable = NO_KEY, cost: int = 1) -> Reservation:
        """As `reserve`, for `async with`."""
        return self.reserve(key, cost)

    def penalise(self, key: Hashable, seconds: float | str) -> None:
        """Let nothing of `key` pass for `seconds`."""
        length = units.seconds("seconds", seconds)
        self.cell.apply(self.rule.penalise, self.clock.monotonic(), key, length)

    def reset(self, key: Hashable = NO_KEY) -> None:
        """Begin a key's account anew."""
        self.cell.apply(self.rule.forget, self.clock.monotonic(), key)

    def snapshot(self) -> LimiterSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read, self.clock.monotonic())

    @property
    def at_rest(self) -> bool:
        """Whether forgetting it would lose nothing."""
        shot = self.snapshot()
        return not shot.keys and not shot.waiting and self.peek(cost=0).reset_after == 0

    # --- the guard's part

    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule for this call's key and cost."""
        key = NO_KEY if self._key is None else run.argument(self._key)
        cost = self._cost if isinstance(self._cost, int) else units.whole("cost", run.argument(self._cost))
        until = now + self.wait
        if run.deadline is not None:
            until = min(until, run.deadline)
        return self.cell.apply(self.rule.admit, now, key, cost, until)

    def poll(self, ticket: Ticket, now: float) -> Any:
        """What a waiter looks at."""
        return self.cell.apply(self.rule.poll, now, ticket)  # type: ignore[arg-type]

    def leave(self, ticket: Ticket, now: float) -> None:
        """A waiter gives up."""
        self.cell.apply(self.rule.leave, now, ticket)  # type: ignore[arg-type]

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """What was spent stays spent."""

    # --- steps

    def _line_up(self, port: Any, key: Hashable, cost: int, timeout: float | str | None) -> Held:
        units.whole("cost", cost)
        run = Run(self.alone, port, _ask)
        held = Held(self, run, port.now())
        until = float("inf") if timeout is None else held.started + units.seconds("timeout", timeout, zero=True)
        if run.deadline is not None:
            until = min(until, run.deadline)
        answer = self.cell.apply(self.rule.admit, held.started, key, cost, until)
        if isinstance(answer, Rejection):
            self.refuse(answer, run)
        elif isinstance(answer, Ticket):
            held.ticket = answer
        return held

    def _take(self, state: LimiterState, now: float, key: Hashable, cost: int) -> _Answered[bool]:
        allowed, events = self.rule.take(state, now, key, cost)
        return _Answered(allowed, events)

    def _decide(self, state: LimiterState, now: float, key: Hashable, cost: int) -> _Answered[Decision]:
        allowed, events = self.rule.take(state, now, key, cost)
        standing = self.rule.stand(state, now, key, 0 if allowed else cost)
        return _Answered(_decision(standing, allowed=allowed), events)

    def _read(self, state: LimiterState, now: float) -> LimiterSnapshot:
        remaining = self.rule.stand(state, now, NO_KEY, 0).remaining
        waiting = sum(len(line) for line in state.lines.values())
        limits = self.rule.limits
        return LimiterSnapshot(self.kind, self.name, limits, remaining, len(state.table), waiting, self.rejected)


class Reservation:
    """An estimate that was spent. Leaving the block without `settle` keeps the full charge.

    cost: what was reserved.
    """

    def __init__(self, limiter: RateLimiter, key: Hashable, cost: int) -> None:
        self._limiter = limiter
        self._key = key
        self.cost = cost
        self._open = False

    def settle(self, actual: int) -> None:
        """Correct the charge to `actual` >= 0, once: less is given back, more is charged, into debt if need be."""
        units.whole("actual", actual, least=0)
        if not self._open:
            raise RuntimeError("a reservation is settled once, inside its block")
        self._open = False
        limiter, rule = self._limiter, self._limiter.rule
        now, difference = limiter.clock.monotonic(), actual - self.cost
        if difference < 0:
            limiter.cell.apply(rule.give_back, now, self._key, -difference)
        elif difference > 0:
            limiter.cell.apply(rule.charge, now, self._key, difference)

    def cancel(self) -> None:
        """Give everything back."""
        self.settle(0)

    def __enter__(self) -> Reservation:
        decision = self._limiter.decide(self._key, self.cost)
        if not decision.allowed:
            message = f"{self._limiter.name} allows {decision.limit}"
            raise RateLimited(message, policy=self._limiter.name, retry_after=decision.retry_after)
        self._open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open = False

    async def __aenter__(self) -> Reservation:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False


def _decision(standing: Standing, *, allowed: bool | None = None) -> Decision:
    passed = standing.allowed if allowed is None else allowed
    wait = 0.0 if passed else standing.retry_after
    return Decision(passed, standing.remaining, wait, standing.reset_after, standing.binding)


def _ask() -> None:
    """Stands for a question that guards no function."""
