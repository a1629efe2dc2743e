"""The circuit breaker's rule: stop calling what is broken, and find out gently whether it is well again.

Two laws of this file. Every change of state happens in `_open`, `_half_open`, `_close` or a verb at its end. A permit is the
epoch it was issued in: what settles with the permit of another epoch changes nothing.

closed    -- failures in a row, failure ratio or slow ratio reached --> open
open      -- its time is over, seen at the next admission          --> half_open
half_open -- the probes' verdict is decided                        --> closed (or ramping), or open for a longer time
ramping   -- a growing share of calls passes; one failure reopens   --> closed after `ramp` seconds, or open
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from seawall.core import units
from seawall.core.outcome import Outcome
from seawall.policies.backoff import Backoff
from seawall.policies.verdict import Events, Note, Permit, Rejection
from seawall.policies.windows import FAILED, FORGETFUL, OK, SLOW, SLOW_FAILED, CountWindow, Forgetful, Window, resized, window_of

Phase = Literal["closed", "open", "half_open", "ramping"]
Mode = Literal["isolated", "disabled", "observing"]
State = Literal["closed", "open", "half_open", "isolated", "disabled", "observing"]

RAMP_START = 0.1  # the share of calls that passes when a ramp begins
HINT_CAP = 60.0  # seconds: the longest open time that a callee's Retry-After can ask for


class Probe(Permit):
    """The permit of one call in half-open. After `expires_at` it counts as failed and its place is given again."""

    __slots__ = ("epoch", "events", "expires_at")

    def __init__(self, epoch: int, expires_at: float) -> None:
        self.epoch = epoch
        self.expires_at = expires_at
        self.events: Events = ()


class BreakerState:
    """One circuit. HOT: `window` and `record`: the current window and its bound append while closed, else None."""

    __slots__ = (
        "current",
        "epoch",
        "failed",
        "ignored",
        "mode",
        "open_until",
        "opened",
        "out",
        "passed",
        "paused",
        "phase",
        "ramp_credit",
        "ramp_from",
        "record",
        "rounds",
        "slow",
        "window",
    )

    def __init__(self) -> None:
        self.epoch = 0
        self.opened = 0
        self.mode: Mode | None = None
        self.record: Any = None
        self.window: Window | None = None
        self.current: Window | None = None
        self.phase: Phase = "closed"
        self.open_until = 0.0
        self.paused = False
        self.rounds = 0
        self.ramp_from = 0.0
        self.ramp_credit = 0.0
        self.out: list[Probe] = []
        self.passed = self.failed = self.slow = self.ignored = 0


@dataclass(frozen=True, kw_only=True)
class BreakerRule:
    """When to open, for how long, and how to close again. Units, ranges and defaults: see `seawall.CircuitBreaker`."""

    consecutive_failures: int | None = 5
    failure_ratio: float | None = 0.5
    minimum_calls: int = 10
    window: float = 30.0
    window_calls: int | None = None
    slow_call: float | None = None
    slow_ratio: float = 0.8
    open_for: float | Backoff = 5.0
    probes: int = 3
    probes_at_once: int = 1
    probe_lease: float | None = None
    ramp: float | None = None

    def __post_init__(self) -> None:
        if self.consecutive_failures is not None:
            units.whole("consecutive_failures", self.consecutive_failures)
        if self.failure_ratio is not None:
            units.ratio("failure_ratio", self.failure_ratio)
        units.whole("minimum_calls", self.minimum_calls)
        object.__setattr__(self, "window", units.seconds("window", self.window))
        if self.window_calls is not None:
            units.whole("window_calls", self.window_calls, least=self.consecutive_failures or 1)
        if self.slow_call is not None:
            object.__setattr__(self, "slow_call", units.seconds("slow_call", self.slow_call))
        units.ratio("slow_ratio", self.slow_ratio)
        if not isinstance(self.open_for, Backoff):
            object.__setattr__(self, "open_for", units.seconds("open_for", self.open_for))
        units.whole("probes", self.probes)
        units.whole("probes_at_once", self.probes_at_once, most=self.probes)
        if self.probe_lease is not None:
            object.__setattr__(self, "probe_lease", units.seconds("probe_lease", self.probe_lease))
        if self.ramp is not None:
            object.__setattr__(self, "ramp", units.seconds("ramp", self.ramp))
        if self.consecutive_failures is None and self.failure_ratio is None and self.slow_call is None:
            raise ValueError("one of consecutive_failures, failure_ratio and slow_call must be given; all are None")

    def start(self, now: float) -> BreakerState:
        """A closed circuit with an empty window."""
        state = BreakerState()
        self._close(state, now)
        return state

    # --- admit and settle

    def admit(self, state: BreakerState, now: float, u: float = 0.5) -> Window | Permit | Rejection:
        """May a call begin? The window (closed), a probe (half-open), a forgetful permit (disabled), or a rejection.

        u: a draw in [0, 1) for the jitter of the open time, should a probe's lease turn out to be over.
        """
        if state.mode == "isolated":
            return Rejection("is isolated by hand")
        if state.mode == "disabled":
            return FORGETFUL
        if state.phase == "open" and now >= state.open_until:
            return self._wake_up(state, now, u)
        if state.phase == "open":
            return self._refuse(state, "is open", state.open_until - now)
        if state.phase == "half_open":
            return self._admit_probe(state, now, u)
        if state.phase == "ramping" and not self._ramps_in(state, now):
            return self._refuse(state, "is ramping up after recovery", (self.ramp or 0.0) / 10)
        assert state.current is not None
        return state.current

    def settle(
        self,
        state: BreakerState,
        now: float,
        permit: Window | Permit,
        outcome: Outcome,
        *,
        took: float = 0.0,
        hint: float | None = None,
        u: float = 0.5,
    ) -> Events:
        """Count one result.

        took: seconds of the call without its waits in queues. hint: seconds the callee asked us to wait, or None.
        u: a draw in [0, 1) for the jitter of the open time.
        """
        slow = self.slow_call is not None and took > self.slow_call and outcome is not Outcome.IGNORED
        if isinstance(permit, Probe):
            return self._settle_probe(state, now, permit, outcome, slow, hint, u)
        if permit is not state.current or outcome is Outcome.IGNORED:
            return ()
        assert state.current is not None
        if outcome is Outcome.SUCCESS:
            state.current.record(now, SLOW if slow else OK)
            return self._judge(state, now, hint, u) if slow else ()
        state.current.record(now, SLOW_FAILED if slow else FAILED)
        if state.phase == "ramping":
            return self._open(state, now, "a call failed while it was ramping up", hint, u)
        return self._judge(state, now, hint, u)

    def pause(self, state: BreakerState, now: float, permit: Window | Permit, hint: float) -> Events:
        """The callee throttled us: let nothing through for `hint` seconds (at most 60), then go on as before."""
        if permit is not state.current or state.phase != "closed":
            return ()
        state.phase, state.paused = "open", True
        state.open_until = now + min(hint, HINT_CAP)
        self._publish(state)
        return (Note("breaker.paused", {"for": min(hint, HINT_CAP)}),)

    # --- verbs for people

    def set_mode(self, state: BreakerState, now: float, mode: Mode) -> Events:
        """Isolate (refuse all), disable (admit all, count nothing) or observe (count all, refuse nothing)."""
        self._close(state, now)
        state.mode = mode
        self._publish(state)
        return (Note(f"breaker.{mode}"),)

    def reset(self, state: BreakerState, now: float) -> Events:
        """Back to closed with an empty window, from any state; permits that are out become void."""
        state.mode = None
        self._close(state, now)
        return (Note("breaker.reset"),)

    def doubt(self, state: BreakerState, now: float, epoch: int) -> Events:
        """Others say that the callee is broken: find out with probes, never open at once. Nothing happens unless the circuit
        is closed and still in the epoch in which they were asked."""
        if state.phase != "closed" or state.mode is not None or state.epoch != epoch:
            return ()
        state.current = None
        return self._half_open(state)

    def state(self, state: BreakerState) -> State:
        """The word for what the circuit does now."""
        return state.mode or ("half_open" if state.phase == "ramping" else state.phase)

    def share(self, state: BreakerState, now: float) -> float:
        """The share of calls that passes now: 1 while closed, growing from a tenth while ramping, 0 while open."""
        if state.phase == "ramping":  # under a rule that has no ramp any more, after a reload, it is over
            return 1.0 if self.ramp is None else min(1.0, RAMP_START + (1.0 - RAMP_START) * (now - state.ramp_from) / self.ramp)
        return float(state.phase == "closed")

    # --- half-open

    def _wake_up(self, state: BreakerState, now: float, u: float) -> Window | Permit | Rejection:
        if state.paused:
            state.phase, state.paused = "closed", False
            self._publish(state)
            assert state.current is not None
            return state.current
        events = self._half_open(state)
        probe = self._admit_probe(state, now, u)
        assert isinstance(probe, Probe)
        probe.events = events
        return probe

    def _admit_probe(self, state: BreakerState, now: float, u: float) -> Permit | Rejection:
        expired = [probe for probe in state.out if now >= probe.expires_at]
        for probe in expired:
            state.out.remove(probe)
            state.failed += 1
            state.slow += self.slow_call is not None  # what never came back is slow too; so this can reopen, not close
        if expired and (events := self._verdict(state, now, "a probe never came back", None, u)):
            return self._refuse(state, "is open", state.open_until - now, events)
        decided = state.passed + state.failed
        if len(state.out) >= self.probes_at_once or decided + len(state.out) >= self.probes:
            soonest = min((probe.expires_at for probe in state.out), default=now)
            return self._refuse(state, "is half-open and all its probes are out", max(0.0, soonest - now))
        probe = Probe(state.epoch, now + self.lease)
        state.out.append(probe)
        return probe

    def _settle_probe(
        self,
        state: BreakerState,
        now: float,
        probe: Probe,
        outcome: Outcome,
        slow: bool,  # noqa: FBT001  # not public
        hint: float | None,
        u: float,
    ) -> Events:
        if probe not in state.out:
            return ()
        state.out.remove(probe)
        if outcome is Outcome.IGNORED:
            state.ignored += 1
            if state.ignored >= self.probes and not state.out:
                return self._open(state, now, "its probes said nothing", hint, u)
            return ()
        if outcome is Outcome.FAILURE:
            state.failed += 1
        else:
            state.passed += 1
        state.slow += slow
        return self._verdict(state, now, "probes failed", hint, u)

    def _verdict(self, state: BreakerState, now: float, reason: str, hint: float | None, u: float) -> Events:
        """Close or reopen as soon as no further probe can change the answer."""
        if state.failed >= self.failures_to_reopen:
            return self._open(state, now, reason, hint, u)
        if self.slow_call is not None and state.slow >= _share(self.slow_ratio, self.probes):
            return self._open(state, now, "probes were slow", hint, u)
        left = self.probes - state.passed - state.failed
        may_still_fail = state.failed + left >= self.failures_to_reopen
        may_still_be_slow = self.slow_call is not None and state.slow + left >= _share(self.slow_ratio, self.probes)
        if may_still_fail or may_still_be_slow:
            return ()
        answered = state.passed + state.failed
        rounds = state.rounds
        self._close(state, now)
        if self.ramp is None:
            return (Note("breaker.closed", {"probes": answered}),)
        state.phase, state.ramp_from, state.ramp_credit, state.rounds = "ramping", now, 0.0, rounds
        self._publish(state)
        return (Note("breaker.ramping", {"probes": answered, "for": self.ramp}),)

    def _ramps_in(self, state: BreakerState, now: float) -> bool:
        """Whether the next call is in the share that passes; at the end of the ramp the circuit is closed."""
        share = self.share(state, now)
        if share >= 1.0:
            state.phase, state.rounds = "closed", 0
            self._publish(state)
            return True
        state.ramp_credit += share
        if state.ramp_credit < 1.0:
            return False
        state.ramp_credit -= 1.0
        return True

    @property
    def failures_to_reopen(self) -> int:
        """How many failed probes decide to reopen: the failure ratio of all probes; one where no ratio is set."""
        return 1 if self.failure_ratio is None else _share(self.failure_ratio, self.probes)

    @property
    def lease(self) -> float:
        """Seconds after which a probe that has not come back counts as failed."""
        if self.probe_lease is not None:
            return self.probe_lease
        return self.open_for.base if isinstance(self.open_for, Backoff) else self.open_for

    # --- transitions

    def _judge(self, state: BreakerState, now: float, hint: float | None, u: float) -> Events:
        if state.phase != "closed" or state.current is None:
            return ()
        counts = state.current.counts(now)
        if self.consecutive_failures is not None and counts.streak >= self.consecutive_failures:
            return self._open(state, now, f"{counts.streak} failures in a row", hint, u)
        if counts.calls < min(self.minimum_calls, self.window_calls or self.minimum_calls):
            return ()
        if self.failure_ratio is not None and counts.failed / counts.calls >= self.failure_ratio:
            return self._open(state, now, f"{counts.failed} of {counts.calls} calls failed", hint, u)
        if self.slow_call is not None and counts.slow / counts.calls >= self.slow_ratio:
            return self._open(state, now, f"{counts.slow} of {counts.calls} calls were slow", hint, u)
        return ()

    def _open(self, state: BreakerState, now: float, reason: str, hint: float | None, u: float) -> Events:
        length = self.open_for.wait(state.rounds, u) if isinstance(self.open_for, Backoff) else self.open_for
        if hint is not None:
            length = max(length, min(hint, HINT_CAP))
        state.phase, state.paused, state.open_until = "open", False, now + length
        state.epoch += 1
        state.opened += 1
        state.rounds += 1
        state.current = None
        state.out = []
        self._publish(state)
        return (Note("breaker.opened", {"reason": reason, "open_for": length}),)

    def _half_open(self, state: BreakerState) -> Events:
        state.phase = "half_open"
        state.epoch += 1
        state.out = []
        state.passed = state.failed = state.slow = state.ignored = 0
        self._publish(state)
        return (Note("breaker.half_opened", {"probes": self.probes}),)

    def _close(self, state: BreakerState, now: float) -> Events:
        state.phase, state.paused = "closed", False
        state.epoch += 1
        state.rounds = 0
        state.out = []
        state.current = window_of(state.epoch, self.window, self.window_calls, now)
        self._publish(state)
        return ()

    def retune(self, state: BreakerState, now: float) -> Events:
        """Give the window this rule's length. What it holds stays, unless it counts in another way."""
        if state.current is not None:
            state.current = resized(state.current, self.window, self.window_calls, now)
            self._publish(state)
        return ()

    def _publish(self, state: BreakerState) -> None:
        """Set the hot slots: compiled code may admit without asking only while the circuit is closed and in no mode."""
        open_to_all = state.phase == "closed" and state.mode is None
        state.window = state.current if open_to_all else None
        state.record = state.current.append if open_to_all and isinstance(state.current, CountWindow) else None

    def _refuse(self, state: BreakerState, reason: str, retry_after: float, events: Events = ()) -> Permit | Rejection:
        if state.mode == "observing":
            return Forgetful((*events, Note("breaker.would_reject", {"reason": reason})))
        return Rejection(reason, retry_after, events)


def _share(ratio: float, of: int) -> int:
    """The least whole number of `of` that reaches `ratio`."""
    return max(1, math.ceil(ratio * of - 1e-9))
