"""`[access_log]`, `[admin]` and `[envoy]` of a `gateway.toml`: how Envoy itself is run, and how it is told."""

from __future__ import annotations

import ipaddress
from typing import Any

from seawall.core import units
from seawall.gateway import tables
from seawall.gateway.tables import Table
from seawall.gateway.tls import read_tls


def read_engine(top: Table) -> dict[str, Any]:
    """The fields of a GatewayConfig that these tables say. Raises ConfigError."""
    found: dict[str, Any] = {}
    log, admin, envoy = top.table("access_log"), top.table("admin"), top.table("envoy")
    if log is not None:
        found["log"] = True
        found["log_bytes"] = log.read("size_bytes", tables.whole(64 * 1024, 1 << 40), 16 * 1024 * 1024)
        log.done()
    if admin is not None:
        found["admin_port"] = admin.read("port", tables.whole(0, 65535), 0)
        admin.done()
    if envoy is not None:
        found["binary"] = envoy.read("binary", tables.text, None)
        found["workers"] = envoy.read("workers", tables.whole(1, 256), 1)
        found["drain"] = envoy.read("drain", tables.seconds, 10.0)
        found.update(_control(envoy))
        envoy.done()
    return found


def _control(envoy: Table) -> dict[str, Any]:
    """How Envoys are told. Beyond this machine nobody is told anything without a certificate that we know."""
    found: dict[str, Any] = {
        "control": envoy.read("control", lambda name, value: units.one_of(name, value, ("file", "ads")), "file"),
        "xds_port": envoy.read("xds_port", tables.whole(0, 65535), 0),
        "xds_address": envoy.read("xds_address", address, "127.0.0.1"),
    }
    server, client = envoy.table("xds_tls"), envoy.table("xds_client")
    found["xds_tls"] = read_tls(server, server=True)
    found["xds_client"] = read_tls(client, server=False)
    for key in ("xds_address", "xds_tls", "xds_client"):
        if key in envoy.values and found["control"] != "ads":
            raise envoy.error(f"{envoy.label}: {key} means nothing without control = 'ads'", key)
    if server is None and not ipaddress.ip_address(found["xds_address"]).is_loopback:
        raise envoy.error(
            f"{envoy.label}: xds_address: {found['xds_address']} can be reached from other machines, so it needs "
            f"[envoy.xds_tls] with cert, key and ca: without, everybody could read where your services are",
            "xds_address",
        )
    if server is not None and found["xds_tls"].ca is None:
        raise server.error(f"{server.label} must say ca: whose certificates the Envoys show; others are refused")
    if (server is None) != (client is None):
        missing = "xds_client: what Envoy shows, and whom it expects" if client is None else "xds_tls: what the gateway shows"
        raise (server or client or envoy).error(f"{envoy.label} must say [envoy.{missing}")
    if client is not None:
        _shows(client, found["xds_client"])
    return found


def _shows(client: Table, told: Any) -> None:
    for key in ("cert", "name"):
        if getattr(told, key) is None:
            what = "and key: what Envoy shows" if key == "cert" else ": whom Envoy expects in the certificate of the gateway"
            raise client.error(f"{client.label} must say {key}{' ' if key == 'cert' else ''}{what}")


def address(name: str, value: object) -> str:
    """An IP address."""
    return str(ipaddress.ip_address(tables.text(name, value)))
