"""The transports of service clients: one file per HTTP client, reached by name, loaded when one is opened."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from seawall.core.errors import MissingExtra

ASYNC: Final = {
    "httpx2": "seawall.balancing.clients.over_httpx2:AsyncTransport",
    "httpx": "seawall.balancing.clients.over_httpx:AsyncTransport",
    "aiohttp": "seawall.balancing.clients.over_aiohttp:AsyncTransport",
}
SYNC: Final = {
    "httpx2": "seawall.balancing.clients.over_httpx2:SyncTransport",
    "httpx": "seawall.balancing.clients.over_httpx:SyncTransport",
}
GROUPS: Final = {"async": "seawall.transports", "sync": "seawall.transports.sync"}


def transport_of(name: str, way: str) -> Any:
    """The class of a transport: ours, or one that another distribution brings by the entry-point group.

    name: such as "httpx2". way: "async" or "sync". Raises ValueError for an unknown name, MissingExtra when its client is not
    installed; the extra has the name of the client.
    """
    table = ASYNC if way == "async" else SYNC
    home = table.get(name)
    if home is None:
        for point in entry_points(group=GROUPS[way], name=name):
            return point.load()
        only = " (aiohttp has no sync client)" if name in ASYNC else ""
        raise ValueError(f"transport must be one of {', '.join(table)}{only}; got {name!r}")
    module, _, attribute = home.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name:
            raise
        raise MissingExtra(f'the {name} transport needs {name}: pip install "seawall[{name}]"', name=error.name) from error
