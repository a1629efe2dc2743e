"""One `[[routes]]` table of `gateway.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seawall.core import units
from seawall.core.errors import ConfigError
from seawall.gateway import tables
from seawall.gateway.settings import HASHES, Fault, Limits, Listener, Route, Service
from seawall.gateway.tables import Table
from seawall.gateway.translate import Translated
from seawall.pipeline.build import suggest


def read_route(
    table: Table,
    listeners: Mapping[str, Listener],
    services: Mapping[str, Service],
    policies: Mapping[str, Translated | ConfigError],
    limits: Limits,
) -> Route:
    """Read it. Raises ConfigError, with file and line, for what it says wrong or names that are not there."""
    listener = table.read("listener", tables.text, next(iter(listeners)) if len(listeners) == 1 else tables.MISSING)
    _there(table, "listener", listener, listeners, "[listeners.{}]")
    to = _shares(table, services)
    pipeline = table.read("pipeline", tables.text, None)
    exact = table.has("exact_path")
    if exact and table.has("path"):
        raise table.error("a route has a path or an exact_path, not both", "path")
    hashed = table.read("hash", tables.header, None)
    if hashed is not None and not all(services[name].balance in HASHES for name in to):
        raise table.error("hash needs services with balance = 'maglev' or 'ring_hash'", "hash")
    named = table.read("limits", tables.texts, ())
    for name in named:
        _there(table, "limits", name, limits.named, "[rate_limits.limits.{}]")
    found = Route(
        listener=listener,
        to=to,
        hosts=_hosts(table),
        path=table.read("exact_path" if exact else "path", tables.path_of, "/"),
        exact=exact,
        headers=_headers(table.table("headers")),
        policy=_policy(table, pipeline, policies),
        pipeline=pipeline,
        mirror=_mirror(table.table("mirror"), services),
        hash_header=hashed,
        fault=_fault(table.table("fault")),
        high=table.read("priority", lambda name, value: units.one_of(name, value, ("default", "high")), "default") == "high",
        limits=named,
        rewrite=table.read("rewrite", tables.path_of, None),
    )
    table.done()
    return found


def _policy(table: Table, name: str | None, policies: Mapping[str, Translated | ConfigError]) -> Translated:
    if name is None:
        return Translated()
    _there(table, "pipeline", name, policies, "[pipelines.{}]")
    found = policies[name]
    if isinstance(found, ConfigError):
        raise found
    return found


def _there(table: Table, key: str, name: str, known: Mapping[str, Any], how: str) -> None:
    if name not in known:
        raise table.error(f"{key}: there is no {how.format(name)}{suggest(name, tuple(known))}", key)


def _hosts(table: Table) -> tuple[str, ...]:
    if not table.has("host"):
        return ("*",)
    return table.read(
        "host", lambda name, value: (tables.text(name, value),) if isinstance(value, str) else tables.texts(name, value)
    )


def _shares(table: Table, services: Mapping[str, Service]) -> dict[str, int]:
    if isinstance(table.values.get("to"), str):
        name = table.read("to", tables.text)
        _there(table, "to", name, services, "[services.{}]")
        return {name: 1}
    inner = table.table("to")
    if inner is None or not inner.values:
        raise table.error("a route must say to: a service, or a table of shares by service", "to")
    for name in inner.values:
        _there(inner, name, name, services, "[services.{}]")
    shares = {name: inner.read(name, tables.whole(0, 1_000_000)) for name in inner.values}
    if not any(shares.values()):
        raise inner.error("of the shares one must be above 0")
    return shares


def _headers(table: Table | None) -> dict[str, str]:
    if table is None:
        return {}
    return {tables.header(table.label, name): table.read(name, tables.text) for name in table.values}


def _mirror(table: Table | None, services: Mapping[str, Service]) -> dict[str, float]:
    if table is None:
        return {}
    for name in table.values:
        _there(table, name, name, services, "[services.{}]")
    return {name: table.read(name, tables.share) for name in table.values}


def _fault(table: Table | None) -> Fault | None:
    if table is None:
        return None
    found = Fault(
        status=table.read("status", tables.whole(200, 599), 503),
        abort=table.read("abort", tables.share, 0.0),
        delay=table.read("delay", tables.seconds, 0.1),
        delayed=table.read("delayed", tables.share, 0.0),
    )
    table.done()
    return found
