"""The one branch that a compiled guard pays for tests, telemetry and first calls: a switch that leads elsewhere.

While nothing is the matter the switch is None and the flat code runs. It leads to the plain guards while policies are switched
off for a test or a test's clock stands in the place of the system's, and to a second compiled form while somebody listens.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seawall.core import clock as clocks
from seawall.core.events import everywhere
from seawall.core.runtime import loop_is_running
from seawall.pipeline.switch import SWITCH

if TYPE_CHECKING:
    from seawall.pipeline.pipeline import Pipeline


class Gate:
    """One compiled function's switch.

    regate: turns it. plain: the plain guards. told: makes the compiled form that tells of its calls. may_wait: whether the function is a sync one whose guards may wait, which is
    refused under a running event loop: at the first call, so that the mistake shows at once, and later wherever it would wait.
    """

    __slots__ = ("_opened", "_plain", "_regate", "_then", "_told")

    def __init__(
        self,
        regate: Callable[[Any], None],
        plain: Callable[..., Any],
        told: Callable[[], Callable[..., Any]],
        *,
        may_wait: bool,
    ) -> None:
        self._regate = regate
        self._plain = plain
        self._told = told
        self._then: Callable[..., Any] | None = None
        self._opened = not may_wait

    def turn(self, *, away: bool, heard: bool) -> None:
        """To the plain guards, to the flat code that tells, or to the flat code."""
        self._then = self._told() if heard and not away else None
        if away:
            self._regate(self._plain)
        else:
            self._regate(self._then if self._opened else self._first)

    def _first(self, *args: Any, **kwargs: Any) -> Any:
        if not loop_is_running():
            self._opened = True
            self._regate(self._then)
        return self._plain(*args, **kwargs)


class Gates:
    """All switches of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = weakref.ref(pipeline)
        self._clock = pipeline.clock
        self._gates: weakref.WeakKeyDictionary[Callable[..., Any], Gate] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        with _lock:
            _all.add(self)

    def add(self, function: Callable[..., Any], gate: Gate) -> None:
        """Take in a compiled function's switch, and set it as things are."""
        with self._lock:
            self._gates[function] = gate
        gate.turn(away=self._leads_away(), heard=self._heard())

    def refresh(self) -> None:
        """Set all switches anew: something that they depend on has changed."""
        away, heard = self._leads_away(), self._heard()
        with self._lock:
            gates = list(self._gates.values())
        for gate in gates:
            gate.turn(away=away, heard=heard)

    def _leads_away(self) -> bool:
        pipeline = self._pipeline()
        return pipeline is None or SWITCH.off or pipeline.clock is not self._clock

    def _heard(self) -> bool:
        pipeline = self._pipeline()
        return pipeline is not None and pipeline.heard


_all: weakref.WeakSet[Gates] = weakref.WeakSet()
_lock = threading.Lock()


def refresh_all() -> None:
    """Set all switches of this process anew."""
    with _lock:
        every = list(_all)
    for gates in every:
        gates.refresh()


clocks.on_override(refresh_all)
everywhere.on_change(refresh_all)
SWITCH.on_change(refresh_all)
