"""The port to a registry system. One file in registries/ per system answers to it; registrar and watcher know no more.

A backend does one thing at a time and raises when it cannot: patience, timeouts, backoff and memory are the business of
registrar and watcher. A backend belongs to one event loop.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seawall.discovery.errors import ReadOnlyRegistry
from seawall.discovery.instance import Instance, State

if TYPE_CHECKING:
    from seawall.core.clock import Clock
    from seawall.discovery.place import Place


@dataclass(frozen=True, slots=True)
class Listing:
    """The full list of a service as a registry told it.

    revision: the registry's own count, 0 where it has none. skipped: records that could not be read, as "id: reason".
    complaint: why this is an older list than it should be, when the backend itself keeps one. cursor: the backend's own.
    """

    instances: tuple[Instance, ...] = ()
    revision: int = 0
    skipped: tuple[str, ...] = ()
    complaint: str | None = None
    cursor: Any = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Hold:
    """What one registration holds in a registry.

    owner: a token of this incarnation. fresh: not written yet; the first write takes over what stands there, later ones must
    not take it back from a process that came after. lease: the registry's own handle, if it has any.
    """

    instance: Instance
    ttl: float
    owner: str = field(default_factory=lambda: secrets.token_hex(8))
    lease: Any = None
    fresh: bool = True


class Backend(ABC):
    """What registrar and watcher need of a registry.

    propagation: seconds within which watchers usually see a change, for drains. local: whether loopback addresses are its normal
    business. filled_by: who else writes it, None when `register` does.
    """

    propagation: float = 1.0
    local: bool = False
    filled_by: str | None = None

    def __init__(self, place: Place, clock: Clock) -> None:
        self.place = place
        self.clock = clock

    # --- reading

    @abstractmethod
    async def list(self, service: str) -> Listing:
        """Everything known of a service, in one question and one answer."""

    @abstractmethod
    def follow(self, service: str, listing: Listing) -> AsyncIterator[Listing]:
        """Full lists from `listing` on, whenever something changed; the same object again means that nothing did.

        Ends or raises when the way to the registry breaks; raises Outdated when the place to go on from is gone.
        """

    @abstractmethod
    async def services(self) -> tuple[str, ...]:
        """The names of all services that have instances, sorted."""

    # --- writing

    async def put(self, hold: Hold) -> None:
        """Write `hold.instance` and let it live for `hold.ttl` seconds. Raises Taken when `hold` is not fresh and another owner's
        record lives there."""
        raise self.read_only()

    async def beat(self, hold: Hold) -> None:
        """Let it live for another ttl. Raises Lost when the registry does not know it any more."""
        raise self.read_only()

    async def check(self, hold: Hold) -> Instance:
        """Read the own record back. Raises Lost when it is not there, or is somebody else's."""
        raise self.read_only()

    async def mark(self, service: str, id: str, state: State) -> bool:
        """Change the state of anybody's record and nothing else in it; False when there is none. Its owner reads it back."""
        raise self.read_only()

    async def remove(self, hold: Hold) -> None:
        """Take the record out, if it is still the own one, and leave word for a moment that it went by itself ("down")."""
        raise self.read_only()

    def read_only(self) -> ReadOnlyRegistry:
        """The error of a registry that others fill."""
        return ReadOnlyRegistry(f"{self.place.scheme}: is filled by {self.filled_by}; leave register() out here")

    async def close(self) -> None:
        """Let go of connections, files and threads."""
