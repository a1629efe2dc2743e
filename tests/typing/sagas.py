"""Sagas as users write them, under strict type checkers: results of steps, inputs, outputs, undos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

import seawall as sw
from seawall.saga import Context, Handle, Saga, Sagas, Unknown, sleep, step, subsaga, wait_signal


@dataclass
class Order:
    """What is ordered."""

    sku: str


@dataclass
class Receipt:
    """What comes of it."""

    total: int


class Inner(Saga[str, int]):
    """One step of another saga."""

    name = "inner"

    @step(undo="none")
    async def look(self, ctx: Context, sku: str) -> int:
        """Only reads."""
        return len(sku)


class PlaceOrder(Saga[Order, Receipt]):
    """Every kind of step."""

    name, version = "place-order", 1

    @step(retry=sw.Retry(5), timeout="10s", rejects=(KeyError,))
    async def reserve(self, ctx: Context, order: Order) -> int:
        """Async."""
        return 7

    @reserve.undo
    async def release(self, ctx: Context, order: Order, reserved: int | Unknown) -> None:
        """Its undo."""

    @step(after=reserve, undo="none")
    def price(self, ctx: Context, order: Order) -> Receipt:
        """Sync; the result of an earlier step has its type."""
        assert_type(ctx.result(self.reserve), int)
        return Receipt(ctx.result(self.reserve))

    approved = wait_signal("approved", bool, after=price)
    night = sleep("8h", after=approved)
    inner = subsaga(Inner, lambda _self, _ctx, order: order.sku, after=night)

    @step(after=inner, pivot=True)
    async def charge(self, ctx: Context, order: Order) -> Receipt:
        """The go or no-go."""
        assert_type(ctx.result(self.inner), int)
        return ctx.result(self.price)

    def output(self, ctx: Context, order: Order) -> Receipt:
        """The saga's result."""
        return ctx.result(self.charge)


async def use() -> None:
    """Start it and wait for its end."""
    async with Sagas("sqlite:///orders.db", [PlaceOrder(), Inner()]) as sagas:
        handle = await sagas.start(PlaceOrder, Order("lamp"), id="order-42")
        assert_type(handle, Handle[Receipt])
        assert_type(await handle.result(timeout=30), Receipt)
        async with sagas.open("trip", id="trip-1") as trip:
            assert_type(await trip.do("car", book, "oslo", undo=cancel), int)


async def book(ctx: Context, where: str) -> int:
    """A step of a block."""
    return len(where)


async def cancel(ctx: Context, where: str, result: int | Unknown) -> None:
    """Its undo."""
