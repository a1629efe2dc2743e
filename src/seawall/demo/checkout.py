"""The story of the checkout: orders are sagas, and the order service is killed in the middle of them, again and again.

`seawall demo --saga`. Customers hand their orders to the journal, which is a file; the service that runs them is a process of its
own. What counts is in the books of stock, payment and courier afterwards: all of an order, or nothing of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from seawall.demo.process import Child, Children
from seawall.demo.services.checkout import PRICE, Checkout, open_books
from seawall.saga import Sagas
from seawall.saga.plan import TERMINAL

SERVICE: Final = "seawall.demo.services.checkout"
WHOLE: Final = {"stock": 1, "payment": PRICE, "courier": 1}
Say = Callable[[str], None]


@dataclass
class Figures:
    """What became of all orders. lost: neither completed nor taken back. torn: the books say otherwise than the journal.
    twice: an effect of it happened twice."""

    orders: int
    kills: int
    completed: int = 0
    compensated: int = 0
    lost: int = 0
    torn: int = 0
    twice: int = 0

    @property
    def good(self) -> bool:
        """Whether every order ended, whole or not at all."""
        return self.lost == self.torn == self.twice == 0

    def as_dict(self) -> dict[str, int]:
        """For the JSON file."""
        return asdict(self)


async def tell(*, orders: int, kills: int, seconds: float, seed: int, say: Say) -> Figures:
    """Tell it: `orders` over about `seconds`, with so many kills between them; then wait until all have ended."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="seawall-checkout-") as folder:
        journal, books = f"sqlite:///{Path(folder) / 'sagas.db'}", str(Path(folder) / "books.db")
        open_books(books).close()
        async with Children() as children, Sagas(journal, [Checkout(books)], worker=False) as sagas:
            service = await _start(children, journal, books)
            told = asyncio.create_task(_customers(sagas, orders, seconds))
            for turn in range(1, kills + 1):
                await asyncio.sleep(seconds / (kills + 1) * draw.uniform(0.6, 1.2))
                os.kill(service.pid, signal.SIGKILL)
                await service.ended()
                counts = await _counts(sagas)
                under_way = sum(count for status, count in counts.items() if status not in TERMINAL)
                say(f"kill {turn} of {kills}: {under_way:3} orders are under way, {counts['completed']:4} are completed")
                service = await _start(children, journal, books)
            await told
            async with asyncio.timeout(60 + seconds):
                while await _ended(sagas) < orders:
                    await asyncio.sleep(0.1)
            return await _judge(sagas, books, orders, kills)


async def _start(children: Children, journal: str, books: str) -> Child:
    child = await children.start(SERVICE, lambda _report: None, journal=journal, books=books)
    await child.ready()
    return child


async def _customers(sagas: Sagas, orders: int, seconds: float) -> None:
    for number in range(1, orders + 1):
        await sagas.start(Checkout, number, id=f"order-{number}")
        await asyncio.sleep(seconds / orders)


async def _counts(sagas: Sagas) -> Counter[str]:
    return Counter(dict(await sagas.read(lambda tx: tx.execute("SELECT status, count(*) FROM saga GROUP BY status"))))


async def _ended(sagas: Sagas) -> int:
    counts = await _counts(sagas)
    return sum(counts[status] for status in TERMINAL)


async def _judge(sagas: Sagas, books: str, orders: int, kills: int) -> Figures:
    """Hold the journal against the books."""
    ended = dict(await sagas.read(lambda tx: tx.execute("SELECT user_key, status FROM saga")))
    sums: dict[str, dict[str, int]] = {}
    with closing(open_books(books)) as connection:
        lines = connection.execute(
            "SELECT sale, service, sum(amount), sum(amount > 0) FROM line GROUP BY sale, service"
        ).fetchall()
    for sale, service, amount, _ in lines:
        sums.setdefault(sale, {})[service] = amount
    again = {sale for sale, _, _, bookings in lines if bookings > 1}
    return judged(ended, sums, again, orders, kills)


def judged(ended: dict[str, str], sums: dict[str, dict[str, int]], again: set[str], orders: int, kills: int) -> Figures:
    """What became of all orders, by the status of each in the journal and what each service has booked for it. again: those for
    which some service booked more than once, taken back or not."""
    found = Figures(orders, kills)
    for number in range(1, orders + 1):
        status, kept = ended.get(f"order-{number}"), {k: v for k, v in sums.get(f"order-{number}", {}).items() if v}
        found.completed += status == "completed"
        found.compensated += status in ("compensated", "failed")
        found.lost += status not in TERMINAL
        found.twice += f"order-{number}" in again
        found.torn += status in TERMINAL and kept != (WHOLE if status == "completed" else {})
    return found
