"""One daemon thread with an event loop, for users without one. It runs while something needs it, and ends after that."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from seawall.core.runtime import refuse_under_loop

T = TypeVar("T")


class Background:
    """A loop on a thread of its own, counted: `enter` starts it for the first user, `leave` ends it after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def enter(self) -> None:
        """One user more."""
        if self._pid != os.getpid():  # forked: the thread stayed with the parent, and may have held the lock
            self.__init__()  # type: ignore[misc]
        with self._lock:
            self._users += 1
            if self._loop is None:
                started = threading.Event()
                loop = self._loop = asyncio.new_event_loop()
                # an empty context: what this thread does belongs to no call
                target = contextvars.Context().run
                self._thread = threading.Thread(
                    target=target, args=(_serve, loop, started), name="seawall-discovery", daemon=True
                )
                self._thread.start()
                started.wait()

    def leave(self) -> None:
        """One user less; after the last one the thread is ended, and waited for."""
        with self._lock:
            self._users -= 1
            loop, thread = self._loop, self._thread
            if self._users or loop is None or thread is None:
                return
            self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    def run(self, verb: str, twin: str, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run a coroutine function on the thread and block for its answer. Raises WrongTwin under a running loop."""
        refuse_under_loop(verb, twin)
        loop = self._loop
        if loop is None or self._pid != os.getpid():
            raise RuntimeError(f"{verb} works inside its `with` block only, in the process that entered it")
        return asyncio.run_coroutine_threadsafe(function(*args), loop).result()


def _serve(loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(started.set)
    try:
        loop.run_forever()
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
