"""Say how you are: live, ready and startup, answered from memory; leave without losing a request.

`Health` holds the checks and is put in front of an application; `checks` are ready-made ones; `Drain` leads out of the traffic.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seawall.health import checks as checks
    from seawall.health.asgi import HealthAsgi as HealthAsgi
    from seawall.health.drain import Drain as Drain
    from seawall.health.fate import Peer as Peer
    from seawall.health.fate import SharedFate as SharedFate
    from seawall.health.health import Health as Health
    from seawall.health.health import HealthSnapshot as HealthSnapshot
    from seawall.health.peers import PeerHealth as PeerHealth
    from seawall.health.propagation import Propagation as Propagation
    from seawall.health.report import CheckReport as CheckReport
    from seawall.health.report import Report as Report
    from seawall.health.standing import Finding as Finding
    from seawall.health.standing import Status as Status
    from seawall.health.wsgi import HealthWsgi as HealthWsgi

_HOMES = {
    "CheckReport": "report",
    "Drain": "drain",
    "Finding": "standing",
    "Health": "health",
    "HealthAsgi": "asgi",
    "HealthSnapshot": "health",
    "HealthWsgi": "wsgi",
    "Peer": "fate",
    "PeerHealth": "peers",
    "Propagation": "propagation",
    "Report": "report",
    "SharedFate": "fate",
    "Status": "standing",
}
__all__ = [
    "CheckReport",
    "Drain",
    "Finding",
    "Health",
    "HealthAsgi",
    "HealthSnapshot",
    "HealthWsgi",
    "Peer",
    "PeerHealth",
    "Propagation",
    "Report",
    "SharedFate",
    "Status",
    "checks",
]


def __getattr__(name: str) -> Any:
    if name == "checks":
        return import_module("seawall.health.checks")
    if name not in _HOMES:
        raise AttributeError(f"module 'seawall.health' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"seawall.health.{_HOMES[name]}"), name)
    return value
