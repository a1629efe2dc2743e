"""The story of the shop as a choreography: three services, and compensation when any of them fails.

`python -m seawall.demo.choreography STORE BROKER SERVICE ORDERS [PART]` runs one of them; the order service begins so many
orders. PART is "relay" or "handlers" for one half of it, in a process of its own.
"""

from __future__ import annotations

import asyncio
import sys

from seawall.choreography import Choreography, Service, Tracker, Tx, event


@event
class OrderCreated:
    """A customer ordered."""

    order_id: str
    total: int


@event
class PaymentCharged:
    """The money was taken."""

    order_id: str
    total: int


@event(failure=True)
class PaymentDeclined:
    """The money was not to be had."""

    order_id: str


@event
class InventoryReserved:
    """The goods are set aside."""

    order_id: str


@event(failure=True)
class InventoryRejected:
    """There are not enough goods."""

    order_id: str


@event
class PaymentRefunded:
    """The money was given back."""

    order_id: str


@event
class OrderCompleted:
    """The order is done."""

    order_id: str


@event
class OrderCancelled:
    """The order is off."""

    order_id: str


def build(store: str, broker: str = "memory:") -> Choreography:
    """Orders above 100 are declined; orders whose total is a multiple of 7 find no stock."""
    shop = Choreography(
        "orders", store=store, broker=broker, correlation="order_id", starts=[OrderCreated], ends=[OrderCompleted, OrderCancelled]
    )

    @shop.on(OrderCreated, service="payment")
    async def charge(order: OrderCreated, tx: Tx) -> PaymentCharged | PaymentDeclined:
        if order.total > 100:
            return PaymentDeclined(order.order_id)
        await note(tx, order.order_id, "charge")
        return PaymentCharged(order.order_id, order.total)

    @shop.on(PaymentCharged, service="inventory")
    async def reserve(paid: PaymentCharged, tx: Tx) -> InventoryReserved | InventoryRejected:
        if paid.total % 7 == 0:
            return InventoryRejected(paid.order_id)
        await note(tx, paid.order_id, "reserve")
        return InventoryReserved(paid.order_id)

    @shop.on(InventoryRejected, compensates=charge, service="payment")
    async def refund(rejected: InventoryRejected, tx: Tx) -> PaymentRefunded:
        await note(tx, rejected.order_id, "refund")
        return PaymentRefunded(rejected.order_id)

    @shop.on(InventoryReserved, service="order", undo=False)
    async def complete(done: InventoryReserved, tx: Tx) -> OrderCompleted:
        await note(tx, done.order_id, "complete")
        return OrderCompleted(done.order_id)

    @shop.on(PaymentDeclined, service="order", undo=False)
    async def give_up(declined: PaymentDeclined, tx: Tx) -> OrderCancelled:
        await note(tx, declined.order_id, "cancel")
        return OrderCancelled(declined.order_id)

    @shop.on(PaymentRefunded, service="order", undo=False)
    async def cancel(refunded: PaymentRefunded, tx: Tx) -> OrderCancelled:
        await note(tx, refunded.order_id, "cancel")
        return OrderCancelled(refunded.order_id)

    return shop


async def note(tx: Tx, order: str, what: str) -> None:
    """A business row without any uniqueness, so that a second committed handling would be seen."""
    await tx.aexecute("CREATE TABLE IF NOT EXISTS done (order_id TEXT, what TEXT)")
    await tx.aexecute("INSERT INTO done (order_id, what) VALUES (?, ?)", (order, what))


async def feed(service: Service, orders: int) -> None:
    """Begin orders, each in one commit with a row of its own, so that a killed feeder goes on where it was."""
    async with service.transaction() as begin:
        await begin.run("CREATE TABLE IF NOT EXISTS fed (n INTEGER PRIMARY KEY)")
        ((first,),) = await begin.run("SELECT COALESCE(MAX(n), 0) + 1 FROM fed")
    for number in range(first, orders + 1):
        async with service.transaction() as begin:
            await begin.run("INSERT INTO fed VALUES (?)", (number,))
            begin(OrderCreated(f"order-{number}", total_of(number)))


def total_of(number: int) -> int:
    """What an order costs: every tenth is too dear, and some of the others find no stock."""
    return 500 if number % 10 == 0 else number % 90 + 1


def story_of(number: int) -> list[str]:
    """What must have been done for an order, once each."""
    total = total_of(number)
    if total > 100:
        return ["cancel"]
    return ["charge", "refund", "cancel"] if total % 7 == 0 else ["charge", "reserve", "complete"]


async def serve(store: str, broker: str, name: str, orders: int, part: str = "") -> None:
    """Run one service, or one half of it, until it is killed."""
    if part == "relay":
        async with build(store, broker).relay():
            await asyncio.Event().wait()
    tracker = Tracker(timeout=3600) if name == "order" else None
    async with build(store, broker).open(name, tracker=tracker, relay=False if part else None) as service:
        if name == "order":
            await feed(service, orders)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:]))
