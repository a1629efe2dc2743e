"""Retry with a budget against a naive model: whole calls, one after the other, in virtual time, worked out by hand."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import seawall as sw
from seawall.core import clock as clocks
from seawall.testing import Script, VirtualClock

ERRORS: dict[str, Exception] = {
    "never sent": ConnectionRefusedError(),
    "reset": ConnectionResetError(),
    "bug": ValueError(),
    "throttled": sw.RateLimited("theirs", policy="theirs"),  # our own refusal: never repeated
}


class Throttled(Exception):
    """A 429 that says when to come again."""

    status = 429

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many requests")
        self.retry_after = retry_after


class RetryMachine(RuleBasedStateMachine):
    """Calls with scripted outcomes, with and without a deadline, marked idempotent or not, sync and async."""

    @initialize(attempts=st.integers(1, 4), budgeted=st.booleans(), cap=st.sampled_from([0, 8]))
    def begin(self, attempts: int, budgeted: bool, cap: int) -> None:
        self.clock = VirtualClock()
        self.budget = sw.RetryBudget(0.5, mode="tokens", clock=self.clock) if budgeted else None
        backoff = sw.Backoff(base=1, cap=4, jitter="none")
        self.retry = sw.Retry(attempts, budget=self.budget, backoff=backoff, retry_after_cap=cap, clock=self.clock)
        self.attempts, self.cap = attempts, cap
        self.retried = self.gave_up = 0
        self.tokens = 10.0

    def teardown(self) -> None:
        if hasattr(self, "clock"):
            self.clock.release()

    def expect(self, outcomes: list[Any], idempotent: bool, left: float) -> tuple[int, float, bool]:
        """How often the callee is called, how long it takes, and whether it ends well."""
        waited = 0.0
        for number, outcome in enumerate(outcomes, 1):
            if outcome == "fine":
                return number, waited, True
            hint = outcome if isinstance(outcome, int) else None
            worth = hint is not None or outcome == "never sent" or (outcome == "reset" and idempotent)
            if not worth:
                return number, waited, False
            wait = min(4.0, 2.0 ** (number - 1))
            wait = wait if hint is None else max(wait, min(hint, self.cap))
            if number < self.attempts and waited + wait < left and (self.budget is None or self.tokens > 5):
                self.tokens -= 1
                waited += wait
                continue
            self.gave_up += 1
            return number, waited, False
        raise AssertionError("the script is long enough")

    @rule(
        outcomes=st.lists(st.sampled_from(["never sent", "reset", "bug", "throttled", 0, 3, 60, "fine"]), min_size=4, max_size=4),
        idempotent=st.booleans(),
        seconds=st.sampled_from([None, 1.5, 5.0, 9.0]),
        world=st.sampled_from(["sync", "async"]),
    )
    def call(self, outcomes: list[Any], idempotent: bool, seconds: float | None, world: str) -> None:
        script = Script(*(Throttled(one) if isinstance(one, int) else ERRORS.get(one, one) for one in outcomes))
        guarded = self.retry(idempotent=True) if idempotent else self.retry
        calls, waited, well = self.expect(outcomes, idempotent, float("inf") if seconds is None else seconds)
        self.tokens = min(10.0, self.tokens + 0.5) if well else max(0.0, self.tokens - 1)
        before = self.clock.monotonic()
        real = clocks.override(self.clock)
        try:
            with nullcontext() if seconds is None else sw.deadline(seconds):
                result = self.outcome(guarded, script) if world == "sync" else asyncio.run(self.later(guarded, script))
        finally:
            clocks.override(real)
        assert (len(script.calls), result is None) == (calls, well)
        assert self.clock.monotonic() - before == pytest.approx(waited)
        self.retried += calls - 1

    def outcome(self, guarded: Any, script: Script) -> Exception | None:
        try:
            guarded(lambda: script())()
        except Exception as error:
            return error
        return None

    async def later(self, guarded: Any, script: Script) -> Exception | None:
        async def body() -> Any:
            return await script.acall()

        try:
            await guarded(body)()
        except Exception as error:
            return error
        return None

    @rule(seconds=st.integers(1, 50))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "retry"):
            shot = self.retry.snapshot()
            assert (shot.retried, shot.gave_up) == (self.retried, self.gave_up)
            if self.budget is not None:
                assert self.budget.cell.state.balance == pytest.approx(self.tokens)


RetryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


class TestRetry(RetryMachine.TestCase):  # type: ignore[name-defined,misc]
    """As many attempts, as long waits, as many tokens as worked out by hand, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)
