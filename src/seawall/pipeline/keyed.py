"""One policy per value of an argument: per host, per tenant. Bounded, and never forgetful of what matters."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.errors import Misplaced
from seawall.pipeline.breaker import CircuitBreaker
from seawall.pipeline.policy import Layer, Policy
from seawall.pipeline.run import Run

FEWEST_TO_PANIC: Final = 5  # keys: of fewer, all may well be down at once
LOOK_EVERY: Final = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class KeyedSnapshot:
    """One keyed policy at one moment. keys: snapshots by key (text); overflowed: calls that shared the overflow policy."""

    kind: str
    name: str
    keys: dict[str, Any]
    overflowed: int


class Keyed(Policy):
    """One policy per value of an argument, such as a circuit per host.

    key: the name of an argument of the guarded function, or a function of its arguments. The value must be hashable.
    make: from a key to a new policy; called once per key.
    max_keys: how many keys are kept, >= 1. Default 10 000. Beyond it the key that was used longest ago goes if its policy is
        at rest (a closed circuit with an empty window, a bulkhead without calls, a full bucket); when none is, new keys
        share one policy, with an event "keyed.overflowed". An open circuit is never forgotten.
    max_open: the share of keys whose circuit may be open at once, in (0, 1], once five keys are known. When more are, the fault
        is more likely here than with all of them: calls to open circuits pass then, with an event "keyed.panicking". Default
        None = no such bound.
    name, clock: see `Policy`.

    Raises TypeError or ValueError for a parameter out of range, Misplaced when the function has no such argument.
    """

    kind = "keyed"
    why_no_block = "a block has no arguments to take a key from"

    def __init__(
        self,
        key: str | Callable[..., Hashable],
        make: Callable[[Any], Policy],
        *,
        max_keys: int = 10_000,
        max_open: float | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not (isinstance(key, str) and key) and not callable(key):
            raise TypeError(f"key must be an argument's name or a function of the arguments; got {key!r}")
        if not callable(make):
            raise TypeError(f"make must be a function from a key to a policy; got {make!r}")
        self._key = key
        self._make = make
        self._max_keys = units.whole("max_keys", max_keys)
        self._max_open = None if max_open is None else units.ratio("max_open", max_open)
        self._panicking, self._looked_at = False, float("-inf")
        self._lock = threading.Lock()
        self._policies: OrderedDict[Hashable, Policy] = OrderedDict()
        self._overflow: Policy | None = None
        self.overflowed = 0
        super().__init__(name=name, clock=clock)
        sample = make("sample")
        if not isinstance(sample, Policy) or isinstance(sample, Keyed):
            raise TypeError(f"make must return a policy such as CircuitBreaker(); got {sample!r}")
        self.may_wait = sample.may_wait
        self.acts_while_observing = sample.acts_while_observing
        self.sample = sample

    def layer(self, twins: Any, inner: Layer) -> Layer:
        """Guard what is inside with the policy of the call's key."""

        def pick_and_run(run: Run) -> Any:
            policy = self.pick(run.argument(self._key))
            if self._max_open is not None and _is_open(policy) and self._panics(run.port.now()):
                return inner(run)
            return policy.layer(twins, inner)(run)

        return pick_and_run

    def pick(self, key: Hashable) -> Policy:
        """The policy of `key`, made when it is new. Raises TypeError for a key that is not hashable."""
        with self._lock:
            policy = self._policies.get(key)
            if policy is not None:
                self._policies.move_to_end(key)
                return policy
        return self._admit(key)

    def snapshot(self) -> KeyedSnapshot:
        """What it holds now."""
        with self._lock:
            policies = dict(self._policies)
        shots = {str(key): policy.snapshot() for key, policy in policies.items()}
        return KeyedSnapshot(self.kind, self.name, shots, self.overflowed)

    def restart(self) -> None:
        """Forget every key."""
        with self._lock:
            self._policies.clear()
            self._overflow = None
            self.overflowed = 0

    def reopen(self) -> None:
        """After a fork: a lock of our own."""
        self._lock = threading.Lock()

    def _panics(self, now: float) -> bool:
        """Whether so many circuits are open that the fault is likely to be ours. Counted anew at most every tenth second."""
        if now - self._looked_at < LOOK_EVERY:
            return self._panicking
        with self._lock:
            policies = list(self._policies.values())
        opened = sum(map(_is_open, policies))
        before, self._looked_at = self._panicking, now
        self._panicking = len(policies) >= FEWEST_TO_PANIC and opened > (self._max_open or 1.0) * len(policies)
        if self._panicking and not before:
            self.emit("keyed.panicking", open=opened, keys=len(policies))
        return self._panicking

    def _admit(self, key: Hashable) -> Policy:
        fresh = self._new(key, str(key))
        with self._lock:
            known = self._policies.get(key)
            if known is not None:
                return known
            if len(self._policies) < self._max_keys or self._evict():
                self._policies[key] = fresh
                return fresh
            self.overflowed += 1
            first = self._overflow is None
            if self._overflow is None:
                self._overflow = self._new("overflow", "overflow")
        if first:
            self.emit("keyed.overflowed", max_keys=self._max_keys)
        return self._overflow

    def _evict(self) -> bool:
        """Forget one policy at rest, looking at the eight that were used longest ago."""
        for key in list(self._policies)[:8]:
            if getattr(self._policies[key], "at_rest", True):
                del self._policies[key]
                return True
        return False

    def _new(self, key: Any, label: str) -> Policy:
        policy = self._make(key)
        if not isinstance(policy, Policy):
            raise Misplaced(f"{self.name}: make({key!r}) returned {policy!r}, which is no policy")
        policy.adopt(f"{self.name}[{label[:64]}]", self._own_clock)
        policy.sinks = self.sinks
        policy.stands_for = self
        if hasattr(policy, "keyed"):
            policy.keyed = True
        return policy


def _is_open(policy: Policy) -> bool:
    return isinstance(policy, CircuitBreaker) and policy.state in ("open", "half_open")
