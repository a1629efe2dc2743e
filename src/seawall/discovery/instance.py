"""The words of discovery: an instance, what is known of a service at one moment, and the two handles others rely on.

Nothing here waits or reaches out. Balancing reads `Watch.snapshot`, health holds a `Registered`; neither knows a registry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, Protocol

from seawall.core import units

State = Literal["starting", "ready", "draining", "down"]
Source = Literal["none", "live", "stale", "disk"]

STATES: Final = ("starting", "ready", "draining", "down")
LEAVING: Final = frozenset({"draining", "down"})
"""States in which an instance is about to go on purpose: its absence afterwards is believed at once."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_ID: Final = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:@\[\]%-]{0,254}")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?|[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,15}")
MOST_NOTES: Final = 64
LONGEST_NOTE: Final = 1024


def service_name(value: object) -> str:
    """Read a service's name: letters, digits, `.`, `_`, `-`; at most 253. Raises TypeError or ValueError with the value."""
    return _text("service", value, _NAME, "letters, digits, '.', '_' and '-', at most 253 of them")


@dataclass(frozen=True, slots=True)
class Instance:
    """One process that serves a service at one address.

    service: its name; letters, digits, `.`, `_`, `-`, at most 253.
    host: an IP address or a host name, without port. Default "127.0.0.1".
    port: 1 to 65535.
    scheme: how to speak with it, such as "http" or "https". Default "http".
    zone: where it stands, for balancers that prefer what is near; default None = not known.
    weight: its share compared with its siblings, >= 0 and finite; 0 gets nothing. Default 1.0.
    id: unique within the service. Default None = "host:port", so that a process which comes back at the same address takes
        its own record over.
    version: of what it runs, for people and routing; default None.
    tags: short words, at most 64. metadata: texts by name, at most 64 of them, each at most 1024 characters.
    state: "starting" (not yet), "ready", "draining" (finishing what it has), "down". Default "ready".

    Raises TypeError or ValueError naming the parameter, its range and the value.

    >>> Instance("payments", port=8001, zone="a").id
    '127.0.0.1:8001'
    """

    service: str
    _: KW_ONLY
    port: int
    host: str = "127.0.0.1"
    scheme: str = "http"
    zone: str | None = None
    weight: float = 1.0
    id: str = ""
    version: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    state: State = "ready"

    def __post_init__(self) -> None:
        put = object.__setattr__
        service_name(self.service)
        units.whole("port", self.port, most=65535)
        _text("host", self.host, _HOST, "an IP address or a host name, without port")
        _text("scheme", self.scheme, _SCHEME, "lower case letters, such as 'http'")
        put(self, "weight", units.number("weight", self.weight))
        put(self, "id", self.id or self.address)
        _text("id", self.id, _ID, "letters, digits and '._:@[]%-', at most 255 of them")
        for name in ("zone", "version"):
            if getattr(self, name) is not None:
                _note(name, getattr(self, name))
        put(self, "tags", tuple(_note("tags", tag) for tag in _bounded("tags", self.tags)))
        notes = {_note("metadata", name): _note("metadata", self.metadata[name]) for name in _bounded("metadata", self.metadata)}
        put(self, "metadata", MappingProxyType(notes))
        units.one_of("state", self.state, STATES)

    @property
    def address(self) -> str:
        """Host and port as URLs write them; IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Where to call it: scheme and address, without a path."""
        return f"{self.scheme}://{self.address}"

    def with_state(self, state: State) -> Instance:
        """The same instance in another state."""
        return self if state == self.state else replace(self, state=state)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is known of a service at one moment. It never changes; the next one takes its place.

    service: its name. instances: all of them, in every state, in the order of their ids.
    revision: of this watch; it grows whenever `instances` or `source` change, and means nothing to other watches.
    at: the monotonic moment at which the registry last confirmed this, by the clock of the watch.
    source: "none" (nothing was ever heard), "live" (the registry answers), "stale" (it does not; this is the last that was
        known), "disk" (it has not answered since this process began; this is what an earlier one knew).
    held: ids that the registry no longer names and that are kept for now, because too many vanished at once.
    """

    service: str
    instances: tuple[Instance, ...] = ()
    revision: int = 0
    at: float = 0.0
    source: Source = "none"
    held: frozenset[str] = frozenset()

    @property
    def ready(self) -> tuple[Instance, ...]:
        """The instances that take new work."""
        return tuple(instance for instance in self.instances if instance.state == "ready")

    @property
    def known(self) -> bool:
        """Whether anything was ever heard: an empty service that is known is not the same as one that is not."""
        return self.source != "none"

    def age(self, now: float) -> float:
        """Seconds since the registry last confirmed this, at the monotonic moment `now`."""
        return max(0.0, now - self.at)

    def get(self, id: str) -> Instance | None:
        """The instance with this id, or None."""
        return next((instance for instance in self.instances if instance.id == id), None)


class Watch(Protocol):
    """What balancing needs of discovery: the newest snapshot without waiting, and word of a new one."""

    @property
    def service(self) -> str:
        """The service that is watched."""
        ...

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot: read, never awaited."""
        ...

    def subscribe(self, callback: Callable[[Snapshot], object]) -> Callable[[], None]:
        """Call `callback` with every snapshot whose revision is new, in the thread of the watch; the result ends it."""
        ...

    def unreachable(self, id: str) -> None:
        """Tell that a connection to this instance was refused: one that is only held back is then let go at once."""
        ...


class Registered(Protocol):
    """What health and drain need of discovery: the handle of one registration. Each verb has a sync twin."""

    @property
    def instance(self) -> Instance:
        """The instance as it is announced, with the state it has now."""
        ...

    @property
    def registered(self) -> bool:
        """Whether the registry holds the record, as far as is known."""
        ...

    @property
    def propagation(self) -> float:
        """Seconds within which every watcher of this registry has seen a change, as far as is known."""
        ...

    async def set_state(self, state: State) -> None:
        """Announce another state. Returns once the registry has it, or the attempt failed and goes on in the background."""
        ...

    async def ready(self) -> None:
        """Announce "ready"."""
        ...

    async def draining(self) -> None:
        """Announce "draining": no new work, please."""
        ...

    async def deregister(self) -> None:
        """Stop the heartbeat, then take the record out. Harmless when done twice."""
        ...

    def set_state_sync(self, state: State) -> None:
        """`set_state` for code without an event loop."""
        ...

    def ready_sync(self) -> None:
        """`ready` for code without an event loop."""
        ...

    def draining_sync(self) -> None:
        """`draining` for code without an event loop."""
        ...

    def deregister_sync(self) -> None:
        """`deregister` for code without an event loop."""
        ...


def ordered(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """The order in which snapshots keep instances: by id, one per id, the later one winning."""
    return tuple(value for _, value in sorted({instance.id: instance for instance in instances}.items()))


def _text(name: str, value: object, pattern: re.Pattern[str], wanted: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text of {wanted}; got {value!r}")
    if pattern.fullmatch(value) is None:
        raise ValueError(f"{name} must be made of {wanted}; got {value[:300]!r}")
    return value


def _note(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must hold texts; got {value!r}")
    if len(value) > LONGEST_NOTE or not value.isprintable():
        raise ValueError(f"{name} must hold printable texts of at most {LONGEST_NOTE} characters; got {value[:80]!r}")
    return value


def _bounded(name: str, values: Iterable[str]) -> list[str]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must hold several texts; got {values!r}")
    found = list(values)
    if len(found) > MOST_NOTES:
        raise ValueError(f"{name} must hold at most {MOST_NOTES} texts; got {len(found)}")
    return found
