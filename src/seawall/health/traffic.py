"""What is under way at the door: how many requests, since when no new one came, and how often probes ask."""

from __future__ import annotations

import threading
from collections import deque
from itertools import pairwise
from typing import Any, Final

PROBES: Final = 9  # moments of probes that are remembered: eight gaps
LEAST_PROBES: Final = 3
KUBELET: Final = "kube-probe/"
LONGEST_GAP: Final = 60.0  # seconds; a probe that comes more rarely tells nobody anything in time


class Traffic:
    """Counted by the ASGI and WSGI doors and the gRPC one. tasks: of the requests under way, to be cut when the time is over."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.served = 0
        self.last_at: float | None = None  # when the last request came
        self.tasks: set[Any] = set()  # bounded by in_flight
        self._probes: deque[float] = deque(maxlen=PROBES)
        self._lock = threading.Lock()

    def enter(self, now: float) -> None:
        """A request came."""
        with self._lock:
            self.in_flight += 1
        self.last_at = now

    def leave(self) -> None:
        """A request was answered, or given up."""
        with self._lock:
            self.in_flight -= 1
            self.served += 1

    def probed(self, now: float, agent: str = "") -> None:
        """Somebody asked whether we are ready. agent: by its own words. A kubelet does not count: Kubernetes takes a pod that
        ends out of the traffic without asking it."""
        if not agent.startswith(KUBELET):
            self._probes.append(now)

    def probe_period(self) -> float | None:
        """Seconds between the last probes, the longest gap of eight; None while too few came to know."""
        moments = list(self._probes)
        if len(moments) < LEAST_PROBES:
            return None
        gap = max(later - earlier for earlier, later in pairwise(moments))
        return gap if gap <= LONGEST_GAP else None
