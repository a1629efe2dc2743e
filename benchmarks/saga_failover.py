"""How soon a saga goes on elsewhere when its worker is killed, on PostgreSQL.

Run as a program it is the worker that will be killed: it starts one saga, says so, and never gets it done.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Final

from seawall.saga import Context, Saga, Sagas, step

LEASE: Final = 3.0
BEGUN: list[float] = []


class Holding(Saga[int, int]):
    """Held for ever by its first owner, done at once by the next."""

    name = "holding"

    @step(undo="none")
    async def hold(self, ctx: Context, number: int) -> int:
        """The first owner runs under epoch 1."""
        BEGUN.append(time.perf_counter())
        if ctx.fence.epoch == 1:
            print("holding", flush=True)
            await asyncio.sleep(3600)
        return number


async def failover(url: str, *, rounds: int) -> float:
    """Seconds from SIGKILL to the first step elsewhere, the longest of `rounds`."""
    longest = 0.0
    async with Sagas(url, [Holding()], lease=LEASE) as sagas:
        for number in range(rounds):
            command = [sys.executable, "-m", "benchmarks.saga_failover", url, str(number)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == "holding\n"
                BEGUN.clear()
                killed = time.perf_counter()
                child.kill()
            assert await (await sagas.handle(f"held-{number}")).result(timeout=60) == number
            longest = max(longest, BEGUN[0] - killed)
    return longest


async def hold(url: str, number: int) -> None:
    """Start one saga and keep it."""
    async with Sagas(url, [Holding()], lease=LEASE) as sagas:
        handle = await sagas.start(Holding, number, id=f"held-{number}")
        await handle.result()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], int(sys.argv[2])))
