"""The rate limiter as people use it: a policy in a pipeline, and verbs to ask it directly."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.context import deadline_at
from seawall.core.errors import RateLimited
from seawall.core.events import everywhere
from seawall.core.outcome import Kind, Outcome, Verdict
from seawall.core.runtime import refuse_under_loop
from seawall.core.units import Limit
from seawall.pipeline import guard_sync
from seawall.pipeline.cell import GatedCell
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.limiter_options import (
    SHARED,
    Mode,
    Outage,
    Spec,
    checked_key,
    is_shared,
    read_key,
    read_penalty,
    refuse_store,
)
from seawall.pipeline.policy import Policy
from seawall.pipeline.reservation import Reservation, Waiter
from seawall.pipeline.run import Run
from seawall.pipeline.switch import SWITCH
from seawall.policies.key_table import UNKEYED
from seawall.policies.limiter_state import Decision, LimiterState
from seawall.policies.limiter_steps import at_once, told
from seawall.policies.meter import nanoseconds
from seawall.policies.rate_limit import Algorithm, Initial, RateLimitRule
from seawall.policies.verdict import Rejection

__all__ = ["Decision", "LimiterSnapshot", "RateLimiter", "Reservation"]


@dataclass(frozen=True, slots=True)
class LimiterSnapshot:
    """One limiter at one moment.

    limits: what it keeps. remaining: units left in the bucket of calls without a key. keys: keys in memory. waiting: callers
    in all queues. overflowing: whether new keys share one bucket. rejected: calls refused since it was made. store: where the
    counts live, without its password; degraded: whether it decides without that store now.
    """

    kind: str
    name: str
    limits: tuple[Limit, ...]
    algorithm: Algorithm
    remaining: int
    keys: int
    waiting: int
    overflowing: bool
    rejected: int
    store: str | None = None
    degraded: bool = False


class RateLimiter(Guarding[LimiterState]):
    """At most so many calls per time, for all callers together or for each key.

    spec: "100/s burst 20", a `Limit`, a `Quota` of the calendar, or a list of them that are decided together: all or none. A
        dict of levels to specs is a hierarchy, the outermost first, such as {"all": "1000/s", "tenant": "100/s", "user":
        "10/s"}: keys are then tuples with one part for each level but the first, ("t1", "u7").
    algorithm: how the limit is kept; the docs page "Rate limiter" compares them with their bounds. Default "token_bucket"
        (also the leaky bucket as a meter). "leaky_bucket" spaces calls evenly and is best given a `wait`; "sliding_window",
        "sliding_log" and "fixed_window" count, and take no burst.
    key: the name of an argument of the guarded function, or a function of its arguments, whose value has a limit of its own.
        Default None = one limit for all calls.
    cost: what one call spends: a whole number >= 0, or a function of the call's arguments that returns one. Default 1.
        A cost of 0 passes at once; one above the burst is refused at once with retry_after = inf.
    wait: seconds that a call may wait for its turn, >= 0, or text such as "250ms". Default 0 = refuse at once; None = as
        long as its deadline allows. A wait that cannot fit is refused at once. `acquire` has a timeout of its own.
    max_keys: how many keys are kept, >= 1. Default 100 000. Only keys that are as good as new are forgotten; when none is,
        new keys share one bucket, with an event "limiter.overflow".
    store: where the counts live: a URL such as "redis://127.0.0.1:6379", which needs `seawall[redis]`, or a store object; see
        the docs page "Shared limits". Default None = in this process, as "memory:". Each process then has a limit of its own.
        With a store the limiter's `name` is part of the key, and sync verbs raise WrongTwin under a running event loop.
    headroom: the share of what may pass at once that a priority leaves to those above it, such as {"sheddable": 0.5,
        "default": 0.1}, each in [0, 1). Default None = all priorities are alike.
    observe: only count and tell what it would have refused. Default False.
    mode: "exact" asks the store for each decision (default); "lease" fetches units in advance, "auto" does so for busy keys.
    outage: what decides while the store does not answer: "local" a share of the limit in this process (default), "open" lets
        pass, "closed" refuses. budget: seconds that one decision may wait for the store, > 0. Default 0.025.
    replicas: how many processes share the limit, >= 1. Default None = those that asked the store within the last 10 s.
    initial: what a key may spend at once when the limiter is made: "full" (default), "empty", or a whole number up to the
        burst. Keys that come later find what would have filled up since.
    queue: how many callers may wait per key, >= 0. Default 1000. They are served in order of arrival, threads and tasks
        alike.
    penalise: whether a call that the callee throttled (a 429 with a Retry-After) pauses its key for as long, up to 60 s.
        Default False.
    name, clock: see `Policy`.

    Raises RateLimited for what it refuses, with the exact `retry_after`; ValueError or TypeError for a parameter out of
    range.
    """

    kind = "rate_limiter"
    told_as = "limiter"
    error = RateLimited
    cell_kind = GatedCell

    def __new__(cls, spec: Any = None, **options: Any) -> RateLimiter:
        """A limiter in memory, or the one that processes share when it needs a store or one of its options."""
        if cls is RateLimiter and is_shared(spec, options):
            module, _, name = SHARED.partition(":")
            kind: type[RateLimiter] = getattr(import_module(module), name)
            return object.__new__(kind)
        return object.__new__(cls)

    def __init__(
        self,
        spec: Spec,
        *,
        algorithm: Algorithm = "token_bucket",
        key: str | Callable[..., Hashable] | None = None,
        cost: int | Callable[..., int] = 1,
        wait: float | str | None = 0,
        max_keys: int = 100_000,
        store: Any = None,
        clock: clocks.Clock | None = None,
        name: str | None = None,
        initial: Initial = "full",
        queue: int = 1000,
        penalise: bool = False,
        headroom: dict[str, float] | None = None,
        observe: bool = False,
        mode: Mode = "exact",
        outage: Outage = "local",
        budget: float | str = 0.025,
        replicas: int | None = None,
    ) -> None:
        refuse_store(store)
        units.seconds("budget", budget)
        self.rule = RateLimitRule(
            limits=spec,  # type: ignore[arg-type]  # the rule reads text and lists
            algorithm=algorithm,
            initial=initial,
            queue=queue,
            max_keys=max_keys,
            obeys_hints=penalise,
        )
        self.wait = math.inf if wait is None else units.seconds("wait", wait, zero=True)
        self.may_wait = self.wait > 0 and queue > 0
        self._key = read_key(key)
        self._cost = cost if callable(cost) else units.whole("cost", cost, least=0)
        if self._key is not None or callable(cost):
            self.why_no_block = "a block has no arguments to take a key or a cost from; use reserve() or acquire()"
        super().__init__(self.rule, name=name, clock=clock)

    @property
    def is_plain(self) -> bool:
        """Whether every call spends one unit of one bucket for all: no key, no other cost, no pause that the callee asks for."""
        return self._key is None and self._cost == 1 and not self.rule.obeys_hints

    # --- asking directly

    def try_acquire(self, key: Hashable = UNKEYED, cost: int = 1) -> bool:
        """Spend `cost` >= 0 of the key's limit if it fits now and nobody waits for it; whether it did. Never waits.

        Raises TypeError or ValueError for a bad key or cost.
        """
        fits = None
        if cost == 1 and key.__class__ is str and not SWITCH.off:  # as in `_take`, whose call would be an eighth of all this
            at = clocks.system_ticks() if self._own_clock is None else clocks.ticks(self._own_clock)
            fits = at_once(self.cell.state, at, key)
        if fits or (fits is None and self._take_locked(key, cost)):
            return True
        self.rejected += 1
        if self.sinks or everywhere:
            self.emit("limiter.rejected", reason="has spent its limit", retry_after=None, key=key)
        return False

    async def atry_acquire(self, key: Hashable = UNKEYED, cost: int = 1) -> bool:
        """As `try_acquire`, for async code."""
        return self.try_acquire(key, cost)

    def decide(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """As `try_acquire`, and say how much is left and when to come again."""
        decision: Decision = self._ask(self.rule.decide, key, cost)
        if SWITCH.off:
            return replace(decision, allowed=True, retry_after=0.0)
        if not decision.allowed:
            self.rejected += 1
            self.emit("limiter.rejected", reason="has spent its limit", retry_after=decision.retry_after, key=key)
        return decision

    async def adecide(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """As `decide`, for async code."""
        return self.decide(key, cost)

    def peek(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """What `decide` would say, without spending anything."""
        decision: Decision = self._ask(self.rule.peek, key, cost)
        return decision

    async def apeek(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """As `peek`, for async code."""
        return self.peek(key, cost)

    def acquire(self, key: Hashable = UNKEYED, cost: int = 1, timeout: float | str | None = None) -> None:
        """Wait for the turn, in order of arrival, and spend `cost`.

        timeout: seconds to wait at most, >= 0, or text; None = as long as the context's deadline allows.
        Raises RateLimited, at once when the turn cannot come in time; WrongTwin under a running event loop.
        """
        refuse_under_loop("acquire()", "aacquire()")
        if timeout is not None:
            timeout = units.seconds("timeout", timeout, zero=True)
        if not self._take(key, cost):
            waiter = self.line_up(self.clock.threads, key, cost, timeout)
            if waiter.ticket is not None:
                guard_sync.wait(waiter, waiter)

    async def aacquire(self, key: Hashable = UNKEYED, cost: int = 1, timeout: float | str | None = None) -> None:
        """As `acquire`, for async code; threads and tasks stand in one queue."""
        if timeout is not None:
            timeout = units.seconds("timeout", timeout, zero=True)
        if not self._take(key, cost):
            waiter = self.line_up(self.clock.tasks, key, cost, timeout)
            if waiter.ticket is not None:
                from seawall.pipeline import guard_async

                await guard_async.wait(waiter, waiter)

    def reserve(self, key: Hashable = UNKEYED, cost: int = 1) -> Reservation:
        """Spend an estimate now and correct it later: `with limiter.reserve("k", 500) as r: ...; r.settle(312)`.

        Entering waits as long as the limiter's own `wait` says. Raises RateLimited there; WrongTwin for a `with` that may
        wait under a running event loop.
        """
        return Reservation(self, checked_key(key), units.whole("cost", cost, least=0))

    def areserve(self, key: Hashable = UNKEYED, cost: int = 1) -> Reservation:
        """As `reserve`, for `async with`."""
        return self.reserve(key, cost)

    def reset(self, key: Hashable = UNKEYED) -> None:
        """Let the key begin anew, as if the limiter had been made now."""
        self.cell.apply(self.rule.reset, self.clock.monotonic(), checked_key(key))

    async def areset(self, key: Hashable = UNKEYED) -> None:
        """As `reset`, for async code."""
        self.reset(key)

    async def apenalise(self, key: Hashable, seconds: float | str) -> None:
        """As `penalise`, for async code."""
        self.penalise(key, seconds)

    def penalise(self, key: Hashable, seconds: float | str) -> None:
        """Let the key pass nothing for so many seconds, > 0; then it begins with one unit and fills as ever."""
        length = read_penalty(seconds)
        self.cell.apply(self.rule.penalise, self.clock.monotonic(), checked_key(key), length)

    def retune(self, spec: Spec) -> None:
        """Change the limits while it runs. A key that owes three calls owes three calls under the new limit as well.

        Raises ValueError when `spec` holds another number of limits than before, or does not fit `initial`.
        """
        rule = replace(self.rule, limits=spec)  # type: ignore[arg-type]
        self.cell.apply(rule.retune, self.clock.monotonic())
        self.rule = rule

    def snapshot(self) -> LimiterSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read, self.clock.monotonic())

    def take_over(self, old: Policy) -> None:
        """Keep the accounts, and every debt in units, while the algorithm and the number of limits are the same."""
        super().take_over(old)
        assert isinstance(old, RateLimiter)
        if type(old) is not type(self):
            return  # the counts of the other one stand in a store
        same_kind = old.rule.algorithm == self.rule.algorithm and len(old.rule.limits) == len(self.rule.limits)
        if same_kind and old.rule.max_keys == self.rule.max_keys:
            self.cell = old.cell.handed_to(self, self.rule)
            self.rejected = old.rejected
            self.cell.apply(self.rule.retune, self.clock.monotonic())

    @property
    def at_rest(self) -> bool:
        """Whether forgetting it would lose nothing: nobody waits and nothing is owed."""
        return self.cell.apply(_owes_nothing, nanoseconds(self.clock.monotonic()))

    def restart(self) -> None:
        """Forget everything that happened, in place."""
        self.rejected = 0
        self.cell.apply(self.rule.begin, self.clock.monotonic())

    def reopen(self) -> None:
        """After a fork: a lock of our own, and empty queues; what was spent stays spent."""
        self.cell.reopen()
        self.cell.apply(self.rule.disband)

    # --- in a pipeline

    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule; a waiter gives up at the end of its wait or at its deadline, whichever is first."""
        key = UNKEYED if self._key is None else checked_key(run.argument(self._key))
        cost = self._cost if isinstance(self._cost, int) else units.whole("cost", run.argument(self._cost), least=0)
        until = now + self.wait
        if run.deadline is not None:
            until = min(until, run.deadline)
        return self.cell.apply(self.rule.admit, now, key, cost, until)

    def poll(self, ticket: Any, now: float) -> Any:
        """What a waiter looks at."""
        return self.cell.apply(self.rule.poll, now, ticket)

    def leave(self, ticket: Any, now: float) -> None:
        """A waiter gives up."""
        self.cell.apply(self.rule.leave, now, ticket)

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """What was spent stays spent; a callee that throttled may pause the key."""
        if self.rule.obeys_hints and verdict.kind is Kind.THROTTLED:
            self.cell.apply(self.rule.settle, self.clock.monotonic(), permit, outcome, verdict.retry_after)

    # --- steps

    def _take(self, key: Hashable, cost: int) -> bool:
        if cost == 1 and key.__class__ is str and not SWITCH.off:
            at = clocks.system_ticks() if self._own_clock is None else clocks.ticks(self._own_clock)
            fits = at_once(self.cell.state, at, key)
            if fits is not None:
                return fits
        return self._take_locked(key, cost)

    def _take_locked(self, key: Hashable, cost: int) -> bool:
        checked_key(key)
        units.whole("cost", cost, least=0)
        if SWITCH.off:
            return True
        cell = self.cell
        taken = cell.apply(self.rule.take, self.clock.monotonic(), key, cost)
        if cell.state.untold:
            cell.apply(told)
        return taken

    def _ask(self, verb: Callable[..., Decision], key: Hashable, cost: int) -> Any:
        checked_key(key)
        units.whole("cost", cost, least=0)
        verb = self.rule.peek if SWITCH.off else verb
        decision = self.cell.apply(verb, self.clock.monotonic(), key, cost)
        if self.cell.state.untold:
            self.cell.apply(told)
        return decision

    def line_up(self, port: Any, key: Hashable, cost: int, timeout: float | None) -> Waiter:
        """Pass, or stand in the queue until `timeout` is over or the context's deadline passes. Raises RateLimited."""
        now = port.now()
        until = math.inf if timeout is None else now + timeout
        deadline = deadline_at()
        if deadline is not None:
            until = min(until, deadline)
        answer = self.cell.apply(self.rule.admit, now, key, cost, until)
        if isinstance(answer, Rejection):
            self.turn_down(answer, key)
        return Waiter(self, port, answer, key)

    def turn_down(self, rejection: Rejection, key: Hashable) -> None:
        """Count a refusal outside pipelines, tell of it and raise it."""
        self.rejected += 1
        self.emit("limiter.rejected", reason=rejection.reason, retry_after=rejection.retry_after, key=key)
        raise RateLimited(f"{self.name} {rejection.reason}", policy=self.name, retry_after=rejection.retry_after)

    def _read(self, state: LimiterState, now: float) -> LimiterSnapshot:
        return LimiterSnapshot(
            self.kind,
            self.name,
            self.rule.limits,
            self.rule.algorithm,
            remaining=self.rule.peek(state, now).remaining,
            keys=len(state.table.ring),
            waiting=state.waiting,
            overflowing=state.overflowing,
            rejected=self.rejected,
        )


def _owes_nothing(state: LimiterState, at: int) -> bool:
    drained = partial(state.meter.drained, at=at)
    return state.waiting == 0 and drained(state.value(UNKEYED)) and all(map(drained, state.table.values.values()))


_WHOLE = signature(RateLimiter.__init__)
RateLimiter.__signature__ = _WHOLE.replace(parameters=[*_WHOLE.parameters.values()][1:])  # type: ignore[attr-defined]
