"""Inventory: quick and well throughout; it shows what a sick neighbour does to calls that have nothing to do with it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from seawall.demo.child import begin
from seawall.demo.services.web import serve

TAKES: Final = 0.005  # seconds


async def _reserve(request: Request) -> JSONResponse:
    await request.json()
    await asyncio.sleep(TAKES)
    return JSONResponse({"status": "reserved"})


async def _story(_: dict[str, Any]) -> None:
    await serve(Starlette(routes=[Route("/reserve", _reserve, methods=["POST"])]), lambda _command: None)


if __name__ == "__main__":
    begin(_story)
