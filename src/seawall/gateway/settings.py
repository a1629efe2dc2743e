"""`gateway.toml`, read and checked: listeners, services, routes, global limits. Everything wrong is told with file and line."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from seawall.balancing.rules.ejection import Outliers
from seawall.core import units
from seawall.core.errors import ConfigError
from seawall.discovery import Registry
from seawall.discovery.instance import service_name
from seawall.gateway import tables
from seawall.gateway.engine import address, read_engine
from seawall.gateway.tables import Table, read_tables
from seawall.gateway.tls import Tls, read_tls
from seawall.gateway.translate import Translated, translate
from seawall.pipeline.build import suggest
from seawall.pipeline.config import Reading
from seawall.pipeline.limiter import RateLimiter

BALANCES: Final = {"least_request": "LEAST_REQUEST", "round_robin": "ROUND_ROBIN", "random": "RANDOM"}
HASHES: Final = {"maglev": "MAGLEV", "ring_hash": "RING_HASH"}
PORT: Final = tables.whole(1, 65535)
ROOTS: Final = ("include", "registry", "access_log", "admin", "envoy", "listeners", "services", "routes", "rate_limits")
POLICY_ROOTS: Final = ("pipelines", "policies", "processes")


@dataclass(frozen=True, slots=True)
class Listener:
    """One door. trusted: networks whose callers may tell Envoy, by x-envoy- headers, not to retry; others' are taken away."""

    name: str
    port: int
    address: str = "127.0.0.1"
    tls: Tls | None = None
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Envoy's own look at each instance. every, timeout: seconds. failures, successes: in a row, until it is believed."""

    path: str
    every: float = 5.0
    timeout: float = 1.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True)
class Service:
    """One upstream. registry: the URL where its instances are; service: its name there. connect: seconds."""

    name: str
    registry: str
    service: str
    balance: str = "least_request"
    connect: float = 1.0
    ejection: Outliers | None = field(default_factory=Outliers)
    health_check: HealthCheck | None = None
    tls: Tls | None = None
    http2: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Faults that Envoy injects: abort with `status` for a share of requests, delay another by `delay` seconds."""

    status: int = 503
    abort: float = 0.0
    delay: float = 0.0
    delayed: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests go where. to: shares by service. policy: what its pipeline says, in Envoy's terms."""

    listener: str
    to: Mapping[str, int]
    hosts: tuple[str, ...] = ("*",)
    path: str = "/"
    exact: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    policy: Translated = field(default_factory=Translated)
    pipeline: str | None = None
    mirror: Mapping[str, float] = field(default_factory=dict)
    hash_header: str | None = None
    fault: Fault | None = None
    high: bool = False
    limits: tuple[str, ...] = ()
    rewrite: str | None = None


@dataclass(frozen=True, slots=True)
class GlobalLimit:
    """One limit over all Envoys. by: "address", "all", or "header:NAME" whose value has a bucket of its own."""

    name: str
    spec: str
    by: str = "all"


@dataclass(frozen=True, slots=True)
class Limits:
    """The rate limit service. store: a URL, or None = in the memory of the gateway. closed: refuse while it does not answer."""

    named: Mapping[str, GlobalLimit] = field(default_factory=dict)
    store: str | None = None
    port: int = 0
    closed: bool = False
    timeout: float = 0.1


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """All of a `gateway.toml`. Made by `GatewayConfig.read`."""

    path: Path
    listeners: Mapping[str, Listener]
    services: Mapping[str, Service]
    routes: tuple[Route, ...]
    limits: Limits = field(default_factory=Limits)
    admin_port: int = 0
    binary: str | None = None
    workers: int = 1
    drain: float = 10.0
    control: str = "file"
    xds_port: int = 0
    xds_address: str = "127.0.0.1"
    xds_tls: Tls | None = None
    xds_client: Tls | None = None
    log: bool = False
    log_bytes: int = 16 * 1024 * 1024

    @classmethod
    def read(cls, path: str | Path) -> GatewayConfig:
        """Read a file and what it includes. Raises ConfigError, with file and line, for what cannot be used, and for a policy
        that Envoy has no equal of, by its name."""
        file = Path(path)
        top = read_tables(file)
        for key in top.values:
            if key not in (*ROOTS, *POLICY_ROOTS):
                raise top.error(f"unknown table {key!r}{suggest(key, (*ROOTS, *POLICY_ROOTS))}", key)
        policies = _policies(top)
        registry = top.read("registry", _registry, None)
        listeners = {name: _listener(name, table) for name, table in top.tables("listeners").items()}
        services = {name: _service(name, table, registry) for name, table in top.tables("services").items()}
        for key, found in (("listeners", listeners), ("services", services)):
            if not found:
                raise top.error(f"there must be at least one [{key}.NAME] table", key)
        limits = _limits(top.table("rate_limits"))
        routes = tuple(_route(table, listeners, services, policies, limits) for table in top.array("routes"))
        if not routes:
            raise top.error("there must be at least one [[routes]] table", "routes")
        _one_door_each(top, listeners)
        engine = read_engine(top)
        if engine.get("xds_tls") is not None and limits.port:
            raise top.error("rate_limits: port means nothing beside xds_tls: limits are asked at xds_port", "rate_limits", "port")
        return cls(file, listeners, services, routes, limits, **engine)


