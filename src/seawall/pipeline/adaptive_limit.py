"""The adaptive limit as people use it: a bulkhead that finds its own size."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from seawall.core.clock import Clock
from seawall.core.context import VARIABLE
from seawall.core.errors import Misplaced, Overloaded
from seawall.core.outcome import Kind, Outcome, Verdict
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.policy import Policy
from seawall.pipeline.run import Run
from seawall.policies.adaptive_limit import AdaptiveLimitRule, LimitState
from seawall.policies.limit_algorithms import Algorithm
from seawall.policies.limit_shares import ShareRule

Key = str | Callable[..., Hashable]

_DROPS = (Kind.TIMEOUT, Kind.CONNECT_TIMEOUT, Kind.OVERLOADED, Kind.CANCELLED)
"""What counts as dropped when it is a failure; a cancellation is one where a limit of this pipeline cut the call."""


@dataclass(frozen=True, slots=True)
class AdaptiveLimitSnapshot:
    """One adaptive limit at one moment.

    limit: calls that may run at once now. taken: calls that run or were granted a place; waiting: calls in the queue.
    rtt: mean seconds of the last window's calls, None before the first. overloaded: whether its queue stands (CoDel).
    windows: how often it has looked; shed: waiters put out; rejected: calls refused, those included; all since made.
    partitions: calls that run, by partition; "others" are those of no known name; empty without partitions. tenants: how many
    tenants hold or want something, 0 when they are not told apart.
    """

    kind: str
    name: str
    limit: int
    taken: int
    waiting: int
    rtt: float | None
    overloaded: bool
    windows: int
    shed: int
    rejected: int
    partitions: Mapping[str, int] = field(default_factory=dict)
    tenants: int = 0


class AdaptiveLimit(Guarding[LimitState]):
    """As many calls at once as the callee serves without queueing, found out from latency and throughput.

    initial: the limit to begin with, in [least, most]. Default 20.
    least, most: its bounds, 1 <= least <= most. Default 1 and 200.
    algorithm: "correlation" (default: turns back as soon as more calls at once bring no more throughput; does not creep),
        "aimd" (feels drops only), "vegas", "gradient2" (creeps up under overload that lasts), or one of
        `seawall.policies.limit_algorithms` with parameters of its own.
    queue: calls that may wait for a place, >= 0, one queue per priority. Default 0 = refuse at once. While even the shortest
        wait of the last 100 ms was above 5 ms, waiters older than 10 ms are put out (CoDel).
    wait: seconds that one call may wait, >= 0. Default None = as long as its deadline allows.
    partitions: named shares of the limit, such as {"batch": 0.1, "live": 0.9}, each in (0, 1], together at most 1. A partition
        gets its share (rounded down, at least 1) whenever it asks; what it leaves idle is lent. Calls of other names get what
        the shares leave over, under the name "others". While lent places come back, more calls than the limit may run, never
        more than `most`. Default none.
    partition: the name of the argument that says the partition, or a function of the arguments; given with `partitions`.
    tenant: the name of the argument that says for whom a call is, or a function of the arguments. Tenants then share the limit
        evenly while they want it: of those who wait, whoever holds least is served first, and one that has its fair share
        leaves places to those turned away with less within the last second. Default None = tenants are not told apart.
    max_tenants: how many tenants are told apart at once, >= 1; further ones share one account. Default 1000.
    name, clock: see `Policy`.

    `sw.priority(...)` decides who is refused first: "sheddable" calls may use 70 % of the limit, "default" calls all of it,
    and "critical" ones a tenth more, never above `most`; in the queue they stand before the others and take their places.
    Successes teach the limit their latency; timeouts and what the callee shed count as dropped; all else says nothing.
    Raises Overloaded for a call that gets no place; ValueError or TypeError for a parameter out of range.
    Sources: failsafe-go (correlation), Netflix concurrency-limits (windows, AIMD, Vegas, Gradient2), folly (CoDel).
    """

    kind = "adaptive_limit"
    error = Overloaded

    def __init__(
        self,
        *,
        initial: int = 20,
        least: int = 1,
        most: int = 200,
        algorithm: Literal["correlation", "aimd", "vegas", "gradient2"] | Algorithm = "correlation",
        queue: int = 0,
        wait: float | str | None = None,
        partitions: Mapping[str, float] | None = None,
        partition: Key | None = None,
        tenant: Key | None = None,
        max_tenants: int = 1000,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        if (partitions is None) != (partition is None):
            raise ValueError("partitions and partition belong together: the shares, and what says whose share a call uses")
        self._partition, self._tenant = _read_key("partition", partition), _read_key("tenant", tenant)
        if self._partition is not None or self._tenant is not None:
            self.why_no_block = "a block has no arguments to take a partition or a tenant from"
        shares = ShareRule(partitions={} if partitions is None else partitions, fair=tenant is not None, max_tenants=max_tenants)
        self.rule = AdaptiveLimitRule(
            initial=initial,
            least=least,
            most=most,
            algorithm=algorithm,
            queue=queue,
            wait=wait,  # type: ignore[arg-type]  # the rule reads text
            shares=shares,
        )
        self.may_wait = queue > 0 and self.rule.wait != 0
        super().__init__(self.rule, name=name, clock=clock)

    @property
    def limit(self) -> int:
        """How many calls may run at once now."""
        return int(self.cell.state.limit)

    @property
    def wait(self) -> float:
        """Seconds that a call may wait for its place, at most."""
        if self.rule.queue == 0:
            return 0.0
        return float("inf") if self.rule.wait is None else self.rule.wait

    def snapshot(self) -> AdaptiveLimitSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read)

    def take_over(self, old: Policy) -> None:
        """Keep who runs and who waits, the limit within the bounds, and what the same algorithm has learned."""
        super().take_over(old)
        assert isinstance(old, AdaptiveLimit)
        before = old.rule
        self.cell, old.rule = old.cell.handed_to(self, self.rule), self.rule  # calls that run settle by the new rule
        self.rejected = old.rejected
        self.cell.apply(self.rule.retune, self.clock.monotonic(), before)

    @property
    def at_rest(self) -> bool:
        """Whether forgetting it would lose nothing: nobody runs or waits, and nothing was learned."""
        shot = self.snapshot()
        return shot.taken == 0 and shot.waiting == 0 and shot.windows == 0

    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule; a waiter gives up at the end of its wait or at its deadline, whichever is first."""
        until = now + self.wait
        if run.deadline is not None:
            until = min(until, run.deadline)
        if self.rule.shares.used:
            keys = self._ask(run, self._partition), self._ask(run, self._tenant)
            return self.cell.apply(self.rule.admit, now, until, VARIABLE.get().priority, *keys)
        return self.cell.apply(self.rule.admit, now, until, VARIABLE.get().priority)

    def poll(self, ticket: Any, now: float) -> Any:
        """What a waiter looks at."""
        return self.cell.apply(self.rule.poll, now, ticket)

    def leave(self, ticket: Any, now: float) -> None:
        """A waiter gives up."""
        self.cell.apply(self.rule.leave, now, ticket)

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """Give the permit back, once every worker thread that was given up on under it has ended."""
        running = held.still_running()
        if running:
            running[0].on_done(lambda: self.release(held, permit, outcome, verdict))
            return
        dropped = outcome is Outcome.FAILURE and verdict.kind in _DROPS
        self.cell.apply(self.rule.settle, self.clock.monotonic(), permit, outcome, held.took or 0.0, dropped)

    def _ask(self, run: Run, key: Key | None) -> Hashable:
        """The call's partition or tenant. Raises Misplaced for one that is not hashable."""
        value = None if key is None else run.argument(key)
        try:
            hash(value)
        except TypeError as error:
            raise Misplaced(f"{self.name}: partition and tenant must be hashable; got {value!r}") from error
        return value

    def _read(self, state: LimitState) -> AdaptiveLimitSnapshot:
        return AdaptiveLimitSnapshot(
            kind=self.kind,
            name=self.name,
            limit=int(state.limit),
            taken=state.taken,
            waiting=state.waiting,
            rtt=state.rtt,
            overloaded=state.overloaded,
            windows=state.windows,
            shed=state.shed,
            rejected=self.rejected,
            partitions={name: account.taken for name, account in state.accounts.partitions.items()},
            tenants=len(state.accounts.tenants),
        )


def _read_key(name: str, key: Any) -> Key | None:
    if key is not None and not (isinstance(key, str) and key) and not callable(key):
        raise TypeError(f"{name} must be an argument's name or a function of the arguments; got {key!r}")
    return key  # type: ignore[no-any-return]
