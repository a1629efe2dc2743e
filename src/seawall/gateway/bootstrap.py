"""What an Envoy is told on its command line: where its admin port is, and where it asks for all the rest."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from seawall.gateway.clusters import XDS, Source, grpc_server
from seawall.gateway.settings import GatewayConfig

ADS_SOURCE: Final[dict[str, Any]] = {"ads": {}, "resource_api_version": "V3"}


def bootstrap(
    config: GatewayConfig, source: Source, *, port: int, host: str | None = None, node: str | None = None
) -> dict[str, Any]:
    """The first configuration of an Envoy.

    source: where it asks for resources. port: of the control plane, if it asks over gRPC. host: under which the control plane is
    reached; default None = from this machine. node: the name of this Envoy; default None = after the file.
    """
    told: dict[str, Any] = {
        "node": {"id": node or f"seawall-{config.path.stem}", "cluster": "seawall"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": config.admin_port}}},
        "dynamic_resources": {"cds_config": source("clusters", ""), "lds_config": source("listeners", "")},
    }
    if config.control == "ads":
        asks = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": XDS}}]}
        told["dynamic_resources"]["ads_config"] = asks
        place = grpc_server(XDS, host or nearest(config.xds_address), port, config.xds_client)
        told["static_resources"] = {"clusters": [place]}
    return told


def nearest(address: str) -> str:
    """Where this machine reaches a server that listens on an address.

    >>> nearest("0.0.0.0"), nearest("10.0.0.5")
    ('127.0.0.1', '10.0.0.5')
    """
    found = ipaddress.ip_address(address)
    if not found.is_unspecified:
        return address
    return "127.0.0.1" if found.version == 4 else "::1"
