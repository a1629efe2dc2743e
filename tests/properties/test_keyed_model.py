"""Keyed policies against a naive model: an ordered list of keys, who of them is busy, and how many circuits are open."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import seawall as sw
from seawall.testing import VirtualClock

KEYS = st.sampled_from("abcdefgh")


class KeyedMachine(RuleBasedStateMachine):
    """Bulkheads per key: calls that begin and end, more keys than there is room for."""

    @initialize(most=st.integers(1, 5))
    def begin(self, most: int) -> None:
        self.keyed = sw.Keyed("key", lambda key: sw.Bulkhead(100), max_keys=most)
        self.most = most
        self.order: list[str] = []  # used longest ago first
        self.objects: dict[str, sw.Policy] = {}
        self.overflow: sw.Policy | None = None
        self.overflowed = 0
        self.busy: list[tuple[str, object]] = []

    @rule(key=KEYS)
    def pick(self, key: str) -> None:
        self.expect(key, self.keyed.pick(key))

    def expect(self, key: str, policy: sw.Policy) -> None:
        if key in self.order:
            assert policy is self.objects[key]
            self.order.remove(key)
            self.order.append(key)
            return
        if len(self.order) >= self.most:
            idle = next((known for known in self.order[:8] if not any(known == one for one, _ in self.busy)), None)
            if idle is None:
                assert self.overflow is None or policy is self.overflow
                assert policy not in self.objects.values()
                self.overflow = policy
                self.overflowed += 1
                return
            self.order.remove(idle)
            del self.objects[idle]
        assert policy not in self.objects.values()
        assert policy is not self.overflow
        assert policy.name == f"keyed[{key}]"
        self.order.append(key)
        self.objects[key] = policy

    @rule(key=KEYS)
    def begin_call(self, key: str) -> None:
        policy = self.keyed.pick(key)
        self.expect(key, policy)
        if policy is not self.overflow:
            block = policy.permit()
            block.__enter__()
            self.busy.append((key, block))

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def end_call(self, data: st.DataObject) -> None:
        _, block = self.busy.pop(data.draw(st.integers(0, len(self.busy) - 1)))
        block.__exit__(None, None, None)  # type: ignore[attr-defined]

    @rule()
    def restart(self) -> None:
        self.keyed.restart()
        self.order, self.objects, self.busy = [], {}, []
        self.overflow, self.overflowed = None, 0

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "keyed"):
            shot = self.keyed.snapshot()
            assert sorted(shot.keys) == sorted(self.order)
            assert len(shot.keys) <= self.most
            assert shot.overflowed == self.overflowed


class PanicMachine(RuleBasedStateMachine):
    """Circuits per key under a bound on how many may be open at once."""

    @initialize(bound=st.sampled_from([0.25, 0.5, 1.0]))
    def begin(self, bound: float) -> None:
        self.clock = VirtualClock()
        breaker = {"consecutive_failures": 1, "failure_ratio": None, "open_for": 1000.0}
        self.keyed = sw.Keyed("key", lambda key: sw.CircuitBreaker(**breaker), max_open=bound, clock=self.clock)  # type: ignore[arg-type]
        self.pipeline = sw.Pipeline(self.keyed)
        self.bound = bound
        self.open: dict[str, bool] = {}

    @rule(key=KEYS, fails=st.booleans())
    def call(self, key: str, fails: bool) -> None:
        def body(key: str) -> str:
            if fails:
                raise OSError
            return key

        self.clock.advance(0.5)  # it counts anew at most every tenth second
        self.open.setdefault(key, False)
        panics = len(self.open) >= 5 and sum(self.open.values()) > self.bound * len(self.open)
        result = self.pipeline.try_call(body, key)
        if self.open[key] and not panics:
            assert isinstance(result.rejection, sw.CircuitOpen)
            return
        assert result.ok is not fails
        assert result.rejection is None
        if not self.open[key]:
            self.open[key] = fails

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "keyed"):
            shot = self.keyed.snapshot()
            assert {key: breaker.state == "open" for key, breaker in shot.keys.items()} == self.open


KeyedMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)
PanicMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


class TestKeyed(KeyedMachine.TestCase):  # type: ignore[name-defined,misc]
    """Who is busy is never forgotten, and there are never more than was said, in every order that Hypothesis finds."""

    pytestmark = pytest.mark.timeout(120)


class TestPanic(PanicMachine.TestCase):  # type: ignore[name-defined,misc]
    """When more circuits are open than can be true, calls pass; else an open one refuses."""

    pytestmark = pytest.mark.timeout(120)
