"""Server-side discovery: a real Envoy that is fed from our registries and policies.

`gateway.toml` says which requests go to which services; `Gateway` watches their registries, tells Envoy, and keeps it alive.
"""

from typing import TYPE_CHECKING

from seawall.core.lazy import lazy

if TYPE_CHECKING:
    from seawall.gateway.envoy import EnvoyBroken as EnvoyBroken
    from seawall.gateway.gateway import Gateway as Gateway
    from seawall.gateway.headers import retry_headers as retry_headers
    from seawall.gateway.resources import Resources as Resources
    from seawall.gateway.settings import GatewayConfig as GatewayConfig

_HOMES = {
    "EnvoyBroken": "envoy",
    "Gateway": "gateway",
    "GatewayConfig": "settings",
    "Resources": "resources",
    "retry_headers": "headers",
}

__all__ = ["EnvoyBroken", "Gateway", "GatewayConfig", "Resources", "retry_headers"]

__getattr__, __dir__ = lazy(__name__, _HOMES)
