"""Whom to ask: balancers that choose an instance and learn from its answers, and clients that call a service through them.

Names are resolved when they are first used, so no HTTP client is loaded before one is opened.
"""

from typing import TYPE_CHECKING

from seawall.core.lazy import lazy

if TYPE_CHECKING:
    from seawall.balancing.balancer import Balancer as Balancer
    from seawall.balancing.balancer import BalancerSnapshot as BalancerSnapshot
    from seawall.balancing.client import ServiceClient as ServiceClient
    from seawall.balancing.errors import NoInstance as NoInstance
    from seawall.balancing.rules.ejection import Outliers as Outliers
    from seawall.balancing.rules.host import HostSnapshot as HostSnapshot
    from seawall.balancing.rules.host import Pick as Pick
    from seawall.balancing.rules.host import Told as Told
    from seawall.balancing.rules.pickers import LeastOutstanding as LeastOutstanding
    from seawall.balancing.rules.pickers import PeakEwma as PeakEwma
    from seawall.balancing.rules.pickers import Random as Random
    from seawall.balancing.rules.pickers import RoundRobin as RoundRobin
    from seawall.balancing.rules.pickers import Weighted as Weighted
    from seawall.balancing.service import ServiceClientSnapshot as ServiceClientSnapshot
    from seawall.balancing.sync_client import SyncServiceClient as SyncServiceClient

_HOMES = {
    "Balancer": "balancer",
    "BalancerSnapshot": "balancer",
    "HostSnapshot": "rules.host",
    "LeastOutstanding": "rules.pickers",
    "NoInstance": "errors",
    "Outliers": "rules.ejection",
    "PeakEwma": "rules.pickers",
    "Pick": "rules.host",
    "Random": "rules.pickers",
    "RoundRobin": "rules.pickers",
    "ServiceClient": "client",
    "ServiceClientSnapshot": "service",
    "SyncServiceClient": "sync_client",
    "Told": "rules.host",
    "Weighted": "rules.pickers",
}

__all__ = [
    "Balancer",
    "BalancerSnapshot",
    "HostSnapshot",
    "LeastOutstanding",
    "NoInstance",
    "Outliers",
    "PeakEwma",
    "Pick",
    "Random",
    "RoundRobin",
    "ServiceClient",
    "ServiceClientSnapshot",
    "SyncServiceClient",
    "Told",
    "Weighted",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
