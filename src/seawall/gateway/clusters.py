"""Envoy's clusters: how to reach a service, whom to avoid, how much to send at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from seawall.gateway.endpoints import ip_of
from seawall.gateway.settings import BALANCES, HASHES, GatewayConfig, HealthCheck, Route, Service
from seawall.gateway.tls import Tls
from seawall.gateway.translate import Translated

Source = Callable[[str, str], dict[str, Any]]
"""From a kind of resources and a name to where Envoy asks for it."""
LIMITS: Final = "seawall-rate-limits"
XDS: Final = "seawall-xds"
PLENTY: Final = 1_000_000
_OPTIONS: Final = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_UPSTREAM_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def duration(seconds: float) -> str:
    """As JSON of protobuf writes it.

    >>> duration(0.25)
    '0.250000s'
    """
    return f"{seconds:.6f}s"


def name_of(service: str, route: Route | None) -> str:
    """The cluster of a service under a route's pipeline; pipelines that say nothing of clusters share one."""
    if route is None or route.pipeline is None or route.policy.of_cluster == Translated().of_cluster:
        return service
    return f"{service}|{route.pipeline}"


def of(config: GatewayConfig, source: Source, limits_port: int | None) -> dict[str, dict[str, Any]]:
    """All clusters by name."""
    found = {}
    for route in config.routes:
        for service in route.to:
            name = name_of(service, route)
            found[name] = _cluster(name, config.services[service], route.policy if name != service else Translated(), source)
        for service in route.mirror:
            found.setdefault(service, _cluster(service, config.services[service], Translated(), source))
    if config.limits.named and limits_port is not None and limits_cluster(config) == LIMITS:
        found[LIMITS] = grpc_server(LIMITS, "127.0.0.1", limits_port)
    return found


def limits_cluster(config: GatewayConfig) -> str:
    """Where global limits are asked. Envoys on other machines ask where they get everything else: each of them knows its way
    there, out of its bootstrap."""
    return LIMITS if config.xds_tls is None else XDS


def _cluster(name: str, service: Service, policy: Translated, source: Source) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"service_name": service.name, "eds_config": source("endpoints", service.name)},
        "connect_timeout": duration(policy.connect or service.connect),
        "lb_policy": {**BALANCES, **HASHES}[service.balance],
        "circuit_breakers": {"thresholds": _thresholds(policy)},
        "common_lb_config": {"healthy_panic_threshold": {"value": 50.0}},
    }
    if service.http2:
        told["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _OPTIONS,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    if service.ejection is not None:
        told["outlier_detection"] = _ejection(service)
    if service.health_check is not None:
        told["health_checks"] = [_health_check(service.health_check)]
    if service.tls is not None:
        told["transport_socket"] = _tls(service.tls)
    return told


def _thresholds(policy: Translated) -> list[dict[str, Any]]:
    most: dict[str, Any] = {
        "max_connections": PLENTY,
        "max_pending_requests": PLENTY,
        "max_requests": PLENTY,
        "max_retries": PLENTY,
    }
    if policy.seats is not None:
        most["max_requests"] = policy.seats
        most["max_connections"] = policy.seats
        most["max_pending_requests"] = policy.queue or policy.seats  # at 0 a request that needs a new connection would be refused
    if policy.retries is not None and policy.retries.ratio is not None:
        del most["max_retries"]
        most["retry_budget"] = {
            "budget_percent": {"value": policy.retries.ratio * 100},
            "min_retry_concurrency": policy.retries.at_least,
        }
    return [{"priority": "DEFAULT", **most}, {"priority": "HIGH", **most}]


def _ejection(service: Service) -> dict[str, Any]:
    rule = service.ejection
    assert rule is not None
    by_row = rule.consecutive_failures is not None and rule.most > 0
    return {
        "consecutive_5xx": rule.consecutive_failures or 5,
        "enforcing_consecutive_5xx": 100 if by_row else 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": duration(rule.eject_for),
        "max_ejection_time": duration(rule.cap),
        "max_ejection_percent": round(rule.most * 100),
    }


def _health_check(check: HealthCheck) -> dict[str, Any]:
    return {
        "timeout": duration(check.timeout),
        "interval": duration(check.every),
        "no_traffic_interval": duration(check.every),
        "unhealthy_threshold": check.failures,
        "healthy_threshold": check.successes,
        "http_health_check": {"path": check.path},
    }


def _tls(tls: Tls) -> dict[str, Any]:
    context: dict[str, Any] = {"validation_context": {"trusted_ca": {"filename": tls.ca}}}
    if tls.name is not None:
        exact = [{"san_type": kind, "matcher": {"exact": tls.name}} for kind in ("DNS", "IP_ADDRESS")]
        context["validation_context"]["match_typed_subject_alt_names"] = exact
    if tls.cert is not None:
        context["tls_certificates"] = [{"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}]
    told = {"@type": _UPSTREAM_TLS, "common_tls_context": context, **({"sni": tls.name} if tls.name else {})}
    return {"name": "envoy.transport_sockets.tls", "typed_config": told}


def grpc_server(name: str, host: str, port: int, tls: Tls | None = None) -> dict[str, Any]:
    """A gRPC server of ours. host: an IP address, or a name to be resolved. tls: what Envoy shows and expects."""
    place = {"socket_address": {"address": host, "port_value": port}}
    http2: dict[str, Any] = {} if tls is None else {"connection_keepalive": {"interval": "30s", "timeout": "5s"}}
    told: dict[str, Any] = {
        "name": name,
        "type": "STRICT_DNS" if ip_of(host) is None else "STATIC",
        "connect_timeout": "1s" if tls is None else "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _OPTIONS,
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": place}}]}]},
    }
    if tls is not None:
        told["transport_socket"] = _tls(tls)
    return told
