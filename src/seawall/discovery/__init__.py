"""Who is there: instances announce themselves in a registry, watchers keep the newest list of them at hand.

Names are resolved when they are first used, so no registry's driver is loaded before it is opened.
"""

from typing import TYPE_CHECKING

from seawall.core.lazy import lazy

if TYPE_CHECKING:
    from seawall.discovery.addresses import AddressRules as AddressRules
    from seawall.discovery.brake import Brake as Brake
    from seawall.discovery.errors import ReadOnlyRegistry as ReadOnlyRegistry
    from seawall.discovery.errors import RegistryError as RegistryError
    from seawall.discovery.errors import RegistryUnavailable as RegistryUnavailable
    from seawall.discovery.instance import Instance as Instance
    from seawall.discovery.instance import Registered as Registered
    from seawall.discovery.instance import Snapshot as Snapshot
    from seawall.discovery.instance import Watch as Watch
    from seawall.discovery.registrar import Registration as Registration
    from seawall.discovery.registry import Registry as Registry
    from seawall.discovery.watching import Watching as Watching

_HOMES = {
    "AddressRules": "addresses",
    "Brake": "brake",
    "Instance": "instance",
    "ReadOnlyRegistry": "errors",
    "Registered": "instance",
    "Registration": "registrar",
    "Registry": "registry",
    "RegistryError": "errors",
    "RegistryUnavailable": "errors",
    "Snapshot": "instance",
    "Watch": "instance",
    "Watching": "watching",
}

__all__ = [
    "AddressRules",
    "Brake",
    "Instance",
    "ReadOnlyRegistry",
    "Registered",
    "Registration",
    "Registry",
    "RegistryError",
    "RegistryUnavailable",
    "Snapshot",
    "Watch",
    "Watching",
]

__getattr__, __dir__ = lazy(__name__, _HOMES)
