"""Attempts at steps in one process, for engines that call back: all on the loop of the worker, so many at once, with a grace."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from seawall.saga.engines.remote import perform

if TYPE_CHECKING:
    from seawall.saga.definition import Definition
    from seawall.saga.engines.sagas import EngineSagas


class Attempts:
    """Made on the loop that steps run on. An answer has "at", the moment of its end, and "lost" when the attempt has no end."""

    def __init__(self, sagas: EngineSagas) -> None:
        self._sagas = sagas
        self._loop = asyncio.get_running_loop()
        self._given: dict[str, tuple[Definition, Any]] = {d.hash: (d, saga) for d, saga in sagas.given()}
        self._places = asyncio.Semaphore(sagas.running)
        self._context = contextvars.copy_context()
        self._steps: set[asyncio.Task[dict[str, Any]]] = set()

    async def perform(self, brief: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request, from whichever loop it is asked for."""
        if asyncio.get_running_loop() is self._loop:
            return await self._perform(brief, request)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._perform(brief, request), self._loop))

    async def _perform(self, brief: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
        found = self._given.get(brief["hash"])
        if found is None:
            why = f"no worker here has version {brief['version']} of {brief['name']} as it was started; give it, then retry"
            answer: dict[str, Any] = {"stuck": f"definition_mismatch: {why}"}
        else:
            async with self._places:
                answer = await self._ended(perform(self._sagas, *found, request))
        return {**answer, "at": self._sagas.now()}

    async def _ended(self, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        step = self._loop.create_task(work, context=self._context.copy())  # a step knows nothing of the engine
        self._steps.add(step)
        await asyncio.wait({step})
        self._steps.discard(step)
        if step.cancelled():
            return {"lost": "its worker was closed", "crashed": False}
        failed = step.exception()
        if failed is not None:
            return {"lost": f"{type(failed).__name__}: {failed}", "crashed": True}
        return step.result()

    async def close(self) -> None:
        """Let what runs end within the grace; the rest is cut off, and answered as lost."""
        if self._steps:
            _, late = await asyncio.wait(set(self._steps), timeout=self._sagas.grace)
            for step in late:
                step.cancel()
