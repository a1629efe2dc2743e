"""Who is there: instances announce themselves in a registry, watchers keep the newest list of them at hand.

Names are resolved when they are first used, so no registry's driver is loaded before it is opened.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seawall.discovery.instance import Instance as Instance
    from seawall.discovery.instance import Registered as Registered
    from seawall.discovery.instance import Snapshot as Snapshot
    from seawall.discovery.instance import Watch as Watch

_HOMES = {"Instance": "instance", "Registered": "instance", "Snapshot": "instance", "Watch": "instance"}

__all__ = ["Instance", "Registered", "Snapshot", "Watch"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'seawall.discovery' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"seawall.discovery.{home}"), name)
    return value
