"""What fails for the peers, asked of the peers themselves: nothing has to be written into a registry.

Nobody is asked while all is well. When a critical check of ours fails, the readiness of every peer is read in the background,
a few at a time, and again while it fails; the answers are kept in memory, and expire. A peer that does not answer cannot serve
either, so it does not
count: who stays is decided among those that answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from seawall.core import clock as clocks
from seawall.core import units
from seawall.core.clock import Clock
from seawall.health.ask import Unanswered, fetch
from seawall.health.fate import LARGEST_FLEET, Peer

AT_ONCE: Final = 20  # questions under way
LASTS: Final = 3  # rounds for which an answer counts


class PeerHealth:
    """Gives `SharedFate` its peers. watch: of our own service; it has `snapshot` with `known` and `instances` of id, scheme,
    host, port.

    path: where peers say whether they are ready. Default "/readyz". port: of health's own port there; default None = the
        instance's.
    every: seconds between two rounds while a check of ours fails, > 0. Default 2. timeout: seconds for one answer, > 0.
        Default 1.

    Raises TypeError or ValueError naming the parameter, its range and the value.
    """

    def __init__(
        self,
        watch: Any,
        *,
        path: str = "/readyz",
        port: int | None = None,
        every: float = 2.0,
        timeout: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        if not hasattr(watch, "snapshot"):
            raise TypeError(f"watch must have a snapshot; got {watch!r}")
        self._watch = watch
        self._path = path
        self._port = None if port is None else units.whole("port", port, least=1, most=65535)
        self.every = units.seconds("every", every)
        self._timeout = units.seconds("timeout", timeout)
        self._clock = clock
        self._found: tuple[float, list[Peer]] | None = None

    def __call__(self) -> list[Peer] | None:
        """The peers as they answered last; None when the registry knows nobody, or nobody was asked lately."""
        found = self._found
        if found is None or not getattr(self._watch.snapshot, "known", True):
            return None
        age = clocks.resolve(self._clock).monotonic() - found[0]
        return found[1] if age <= LASTS * self.every + self._timeout else None

    async def look(self) -> None:
        """Ask every peer once."""
        instances = list(self._watch.snapshot.instances)[:LARGEST_FLEET]
        seats = asyncio.Semaphore(AT_ONCE)

        async def one(instance: Any) -> Peer | None:
            async with seats:
                return await self._ask(instance)

        answers = await asyncio.gather(*(one(instance) for instance in instances))
        self._found = clocks.resolve(self._clock).monotonic(), [peer for peer in answers if peer is not None]

    async def _ask(self, instance: Any) -> Peer | None:
        host = f"[{instance.host}]" if ":" in instance.host else instance.host
        url = f"{instance.scheme}://{host}:{self._port or instance.port}{self._path}"
        try:
            async with asyncio.timeout(self._timeout):
                status, body = await fetch(url)
            if status not in (200, 503):
                return None
            return Peer(instance.id, failing(body))
        except (OSError, EOFError, TimeoutError, ValueError, Unanswered):
            return None


def failing(body: bytes) -> frozenset[str]:
    """The critical checks that fail by a body of application/health+json. Raises ValueError for anything else."""
    answer = json.loads(body)
    checks = answer.get("checks", {}) if isinstance(answer, dict) else None
    if not isinstance(checks, dict):
        raise ValueError("no application/health+json")
    return frozenset(
        name
        for name, entries in checks.items()
        if isinstance(entries, list)
        and any(isinstance(each, dict) and each.get("status") == "fail" and each.get("critical") for each in entries)
    )
