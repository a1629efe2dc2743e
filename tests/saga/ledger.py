"""A participant that honours keys, in a file of its own: what it was asked, and what is in effect. And a saga that uses it."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import seawall as sw
from seawall.saga import Context, Saga, Unknown, step


class Ledger:
    """Effects by key: `did` makes one at most once, `undid` takes it back or bars it. Every request is kept in `asked`."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        with self._connect() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE IF NOT EXISTS effect (key TEXT PRIMARY KEY, saga TEXT, step TEXT, state TEXT)")
            db.execute("CREATE TABLE IF NOT EXISTS asked (n INTEGER PRIMARY KEY, key TEXT, verb TEXT, epoch INTEGER)")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level="IMMEDIATE")
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    def did(self, ctx: Context) -> None:
        """Take effect, once per key."""
        self._write(ctx.key, ctx, "do", "done")

    def undid(self, ctx: Context) -> None:
        """Take it back, or see to it that it never happens."""
        self._write(ctx.undoes or "", ctx, "undo", "undone")

    def _write(self, key: str, ctx: Context, verb: str, state: str) -> None:
        connection = self._connect()
        with connection:
            connection.execute("INSERT INTO asked (key, verb, epoch) VALUES (?,?,?)", (key, verb, ctx.fence.epoch))
            change = "state=excluded.state" if verb == "undo" else "key=key"
            connection.execute(
                f"INSERT INTO effect VALUES (?,?,?,?) ON CONFLICT (key) DO UPDATE SET {change}", (key, ctx.id, ctx.step, state)
            )
        connection.close()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask it."""
        connection = self._connect()
        found = connection.execute(sql).fetchall()
        connection.close()
        return found

    def in_effect(self) -> dict[str, set[str]]:
        """The steps in effect by saga."""
        found: dict[str, set[str]] = {}
        for saga, name in self.rows("SELECT saga, step FROM effect WHERE state='done'"):
            found.setdefault(saga, set()).add(name)
        return found


@dataclass
class Order:
    """What is ordered. fails: the step that is rejected, "" = none. slow: seconds that each step takes."""

    sku: str
    fails: str = ""
    slow: float = 0.0


class OutOfStock(Exception):
    """Nothing was reserved."""


class PlaceOrder(Saga[Order, str]):
    """Three effects; the second is the pivot when nothing fails before it."""

    name = "place-order"

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def _make(self, ctx: Context, order: Order) -> None:
        if order.fails == ctx.step:
            raise OutOfStock(order.sku)
        self.ledger.did(ctx)
        time.sleep(order.slow)

    @step(rejects=OutOfStock)
    def reserve(self, ctx: Context, order: Order) -> int:
        self._make(ctx, order)
        return 7

    @reserve.undo
    def release(self, ctx: Context, order: Order, reserved: int | Unknown) -> None:
        assert isinstance(reserved, Unknown) or reserved == 7
        self.ledger.undid(ctx)

    @step(after=reserve, rejects=OutOfStock, retry=sw.Retry(2))
    async def quote(self, ctx: Context, order: Order) -> str:
        self._make(ctx, order)
        return f"{ctx.result(self.reserve)} of {order.sku}"

    @quote.undo
    async def withdraw(self, ctx: Context, order: Order, quoted: str | Unknown) -> None:
        self.ledger.undid(ctx)

    @step(after=quote, pivot=True, rejects=OutOfStock)
    def charge(self, ctx: Context, order: Order) -> str:
        self._make(ctx, order)
        return f"paid for {ctx.result(self.quote)}"

    @step(after=charge, retriable=True)
    async def ship(self, ctx: Context, order: Order) -> None:
        self._make(ctx, order)

    def output(self, ctx: Context, order: Order) -> str:
        return ctx.result(self.charge)


STEPS = {"reserve", "quote", "charge", "ship"}
