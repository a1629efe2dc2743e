"""What a shared limiter keeps, as programs for a store: limits, levels of a hierarchy, priorities, shares of processes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from seawall.core import units
from seawall.core.context import PRIORITIES
from seawall.core.units import Limit
from seawall.policies.key_table import UNKEYED
from seawall.policies.rate_limit import METERS, RateLimitRule, read_limits
from seawall.shared import keys
from seawall.shared.port import Ask, Part, Program, capped, divided, is_bucket, narrowed, part, program
from seawall.shared.quota import Quota

LETTERS: Final = {
    "token_bucket": "b",
    "leaky_bucket": "l",
    "sliding_window": "w",
    "sliding_log": "s",
    "fixed_window": "f",
}
"""The algorithm is part of the key, so that another one begins anew instead of reading what it cannot."""
BURSTY: Final = ("token_bucket", "leaky_bucket")
VERSION: Final = "sw1"
MOST_KNOWN: Final = 4096
"""Subjects whose keys are remembered: writing them costs as much as half of an ask."""


class Limits:
    """The limits of one limiter. flat: all of them in order; levels: the names of a hierarchy's levels, outermost first.

    Raises ValueError or TypeError for a spec or headroom that cannot be meant.
    """

    def __init__(self, spec: Any, algorithm: str, headroom: dict[str, float] | None, replicas: int | None) -> None:
        units.one_of("algorithm", algorithm, tuple(METERS))
        self.algorithm = algorithm
        self.headroom = _read_headroom(headroom)
        self.fixed_replicas = None if replicas is None else units.whole("replicas", replicas)
        self.replicas = self.fixed_replicas or 1
        self.levels, self._by_level = _read_levels(spec)
        self.flat = tuple(limit for limits in self._by_level for limit in limits)
        self._check(self.flat)
        self._unnamed = ", ".join(map(str, self.flat))
        self._programs: dict[str, Program] = {}
        self._known: dict[Hashable, tuple[str, ...]] = {}
        self._last: Program | None = None
        self._until = 0.0

    def retune(self, spec: Any) -> None:
        """Take other limits. Raises ValueError when their number or the levels are other ones."""
        levels, by_level = _read_levels(spec)
        if levels != self.levels or list(map(len, by_level)) != list(map(len, self._by_level)):
            raise ValueError(f"spec must have as many limits and the same levels as before; got {spec!r}")
        flat = tuple(limit for limits in by_level for limit in limits)
        self._check(flat)
        self._by_level, self.flat = by_level, flat
        self._known.clear()
        self._until = 0.0

    def rule(self, like: RateLimitRule) -> RateLimitRule:
        """The limits as the rule of a limiter in memory, for those who only read it."""
        return replace(like, limits=self.flat)

    def count(self, replicas: int) -> None:
        """So many processes share the limits now."""
        if self.fixed_replicas is None and replicas != self.replicas:
            self.replicas = max(1, replicas)
            self._until = 0.0

    def unit(self) -> float:
        """Seconds that one unit takes at the least while the limits are spent; 0 where a whole window opens at once."""
        if self.algorithm not in BURSTY or any(isinstance(limit, Quota) for limit in self.flat):
            return 0.0
        return min(limit.per / limit.count for limit in self.flat)

    @property
    def leasable(self) -> bool:
        """Whether units may be fetched in advance: one token bucket, alike for all priorities."""
        one = len(self.flat) == 1 and not self.headroom and not self.levels
        return one and self.algorithm == "token_bucket" and not isinstance(self.flat[0], Quota)

    # --- asks

    def ask(self, verb: int, name: str, key: Hashable, cost: int, priority: str, now: float) -> Ask:  # noqa: PLR0917  # hot
        """One step on a key's limits. now: seconds of the wall clock. Raises TypeError for a key that cannot be shared."""
        if now >= self._until:
            self._make(now)
        found = self._known.get(key) if key.__class__ is str else None
        if found is None:
            found = self._keys(name or self._unnamed, key)
            if key.__class__ is str:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[key] = found
        return Ask(verb, found, self._programs[priority], cost)

    def innermost(self, ask: Ask) -> Ask:
        """The same step on the innermost level only."""
        if not self.levels:
            return ask
        assert self._last is not None
        return replace(ask, keys=ask.keys[-len(self._last.parts) :], program=self._last)

    def _keys(self, name: str, key: Hashable) -> tuple[str, ...]:
        name = keys.name(name)
        if self.levels:
            return self._keys_of_levels(name, key)
        subject = keys.subject(key)
        if len(self.flat) == 1:
            return (f"{VERSION}:{self._letter(self.flat[0])}:{name}:{{{subject}}}",)
        return tuple(f"{VERSION}:{self._letter(limit)}:{name}:{{{subject}}}:{i}" for i, limit in enumerate(self.flat))

    def _keys_of_levels(self, name: str, key: Hashable) -> tuple[str, ...]:
        path = () if key == UNKEYED else key if isinstance(key, tuple) else (key,)
        if len(path) != len(self.levels) - 1:
            wanted = ", ".join(self.levels[1:])
            raise TypeError(f"key must be a tuple with one part for each of ({wanted}); got {key!r}")
        found = []
        for depth, limits in enumerate(self._by_level):
            subject = keys.subject(path[:depth])
            level = keys.name(self.levels[depth])
            found += [f"{VERSION}:{self._letter(limit)}:{{{name}}}:{level}:{subject}:{i}" for i, limit in enumerate(limits)]
        return tuple(found)

    def _letter(self, limit: Limit) -> str:
        return f"q{limit.every}" if isinstance(limit, Quota) else LETTERS[self.algorithm]

    # --- programs

    def _make(self, now: float) -> None:
        for priority in PRIORITIES:
            share = 1.0 - self.headroom.get(priority, 0.0)
            local = program(self._parts(now, partial(divided, by=self.replicas, algorithm=self.algorithm), share))
            self._programs[priority] = program(self._parts(now, None, share), local)
        if self.levels:
            last = len(self._by_level[-1])
            whole = self._programs["critical"]
            assert whole.local is not None
            self._last = program(whole.parts[-last:], program(whole.local.parts[-last:]))
        ends = [limit.bounds(now)[2] / 1e9 for limit in self.flat if isinstance(limit, Quota)]
        self._until = min(ends, default=float("inf"))

    def _parts(self, now: float, change: Any, share: float) -> list[Part]:
        made = []
        for depth, limits in enumerate(self._by_level):
            level = self.levels[depth] if self.levels else None
            for limit in limits:
                cut = limit if change is None else change(limit)
                if share < 1.0:
                    cut = narrowed(cut, share) if self.algorithm in BURSTY else capped(cut, share)
                made.append(part(cut, self.algorithm, now=now, level=level)._replace(limit=limit))
        return made

    def _check(self, flat: tuple[Limit, ...]) -> None:
        for limit in flat:
            is_bucket(part(limit, self.algorithm, now=0.0))


def _read_levels(spec: Any) -> tuple[tuple[str, ...], list[tuple[Limit, ...]]]:
    if not isinstance(spec, dict):
        return (), [read_limits(spec)]
    if len(spec) < 2 or not all(isinstance(level, str) and level for level in spec):
        raise ValueError(f"spec must name at least two levels of a hierarchy, the outermost first; got {spec!r}")
    return tuple(spec), [read_limits(limits) for limits in spec.values()]


def _read_headroom(headroom: Any) -> dict[str, float]:
    if headroom is None:
        return {}
    if not isinstance(headroom, dict):
        raise TypeError(f'headroom must be a dict such as {{"sheddable": 0.5}}; got {headroom!r}')
    for priority, share in headroom.items():
        units.one_of("headroom", priority, PRIORITIES)
        if units.ratio("headroom", share, zero=True) == 1:
            raise ValueError(f"headroom must be a share in [0, 1), so that something may pass; got {headroom!r}")
    return dict(headroom)