def _policies(top: Table) -> dict[str, Translated | ConfigError]:
    """What each pipeline says in Envoy's terms; one that Envoy has no equal of only matters where a route names it."""
    sources: list[Path] = [top.path] if "pipelines" in top.values else []
    if top.has("include"):
        sources.append(top.path.parent / top.read("include", tables.text))
    found: dict[str, Translated | ConfigError] = {}
    for path in sources:
        reading = Reading(path, [], {})
        for name, plan in reading.plans.pipelines.items():
            if name in found:
                raise top.error(f"pipeline {name!r} stands here and in {path}; rename one of them", "pipelines", name)
            try:
                found[name] = translate(plan, reading.plans.shared, reading.pipelines[name].policies)
            except ConfigError as error:
                found[name] = error
    return found


def _listener(name: str, table: Table) -> Listener:
    def network(label: str, value: object) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(each)) for each in tables.texts(label, value))

    service_of(table, name)
    found = Listener(
        name,
        table.read("port", PORT),
        table.read("address", address, "127.0.0.1"),
        read_tls(table.table("tls"), server=True),
        table.read("trusted", network, ()),
    )
    table.done()
    return found


def service_of(table: Table, name: str) -> str:
    """A name that may be a file's name too. Raises ConfigError."""
    try:
        return service_name(name)
    except (TypeError, ValueError) as error:
        raise table.error(str(error)) from error


def _registry(label: str, value: object) -> str:
    """A URL of a registry, tried without asking it."""
    Registry.open(tables.text(label, value))
    return str(value)


def _store(label: str, value: object) -> str:
    """A URL of a store of limits, tried without asking it."""
    RateLimiter("1/s", store=tables.text(label, value))
    return str(value)


def _service(name: str, table: Table, registry: str | None) -> Service:
    service_of(table, name)
    place = table.read("registry", _registry, registry)
    if place is None:
        raise table.error(f"{table.label} must say registry, or the file as a whole must")
    if place.startswith("static:") and not Path(place[7:]).is_absolute():
        place = f"static:{table.path.parent.absolute() / place[7:]}"
    words = (*BALANCES, *HASHES)
    found = Service(
        name,
        place,
        table.read("service", lambda _, value: service_name(value), name),
        table.read("balance", lambda label, value: units.one_of(label, value, words), "least_request"),
        table.read("connect", tables.seconds, 1.0),
        _ejection(table),
        _health_check(table.table("health_check")),
        read_tls(table.table("tls"), server=False),
        http2=table.read("http2", tables.flag, default=False),
    )
    table.done()
    return found


def _ejection(table: Table) -> Outliers | None:
    if table.values.get("ejection") is False:
        table.has("ejection")
        return None
    inner = table.table("ejection")
    if inner is None:
        return Outliers()
    found = {
        key: inner.read(key, lambda _, value: value)
        for key in ("consecutive_failures", "eject_for", "cap", "most")
        if inner.has(key)
    }
    inner.done()
    try:
        return Outliers(**found)
    except (TypeError, ValueError) as error:
        raise inner.error(f"{inner.label}: {error}") from error


def _health_check(table: Table | None) -> HealthCheck | None:
    if table is None:
        return None
    found = HealthCheck(
        table.read("path", tables.path_of),
        table.read("every", tables.seconds, 5.0),
        table.read("timeout", tables.seconds, 1.0),
        table.read("failures", tables.whole(1, 1000), 3),
        table.read("successes", tables.whole(1, 1000), 1),
    )
    table.done()
    return found


def _limits(table: Table | None) -> Limits:
    if table is None:
        return Limits()
    named = {}
    for name, inner in table.tables("limits").items():
        spec = inner.read("limit", tables.text)
        by = inner.read("by", tables.text, "all")
        inner.done()
        if by not in ("all", "address") and not by.startswith("header:"):
            raise inner.error(f"{inner.label}: by must be 'all', 'address' or 'header:NAME'; got {by!r}", "by")
        if by.startswith("header:"):
            try:
                by = f"header:{tables.header(f'{inner.label}: by', by[7:])}"
            except ValueError as error:
                raise inner.error(str(error), "by") from error
        try:
            RateLimiter(spec)
        except (TypeError, ValueError) as error:
            raise inner.error(f"{inner.label}: limit: {error}", "limit") from error
        named[name] = GlobalLimit(name, spec, by)
    outage = table.read("outage", lambda label, value: units.one_of(label, value, ("open", "closed")), "open")
    found = Limits(
        named,
        store=table.read("store", _store, None),
        port=table.read("port", tables.whole(0, 65535), 0),
        closed=outage == "closed",
        timeout=table.read("timeout", tables.seconds, 0.1),
    )
    table.done()
    return found


def _one_door_each(top: Table, listeners: Mapping[str, Listener]) -> None:
    taken: dict[tuple[str, int], str] = {}
    for name, one in listeners.items():
        other = taken.setdefault((one.address, one.port), name)
        if other != name:
            raise top.error(
                f"listeners.{name}: {one.address}:{one.port} is the door of {other} already", "listeners", name, "port"
            )


def _route(
    table: Table,
    listeners: Mapping[str, Listener],
    services: Mapping[str, Service],
    policies: Mapping[str, Translated | ConfigError],
    limits: Limits,
) -> Route:
    from seawall.gateway.routing import read_route

    return read_route(table, listeners, services, policies, limits)
