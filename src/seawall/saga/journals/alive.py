"""Who lives, on one machine: a lock per worker that the system lets go when its process dies, and a moment that it keeps moving.

The lock tells of a death at once; the moment tells of a process that is frozen. It is of the clock that runs since boot: no
change of the time of day can make a dead worker live, or a living one dead.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from seawall.saga.lease import Lease


def boot_now() -> float:
    """Seconds since this machine booted, sleep included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def boot_id() -> str:
    """Which boot of which machine this is."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else f"{socket.gethostname()}-{round(time.time() - boot_now(), -1)}"


class Alive:
    """The workers of one folder, one of which may be ours."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: tuple[int, Lease, float] | None = None

    def begin(self, worker: str, length: float) -> None:
        """Become a living worker under a new name."""
        self._folder.mkdir(exist_ok=True)
        handle = os.open(self._folder / worker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lease = Lease(worker, boot_now() + length)
        _put(handle, lease.until)
        self._mine = (handle, lease, length)

    def beat(self) -> bool:
        """Move our moment; False when it has passed: then we count as dead, and stay so."""
        if self._mine is None:
            return False
        handle, lease, length = self._mine
        longer = lease.extend(boot_now(), length)
        if longer is None:
            return False
        _put(handle, longer.until)
        self._mine = (handle, longer, length)
        return True

    def end(self) -> str | None:
        """Let go of our lock; our name, or None."""
        if self._mine is None:
            return None
        handle, lease, _ = self._mine
        self._mine = None
        os.close(handle)
        (self._folder / lease.worker).unlink(missing_ok=True)
        return lease.worker

    def forget(self, worker: str) -> None:
        """Take a dead worker's file away."""
        (self._folder / worker).unlink(missing_ok=True)

    def lives(self, worker: str) -> bool:
        """Whether a worker's process holds its lock and its moment has not passed."""
        if self._mine is not None and worker == self._mine[1].worker:
            return self._mine[1].holds(boot_now())
        try:
            handle = os.open(self._folder / worker, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            until = _get(handle)
            if until is not None and until <= boot_now():
                return False
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


def _put(handle: int, until: float) -> None:
    """Write a moment twice, so that a reader sees a torn one."""
    text = f"{until:020.6f}"
    os.pwrite(handle, f"{text} {text}\n".encode(), 0)


def _get(handle: int) -> float | None:
    """The moment, or None when it is being written; the lock decides then."""
    parts = os.pread(handle, 64, 0).decode(errors="replace").split()
    return float(parts[0]) if len(parts) == 2 and parts[0] == parts[1] else None
