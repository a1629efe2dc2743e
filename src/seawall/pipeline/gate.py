"""Tells compiled functions when they have to run other code: for tests, telemetry, and another clock.

While policies are switched off for a test, or a test's clock stands in the place of the system's, compiled functions run the
plain guards; while somebody listens to a pipeline's calls, they run the form that tells of them. None of it costs a branch per
call.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from seawall.core import clock as clocks
from seawall.core.events import everywhere
from seawall.pipeline.switch import SWITCH

if TYPE_CHECKING:
    from seawall.pipeline.compiler import Work
    from seawall.pipeline.pipeline import Pipeline


class Gates:
    """The compiled functions of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = weakref.ref(pipeline)
        self._clock = pipeline.clock
        self._works: weakref.WeakKeyDictionary[Callable[..., Any], Work] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        with _lock:
            _all.add(self)

    def add(self, function: Callable[..., Any], work: Work) -> None:
        """Take in a compiled function, and give it the code that fits now."""
        with self._lock:
            self._works[function] = work
        self._turn(work)

    def refresh(self) -> None:
        """Give all functions the code that fits: something that it depends on has changed."""
        with self._lock:
            works = list(self._works.values())
        for work in works:
            self._turn(work)

    def _turn(self, work: Work) -> None:
        pipeline = self._pipeline()
        if pipeline is not None:
            work.turn(away=SWITCH.off or pipeline.clock is not self._clock, tells=pipeline.heard)


_all: weakref.WeakSet[Gates] = weakref.WeakSet()
_lock = threading.Lock()


def refresh_all() -> None:
    """Look at all compiled functions of this process anew."""
    with _lock:
        every = list(_all)
    for gates in every:
        gates.refresh()


clocks.on_override(refresh_all)
everywhere.on_change(refresh_all)
SWITCH.on_change(refresh_all)
