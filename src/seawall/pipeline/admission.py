"""Admission control as people use it: the door of a server that sheds the least important calls first."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.core.context import VARIABLE
from seawall.core.errors import BulkheadFull, Misplaced, Overloaded
from seawall.core.outcome import Kind, Outcome, Verdict
from seawall.pipeline.guarding import Guarding
from seawall.pipeline.held import Held
from seawall.pipeline.policy import Policy
from seawall.pipeline.run import Run
from seawall.policies.admission import LOTS, AdmissionRule, AdmissionState

_REFUSED_INSIDE: Final = Verdict(Kind.REJECTED)
"""Known by identity: a limit inside had no room for a call that the door let in."""


@dataclass(frozen=True, slots=True)
class AdmissionSnapshot:
    """One door at one moment.

    admitted: the share of each class that passes now. delay: mean seconds in queues in the last window; overloaded: whether that
    was too long. rejected: calls refused since it was made.
    """

    kind: str
    name: str
    admitted: Mapping[str, float]
    delay: float
    overloaded: bool
    rejected: int


class AdmissionControl(Guarding[AdmissionState]):
    """Shed the least important calls at the door of a server while those inside stand too long in its queues.

    It stands outside the limits whose queues it watches (`Bulkhead`, `AdaptiveLimit`, `RateLimiter` of the same pipeline). The
    class of a call is its priority (`sw.priority`, or the header that `sw.incoming` read): "sheddable" calls go first, "critical"
    ones last. Inside a class a lot decides, so that shares of it can be shed.

    target: mean seconds in queues above which the server counts as overloaded, > 0, or text such as "20ms". Default 0.02. So does
        a share above `shed` that the limits inside refuse.
    window, calls: a decision is made after so many seconds, > 0, or so many calls, >= 1, whichever is first. Defaults 1 and 2000.
    shed: the share of what was let in by which the door closes after a window with overload, in (0, 1]. Default 0.05.
    regain: the share of what came by which it opens after one without, in (0, 1]. Default 0.01.
    key: the name of an argument, or a function of the arguments, that makes the lot: calls of one user then pass or fail
        together. The order of users turns once in about two hours, so that it is not always the same ones who fare worst.
        Default None = each call draws anew.
    delay: a function of the arguments: seconds that the call had waited before it came here (in a proxy's queue, in an accept
        backlog). Added to the time in our own queues; less than 0 counts as 0. Default None.
    name, clock: see `Policy`.

    Raises Overloaded with retry_after, the seconds until the door could be open for such a call if the overload ended now;
    ValueError or TypeError for a parameter out of range.
    Source: Zhou et al., "Overload Control for Scaling WeChat Microservices" (DAGOR, SoCC 2018), whose numbers are the defaults.
    """

    kind = "admission_control"
    error = Overloaded

    def __init__(
        self,
        *,
        target: float | str = 0.02,
        window: float | str = 1,
        calls: int = 2000,
        shed: float = 0.05,
        regain: float = 0.01,
        key: str | Callable[..., Hashable] | None = None,
        delay: Callable[..., float] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.rule = AdmissionRule(target=target, window=window, calls=calls, shed=shed, regain=regain)  # type: ignore[arg-type]
        if key is not None and not (isinstance(key, str) and key) and not callable(key):
            raise TypeError(f"key must be an argument's name or a function of the arguments; got {key!r}")
        if delay is not None and not callable(delay):
            raise TypeError(f"delay must be a function of the arguments; got {delay!r}")
        self._key, self._delay = key, delay
        if key is not None or delay is not None:
            self.why_no_block = "a block has no arguments to take a key or a delay from"
        super().__init__(self.rule, name=name, clock=clock)

    def admit(self, run: Run, now: float) -> Any:
        """Ask the rule."""
        waited = 0.0 if self._delay is None else _seconds(self.name, self._delay(*run.args, **run.kwargs))
        return self.cell.apply(self.rule.admit, now, VARIABLE.get().priority, self._lot(run), waited)

    def judge_error(self, error: BaseException, run: Run) -> Verdict:
        """As the classifier says; a limit inside that is full is told apart."""
        if isinstance(error, BulkheadFull | Overloaded):
            return _REFUSED_INSIDE
        return super().judge_error(error, run)

    def release(self, held: Held, permit: Any, outcome: Outcome, verdict: Verdict) -> None:
        """Count how long the call stood in queues, and whether a limit inside refused it."""
        refused = verdict is _REFUSED_INSIDE
        self.cell.apply(self.rule.settle, held.run.port.now(), permit, held.queued, refused=refused)

    def snapshot(self) -> AdmissionSnapshot:
        """What it holds now."""
        return self.cell.apply(self._read)

    def take_over(self, old: Policy) -> None:
        """Keep the door where it is, and what the window has seen."""
        super().take_over(old)
        assert isinstance(old, AdmissionControl)
        self.cell, old.rule = old.cell.handed_to(self, self.rule), self.rule  # calls that run settle by the new rule
        self.rejected = old.rejected

    @property
    def at_rest(self) -> bool:
        """Whether forgetting it would lose nothing: everybody passes."""
        return all(share >= 1 for share in self.snapshot().admitted.values())

    def _lot(self, run: Run) -> float:
        """Where in its class a call stands, in [0, 1): drawn, or of its key, turned by one place in 128 each minute."""
        if self._key is None:
            return self.clock.random.random()
        number = zlib.crc32(repr(run.argument(self._key)).encode())
        return (number + int(self.clock.wall() / 60)) % LOTS / LOTS

    def _read(self, state: AdmissionState) -> AdmissionSnapshot:
        return AdmissionSnapshot(
            self.kind, self.name, self.rule.admitted(state), state.mean_delay, state.overloaded, self.rejected
        )


def _seconds(name: str, value: Any) -> float:
    """A delay that a user's function reported. Raises Misplaced for what is no number; a clock that is behind makes no delay."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Misplaced(f"{name}: delay must return seconds; got {value!r}")
    return max(0.0, float(value))
