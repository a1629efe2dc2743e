"""Delivery within one process, on top of the outbox: publishing returns when every group has handled the event."""

from __future__ import annotations

from collections.abc import Iterable

from seawall.choreography.brokers.port import Deliver
from seawall.choreography.envelope import Envelope


class MemoryBroker:
    """No server. It holds nothing itself: what is not handled stays in the outbox, so a crash loses nothing."""

    def __init__(self, url: str = "memory:") -> None:
        self.url = url
        self._groups: dict[str, dict[str, Deliver]] = {}

    async def start(self) -> None:
        """Nothing to connect to."""

    def subscribe(self, topic: str, group: str, deliver: Deliver) -> None:
        """Give each event of a topic to `deliver`."""
        self._groups.setdefault(topic, {})[group] = deliver

    def expect(self, topic: str, groups: Iterable[str]) -> None:
        """All groups are in this process."""

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Let every group handle the event; the first error is raised, and the event is sent again by the relay."""
        for deliver in tuple(self._groups.get(topic, {}).values()):
            await deliver(envelope)

    async def stop(self) -> None:
        """Nothing to disconnect from."""
