"""The rate limiter that processes share: the verbs of `sw.RateLimiter`, asked of a store.

`RateLimiter(..., store=...)` makes one. It is also what a hierarchy, a calendar quota, priority classes and observing run on in
memory, over a store in this process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import Any

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.context import current
from seawall.core.runtime import refuse_under_loop
from seawall.pipeline.cell import Cell
from seawall.pipeline.limiter import LimiterSnapshot, RateLimiter
from seawall.pipeline.limiter_options import Mode, Outage, Spec, read_penalty
from seawall.pipeline.policy import Policy
from seawall.pipeline.reservation import Reservation
from seawall.pipeline.run import Run
from seawall.pipeline.switch import SWITCH
from seawall.policies.key_table import UNKEYED
from seawall.policies.limiter_state import Decision, Grant
from seawall.policies.rate_limit import LONGEST_HINT, Algorithm, Initial
from seawall.policies.verdict import Rejection
from seawall.shared.book import Book, Members
from seawall.shared.keys import name as name_of
from seawall.shared.limits import Limits
from seawall.shared.line import LineRule, Lines
from seawall.shared.port import CHARGE, HOLD, PEEK, RESET, TAKE, Answer, Ask
from seawall.shared.reserved import SharedReservation
from seawall.shared.source import Source, quiet
from seawall.shared.stores import gate
from seawall.shared.turns import Turns


class SharedRateLimiter(RateLimiter):
    """`sw.RateLimiter` with a store. Parameters and verbs: see there."""

    is_shared = True

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
        clock: Clock | None = None,
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
        if initial != "full":
            raise ValueError(f'initial must be "full" with a store, where nobody knows when a key began; got {initial!r}')
        if not isinstance(observe, bool):
            raise TypeError(f"observe must be True or False; got {observe!r}")
        units.one_of("mode", mode, ("exact", "lease", "auto"))
        units.one_of("outage", outage, ("local", "open", "closed"))
        self.limits = Limits(spec, algorithm, headroom, replicas)
        super().__init__(
            list(self.limits.flat),
            algorithm=algorithm,
            key=key,
            cost=cost,
            wait=wait,
            max_keys=max_keys,
            clock=clock,
            name=name,
            queue=queue,
            penalise=penalise,
        )
        self.observe = observe
        self.mode: Mode = mode
        self._lines = LineRule(queue)
        self._lines.unit = self.limits.unit()
        self.cell: Cell[Any] = Cell(self, self._lines)
        self._gate = gate(store, budget=units.seconds("budget", budget), clock=clock, max_keys=max_keys)
        self.may_wait = self.may_wait or not self._gate.store.at_once  # a store is asked
        self._source = Source(self._gate, outage, max_keys=max_keys, tell=self.emit, name=lambda: self.name)
        self._members = Members(
            self._gate, self.limits, lambda: f"sw1:members:{{{name_of(self._shared_name() or str(self.limits.flat[0]))}}}"
        )
        self._book = Book(self.limits, self._source, self._members, mode, self.ask_for)
        self._turns = Turns(self, self._lines, self._source, self._book, self._members)
        self._left = min(limit.capacity for limit in self.limits.flat)

    @property
    def is_plain(self) -> bool:
        """Never: a store is asked."""
        return False

    # --- asking directly

    def try_acquire(self, key: Hashable = UNKEYED, cost: int = 1) -> bool:
        """As in memory. Raises WrongTwin under a running event loop."""
        self._refuse_loop("try_acquire()", "atry_acquire()")
        if self._book.leases and self._book.take(key, cost):
            return True
        return self.decide(key, cost).allowed

    async def atry_acquire(self, key: Hashable = UNKEYED, cost: int = 1) -> bool:
        """As `try_acquire`, for async code."""
        if self._book.leases and self._book.take(key, cost):
            return True
        return (await self.adecide(key, cost)).allowed

    def decide(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """As in memory. Raises WrongTwin under a running event loop."""
        self._refuse_loop("decide()", "adecide()")
        ask = self.ask_for(TAKE, key, cost)
        if SWITCH.off:
            return self._told(ask, key, Answer(1, 0, self._left, 0, 0, 0))
        if cost and self._is_behind(ask):
            return self._told(ask, key, _behind(self._source.ask(self.ask_for(PEEK, key, cost))))
        answer = self._book.ask(ask) if self._book.leases else self._source.ask(ask)
        if not answer.degraded:
            self._members.greet()
        return self._told(ask, key, answer)

    async def adecide(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """As `decide`, for async code."""
        ask = self.ask_for(TAKE, key, cost)
        if SWITCH.off:
            return self._told(ask, key, Answer(1, 0, self._left, 0, 0, 0))
        if cost and self._is_behind(ask):
            return self._told(ask, key, _behind(await self._asked(self.ask_for(PEEK, key, cost))))
        self._members.greet_by_task()
        answer = self._book.known(ask) if self._book.leases else None  # without a turn of the loop
        return self._told(ask, key, answer or await self._asked(ask, leased=self._book.leases))

    def peek(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """As in memory. Raises WrongTwin under a running event loop."""
        self._refuse_loop("peek()", "apeek()")
        ask = self.ask_for(PEEK, key, cost)
        return self._decision(ask, self._source.ask(ask))

    async def apeek(self, key: Hashable = UNKEYED, cost: int = 1) -> Decision:
        """As `peek`, for async code."""
        ask = self.ask_for(PEEK, key, cost)
        return self._decision(ask, await self._asked(ask))

    def reserve(self, key: Hashable = UNKEYED, cost: int = 1) -> Reservation:
        """As in memory; the correction is sent when the block ends."""
        self.ask_for(PEEK, key, cost)
        return SharedReservation(self, key, cost)

    def reset(self, key: Hashable = UNKEYED) -> None:
        """As in memory, for every process; in a hierarchy, the innermost level of the key."""
        self._refuse_loop("reset()", "areset()")
        self._book.drop(key)
        self._source.ask(self._last_of(RESET, key))

    async def areset(self, key: Hashable = UNKEYED) -> None:
        """As `reset`, for async code."""
        self._book.drop(key)
        await self._asked(self._last_of(RESET, key))

    def penalise(self, key: Hashable, seconds: float | str) -> None:
        """As in memory, for every process; in a hierarchy, the innermost level of the key."""
        self._refuse_loop("penalise()", "apenalise()")
        length = read_penalty(seconds)
        self._book.drop(key)
        self._source.ask(self._hold(key, length))
        self.emit("limiter.penalised", key=key, seconds=length)

    async def apenalise(self, key: Hashable, seconds: float | str) -> None:
        """As `penalise`, for async code."""
        length = read_penalty(seconds)
        self._book.drop(key)
        await self._asked(self._hold(key, length))
        self.emit("limiter.penalised", key=key, seconds=length)

    def retune(self, spec: Spec) -> None:
        """Change the limits of this process while it runs. What keys owe is kept in units, in the store, and carried over by
        the first ask of a key under the new limits; give all processes the same ones. Raises ValueError as in memory."""
        self.limits.retune(spec)
        self.rule = self.limits.rule(self.rule)
        self._lines.unit = self.limits.unit()
        self._book.clear()
        self.emit("limiter.retuned", limits=[str(limit) for limit in self.limits.flat])

    def snapshot(self) -> LimiterSnapshot:
        """What this process knows, without asking: `remaining` as of the last answer for calls without a key."""
        waiting = self.cell.apply(_waiting)
        return LimiterSnapshot(
            self.kind,
            self.name,
            self.limits.flat,
            self.rule.algorithm,
            remaining=self._left,
            keys=self._book.keys,
            waiting=waiting,
            overflowing=False,
            rejected=self.rejected,
            store=self._gate.store.name,
            degraded=self._source.degraded,
        )

    @property
    def at_rest(self) -> bool:
        """Whether forgetting it would lose nothing: nobody waits here; what is owed stands in the store."""
        return self.cell.apply(_waiting) == 0

    def take_over(self, old: Policy) -> None:
        """What is owed stands in the store; only sinks are kept."""
        Policy.take_over(self, old)

    def restart(self) -> None:
        """Forget what this process knows. What stands in the store stays there."""
        self.rejected = 0
        self.cell.apply(self._lines.restart)
        self._book.clear()
        self._source.forget()

    def reopen(self) -> None:
        """After a fork: locks, connections and leases of our own, and empty queues."""
        self.cell.reopen()
        self._book.reopen()
        self._source.reopen()

    # --- in a pipeline

    def admit(self, run: Run, now: float) -> Any:
        """Ask the store; in a task the answer comes to a ticket."""
        key = UNKEYED if self._key is None else run.argument(self._key)
        cost = self._cost if isinstance(self._cost, int) else units.whole("cost", run.argument(self._cost), least=0)
        until = now + self.wait
        if run.deadline is not None:
            until = min(until, run.deadline)
        return self._turns.begin(run.port, now, key, cost, until)

    def poll(self, ticket: Any, now: float) -> Any:
        """What a waiter looks at."""
        return self._turns.poll(ticket, now)

    def leave(self, ticket: Any, now: float) -> None:
        """A waiter gives up; what is granted to it after this is given back."""
        self._turns.leave(ticket, now)

    def release(self, held: Any, permit: Any, outcome: Any, verdict: Any) -> None:
        """What was spent stays spent; a callee that throttled may pause the key, for every process."""
        hint = verdict.retry_after
        if self.rule.obeys_hints and verdict.kind.value == "throttled" and hint is not None and hint > 0:
            ask = self._hold(permit.key, min(hint, LONGEST_HINT))
            self._book.drop(permit.key)
            if held.run.port.kind == "asyncio":
                self._source.submit(ask, quiet)
            else:
                self._source.ask(ask)
            self.emit("limiter.penalised", key=permit.key, seconds=min(hint, LONGEST_HINT))

    def line_up(self, port: Any, key: Hashable, cost: int, timeout: float | None) -> Any:
        """As in memory, for `acquire` and `reserve`."""
        from seawall.pipeline.reservation import Waiter

        now = port.now()
        until = math.inf if timeout is None else now + timeout
        deadline = current().deadline
        if deadline is not None:
            until = min(until, deadline)
        answer = self._turns.begin(port, now, key, cost, until)
        if isinstance(answer, Rejection):
            self.turn_down(answer, key)
        return Waiter(self, port, answer, key)

    def _take(self, key: Hashable, cost: int) -> bool:
        """The quick look of `acquire`: only what is leased."""
        return self._book.leases and self._book.take(key, cost)

    # --- words

    def correct(self, grant: Grant, back: int) -> None:
        """Correct a reservation, for threads. back: units to give back; below zero, units to charge."""
        self._source.ask(self._correction(grant, back))
        self._book.hope(grant.key)

    async def acorrect(self, grant: Grant, back: int) -> None:
        """As `correct`, for tasks."""
        await self._asked(self._correction(grant, back))
        self._book.hope(grant.key)

    def _correction(self, grant: Grant, back: int) -> Ask:
        ask = self.ask_for(CHARGE, grant.key, 0)
        ask.x, ask.y = -back, grant.since
        return ask

    def ask_for(self, verb: int, key: Hashable, cost: int) -> Ask:
        """One step on a key, at the priority of the running context."""
        units.whole("cost", cost, least=0)
        ask = self.limits.ask(verb, self._shared_name(), key, cost, current().priority, self._gate.clock.wall())
        if self._book.leases:
            self._book.remember(key, ask)
        return ask

    def _last_of(self, verb: int, key: Hashable) -> Ask:
        return self.limits.innermost(self.ask_for(verb, key, 0))

    def _hold(self, key: Hashable, seconds: float) -> Ask:
        ask = self._last_of(HOLD, key)
        ask.x = int(seconds * 1e6)
        return ask

    def _shared_name(self) -> str:
        return self._given_name or ""

    def _refuse_loop(self, verb: str, twin: str) -> None:
        if not self._gate.store.at_once:
            refuse_under_loop(f"{verb} asks a store, which", f"{twin}")

    def _is_behind(self, ask: Ask) -> bool:
        lines: Lines = self.cell.state
        return bool(lines.by_subject) and ask.keys[-1] in lines.by_subject

    async def _asked(self, ask: Ask, *, leased: bool = False) -> Answer:
        if self._gate.store.at_once:
            return self._book.ask(ask) if leased else self._source.ask(ask)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        (self._book.submit if leased else self._source.submit)(ask, done)
        return await future

    def note(self, ask: Ask, answer: Answer) -> None:
        """Remember what a snapshot tells."""
        self._left = answer.remaining

    def _decision(self, ask: Ask, answer: Answer) -> Decision:
        self.note(ask, answer)
        part = ask.program.parts[answer.binding]
        return Decision(
            allowed=bool(answer.granted),
            remaining=answer.remaining,
            retry_after=0.0 if answer.granted else math.inf if answer.wait < 0 else answer.wait / 1e6,
            reset_after=answer.reset / 1e6,
            limit=part.limit,
            level=part.level,
            degraded=answer.degraded,
        )

    def _told(self, ask: Ask, key: Hashable, answer: Answer) -> Decision:
        decision = self._decision(ask, answer)
        if decision.allowed:
            return decision
        self.rejected += 1
        kind = "limiter.would_reject" if self.observe else "limiter.rejected"
        self.emit(kind, reason=f"has spent {decision.limit}", retry_after=decision.retry_after, key=key)
        if not self.observe:
            return decision
        return self._decision(ask, answer._replace(granted=1))


def _behind(answer: Answer) -> Answer:
    """A refusal, because somebody waits for what is there."""
    return answer._replace(granted=0, wait=max(answer.wait, 1000) if answer.wait >= 0 else -1)


def _waiting(lines: Lines) -> int:
    return lines.waiting
