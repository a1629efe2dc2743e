"""Runs the story of the fleet: its lines, its file, its exit status."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from seawall.demo import fleet
from seawall.demo.process import ChildDied
from seawall.demo.run import BROKEN, INTERRUPTED, NOT_BETTER, OK, write

RATE: Final = 100.0  # requests per second
SPARE: Final = 90.0  # seconds for starts and drains beside the story itself


def run_fleet(seconds: float, json: Path | None, *, gateway: bool = False) -> int:
    """Tell it; the exit status: 0, or 1 when a request failed, 3 when the fleet broke, 130 when stopped. gateway: the customers
    are behind an Envoy."""
    where = " behind an Envoy" if gateway else ""
    print(f"Three instances of one service{where}, {RATE:g} requests a second; one is killed, then all are rolled.\n")
    try:
        scenes = asyncio.run(_told(seconds, gateway=gateway))
    except KeyboardInterrupt:
        print("\nStopped. No instance is left.", file=sys.stderr)
        return INTERRUPTED
    except (ChildDied, OSError, TimeoutError) as error:
        print(f"\nThe fleet broke: {error}", file=sys.stderr)
        return BROKEN
    asked, failed = sum(scene.asked for scene in scenes), sum(scene.failed for scene in scenes)
    print(f"\n{asked} requests, {failed} failed, {sum(scene.retries for scene in scenes)} went to another instance.")
    if json is not None:
        write(json, {"asked": asked, "failed": failed, "scenes": [scene.as_dict() for scene in scenes]})
        print(f"The figures are in {json}")
    return OK if failed == 0 else NOT_BETTER


async def _told(seconds: float, *, gateway: bool) -> list[fleet.Scene]:
    door = fleet.by_client
    if gateway:
        from seawall.demo.behind_envoy import by_gateway as door
    async with asyncio.timeout(seconds + SPARE):
        return await fleet.tell(seconds=seconds, rate=RATE, rolls=1, say=print, door=door)
