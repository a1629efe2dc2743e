"""Runs the story of the checkout: its lines, its file, its exit status."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from seawall.demo import checkout
from seawall.demo.process import ChildDied
from seawall.demo.run import BROKEN, INTERRUPTED, NOT_BETTER, OK, write

RATE: Final = 20  # orders per second
EVERY: Final = 2.0  # seconds between kills, about


def run_checkout(seconds: float, seed: int, json: Path | None) -> int:
    """Tell it; the exit status: 0, or 1 when an order is lost or torn, 3 when the story broke, 130 when stopped."""
    orders, kills = round(seconds * RATE), max(1, round(seconds / EVERY))
    print(f"{orders} orders, each a saga over stock, payment and courier; the order service is killed {kills} times.\n")
    try:
        found = asyncio.run(checkout.tell(orders=orders, kills=kills, seconds=seconds, seed=seed, say=print))
    except KeyboardInterrupt:
        print("\nStopped. No service is left.", file=sys.stderr)
        return INTERRUPTED
    except (ChildDied, OSError, TimeoutError) as error:
        print(f"\nThe story broke: {error}", file=sys.stderr)
        return BROKEN
    print(
        f"\n{found.orders} orders: {found.completed} completed, {found.compensated} taken back, {found.lost} lost, "
        f"{found.torn} half done, {found.twice} done twice."
    )
    if json is not None:
        write(json, found.as_dict())
        print(f"The figures are in {json}")
    return OK if found.good else NOT_BETTER
