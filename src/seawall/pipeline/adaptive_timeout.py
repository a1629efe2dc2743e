"""A timeout that follows the latencies it sees."""

from __future__ import annotations

from dataclasses import dataclass

from seawall.core import units
from seawall.core.clock import Clock
from seawall.core.errors import TimedOut
from seawall.pipeline.cell import Cell
from seawall.pipeline.policy import Policy
from seawall.pipeline.run import Run
from seawall.pipeline.timeout import Spell, Timeout, Watch
from seawall.policies.quantile import QuantileRule, QuantileState, read_quantile


@dataclass(frozen=True, slots=True)
class AdaptiveTimeoutSnapshot:
    """One adaptive timeout at one moment. seconds: the limit of a call that begins now; samples: latencies seen so far."""

    kind: str
    name: str
    seconds: float
    samples: int
    expired: int


class AdaptiveTimeout(Timeout):
    """Give each attempt a limit a little above what calls take, instead of a guess that was right last year.

    quantile: which latency is followed, such as "p99" (default).
    factor: the limit is so many times that latency, >= 1. Default 2.
    least, most: the bounds of the limit in seconds, 0 < least <= most, or text such as "50ms". `most` also holds while fewer
        than 20 latencies are known. Defaults 0.05 and 10.
    name, clock: see `Policy`. On plain functions it hands the callee a deadline, as `Timeout` does.

    A call that is cut counts as "took at least so long", so the limit can grow again when the callee becomes slower for good.
    Raises TimedOut for a call that it cuts; ValueError or TypeError for a parameter out of range.
    """

    kind = "adaptive_timeout"

    def __init__(
        self,
        quantile: str = "p99",
        *,
        factor: float = 2.0,
        least: float | str = 0.05,
        most: float | str = 10,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.most = units.seconds("most", most)
        self.least = units.seconds("least", least)
        if self.least > self.most:
            raise ValueError(f"least must be at most {self.most:g} seconds, as `most` says; got {least!r}")
        self.factor = units.number("factor", factor, least=1.0)
        if not isinstance(quantile, str):
            raise TypeError(f'quantile must be text such as "p99"; got {quantile!r}')
        self.rule = QuantileRule(quantile=read_quantile("quantile", quantile))
        super().__init__(self.most, name=name, clock=clock)
        self.cell: Cell[QuantileState] = Cell(self, self.rule)

    @property
    def limit(self) -> float:
        """Seconds that a call which begins now may take."""
        latency = self.cell.apply(self.rule.estimate)
        return self.most if latency is None else min(self.most, max(self.least, self.factor * latency))

    def spell(self, run: Run) -> Spell:
        """Begin one limit, and learn from it."""
        return (LearningWatch if run.pipeline.only_observes(self) else LearningSpell)(self, run, self.limit)

    def learn(self, took: float, *, cut: bool) -> None:
        """One call took so long, or at least so long."""
        self.cell.apply(self.rule.observe, took, cut=cut)

    def snapshot(self) -> AdaptiveTimeoutSnapshot:  # type: ignore[override]  # it holds other things
        """What it holds now."""
        return AdaptiveTimeoutSnapshot(self.kind, self.name, self.limit, self.cell.state.count, self.expired)

    def take_over(self, old: Policy) -> None:
        """Keep the latencies while the quantile is the same."""
        super().take_over(old)
        assert isinstance(old, AdaptiveTimeout)
        if old.rule == self.rule:
            self.cell = old.cell.handed_to(self, self.rule)

    def restart(self) -> None:
        """Forget what was counted and learnt."""
        super().restart()
        self.cell.restart()

    def reopen(self) -> None:
        """After a fork: a lock of our own."""
        self.cell.reopen()


class LearningSpell(Spell):
    """One limit whose end says how long the call took."""

    __slots__ = ("_adaptive", "_began", "_cut", "_failed")

    def __init__(self, timeout: AdaptiveTimeout, run: Run, limit: float) -> None:
        self._adaptive = timeout
        self._began = run.port.now()
        self._cut = self._failed = False
        super().__init__(timeout, run, limit)

    def check(self, error: BaseException) -> None:
        """Raise TimedOut when `error` is the cut of this limit; a cut by anybody is a latency of at least so long."""
        self._cut = not isinstance(error, Exception) or isinstance(error, TimeoutError)
        self._failed = not self._cut
        try:
            super().check(error)
        except TimedOut:
            self._cut = True
            raise

    def end(self) -> None:
        """The call is over: learn from it, unless it failed by itself."""
        took = self._run.port.now() - self._began
        super().end()
        if not self._failed:
            self._adaptive.learn(took, cut=self._cut)


class LearningWatch(Watch):
    """One limit that is only observed, whose end says how long the call took."""

    __slots__ = ("_adaptive", "_failed")

    def __init__(self, timeout: AdaptiveTimeout, run: Run, limit: float) -> None:
        self._adaptive = timeout
        self._failed = False
        super().__init__(timeout, run, limit)

    def check(self, error: BaseException) -> None:
        """A call that failed says nothing about how long good ones take."""
        self._failed = True

    def end(self) -> None:
        """The call is over: learn from it, unless it failed."""
        super().end()
        if not self._failed:
            self._adaptive.learn(self._run.port.now() - self._began, cut=False)
