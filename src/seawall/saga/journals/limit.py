"""The end of a step that holds a transaction for too long."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def limited(cut: Callable[[], object], seconds: float) -> Iterator[None]:
    """After `seconds` call `cut` again and again until the block ends: it only hits a statement that runs just then.

    Raises TimeoutError when the block ends by itself, but later than that.
    """
    over = threading.Event()

    def watch() -> None:
        pause = seconds
        while not over.wait(pause):
            cut()
            pause = 0.1

    thread = threading.Thread(target=watch, name="seawall-step-limit", daemon=True)
    began = time.monotonic()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if time.monotonic() - began > seconds:
        raise TimeoutError(f"the step held its transaction for longer than its {seconds:g} s")
