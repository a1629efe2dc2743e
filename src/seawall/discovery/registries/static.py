"""`static:services.toml` a list written by hand, read again whenever the file changes. A bad file keeps the old list.

[[services.payments]]
host = "10.0.0.7"
port = 8001
zone = "a"
"""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from seawall.core.clock import Clock
from seawall.core.errors import ConfigError
from seawall.discovery.backend import Backend, Listing
from seawall.discovery.errors import RegistryUnavailable
from seawall.discovery.instance import Instance, ordered, service_name
from seawall.discovery.place import Place

LARGEST_BYTES: Final = 8 * 1024 * 1024
FIELDS: Final = ("host", "port", "scheme", "zone", "weight", "id", "version", "tags", "metadata", "state")
_LINE: Final = re.compile(r"at line ([0-9]+)")


@dataclass(frozen=True, slots=True)
class Read:
    """A file as it was read. stamp: what tells whether it changed."""

    stamp: tuple[int, int, int]
    services: dict[str, tuple[Instance, ...]]


class StaticBackend(Backend):
    """Instances in a TOML file."""

    propagation = 1.5
    local = True
    filled_by = "whoever edits its file"

    def __init__(self, place: Place, clock: Clock) -> None:
        place.known("poll")
        super().__init__(place, clock)
        if not place.path:
            raise ValueError("static: needs a file, as in 'static:services.toml'")
        self.path = Path(place.path)
        self.poll = place.seconds("poll", 1.0)

    async def list(self, service: str) -> Listing:
        """What the file says. Raises ConfigError with file and line, or RegistryUnavailable when there is no file."""
        return _listing(await self._read(), service)

    async def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """Looks whether the file changed every `poll` seconds (default 1)."""
        stamp: object = None
        while True:
            try:
                fresh = await asyncio.to_thread(_stamp, self.path)
                if fresh != stamp:
                    stamp = fresh
                    listing = _listing(await self._read(), service)
            except (ConfigError, RegistryUnavailable, OSError) as error:
                listing = replace(listing, complaint=str(error))
            yield listing
            await self.clock.tasks.sleep(self.poll)

    async def services(self) -> tuple[str, ...]:
        """The services that the file names."""
        return tuple(sorted((await self._read()).services))

    async def _read(self) -> Read:
        try:
            return await asyncio.to_thread(read_services, self.path)
        except OSError as error:
            raise RegistryUnavailable(f"{self.place.name}: {error}") from error


def _listing(read: Read, service: str) -> Listing:
    return Listing(read.services.get(service, ()), read.stamp[0])


def _stamp(path: Path) -> tuple[int, int, int]:
    told = os.stat(path)
    return told.st_mtime_ns, told.st_size, told.st_ino


def read_services(path: Path) -> Read:
    """Read a file of services. Raises OSError when it cannot be read, ConfigError for what it says wrong."""
    stamp = _stamp(path)
    if stamp[1] > LARGEST_BYTES:
        raise ConfigError(f"must have at most {LARGEST_BYTES} bytes; it has {stamp[1]}", path=str(path))
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        line = _LINE.search(str(error))
        raise ConfigError(str(error), path=str(path), line=int(line[1]) if line else None) from error
    tables = body.pop("services", {})
    if body or not isinstance(tables, dict):
        raise ConfigError(f"must hold [[services.NAME]] tables only; it has {sorted(body) or 'services'}", path=str(path))
    return Read(stamp, {name: _instances(path, name, rows) for name, rows in tables.items()})


def _instances(path: Path, name: str, rows: Any) -> tuple[Instance, ...]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"services.{name} must be written as [[services.{name}]] tables", path=str(path))
    found = []
    for number, row in enumerate(rows, 1):
        where = f"services.{name}, table {number}"
        unknown = [key for key in row if key not in FIELDS]
        if unknown:
            raise ConfigError(f"{where}: unknown {', '.join(unknown)}; there are {', '.join(FIELDS)}", path=str(path))
        try:
            found.append(Instance(service_name(name), **row))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}", path=str(path)) from error
    if len({one.id for one in found}) < len(found):
        raise ConfigError(f"services.{name}: two tables have the same id (host and port, unless given)", path=str(path))
    return ordered(found)
