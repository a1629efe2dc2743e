"""Envoy's listeners and routes: which requests come in where, and what is done with each."""

from __future__ import annotations

from typing import Any, Final

from seawall.gateway.access_log import FIELDS
from seawall.gateway.clusters import XDS, Source, duration, limits_cluster, name_of
from seawall.gateway.settings import GatewayConfig, Listener, Route
from seawall.gateway.tls import Tls
from seawall.gateway.translate import Bucket, Retries

_HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http"
_HCM: Final = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_DOWNSTREAM_TLS: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_FILE_LOG: Final = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
_GRPC_LOG: Final = "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
_PREVIOUS: Final = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
AT_THE_EDGE: Final = {
    "max_concurrent_streams": 100,
    "initial_stream_window_size": 65536,
    "initial_connection_window_size": 1048576,
}
"""What one HTTP/2 connection may take of us (Envoy docs, "Configuring Envoy as an edge proxy")."""
REPEATABLE: Final = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"
"""Methods that may be repeated though something may have happened (RFC 9110 section 9.2.2)."""
NEVER_SENT: Final = "connect-failure,refused-stream,reset-before-request"
MAY_BE_SENT: Final = "connect-failure,refused-stream,reset,gateway-error"
NOBODY: Final = {"address_prefix": "255.255.255.255", "prefix_len": 32}
"""A network in which no caller is, for listeners that trust none."""


def of(config: GatewayConfig, source: Source, access_log: str | None) -> dict[str, dict[str, Any]]:
    """All listeners by name."""
    return {name: _listener(one, config, source, access_log) for name, one in config.listeners.items()}


def _listener(one: Listener, config: GatewayConfig, source: Source, access_log: str | None) -> dict[str, Any]:
    trusted = [_network(each) for each in one.trusted] or [NOBODY]
    manager: dict[str, Any] = {
        "@type": _HCM,
        "stat_prefix": one.name,
        "rds": {"route_config_name": one.name, "config_source": source("routes", one.name)},
        "use_remote_address": True,
        "http2_protocol_options": AT_THE_EDGE,
        "internal_address_config": {"cidr_ranges": trusted},
        "http_filters": _filters(one, config),
        "drain_timeout": duration(config.drain),
        "access_log": _access_log(access_log, one.name, config),
    }
    chain: dict[str, Any] = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if one.tls is not None:
        chain["transport_socket"] = _tls(one.tls)
    address = {"socket_address": {"address": one.address, "port_value": one.port}}
    return {"name": one.name, "address": address, "filter_chains": [chain]}


def _network(text: str) -> dict[str, Any]:
    address, _, length = text.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}


def _filters(one: Listener, config: GatewayConfig) -> list[dict[str, Any]]:
    routes = [route for route in config.routes if route.listener == one.name]
    found = []
    if any(route.fault for route in routes):
        found.append(_filter("fault", "fault.v3.HTTPFault"))
    if any(route.policy.bucket for route in routes):
        found.append(_filter("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", stat_prefix=one.name))
    if any(route.limits for route in routes):
        service = {"grpc_service": {"envoy_grpc": {"cluster_name": limits_cluster(config)}}, "transport_api_version": "V3"}
        told = {
            "domain": "seawall",
            "timeout": duration(config.limits.timeout),
            "failure_mode_deny": config.limits.closed,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "rate_limit_service": service,
        }
        found.append(_filter("ratelimit", "ratelimit.v3.RateLimit", **told))
    return [*found, _filter("router", "router.v3.Router")]


