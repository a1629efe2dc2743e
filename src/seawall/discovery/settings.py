"""How patient registrars and watchers are: one validated value, shared by all that a registry makes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from seawall.core import units
from seawall.discovery.addresses import AddressRules
from seawall.discovery.brake import Brake
from seawall.discovery.instance import Instance
from seawall.policies.backoff import Backoff

Probe = Callable[[Instance], Awaitable[bool]]
SHORTEST_TTL: Final = 0.2
TICK: Final = 0.001  # what is due within this is due now: loops fire timers early by the resolution of their clock
BEATS_PER_TTL: Final = 3
BEATS_PER_CHECK: Final = 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers behind `Registry.open`, which documents them."""

    ttl: float = 10.0
    stale_for: float = 600.0
    watchdog: float = 15.0
    call_timeout: float = 2.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base=0.2, cap=5.0))
    brake: Brake = field(default_factory=Brake)
    addresses: AddressRules = field(default_factory=AddressRules)
    probe: Probe | None = None
    identity: Probe | None = None
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        def put(name: str, **bounds: Any) -> None:
            object.__setattr__(self, name, units.seconds(name, getattr(self, name), **bounds))

        put("ttl", above=SHORTEST_TTL)
        put("stale_for", zero=True, infinite=True)
        put("watchdog")
        put("call_timeout")
        for name in ("probe", "identity"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} must be an async function of one Instance, or None; got {getattr(self, name)!r}")

    def limit(self, ttl: float | None = None) -> float:
        """Seconds that one question to the registry may take: a heartbeat must not wait longer than its period."""
        return self.call_timeout if ttl is None else min(self.call_timeout, ttl / BEATS_PER_TTL)
