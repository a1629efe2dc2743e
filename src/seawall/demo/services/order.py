"""Order: takes a customer's order, reserves the goods and asks payment for the money; bare or guarded."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from seawall.demo.child import begin, tell
from seawall.demo.services.bare import BareShop
from seawall.demo.services.guarded import GuardedShop
from seawall.demo.services.web import serve

REPORTS_EVERY: Final = 0.2  # seconds
STATUS: Final = {"paid": 200, "pending": 202}


def _shop(settings: dict[str, Any]) -> BareShop | GuardedShop:
    payment, inventory = (f"http://127.0.0.1:{settings[name]}" for name in ("payment", "inventory"))
    if settings["guarded"]:
        return GuardedShop(payment, inventory, settings["open_for"], settings.get("store"))
    return BareShop(payment, inventory, settings["patience"])


async def _story(settings: dict[str, Any]) -> None:
    shop = _shop(settings)

    async def place(request: Request) -> JSONResponse:
        order = (await request.json())["order"]
        try:
            status = await shop.place(order)
        except Exception as error:  # what a service answers when it has no better idea
            return JSONResponse({"status": "failed", "error": type(error).__name__}, status_code=503)
        return JSONResponse({"status": status}, status_code=STATUS[status])

    async def report() -> None:
        while True:
            tell(**shop.report())
            await asyncio.sleep(REPORTS_EVERY)

    def hear(command: dict[str, Any]) -> None:
        if command.get("totals"):
            tell(**shop.report(), totals={})

    async with asyncio.TaskGroup() as group:
        group.create_task(report())
        group.create_task(serve(Starlette(routes=[Route("/orders", place, methods=["POST"])]), hear))


if __name__ == "__main__":
    begin(_story)
