"""How long after it left an instance must go on serving: until the slowest of those who send it traffic has heard of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from seawall.core import units

UNKNOWN: Final = 5.0  # seconds, when nothing at all is known
KUBERNETES: Final = 5.0  # seconds in which endpoint slices, kube-proxy and ingresses usually follow


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """What is known of the ways by which callers hear that an instance leaves. All in seconds; None = that way does not exist.

    registry: until every watcher has seen a change. dns_ttl: of the record that names us. probe_period, probe_failures: of a load
    balancer that asks /readyz: it takes us out after so many failures (default 3). margin: on top of the slowest. Default 0.5.
    platform: seconds that the platform takes; default None = 5 on Kubernetes, which is known by its environment, else nothing.

    Raises TypeError or ValueError naming the parameter, its range and the value.
    """

    registry: float | None = None
    dns_ttl: float | None = None
    probe_period: float | None = None
    probe_failures: int = 3
    platform: float | None = None
    margin: float = 0.5

    def __post_init__(self) -> None:
        for name in ("registry", "dns_ttl", "probe_period", "platform"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, units.seconds(name, getattr(self, name), zero=True))
        object.__setattr__(self, "margin", units.seconds("margin", self.margin, zero=True))
        units.whole("probe_failures", self.probe_failures)

    def ways(self) -> dict[str, float]:
        """Each way that is known, with its seconds."""
        platform = self.platform
        if platform is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            platform = KUBERNETES
        probes = None if self.probe_period is None else self.probe_period * self.probe_failures
        ways = {"registry": self.registry, "dns": self.dns_ttl, "probes": probes, "platform": platform}
        return {name: length for name, length in ways.items() if length is not None}

    @property
    def delay(self) -> float:
        """Seconds to go on serving: the slowest way and the margin; 5 when no way is known."""
        ways = self.ways()
        return max(ways.values()) + self.margin if ways else UNKNOWN

    @property
    def reason(self) -> str:
        """What the delay was computed from."""
        ways = self.ways()
        if not ways:
            return "nothing is known of how callers hear of it"
        return ", ".join(f"{name} {length:g} s" for name, length in ways.items()) + f", margin {self.margin:g} s"