def _filter(name: str, kind: str, **told: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": f"{_HTTP}.{kind}", **told}}


def _access_log(path: str | None, listener: str, config: GatewayConfig) -> list[dict[str, Any]]:
    if path is None:
        return []
    if config.xds_tls is not None:  # an Envoy on another machine has no such folder
        there = {"grpc_service": {"envoy_grpc": {"cluster_name": XDS}}, "transport_api_version": "V3"}
        common = {"log_name": listener, **there, "buffer_flush_interval": "0.250s"}
        told = {"@type": _GRPC_LOG, "common_config": common}
        return [{"name": "envoy.access_loggers.http_grpc", "typed_config": told}]
    fields = {"listener": listener, **FIELDS}
    return [
        {
            "name": "envoy.access_loggers.file",
            "typed_config": {"@type": _FILE_LOG, "path": path, "log_format": {"json_format": fields}},
        }
    ]


def _tls(tls: Tls) -> dict[str, Any]:
    context: dict[str, Any] = {
        "tls_certificates": [{"certificate_chain": {"filename": tls.cert}, "private_key": {"filename": tls.key}}],
        "alpn_protocols": ["h2", "http/1.1"],
    }
    told: dict[str, Any] = {"@type": _DOWNSTREAM_TLS, "common_tls_context": context}
    if tls.ca is not None:
        context["validation_context"] = {"trusted_ca": {"filename": tls.ca}}
        told["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": told}


# --- routes


def routes_of(config: GatewayConfig) -> dict[str, dict[str, Any]]:
    """One table of routes for each listener. Within a host the order of the file holds; routes without a host come last."""
    found = {}
    for name in config.listeners:
        routes = [(number, route) for number, route in enumerate(config.routes) if route.listener == name]
        hosts = list(dict.fromkeys([host for _, route in routes for host in route.hosts] + ["*"]))
        virtual = []
        for host in hosts:
            mine = [each for each in routes if host in each[1].hosts]
            mine += [each for each in routes if host != "*" and host not in each[1].hosts and "*" in each[1].hosts]
            told = [piece for number, route in mine for piece in _route(route, number, config)]
            virtual.append({"name": host, "domains": [host], "routes": told, "include_request_attempt_count": True})
        found[name] = {"name": name, "virtual_hosts": virtual}
    return found


def _route(route: Route, number: int, config: GatewayConfig) -> list[dict[str, Any]]:
    """One route; two where it retries, since what may be repeated depends on the method."""
    retries = route.policy.retries
    if retries is None or retries.retries == 0:
        return [_piece(route, number, config, None, None)]
    repeatable = {"name": ":method", "string_match": {"safe_regex": {"regex": REPEATABLE}}}
    wider = "connect-failure,refused-stream,reset" if retries.connection_errors_only else MAY_BE_SENT
    return [
        _piece(route, number, config, _retries(retries, wider), repeatable),
        _piece(route, number, config, _retries(retries, NEVER_SENT), None),
    ]


def _piece(
    route: Route, number: int, config: GatewayConfig, retries: dict[str, Any] | None, method: dict[str, Any] | None
) -> dict[str, Any]:
    match: dict[str, Any] = {"path": route.path} if route.exact else {"prefix": route.path}
    wanted = [{"name": name, "string_match": {"exact": value}} for name, value in route.headers.items()]
    match["headers"] = [*wanted, *([method] if method is not None else [])]
    policy = route.policy
    action: dict[str, Any] = {"timeout": duration(policy.total or 0.0), **_target(route)}
    if retries is not None:
        action["retry_policy"] = {**retries, **({"per_try_timeout": duration(policy.each)} if policy.each is not None else {})}
    elif policy.each is not None:
        action["timeout"] = duration(min(policy.each, policy.total or policy.each))
    if route.hash_header is not None:
        action["hash_policy"] = [{"header": {"header_name": route.hash_header}}]
    if route.mirror:
        action["request_mirror_policies"] = [
            {"cluster": name, "runtime_fraction": {"default_value": _millionths(part)}} for name, part in route.mirror.items()
        ]
    if route.high:
        action["priority"] = "HIGH"
    if route.rewrite is not None:
        action["prefix_rewrite"] = route.rewrite
    if route.limits:
        action["rate_limits"] = [_descriptor(name, config.limits.named[name].by) for name in route.limits]
    filters = _per_route(route, number)
    return {
        "name": f"route-{number}",
        "match": match,
        "route": action,
        **({"typed_per_filter_config": filters} if filters else {}),
    }


def _target(route: Route) -> dict[str, Any]:
    if len(route.to) == 1:
        return {"cluster": name_of(next(iter(route.to)), route)}
    return {
        "weighted_clusters": {"clusters": [{"name": name_of(name, route), "weight": part} for name, part in route.to.items()]}
    }


def _retries(retries: Retries, on: str) -> dict[str, Any]:
    waits = {"base_interval": duration(retries.base), "max_interval": duration(retries.cap)}
    told: dict[str, Any] = {
        "retry_on": on,
        "num_retries": retries.retries,
        "retry_back_off": waits,
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": _PREVIOUS}}],
        "host_selection_retry_max_attempts": 5,
    }
    if retries.hint_cap > 0:
        hints = {"reset_headers": [{"name": "retry-after", "format": "SECONDS"}], "max_interval": duration(retries.hint_cap)}
        told["rate_limited_retry_back_off"] = hints
    return told


def _millionths(part: float) -> dict[str, Any]:
    return {"numerator": round(part * 1_000_000), "denominator": "MILLION"}


def _descriptor(name: str, by: str) -> dict[str, Any]:
    actions: list[dict[str, Any]] = [{"generic_key": {"descriptor_key": "limit", "descriptor_value": name}}]
    if by == "address":
        actions.append({"remote_address": {}})
    elif by.startswith("header:"):
        actions.append({"request_headers": {"header_name": by[7:], "descriptor_key": "key"}})
    return {"actions": actions}


def _per_route(route: Route, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if route.policy.bucket is not None:
        found["envoy.filters.http.local_ratelimit"] = _bucket(route.policy.bucket, number)
    if route.fault is not None:
        told: dict[str, Any] = {"@type": f"{_HTTP}.fault.v3.HTTPFault"}
        if route.fault.abort:
            told["abort"] = {"http_status": route.fault.status, "percentage": _millionths(route.fault.abort)}
        if route.fault.delayed:
            told["delay"] = {"fixed_delay": duration(route.fault.delay), "percentage": _millionths(route.fault.delayed)}
        found["envoy.filters.http.fault"] = told
    return found


def _bucket(bucket: Bucket, number: int) -> dict[str, Any]:
    all_of_them = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "@type": f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": f"route_{number}",
        "token_bucket": {"max_tokens": bucket.room, "tokens_per_fill": bucket.tokens, "fill_interval": duration(bucket.every)},
        "filter_enabled": all_of_them,
        "filter_enforced": all_of_them,
    }
