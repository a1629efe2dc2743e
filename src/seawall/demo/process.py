"""Processes of the shop, seen from their parent: started, spoken with over pipes, watched, and never left behind.

Each child's stdin is a pipe of ours. It closes when we end, in whatever way, and the child ends with it (see child.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import seawall

STARTS_WITHIN: Final = 12.0  # seconds, on a machine that has other things to do
STOPS_WITHIN: Final = 1.0  # seconds for each of three ways to say it, each less gentle than the one before
LINE_BYTES: Final = 4 * 1024 * 1024  # the longest report
LAST_WORDS: Final = 12  # lines of a child's stderr that are kept

Hear = Callable[[dict[str, Any]], None]


class ChildDied(RuntimeError):
    """A process of the shop ended, or did not begin, though nobody told it to. The message holds its last words."""


class Child:
    """One process. `name` is for people; `hear` gets every report that it tells, and may be exchanged."""

    def __init__(self, name: str, process: Process, hear: Hear) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self.hear = hear
        self._words: deque[str] = deque(maxlen=LAST_WORDS)
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._readers = [asyncio.create_task(self._reports()), asyncio.create_task(self._errors())]

    async def ready(self) -> dict[str, Any]:
        """Its report that it is ready. Raises ChildDied when it ends before, or takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STARTS_WITHIN):
                either: set[asyncio.Future[Any]] = {self._ready, self._readers[0]}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            await asyncio.sleep(0.1)  # its last words may still be on their way
            raise ChildDied(f"{self.name} did not start within {STARTS_WITHIN:g} s{self._last_words()}")
        return self._ready.result()

    def check(self) -> None:
        """Raise ChildDied when it is not alive any more."""
        code = self._process.returncode
        if code is not None:
            raise ChildDied(f"{self.name} ended with status {code}{self._last_words()}")

    def tell(self, **command: Any) -> None:
        """Send it a command; nothing happens when it is gone."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write((json.dumps(command) + "\n").encode())

    async def ended(self) -> None:
        """Wait until it has ended by itself, or by a signal."""
        await self._process.wait()

    async def stop(self) -> None:
        """End it: by closing its line, then by asking, then by force."""
        ways = (self._hang_up, self._process.terminate, self._process.kill)
        for way in ways:
            with suppress(ProcessLookupError):
                way()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOPS_WITHIN):
                    await self._process.wait()
                    break
        await asyncio.wait(self._readers, timeout=STOPS_WITHIN)  # to its end, so that its pipes are closed
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _hang_up(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def _reports(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = json.loads(line)
            if report.get("ready") and not self._ready.done():
                self._ready.set_result(report)
            self.hear(report)

    async def _errors(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._words.append(line.decode(errors="replace").rstrip())

    def _last_words(self) -> str:
        return ": " + "\n  ".join(("", *self._words)) if self._words else ""


class Children:
    """All processes of one telling, for `async with`; leaving ends every one of them."""

    def __init__(self) -> None:
        self._all: list[Child] = []

    @property
    def pids(self) -> list[int]:
        """Of all that were started."""
        return [child.pid for child in self._all]

    def __iter__(self) -> Any:
        return iter(self._all)

    async def start(self, module: str, hear: Hear, /, **settings: Any) -> Child:
        """Start `python -m module` with `settings`; it is alive, but may not be ready yet."""
        command = (sys.executable, "-P", "-m", module, json.dumps(settings))
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=LINE_BYTES, env=_environment()
        )
        child = Child(module.rpartition(".")[2], process, hear)
        self._all.append(child)
        return child

    def check(self) -> None:
        """Raise ChildDied when one of them is not alive any more."""
        for child in self._all:
            child.check()

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.gather(*(child.stop() for child in self._all))


def _environment() -> dict[str, str]:
    """Ours, with this very package found first, wherever it was imported from."""
    here = str(Path(seawall.__file__).resolve().parent.parent)
    others = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, others)))}
