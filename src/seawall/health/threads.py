"""Health in programs without an event loop: the checks run on a loop in a daemon thread, made anew after a fork."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.health.health import Health

_lock = threading.Lock()
_runners: weakref.WeakKeyDictionary[Health, Runner] = weakref.WeakKeyDictionary()
STARTS_WITHIN = 5.0  # seconds for the thread to begin


class Runner:
    """One thread with the loop on which the checks of one Health run. pid: of the process that it runs in."""

    def __init__(self, health: Health) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._health = weakref.ref(health)
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seawall-health", daemon=True)
        self._thread.start()
        self._begun.wait(STARTS_WITHIN)

    def _run(self) -> None:
        self.loop.call_soon(self._start)
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    def _start(self) -> None:
        health = self._health()
        if health is not None:
            health.start()
        self._begun.set()

    def stop(self) -> None:
        """End the checks and the thread. After a fork there is nothing to end."""
        if self.pid != os.getpid() or self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop)
        self._thread.join(STARTS_WITHIN)

    async def _stop(self) -> None:
        health = self._health()
        if health is not None:
            await health.stop()
        self.loop.stop()


def ensure_running(health: Health) -> None:
    """Let the checks run in this process: on the loop that they run on already, or on one in a thread of their own."""
    runner = _runners.get(health)
    if runner is not None and runner.pid == os.getpid():
        return
    if runner is None and health.running:
        return
    with _lock:
        runner = _runners.get(health)
        if runner is None or runner.pid != os.getpid():
            _runners[health] = Runner(health)


def stop(health: Health) -> None:
    """End the thread on which the checks run, if there is one."""
    with _lock:
        runner = _runners.pop(health, None)
    if runner is not None:
        runner.stop()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
