"""The last list that was good, kept in a file per service, so that a process can start while the registry is away.

Addresses are reused: what is older than the registry's time to live may be somebody else by now. Such entries are used only
when the callee proves who it is, by TLS or by an identity probe.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from seawall.discovery.errors import RegistryError
from seawall.discovery.instance import Instance
from seawall.discovery.records import as_record, from_record

LARGEST_BYTES: Final = 8 * 1024 * 1024
TLS_SCHEMES: Final = frozenset({"https", "grpcs", "wss"})
FORMAT: Final = 1


class LastKnown:
    """One folder of last known lists. folder: made when it is not there, readable by its owner alone."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, registry: str, service: str) -> Path:
        """The file of one service of one registry."""
        readable = "".join(letter if letter.isalnum() else "_" for letter in registry)[:80]
        return self.folder / f"{readable}.{service}.json"

    def save(self, registry: str, service: str, instances: tuple[Instance, ...], wall: float) -> None:
        """Write a list whole or not at all. Raises OSError when the folder cannot be written."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        records = [as_record(instance) for instance in instances]
        body = {"format": FORMAT, "registry": registry, "service": service, "saved": wall, "instances": records}
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".last-known-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump(body, out)
            os.replace(name, self.path(registry, service))
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise

    def load(self, registry: str, service: str) -> tuple[float, tuple[Instance, ...]] | None:
        """The time of day of the last list, and the list; None when there is none. Raises RegistryError for a bad file."""
        path = self.path(registry, service)
        try:
            if path.stat().st_size > LARGEST_BYTES:
                raise RegistryError(f"{path} is larger than {LARGEST_BYTES} bytes")
            body = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise RegistryError(f"{path} cannot be read: {error}") from error
        if not isinstance(body, dict) or (body.get("format"), body.get("service")) != (FORMAT, service):
            raise RegistryError(f"{path} is no list of {service!r} in format {FORMAT}")
        if body.get("registry") != registry:
            return None
        saved, records = body.get("saved"), body.get("instances")
        if not isinstance(saved, int | float) or not isinstance(records, list):
            raise RegistryError(f"{path} lacks its time or its list")
        return float(saved), tuple(from_record(record) for record in records)


def believable(
    instances: tuple[Instance, ...], *, age: float, ttl: float, stale_for: float, proves: Callable[[Instance], bool]
) -> tuple[Instance, ...]:
    """Which of a list that is `age` seconds old may still be used: all within the ttl, later only those that prove who they
    are, and none after `stale_for`. An age below 0 (the time of day was set back) counts as beyond the ttl."""
    if age > stale_for:
        return ()
    return tuple(one for one in instances if 0 <= age <= ttl or one.scheme in TLS_SCHEMES or proves(one))
