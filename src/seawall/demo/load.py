"""The customers, a process of its own: they come when they come, whether or not the shop keeps up (open loop).

An order's time counts from the moment its customer wanted it, so a shop, or a customer process, that falls behind cannot
hide it. Every customer has a connection of their own.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from seawall.demo.child import begin, obey, tell
from seawall.demo.story import DEADLINE, LEAVES_AFTER, Story

REPORTS_EVERY: Final = 0.2  # seconds
ANSWERS: Final = {200: "paid", 202: "pending"}


class Customers:
    """Everybody who orders in one telling.

    port: the order service. began: the loop's time at which the telling began.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self.done: list[tuple[int, float, str]] = []

    async def come(self, arrivals: list[float]) -> None:
        """Send everybody in time; then wait for one deadline, and cut who still waits."""
        tasks: set[asyncio.Task[None]] = set()
        for number, at in enumerate(arrivals):
            await asyncio.sleep(max(0.0, self.began + at - self._loop.time()))
            task = self._loop.create_task(self._order(number, at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=DEADLINE)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _order(self, number: int, at: float) -> None:
        answer = "cut"  # the telling ended first
        try:
            async with asyncio.timeout_at(self.began + at + LEAVES_AFTER):
                answer = ANSWERS.get(await self._post(number), "failed")
        except TimeoutError:
            answer = "left"
        except (OSError, ValueError, IndexError):
            answer = "failed"
        finally:
            self.done.append((number, round(self._loop.time() - self.began - at, 4), answer))

    async def _post(self, number: int) -> int:
        """One order over HTTP/1.1; the status of its answer. Raises OSError, ValueError or IndexError for no answer."""
        body = json.dumps({"order": f"order-{number}"})
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = "POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            answer = await reader.read(-1)
            return int(answer.split(b" ", 2)[1])
        finally:
            writer.transport.abort()

    def report(self) -> None:
        """Tell the parent who has been served since the last report."""
        done, self.done = self.done, []
        if done:
            tell(orders=done)


async def _story(settings: dict[str, Any]) -> None:
    arrivals = Story.of(settings["seconds"]).arrivals(settings["seed"])
    go = asyncio.Event()
    obey(lambda _command: go.set())
    tell(ready=True)
    await go.wait()
    customers = Customers(settings["port"])

    async def report() -> None:
        while True:
            await asyncio.sleep(REPORTS_EVERY)
            customers.report()

    reporting = asyncio.create_task(report())
    await customers.come(arrivals)
    reporting.cancel()
    customers.report()
    tell(finished=True)
    await asyncio.Event().wait()  # the parent says when this is over


if __name__ == "__main__":
    begin(_story)
