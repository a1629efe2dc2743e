"""The order service in the story of the checkout: a worker that runs every order as a saga over stock, payment and courier.

The three keep their own books, in one file that stands for three services. Each effect goes through a `Participant`, so that a
step which is repeated after a kill finds that it was done.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from seawall.demo.child import begin, obey, tell
from seawall.saga import Call, Context, Participant, Saga, Sagas, Unknown, step

PRICE: Final = 30
TAKES: Final = 0.02  # seconds of each step, for the kill to meet it
LEASE: Final = 2.0  # seconds
guard = Participant()


class Refused(Exception):
    """Nothing happened."""


def open_books(path: Path | str) -> sqlite3.Connection:
    """What stock, payment and courier wrote down: a line for each effect, and one for each that was taken back."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS line (service TEXT, sale TEXT, amount INTEGER)")
    guard.make_table(connection)
    return connection


@guard.step
def enter(call: Call, service: str, sale: str, amount: int) -> int:
    """One effect."""
    call.tx.execute("INSERT INTO line VALUES (?, ?, ?)", (service, sale, amount))
    return amount


@enter.undo
def strike(call: Call, service: str, sale: str, amount: int, result: int | Unknown) -> None:  # noqa: ARG001  # how it ended does not matter: it is struck
    """The same taken back."""
    call.tx.execute("INSERT INTO line VALUES (?, ?, ?)", (service, sale, -amount))


class Checkout(Saga[int, str]):
    """Reserve, charge, ship. The input is the order's number: it says whose card is refused, and where no courier goes."""

    name = "checkout"

    def __init__(self, books: str) -> None:
        self._books = books

    async def _write(self, ctx: Context, service: str, amount: int, *, undo: bool = False) -> None:
        await asyncio.sleep(TAKES)
        with closing(open_books(self._books)) as books:
            books.execute("BEGIN IMMEDIATE")
            call = Call.of(ctx, tx=books)
            if undo:
                enter.take_back(call, service, ctx.id, amount)
            else:
                enter(call, service, ctx.id, amount)
            books.execute("COMMIT")

    @step()
    async def reserve(self, ctx: Context, number: int) -> None:  # noqa: ARG002  # a step has its input
        """Stock."""
        await self._write(ctx, "stock", 1)

    @reserve.undo
    async def release(self, ctx: Context, number: int, _: None | Unknown) -> None:  # noqa: ARG002, RUF036  # the result, or not
        """Back on the shelf."""
        await self._write(ctx, "stock", 1, undo=True)

    @step(after=reserve, rejects=Refused)
    async def charge(self, ctx: Context, number: int) -> None:
        """Payment."""
        if number % 7 == 0:
            raise Refused("the card was refused")
        await self._write(ctx, "payment", PRICE)

    @charge.undo
    async def refund(self, ctx: Context, number: int, _: None | Unknown) -> None:  # noqa: ARG002, RUF036  # the result, or not
        """Money back."""
        await self._write(ctx, "payment", PRICE, undo=True)

    @step(after=charge, rejects=Refused, pivot=True)
    async def ship(self, ctx: Context, number: int) -> str:
        """Courier."""
        if number % 5 == 0:
            raise Refused("no courier goes there")
        await self._write(ctx, "courier", 1)
        return f"parcel {number}"


async def _story(settings: dict[str, Any]) -> None:
    obey(lambda _command: None)
    async with Sagas(settings["journal"], [Checkout(settings["books"])], lease=LEASE, poll=0.1):
        tell(ready=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    begin(_story)
