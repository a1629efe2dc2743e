"""The hedge's rule: when a second copy of a slow call may be sent, and when the next."""

from __future__ import annotations

from dataclasses import dataclass

from seawall.core import units
from seawall.policies.quantile import QuantileRule, QuantileState, read_quantile


@dataclass(frozen=True, kw_only=True)
class HedgeRule:
    """After which time, and how many. Units, ranges and defaults: see `seawall.Hedge`."""

    after: float | str = 0.05
    copies: int = 1
    least: int = 20

    def __post_init__(self) -> None:
        units.whole("copies", self.copies, most=10)
        if isinstance(self.after, str) and self.after.startswith("p"):
            quantile: QuantileRule | None = QuantileRule(quantile=read_quantile("after", self.after), least=self.least)
        else:
            quantile = None
            object.__setattr__(self, "after", units.seconds("after", self.after, zero=True))
        object.__setattr__(self, "quantile", quantile)

    quantile: QuantileRule | None = None

    def start(self, now: float) -> QuantileState:
        """No latency seen."""
        return QuantileState()

    def delay(self, state: QuantileState) -> float | None:
        """Seconds before the next copy; None = no hedging yet, because too few latencies are known."""
        if self.quantile is None:
            assert not isinstance(self.after, str)
            return self.after
        return self.quantile.estimate(state)

    def observe(self, state: QuantileState, took: float, *, cut: bool) -> tuple[()]:
        """Learn the latency of one copy; `cut`: it was ended because another one was first."""
        if self.quantile is not None:
            self.quantile.observe(state, took, cut=cut)
        return ()
