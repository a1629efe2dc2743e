"""From a snapshot to Envoy's endpoints: states carried, and never an empty set by accident."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from seawall.discovery.instance import Instance, Snapshot

HEALTH: Final = {"starting": "UNHEALTHY", "ready": "HEALTHY", "draining": "DRAINING", "down": "UNHEALTHY"}
FINEST: Final = 100
"""Envoy's weights are whole numbers: ours are multiplied by this."""


def keeps(before: Snapshot | None, now: Snapshot) -> Snapshot | None:
    """Which of two snapshots to publish: an empty one only when a live registry says so, after the watch's brake let go of all
    that vanished. None = nothing was ever heard."""
    if not now.known or (not now.instances and now.source != "live"):
        return before
    return now


def assignment(name: str, snapshot: Snapshot, addresses: Mapping[str, str]) -> dict[str, Any]:
    """The endpoints of one service. addresses: IP addresses by host name; hosts that have none are left out, since Envoy takes
    no names here."""
    zones: dict[str, list[dict[str, Any]]] = {}
    for one in snapshot.instances:
        address = ip_of(one.host) or addresses.get(one.host)
        if address is not None:
            zones.setdefault(one.zone or "", []).append(_endpoint(one, address))
    localities = [
        {**({"locality": {"zone": zone}} if zone else {}), "lb_endpoints": endpoints} for zone, endpoints in sorted(zones.items())
    ]
    return {"cluster_name": name, "endpoints": localities}


def _endpoint(one: Instance, address: str) -> dict[str, Any]:
    return {
        "endpoint": {"address": {"socket_address": {"address": address, "port_value": one.port}}},
        "health_status": HEALTH[one.state] if one.weight > 0 else "DRAINING",
        "load_balancing_weight": max(1, round(min(one.weight, 1e6) * FINEST)),
    }


def ip_of(host: str) -> str | None:
    """The host if it is an IP address, else None."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
