"""How an instance is written where several processes read it: JSON of fixed keys, checked when it is read."""

from __future__ import annotations

import json
from typing import Any, Final

from seawall.discovery.errors import RegistryError
from seawall.discovery.instance import Instance, State

LARGEST_BYTES: Final = 256 * 1024
_KEYS: Final = ("service", "id", "scheme", "host", "port", "weight", "zone", "version", "tags", "metadata", "state")


def as_record(instance: Instance) -> dict[str, Any]:
    """An instance as plain values, for JSON."""
    record = {key: getattr(instance, key) for key in _KEYS}
    return {**record, "tags": list(instance.tags), "metadata": dict(instance.metadata)}


def from_record(record: object) -> Instance:
    """Read plain values back; keys that are not known are left out, so that newer writers do not break older readers.

    Raises RegistryError for what is no instance.
    """
    if not isinstance(record, dict):
        raise RegistryError(f"a record must be an object; got {type(record).__name__}")
    known = {key: record[key] for key in _KEYS if key in record and key not in ("service", "tags")}
    try:
        return Instance(record["service"], tags=tuple(record.get("tags", ())), **known)
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(f"this is no record of an instance: {error}") from error


def encode(instance: Instance) -> str:
    """An instance as JSON."""
    return json.dumps(as_record(instance), separators=(",", ":"), sort_keys=True)


def decode(text: str | bytes, *, service: str | None = None) -> Instance:
    """Read JSON back. service: the service whose record it must be. Raises RegistryError for anything else."""
    if len(text) > LARGEST_BYTES:
        raise RegistryError(f"a record must have at most {LARGEST_BYTES} bytes; got {len(text)}")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"a record must be JSON: {error}") from error
    instance = from_record(record)
    if service is not None and instance.service != service:
        raise RegistryError(f"this record of {instance.service!r} lies under {service!r}")
    return instance


def state_of(word: object) -> State:
    """Read a state that a registry tells; "ready" for none. Raises RegistryError for an unknown word."""
    if word in (None, ""):
        return "ready"
    if word not in ("starting", "ready", "draining", "down"):
        raise RegistryError(f"unknown state {word!r}")
    return word
