"""The story of the shop as a choreography: three services, and compensation when any of them fails."""

from __future__ import annotations

from seawall.choreography import Choreography, Tx, event


@event
class OrderCreated:
    order_id: str
    total: int


@event
class PaymentCharged:
    order_id: str
    total: int


@event(failure=True)
class PaymentDeclined:
    order_id: str


@event
class InventoryReserved:
    order_id: str


@event(failure=True)
class InventoryRejected:
    order_id: str


@event
class PaymentRefunded:
    order_id: str


@event
class OrderCompleted:
    order_id: str


@event
class OrderCancelled:
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
        note(tx, order.order_id, "charge")
        return PaymentCharged(order.order_id, order.total)

    @shop.on(PaymentCharged, service="inventory")
    def reserve(paid: PaymentCharged, tx: Tx) -> InventoryReserved | InventoryRejected:
        if paid.total % 7 == 0:
            return InventoryRejected(paid.order_id)
        note(tx, paid.order_id, "reserve")
        return InventoryReserved(paid.order_id)

    @shop.on(InventoryRejected, compensates=charge, service="payment")
    async def refund(rejected: InventoryRejected, tx: Tx) -> PaymentRefunded:
        note(tx, rejected.order_id, "refund")
        return PaymentRefunded(rejected.order_id)

    @shop.on(InventoryReserved, service="order", undo=False)
    async def complete(done: InventoryReserved, tx: Tx) -> OrderCompleted:
        note(tx, done.order_id, "complete")
        return OrderCompleted(done.order_id)

    @shop.on(PaymentDeclined, service="order", undo=False)
    async def give_up(declined: PaymentDeclined, tx: Tx) -> OrderCancelled:
        note(tx, declined.order_id, "cancel")
        return OrderCancelled(declined.order_id)

    @shop.on(PaymentRefunded, service="order", undo=False)
    async def cancel(refunded: PaymentRefunded, tx: Tx) -> OrderCancelled:
        note(tx, refunded.order_id, "cancel")
        return OrderCancelled(refunded.order_id)

    return shop


def note(tx: Tx, order: str, what: str) -> None:
    """A business row without any uniqueness, so that a second committed handling would be seen."""
    tx.execute("CREATE TABLE IF NOT EXISTS done (n INTEGER PRIMARY KEY, order_id TEXT, what TEXT)")
    tx.execute("INSERT INTO done (order_id, what) VALUES (?, ?)", (order, what))
