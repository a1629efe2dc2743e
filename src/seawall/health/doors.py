"""Doors through which the wish to end reaches a server, held shut while we leave the traffic.

Servers close their listeners as soon as they get the signal, long before they end the application's lifespan. So whatever handles
the signal when the application has started is put aside, kept, and called once we are ready to close. Three ways exist:

- handlers of the process (`signal.signal`): uvicorn, gunicorn's sync and uvicorn workers, plain programs;
- handlers of the event loop (`loop.add_signal_handler`): granian, gunicorn's ASGI worker, hypercorn, many gRPC programs. Loops
  keep them in a table that is not public: asyncio's is an attribute, uvloop's is found among what the loop refers to;
- hypercorn's own wait for a shutdown trigger, because its worker processes get no signal but an event of their parent.

Signals belong to the main thread. Elsewhere no door can be held, and none is.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

Ask = Callable[[int], object]
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name))


class Door(Protocol):
    """One way to ask the process to end. number: its signal, 0 for none."""

    number: int

    @property
    def handled(self) -> bool:
        """Whether it led to anybody before us."""
        ...

    def release(self) -> None:
        """Put back what stood there before."""
        ...

    def pass_on(self) -> bool:
        """Let whoever was asked before us hear it now; whether there was anybody. After `release`."""
        ...


class ProcessDoor:
    """A signal handler of the process. ask: called in the main thread, between two steps of the program."""

    def __init__(self, number: int, ask: Ask) -> None:
        self.number = number
        self._ask = ask
        self._before = signal.signal(number, self._caught)

    @property
    def handled(self) -> bool:
        """Whether somebody handled the signal before us."""
        return callable(self._before)

    def _caught(self, number: int, _: FrameType | None) -> None:
        self._ask(number)

    def release(self) -> None:
        """Put the handler before us back, unless somebody replaced ours since."""
        if signal.getsignal(self.number) == self._caught:
            signal.signal(self.number, self._before)

    def pass_on(self) -> bool:
        """Call the handler before us."""
        if not callable(self._before):
            return False
        self._before(self.number, None)
        return True


class LoopDoor:
    """A signal handler of the event loop. Its entry of the loop's table is put aside and comes back."""

    handled = True

    def __init__(self, loop: asyncio.AbstractEventLoop, table: dict[int, Any], number: int, ask: Ask) -> None:
        self._table = table
        self.number = number
        self._before = table[number]
        loop.add_signal_handler(number, ask, number)
        self._ours = table[number]

    def release(self) -> None:
        """Put the entry before us back, unless somebody replaced ours since."""
        if self._table.get(self.number) is self._ours:
            self._table[self.number] = self._before

    def pass_on(self) -> bool:
        """Raise the signal again: it reaches the entry before us as if it came now."""
        signal.raise_signal(self.number)
        return True


class HypercornDoor:
    """Hypercorn waits for its trigger by a function of its module, looked up after the lifespan has started."""

    handled = True
    number = 0

    def __init__(self, loop: asyncio.AbstractEventLoop, module: Any, ask: Ask) -> None:
        self._module = module
        self._before = before = module.raise_shutdown
        self._open = asyncio.Event()
        self._waits = False

        async def raise_shutdown(trigger: Callable[..., Any]) -> None:
            if asyncio.get_running_loop() is not loop:
                await before(trigger)
                return
            self._waits = True
            asked = asyncio.ensure_future(trigger())
            opened = asyncio.ensure_future(self._open.wait())
            try:
                await asyncio.wait({asked, opened}, return_when=asyncio.FIRST_COMPLETED)
                if asked.done() and not self._open.is_set():
                    ask(signal.SIGTERM)
                    await self._open.wait()
            finally:
                asked.cancel()
                opened.cancel()
            await before(_at_once)

        module.raise_shutdown = self._ours = raise_shutdown

    def release(self) -> None:
        """Put the function back for servers that start later; ours goes on for the one that waits in it."""
        if self._module.raise_shutdown is self._ours:
            self._module.raise_shutdown = self._before

    def pass_on(self) -> bool:
        """Let the server go on to close."""
        self._open.set()
        return self._waits


async def _at_once() -> None:
    """A trigger that has gone off."""


def hold(loop: asyncio.AbstractEventLoop, ask: Ask) -> list[Door]:
    """Hold every door that can be held from this thread. ask: called with the signal's number, in the loop's thread."""
    doors: list[Door] = []
    hypercorn = sys.modules.get("hypercorn.asyncio.run")
    if hypercorn is not None and hasattr(hypercorn, "raise_shutdown"):
        doors.append(HypercornDoor(loop, hypercorn, ask))
    if threading.current_thread() is not threading.main_thread():
        return doors
    table = _handlers_of(loop)
    for number in SIGNALS:
        if table is not None and number in table:
            doors.append(LoopDoor(loop, table, number, ask))
        else:
            doors.append(ProcessDoor(number, lambda caught: _tell(loop, ask, caught)))
    return doors


def _tell(loop: asyncio.AbstractEventLoop, ask: Ask, number: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(ask, number)


def _handlers_of(loop: asyncio.AbstractEventLoop) -> dict[int, Any] | None:
    """The loop's table of signal handlers by number, or None when it has none that can be found."""
    table = getattr(loop, "_signal_handlers", None)
    if isinstance(table, dict):
        return table
    tables = [found for found in gc.get_referents(loop) if type(found) is dict]
    for name in ("SIGUSR2", "SIGUSR1", "SIGWINCH", "SIGURG"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL and not any(number in found for found in tables):
            return _that_takes(loop, tables, number)
    return None


def _that_takes(loop: asyncio.AbstractEventLoop, tables: list[dict[int, Any]], number: int) -> dict[int, Any] | None:
    """Which of a loop's tables a signal handler goes to, found by adding one for a signal that nobody uses."""
    try:
        loop.add_signal_handler(number, _nothing)
    except (NotImplementedError, RuntimeError, ValueError):
        return None
    found = [table for table in tables if number in table]
    loop.remove_signal_handler(number)
    return found[0] if len(found) == 1 else None


def _nothing() -> None:
    """A handler for the moment in which it is looked for."""
