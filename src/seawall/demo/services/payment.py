"""Payment: four workers, and a line before them. It works on what was asked, whether or not anybody still waits for it."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from random import Random
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from seawall.demo.child import begin, tell
from seawall.demo.services.web import serve
from seawall.demo.story import PAYMENT_TAKES, PAYMENT_WORKERS

LINE: Final = 5000  # payments that may wait; more are answered 503
KEYS: Final = 20_000  # idempotency keys it remembers
Job = tuple[str, "asyncio.Future[None]"]


class Payment:
    """The workers, the line, and the book of charges.

    slowdown: how many times longer than usual a payment takes now.
    """

    def __init__(self, seed: int) -> None:
        self.slowdown = 1.0
        self._random = Random(f"payment/{seed}")
        self._line: asyncio.Queue[Job] = asyncio.Queue(LINE)
        self._known: OrderedDict[str, asyncio.Future[None]] = OrderedDict()
        self._charges: Counter[str] = Counter()

    def ask(self, order: str, key: str | None) -> asyncio.Future[None]:
        """Stand in line to charge an order; one key is one charge. Raises asyncio.QueueFull."""
        if key is not None and key in self._known:
            return self._known[key]
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.put_nowait((order, done))
        if key is not None:
            self._known[key] = done
            if len(self._known) > KEYS:
                self._known.popitem(last=False)
        return done

    async def work(self) -> None:
        """One worker, for ever."""
        while True:
            order, done = await self._line.get()
            await self._charge(PAYMENT_TAKES * self._random.uniform(0.7, 1.3))
            self._charges[order] += 1
            done.set_result(None)

    async def _charge(self, left: float) -> None:
        """Work that would take `left` seconds at full speed; in pieces, so that a change of speed is felt at once."""
        now = asyncio.get_running_loop().time
        while left > 0:
            slowdown, began = self.slowdown, now()
            await asyncio.sleep(min(left, PAYMENT_TAKES / 6) * slowdown)
            left -= (now() - began) / slowdown

    def hear(self, command: dict[str, Any]) -> None:
        """Change with the scene; tell the totals when asked."""
        self.slowdown = command.get("slowdown", self.slowdown)
        if command.get("totals"):
            charges = sum(self._charges.values())
            tell(totals={"charges": charges, "charged_again": charges - len(self._charges)})


async def _story(settings: dict[str, Any]) -> None:
    payment = Payment(settings["seed"])

    async def charge(request: Request) -> JSONResponse:
        order = (await request.json())["order"]
        try:
            done = payment.ask(order, request.headers.get("idempotency-key"))
        except asyncio.QueueFull:
            return JSONResponse({"status": "overloaded"}, status_code=503)
        await asyncio.shield(done)
        return JSONResponse({"status": "paid"})

    async with asyncio.TaskGroup() as group:
        for _ in range(PAYMENT_WORKERS):
            group.create_task(payment.work())
        group.create_task(serve(Starlette(routes=[Route("/charge", charge, methods=["POST"])]), payment.hear))


if __name__ == "__main__":
    begin(_story)
