"""A quantile of a stream in constant memory, which may be told of samples that were cut short.

Stochastic approximation: each sample above the estimate moves it up by q steps, each below down by 1 - q, so that it comes to
rest where a share q lies below. The step follows the spread of the samples. Source: Robbins and Monro (1951), with the spread as
an exponential average of distances, as failsafe-go does with deviations.
"""

from __future__ import annotations

from dataclasses import dataclass

from seawall.core import units


class QuantileState:
    """One estimate. count: samples so far; value: the estimate; spread: the average distance of samples from it."""

    __slots__ = ("count", "spread", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0
        self.spread = 0.0


@dataclass(frozen=True, kw_only=True)
class QuantileRule:
    """A quantile in (0, 1), known after `least` samples. gain: how far one sample moves it, in spreads; default 0.1."""

    quantile: float
    least: int = 20
    gain: float = 0.1

    def __post_init__(self) -> None:
        units.ratio("quantile", self.quantile)
        if self.quantile >= 1:
            raise ValueError(f"quantile must be in (0, 1); got {self.quantile!r}")
        units.whole("least", self.least)

    def start(self, now: float) -> QuantileState:
        """Nothing seen."""
        return QuantileState()

    def observe(self, state: QuantileState, sample: float, *, cut: bool = False) -> tuple[()]:
        """Learn from one sample >= 0.

        cut: the true value is at least `sample`, because the call was ended then. Below the estimate that says nothing.
        """
        if cut and (sample <= state.value or state.count == 0):
            return ()
        state.count += 1
        weight = max(0.02, 1.0 / state.count)
        state.spread += weight * (abs(sample - state.value) - state.spread)
        if state.count <= 2:
            state.value += (sample - state.value) / state.count
            return ()
        step = max(self.gain, 2.0 / state.count) * state.spread
        state.value = max(0.0, state.value + (step * self.quantile if sample > state.value else -step * (1 - self.quantile)))
        return ()

    def estimate(self, state: QuantileState) -> float | None:
        """The quantile, or None while too few samples are known."""
        return state.value if state.count >= self.least else None


def read_quantile(name: str, text: str) -> float:
    """Read "p95" as 0.95. Raises ValueError naming the parameter."""
    digits = text[1:]
    if not (text.startswith("p") and digits.replace(".", "", 1).isdigit() and 0 < float(digits) < 100):
        raise ValueError(f'{name} must be seconds, or a quantile such as "p95"; got {text!r}')
    return float(digits) / 100
