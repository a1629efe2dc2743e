"""What Envoy is to know, computed from the configuration and the newest snapshots. Nothing here waits or reaches out.

`compute` makes it, `check` finds what does not fit together before anybody publishes it; the version is a hash of the content, so
the same input gives the same version everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from seawall.discovery.instance import Snapshot
from seawall.gateway import clusters, listeners
from seawall.gateway.clusters import XDS, Source
from seawall.gateway.endpoints import assignment
from seawall.gateway.settings import GatewayConfig

TYPES: Final = {
    "clusters": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "endpoints": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "listeners": "type.googleapis.com/envoy.config.listener.v3.Listener",
    "routes": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}
"""The kinds of resources, in the order in which Envoy is told of them: what is referred to comes first."""


@dataclass(frozen=True)
class Resources:
    """All that one Envoy is told, by kind and name, as its JSON."""

    clusters: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    endpoints: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    listeners: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    routes: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, kind: str) -> Mapping[str, dict[str, Any]]:
        """One kind of them."""
        found: Mapping[str, dict[str, Any]] = getattr(self, kind)
        return found

    def version(self, kind: str | None = None, name: str | None = None) -> str:
        """The hash of all, of one kind, or of one resource."""
        told: Any = {each: self.of(each) for each in TYPES} if kind is None else self.of(kind)
        return version_of(told if name is None else told[name])


def version_of(told: Any) -> str:
    """A short hash of what JSON says."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def compute(
    config: GatewayConfig,
    snapshots: Mapping[str, Snapshot],
    source: Source,
    *,
    addresses: Mapping[str, str] | None = None,
    limits_port: int | None = None,
    access_log: str | None = None,
) -> Resources:
    """The resources of a configuration.

    snapshots: the newest by the name of the service in the file. source: where Envoy asks for the rest: a kind and a name to its
    ConfigSource. addresses: IP addresses by host name. limits_port: of the rate limit service, when there is one. access_log: a
    file. Raises ValueError when the result does not fit together.
    """
    endpoints = {
        name: assignment(name, snapshots.get(name) or Snapshot(service.service), addresses or {})
        for name, service in config.services.items()
    }
    found = Resources(
        clusters=clusters.of(config, source, limits_port),
        endpoints=endpoints,
        listeners=listeners.of(config, source, access_log),
        routes=listeners.routes_of(config),
    )
    problems = check(found)
    if problems:
        raise ValueError("; ".join(problems))
    return found


def check(resources: Resources) -> list[str]:
    """What does not fit together: routes to clusters that are not there, clusters without a list of endpoints, doors without
    routes, two endpoints at one address."""
    found = []
    for name, route in resources.routes.items():
        found += [
            f"routes {name}: there is no cluster {to!r}" for to in sorted(set(_mentioned(route))) if to not in resources.clusters
        ]
    for name, cluster in resources.clusters.items():
        service = cluster.get("eds_cluster_config", {}).get("service_name")
        if service is not None and service not in resources.endpoints:
            found.append(f"cluster {name}: there are no endpoints {service!r}")
    for name, listener in resources.listeners.items():
        asked = {each for each in _limit_services(listener) if each not in resources.clusters and each != XDS}
        found += [f"listener {name}: there is no cluster {to!r}" for to in sorted(asked)]
    found += [f"listener {name} has no routes" for name in resources.listeners if name not in resources.routes]
    for name, told in resources.endpoints.items():
        places = [
            json.dumps(each["endpoint"]["address"], sort_keys=True) for zone in told["endpoints"] for each in zone["lb_endpoints"]
        ]
        if len(set(places)) < len(places):
            found.append(f"endpoints {name}: two instances have the same address")
    return found


def _limit_services(value: Any) -> Iterable[str]:
    """The clusters where a listener asks for global limits. That of an Envoy's bootstrap is no resource."""
    if isinstance(value, dict):
        service = value.get("rate_limit_service")
        if service is not None:
            yield service["grpc_service"]["envoy_grpc"]["cluster_name"]
        for inner in value.values():
            yield from _limit_services(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _limit_services(inner)


def _mentioned(value: Any) -> Iterable[str]:
    """The clusters that a route names, wherever it does."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "cluster" and isinstance(inner, str):
                yield inner
            elif key == "weighted_clusters":
                yield from (each["name"] for each in inner["clusters"])
            else:
                yield from _mentioned(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _mentioned(inner)
