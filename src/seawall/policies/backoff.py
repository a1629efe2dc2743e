"""How long to wait before the next try. Used between the attempts of a retry and between the openings of a breaker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seawall.core import units

Growth = Literal["exponential", "fixed", "linear", "decorrelated"]
Jitter = Literal["full", "equal", "proportional", "none"]

_LARGEST_EXPONENT = 1000  # 2.0**1024 overflows; any cap is reached long before


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long to wait before retry n; n = 0 comes before the second attempt.

    base: seconds before the second attempt, > 0. Default 0.1.
    cap: upper bound of one wait in seconds, >= base. Default 5.0.
    growth: "exponential" d = base * 2**n, "fixed" d = base, "linear" d = base * (n + 1), each bounded by cap;
        "decorrelated" draws U(base, 3 * previous wait) bounded by cap, and takes no further jitter. Default "exponential".
    jitter: "full" draws U(0, d), "equal" d/2 + U(0, d/2), "proportional" U(0.75 d, 1.25 d) bounded by cap, "none" waits d.
        Default "full": fewest calls under contention (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).

    Raises ValueError or TypeError when base or cap is not positive and finite, cap < base, or a word is unknown.
    """

    base: float = 0.1
    cap: float = 5.0
    growth: Growth = "exponential"
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", units.seconds("base", self.base))
        object.__setattr__(self, "cap", units.seconds("cap", self.cap))
        if self.cap < self.base:
            raise ValueError(f"cap must be >= base ({self.base:g} seconds); got {self.cap!r}")
        units.one_of("growth", self.growth, ("exponential", "fixed", "linear", "decorrelated"))
        units.one_of("jitter", self.jitter, ("full", "equal", "proportional", "none"))

    def wait(self, n: int, u: float, previous: float | None = None) -> float:
        """Seconds to wait before retry n (from 0), for a draw u in [0, 1).

        previous: the wait before, for "decorrelated"; None = none yet.
        """
        if self.growth == "decorrelated":
            reach = 3 * max(self.base, previous if previous is not None else self.base)
            return min(self.cap, self.base + u * (reach - self.base))
        length = self.length(n)
        if self.jitter == "full":
            return u * length
        if self.jitter == "equal":
            return length / 2 + u * length / 2
        if self.jitter == "proportional":
            return min(self.cap, length * (0.75 + u / 2))
        return length

    def length(self, n: int) -> float:
        """The wait before retry n without its jitter: the d of the formulas; the cap for "decorrelated"."""
        if self.growth == "fixed":
            return self.base
        if self.growth == "linear":
            return min(self.cap, self.base * (n + 1))
        if self.growth == "decorrelated":
            return self.cap
        return min(self.cap, self.base * 2.0 ** min(n, _LARGEST_EXPONENT))

    def longest(self, n: int) -> float:
        """The longest wait before retry n that any draw can give, for worst-case sums."""
        return self.wait(n, 1.0, previous=self.cap)
