"""A worker process for the fault tests: runs sagas of the ledger; may start some; may kill itself at a commit."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from ledger import Ledger, Order, PlaceOrder

from seawall.saga import Sagas


class KillAt:
    """Ends the process with SIGKILL before or after commit number `number` (from 1), beginning with the first that starts a
    saga."""

    def __init__(self, number: int, side: str) -> None:
        self.number = number
        self.side = side
        self.seen = 0

    def before(self, ops: list[Any]) -> None:
        self.seen += any(type(op).__name__ in ("Start", "Append") for op in ops)
        self._at("before")

    def after(self, ops: list[Any]) -> None:
        self._at("after")

    def _at(self, side: str) -> None:
        if self.seen == self.number and self.side == side:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(options: argparse.Namespace) -> None:
    ledger = Ledger(options.ledger)
    hooks = KillAt(options.kill_at, options.side) if options.kill_at else None
    settings = {"lease": options.lease, "poll": 0.05, "running": options.running, "durability": options.durability}
    async with Sagas(options.url, [PlaceOrder(ledger)], hooks=hooks, **settings) as sagas:
        print("ready", sagas.worker_id, flush=True)
        handles = []
        for number in range(options.start):
            fails = options.fails.split(",")[number % len(options.fails.split(","))]
            order = Order(f"sku-{number}", fails, options.slow)
            handles.append(await sagas.start(PlaceOrder, order, id=f"order-{number}"))
            print("started", number, flush=True)
        if options.wait:
            await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
            print("done", flush=True)
        else:
            await asyncio.sleep(options.life)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("ledger")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--fails", default="")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--durability", default="strict")
    parser.add_argument("--kill-at", type=int, default=0)
    parser.add_argument("--side", default="before")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--life", type=float, default=600.0)
    asyncio.run(main(parser.parse_args()))
