"""A runtime for engines that replay by counting operations: everything a saga does there has one order, whoever was faster.

Steps that may run together begin together, and what they answer is taken in the order in which they began, once all have ended.
Messages are read while nothing runs. Time is what the recorded answers say, so a replay sees the same moments.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

from seawall.saga.engines.interpret import Interpreter, Lost

FOR_EVER: Final = 10 * 365 * 86400.0  # seconds


class Ops(Protocol):
    """What the engine records. Each call is one operation of its history, numbered when it is called."""

    def act(self, request: dict[str, Any]) -> Coroutine[Any, Any, dict[str, Any]]:
        """Have a request answered; the answer has "at", the moment of its end, and "lost" when the attempt was."""
        ...

    async def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, or None after so many seconds."""
        ...

    async def tell(self, status: str, error: str | None) -> None:
        """Make a status visible."""
        ...


class Waves:
    """The `Runtime` of one saga. began: the moment of its start."""

    waves = True

    def __init__(self, ops: Ops, began: float) -> None:
        self._ops = ops
        self._moment = began
        self._asked: list[tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._mail = False
        self.saga: Interpreter | None = None

    def now(self) -> float:
        """The last recorded moment."""
        return self._moment

    async def act(self, request: dict[str, Any]) -> dict[str, Any]:
        """Steps wait until their wave is run; the output is asked for alone, and at once."""
        if request["verb"] == "output":
            return self._told(await self._ops.act(request))
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked.append((request, answer))
        return await answer

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Put it into the next wave."""
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    def full(self) -> bool:
        """A history has no end here."""
        return False

    async def tell(self, status: str, error: str | None) -> None:
        """Make a status visible."""
        await self._ops.tell(status, error)

    async def wait(self, changed: Callable[[], bool], seconds: float | None) -> None:
        """Run the wave that was spawned, if there is one; else read a message, or let the time pass."""
        if self._tasks:
            await self._run_wave()
            while self._mail and await self._read(0.0):
                pass
            self._mail = False
        elif seconds is None or seconds > 0:
            await self._read(FOR_EVER if seconds is None else seconds)

    async def _run_wave(self) -> None:
        while len(self._asked) < len(self._tasks):
            await asyncio.sleep(0)
        asked, self._asked = self._asked, []
        tasks, self._tasks = self._tasks, []
        answers = await asyncio.gather(*[self._ops.act(request) for request, _ in asked])
        for task, (_, waiting), answer in zip(tasks, asked, answers, strict=True):
            try:
                waiting.set_result(self._told(answer))
            except Lost as lost:
                waiting.set_exception(lost)
            await task

    def _told(self, answer: dict[str, Any]) -> dict[str, Any]:
        self._moment = max(self._moment, answer["at"])
        self._mail = self._mail or answer.get("mail", False)
        if answer.get("lost") is not None:
            raise Lost(answer["lost"], crashed=answer["crashed"])
        return answer

    async def _read(self, seconds: float) -> bool:
        """Whether there was a message."""
        assert self.saga is not None
        until = self._moment + seconds
        said = await self._ops.receive(seconds)
        if said is None:
            self._moment = until
            return False
        self._moment = max(self._moment, min(said["at"], until))
        if said["kind"] == "word":
            self.saga.take_word(said)
        else:
            self.saga.take_signal(said["name"], said.get("payload"), said.get("id"))
        return True


async def run_in_waves(brief: dict[str, Any], ops: Ops, began: Callable[[Interpreter], None] = lambda _: None) -> dict[str, Any]:
    """One saga to its end; a move to another version goes on in the same history. began: is told each interpreter."""
    while True:
        runtime = Waves(ops, brief.get("moment", brief["created"]))
        runtime.saga = Interpreter(brief, runtime)
        began(runtime.saga)
        end = await runtime.saga.run()
        if end["status"] != "moved":
            return {**end, "hash": brief["hash"]}
        brief = {**brief, **(end["plan"] or {}), "state": end["state"], "moment": runtime.now()}


class _Recorded:
    """The operations of a history, given again in their order, until it ends there."""

    def __init__(self, acts: Iterable[tuple[str, dict[str, Any]]], messages: Iterable[dict[str, Any] | None]) -> None:
        self._acts: dict[str, deque[dict[str, Any]]] = {}
        for name, answer in acts:
            self._acts.setdefault(name, deque()).append(answer)
        self._messages = deque(messages)
        self.over = asyncio.Event()

    async def act(self, request: dict[str, Any]) -> dict[str, Any]:
        answers = self._acts.get(operation_of(request))
        if not answers:
            await self._end()
            raise AssertionError("an end has no end")
        return answers.popleft()

    async def receive(self, seconds: float) -> dict[str, Any] | None:
        if not self._messages:
            await self._end()
        return self._messages.popleft()

    async def tell(self, status: str, error: str | None) -> None:
        return

    async def _end(self) -> None:
        self.over.set()
        await asyncio.Event().wait()


def operation_of(request: dict[str, Any]) -> str:
    """The name of a request in the history: the step's, with its verb."""
    return str(request["step"]) + (".undo" if request["verb"] == "undo" else "")


async def retell(
    brief: dict[str, Any], acts: Iterable[tuple[str, dict[str, Any]]], messages: Iterable[dict[str, Any] | None]
) -> dict[str, Any]:
    """How a saga stands, by its history alone; nothing is done. What `Interpreter.look` gives."""
    recorded = _Recorded(acts, messages)
    found: list[Interpreter] = []
    running = asyncio.create_task(run_in_waves(brief, recorded, found.append))
    ended = asyncio.create_task(recorded.over.wait())
    try:
        await asyncio.wait({running, ended}, return_when=asyncio.FIRST_COMPLETED)
        return found[-1].look()
    finally:
        for task in (ended, running, *(task for saga in found for task in saga.busy.values() if task is not None)):
            task.cancel()
        await asyncio.gather(ended, running, return_exceptions=True)
