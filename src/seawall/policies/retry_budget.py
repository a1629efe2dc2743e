"""The retry budget's rules: how many repeated calls the traffic may carry, so that retries cannot multiply an outage.

Three ways to count, one protocol: `enter` when a call begins, `withdraw` when a retry or hedge is scheduled (paid then, not when
it leaves its wait), `leave` when the call is over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

from seawall.core import units

_DUST: Final = 1e-9


class BudgetState:
    """One budget. HOT: `calls` (`+= 1`, only grows). active: calls that run; extra: repeated ones among them."""

    __slots__ = ("active", "balance", "calls", "extra", "seen", "since")

    def __init__(self, now: float, balance: float) -> None:
        self.calls = 0
        self.seen = 0
        self.since = now
        self.balance = balance
        self.active = 0
        self.extra = 0.0


@dataclass(frozen=True, kw_only=True)
class BudgetRule(ABC):
    """What all ways of counting share. ratio: what it means is each way's own."""

    ratio: float = 0.1
    counts_ends: bool = False
    """Whether `leave` matters, so that who runs the calls knows whether to say it."""

    @abstractmethod
    def start(self, now: float) -> BudgetState:
        """A budget in which nothing has happened."""

    def enter(self, state: BudgetState) -> None:
        """Count one call."""
        state.calls += 1

    def leave(self, state: BudgetState, failed: bool, extra: float) -> tuple[()]:  # noqa: FBT001  # not public
        """A call is over; `extra` is what its repetitions had withdrawn."""
        return ()

    @abstractmethod
    def refresh(self, state: BudgetState, now: float) -> float:
        """Bring the state up to date; the retries it allows now."""

    def withdraw(self, state: BudgetState, now: float, cost: float = 1.0) -> bool:
        """Pay for one repetition that weighs `cost`; False when the budget does not allow it."""
        if self.refresh(state, now) < cost - _DUST:
            return False
        state.balance -= cost
        state.extra += cost
        return True


@dataclass(frozen=True, kw_only=True)
class ShareRule(BudgetRule):
    """Retries are a share of the calls, and a few per second. Source: Finagle's RetryBudget (deposits that expire, a reserve).

    Deposits are counted without a clock: calls since the last request for a retry, scaled to the time a deposit lives.
    """

    floor_per_s: float = 1.0
    ttl: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", units.ratio("ratio", self.ratio, zero=True))
        object.__setattr__(self, "floor_per_s", units.number("floor_per_s", self.floor_per_s))
        object.__setattr__(self, "ttl", units.seconds("ttl", self.ttl))

    def start(self, now: float) -> BudgetState:
        """It holds its floor for one ttl, so that the first failures of a quiet service may be retried."""
        return BudgetState(now, self.floor_per_s * self.ttl)

    def refresh(self, state: BudgetState, now: float) -> float:
        """Let old deposits expire and new ones arrive."""
        elapsed = max(0.0, now - state.since)
        calls = state.calls
        fresh = (calls - state.seen) * (min(1.0, self.ttl / elapsed) if elapsed else 1.0)
        kept = state.balance * max(0.0, 1.0 - elapsed / self.ttl)
        state.balance = kept + self.ratio * fresh + self.floor_per_s * min(elapsed, self.ttl)
        state.seen, state.since = calls, now
        return state.balance


@dataclass(frozen=True, kw_only=True)
class TokensRule(BudgetRule):
    """Failures take a token, successes give `ratio` of one back; retries while more than half of ten are there.

    Source: gRPC proposal A6, retry throttling (maxTokens 10, tokenRatio 0.1).
    """

    counts_ends: bool = True
    tokens: ClassVar[float] = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", units.ratio("ratio", self.ratio))

    def start(self, now: float) -> BudgetState:
        """All tokens are there."""
        return BudgetState(now, self.tokens)

    def leave(self, state: BudgetState, failed: bool, extra: float) -> tuple[()]:  # noqa: FBT001
        """Judge a call by how it ended."""
        change = -1.0 if failed else self.ratio
        state.balance = min(self.tokens, max(0.0, state.balance + change))
        return ()

    def refresh(self, state: BudgetState, now: float) -> float:
        """What is above one half."""
        return state.balance - self.tokens / 2

    def withdraw(self, state: BudgetState, now: float, cost: float = 1.0) -> bool:
        """Allowed above one half; the failure itself is what pays, when the attempt has failed."""
        if self.refresh(state, now) <= 0:
            return False
        state.balance = max(0.0, state.balance - cost)
        return True


@dataclass(frozen=True, kw_only=True)
class InFlightRule(BudgetRule):
    """Repetitions are at most a share of the calls that run now, and never fewer than three.

    Source: Envoy's retry budget (budget_percent, min_retry_concurrency 3); paid when scheduled, which Envoy does not.
    """

    counts_ends: bool = True
    least: ClassVar[float] = 3.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", units.ratio("ratio", self.ratio))

    def start(self, now: float) -> BudgetState:
        """Nothing runs."""
        return BudgetState(now, 0.0)

    def enter(self, state: BudgetState) -> None:
        """One more runs."""
        state.calls += 1
        state.active += 1

    def leave(self, state: BudgetState, failed: bool, extra: float) -> tuple[()]:  # noqa: FBT001
        """One less runs, with all that it had repeated."""
        state.active -= 1
        state.extra = max(0.0, state.extra - extra)
        return ()

    def refresh(self, state: BudgetState, now: float) -> float:
        """What the calls that run now leave room for."""
        state.balance = max(self.least, self.ratio * state.active) - state.extra
        return state.balance


MODES: Final = ("share", "tokens", "in_flight")


def rule_of(mode: str, *, ratio: float, floor_per_s: float, ttl: float) -> BudgetRule:
    """The rule of a mode. Raises ValueError for another word, or for parameters out of range."""
    units.one_of("mode", mode, MODES)
    if mode == "tokens":
        return TokensRule(ratio=ratio)
    if mode == "in_flight":
        return InFlightRule(ratio=ratio)
    return ShareRule(ratio=ratio, floor_per_s=floor_per_s, ttl=ttl)
