"""One engine in a process of its own, for benchmarks.saga.

It reads lines "CONCURRENCY COUNT", runs so many sagas of three empty steps, and answers "SECONDS CPU_SECONDS".
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Run = Callable[[int], Awaitable[object]]


async def serve(run: Run) -> None:
    """Answer the parent until it hangs up."""
    number = 0
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        at_once, count = map(int, line.split())
        todo = iter(range(number, number + count))
        number += count

        async def one_after_the_other(todo: Any = todo) -> None:
            for each in todo:
                await run(each)

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
        print(time.perf_counter() - began, time.process_time() - cpu, flush=True)


async def seawall(url: str) -> None:
    """Ours, every commit synced."""
    from seawall.saga import Context, Saga, Sagas, step

    class Three(Saga[int, int]):
        """Three steps that do nothing."""

        name = "three"

        @step(undo="none")
        async def one(self, _: Context, number: int) -> int:
            """Nothing."""
            return number

        @step(after=one, undo="none")
        async def two(self, _: Context, number: int) -> int:
            """Nothing."""
            return number

        @step(after=two, undo="none")
        async def three(self, _: Context, number: int) -> int:
            """Nothing."""
            return number

    async with Sagas(url, [Three()]) as sagas:

        async def run(number: int) -> None:
            handle = await sagas.start(Three, number, id=f"saga-{number}")
            assert await handle.result(timeout=60) == number

        await serve(run)


async def dbos(url: str, *, wal: bool = False) -> None:
    """DBOS, on SQLite as it comes or with a write-ahead log."""
    from dbos import DBOS, SetWorkflowID

    if wal:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    DBOS(config={"name": "bench", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"})

    @DBOS.step()
    async def nothing(number: int) -> int:
        return number

    @DBOS.workflow()
    async def three(number: int) -> int:
        for _ in range(3):
            await nothing(number)
        return number

    DBOS.launch()

    async def run(number: int) -> None:
        with SetWorkflowID(f"saga-{number}"):
            assert await three(number) == number

    await serve(run)
    DBOS.destroy()


async def temporal(address: str) -> None:
    """A hand-written workflow on Temporal's development server."""
    from temporalio.client import Client
    from temporalio.worker import UnsandboxedWorkflowRunner, Worker

    from benchmarks.saga_temporal import Three, nothing

    client = await Client.connect(address)
    async with Worker(
        client, task_queue="bench", workflows=[Three], activities=[nothing], workflow_runner=UnsandboxedWorkflowRunner()
    ):

        async def run(number: int) -> None:
            assert await client.execute_workflow(Three.run, number, id=f"saga-{number}", task_queue="bench") == number

        await serve(run)


def main() -> None:
    """Run the engine that was asked for."""
    engine, url = sys.argv[1], sys.argv[2]
    if engine == "temporal":
        asyncio.run(temporal(url))
    else:
        asyncio.run(seawall(url) if engine.startswith("seawall") else dbos(url, wal=engine == "dbos-wal"))


if __name__ == "__main__":
    main()
