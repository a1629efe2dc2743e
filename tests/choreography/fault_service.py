"""One service of the shop as a process of its own: fault_service.py STORE BROKER SERVICE [NUMBER OF ORDERS]."""

from __future__ import annotations

import asyncio
import logging
import sys

import shop

from seawall.choreography import Service, Tracker


async def feed(service: Service, orders: int) -> None:
    """Begin orders in one commit each with a row of their own, so that a killed feeder goes on where it was."""
    async with service.transaction() as begin:
        begin.connection.execute("CREATE TABLE IF NOT EXISTS fed (n INTEGER PRIMARY KEY)")
    async with service.transaction() as begin:
        first = begin.connection.execute("SELECT COALESCE(MAX(n), 0) FROM fed").fetchone()[0] + 1
    for number in range(first, orders + 1):
        async with service.transaction() as begin:
            begin.connection.execute("INSERT INTO fed VALUES (?)", (number,))
            begin(shop.OrderCreated(f"order-{number}", 500 if number % 10 == 0 else number % 90 + 1))


async def main() -> None:
    store, broker, name = sys.argv[1:4]
    tracker = Tracker(timeout=3600) if name == "order" else None
    async with shop.build(store, broker).open(name, tracker=tracker) as service:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        if len(sys.argv) > 4:
            await feed(service, int(sys.argv[4]))
        await asyncio.Event().wait()


logging.basicConfig(level=logging.CRITICAL)
asyncio.run(main())
