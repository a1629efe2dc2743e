"""Server-side discovery: a real Envoy that is fed from our registries and policies.

`gateway.toml` says which requests go to which services; `Gateway` watches their registries, tells Envoy, and keeps it alive.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'seawall.gateway' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"seawall.gateway.{home}"), name)
    return value
