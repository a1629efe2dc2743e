"""The calls of the order service as teams write them by hand: one client, a generous time-out, three retries at once."""

from __future__ import annotations

from typing import Any

import httpx2

TRIES = 4


class BareShop:
    """Order without a guard.

    patience: seconds the client waits for a connection, for a free place in its pool, and for an answer.
    """

    def __init__(self, payment: str, inventory: str, patience: float) -> None:
        self._payment = payment
        self._inventory = inventory
        self._client = httpx2.AsyncClient(timeout=patience, trust_env=False)

    async def place(self, order: str) -> str:
        """Place an order; "paid". Raises httpx2.HTTPError when a service cannot be reached."""
        await self._post(f"{self._inventory}/reserve", {"order": order})
        await self._post(f"{self._payment}/charge", {"order": order})
        return "paid"

    async def _post(self, url: str, body: dict[str, str]) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                response = await self._client.post(url, json=body)
                response.raise_for_status()
                return
            except httpx2.HTTPError:
                if attempt == TRIES:
                    raise

    def report(self) -> dict[str, Any]:
        """It knows nothing of itself."""
        return {}
