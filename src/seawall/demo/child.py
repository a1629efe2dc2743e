"""The inside of one process of the shop: its line to the parent.

The parent holds the other end of stdin for as long as it lives. When that closes, however the parent ended, this process
ends at once: nothing of the shop outlives its teller.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

Hear = Callable[[dict[str, Any]], None]


def tell(**report: Any) -> None:
    """Send one report to the parent; ends this process when there is no parent any more."""
    try:
        sys.stdout.write(json.dumps(report, separators=(",", ":")) + "\n")
        sys.stdout.flush()
    except OSError:
        os._exit(0)


def begin(story: Callable[[dict[str, Any]], Coroutine[Any, Any, None]]) -> None:
    """Run a process of the shop: `story` gets the settings that the parent gave as JSON in the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what happens then
    asyncio.run(story(json.loads(sys.argv[1])))


def obey(hear: Hear) -> None:
    """Hand every command of the parent to `hear` in the running loop, and end with the parent."""
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(hear, json.loads(line))
        os._exit(0)  # not sys.exit: a loop that is busy, or a server that waits for its clients, must not delay the end

    threading.Thread(target=listen, name="parent", daemon=True).start()
