"""Envoys that outlived their gateway: found by what a folder says, known for certain, and ended once another serves."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from seawall.gateway.admin import Admin
from seawall.gateway.envoy import BOOTSTRAP, EnvoyBroken

PREFIX: Final = "seawall-gateway-"
"""Temporary folders of gateways begin so."""
MOST_BYTES: Final = 64 * 1024
CLOSES: Final = 2.0
"""Seconds in which callers that ask at least that often have left their connections."""
Door = tuple[str, int]


def identity(pid: int) -> tuple[str, str] | None:
    """When a process began, and its command line. None = there is none, or only its exit status is left.

    A number alone says nothing: the system gives it to another process once the first one has ended.
    """
    if sys.platform.startswith("linux"):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
        except (OSError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else (fields[19], words)  # proc_pid_stat(5): state, and starttime as the 22nd
    told = subprocess.run(["ps", "-o", "lstart=", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    began, words = told.stdout[:24].strip(), told.stdout[24:].strip()
    return (began, words) if began and "<defunct>" not in words else None


@dataclass(frozen=True)
class Orphan:
    """An Envoy without a gateway. pid, began: who it is. admin: its admin port, or None. home: its folder."""

    pid: int
    began: str
    admin: int | None
    home: Home

    @property
    def lives(self) -> bool:
        """Whether this very process still runs: the same number, moment of beginning and configuration file."""
        found = identity(self.pid)
        return (
            found is not None and found[0] == self.began and f"-c {self.home.folder / BOOTSTRAP} --admin-address-path" in found[1]
        )

    async def doors(self) -> frozenset[Door]:
        """The addresses and ports where it listens; none when it does not answer."""
        if self.admin is None:
            return frozenset()
        try:
            told = json.loads((await Admin(self.admin).ask("/listeners?format=json"))[1])
            places = [each["local_address"]["socket_address"] for each in told.get("listener_statuses", [])]
            return frozenset((str(place["address"]), int(place["port_value"])) for place in places)
        except (OSError, TimeoutError, ValueError, KeyError, TypeError):
            return frozenset()

    async def end(self, drain: float) -> None:
        """Let it take nothing new, let what runs come to its end for at most `drain` seconds, then end it."""
        if self.admin is not None and self.lives:
            with suppress(OSError, TimeoutError, ValueError):
                await self._drained(Admin(self.admin), drain)
        handle = _handle(self.pid)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if not self._send(handle, number):
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(3):
                        while not self._over(handle):
                            await asyncio.sleep(0.02)
                        return
        finally:
            if handle is not None:
                os.close(handle)

    async def _drained(self, admin: Admin, drain: float) -> None:
        await admin.ask("/healthcheck/fail", "POST")  # callers are told to close
        await admin.ask("/drain_listeners", "POST")
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < drain:
            found = await admin.stats("downstream_(rq|cx)_active$")
            mine = {name: value for name, value in found.items() if name.startswith("http.") and "http.admin." not in name}
            asks = any(value for name, value in mine.items() if name.endswith("rq_active"))
            if not any(mine.values()) or (not asks and loop.time() - began > CLOSES):
                return
            await asyncio.sleep(0.05)

    def _send(self, handle: int | None, number: int) -> bool:
        """Whether the signal went to this very process. While the handle holds it, its number cannot come to mean another."""
        with suppress(ProcessLookupError):
            if self.lives:
                if handle is None:
                    os.kill(self.pid, number)
                else:
                    signal.pidfd_send_signal(handle, number)
                return True
        return False

    def _over(self, handle: int | None) -> bool:
        """Whether its last thread has ended, and its ports are free."""
        return not self.lives if handle is None else bool(select.select([handle], [], [], 0)[0])


def _handle(pid: int) -> int | None:
    with suppress(AttributeError, OSError):
        return os.pidfd_open(pid)
    return None


class Home:
    """The folder of one gateway: who lives in it, and what it left behind. temporary: made for one run."""

    def __init__(self, folder: Path, *, temporary: bool = False) -> None:
        self.folder = folder.resolve()
        self.temporary = temporary
        self.before: tuple[Orphan, ...] = ()
        self._lock: IO[bytes] | None = None

    @property
    def status(self) -> Path:
        """What `seawall gateway status` and the next gateway read."""
        return self.folder / "status.json"

    def enter(self) -> None:
        """Make the folder and take it. Raises EnvoyBroken when another gateway has it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it, in whatever way we end
        except OSError as error:
            lock.close()
            raise EnvoyBroken(f"another gateway runs in {self.folder}; end it, or name another --folder") from error
        self._lock = lock
        self.before = tuple(self._left())

    def leave(self) -> None:
        """Let go of it. What still runs stays written down; a temporary folder goes when nothing does."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        self.before = tuple(each for each in self.before if each.lives)
        if self.before:
            self._write({"file": self._file(), **_row(self.before[0]), "before": [_row(each) for each in self.before[1:]]})
        else:
            self.status.unlink(missing_ok=True)
            if self.temporary:
                shutil.rmtree(self.folder, ignore_errors=True)
        lock.close()

    def note(self, file: Path, pid: int, admin: int | None) -> None:
        """Write down who serves, so that the next gateway knows it if we are killed."""
        found = identity(pid)
        rows = [_row(each) for each in self.before if each.lives]
        self._write({"file": str(file), "pid": pid, "began": found and found[0], "admin": admin, "before": rows})

    def _write(self, told: dict[str, Any]) -> None:
        fresh = self.status.with_suffix(".new")
        fresh.write_text(json.dumps(told), encoding="utf-8")
        os.replace(fresh, self.status)

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError), self.status.open("rb") as file:
            told = json.loads(file.read(MOST_BYTES))
            return told if isinstance(told, dict) else {}
        return {}

    def _file(self) -> str:
        return str(self._read().get("file", ""))

    def is_of(self, file: Path) -> bool:
        """Whether it was made for a configuration file."""
        told = self._file()
        return bool(told) and Path(told).resolve() == file.resolve()

    def _left(self) -> Iterator[Orphan]:
        told = self._read()
        before = told.get("before")
        for row in [told, *(before if isinstance(before, list) else [])]:
            pid, began, admin = (row.get(key) for key in ("pid", "began", "admin")) if isinstance(row, dict) else (None,) * 3
            if isinstance(pid, int) and pid > 1 and isinstance(began, str):
                found = Orphan(pid, began, admin if isinstance(admin, int) else None, self)
                if found.lives:
                    yield found


def _row(one: Orphan) -> dict[str, Any]:
    return {"pid": one.pid, "began": one.began, "admin": one.admin}


def abandoned(file: Path) -> list[Home]:
    """Temporary folders in which a gateway of this file was killed, each taken."""
    found = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, EnvoyBroken):
            about = folder.lstat()
            home = Home(folder, temporary=True)
            if about.st_uid == os.getuid() and not about.st_mode & 0o022 and folder.is_dir() and home.is_of(file):
                home.enter()
                found.append(home)
    return found


async def give_way(orphans: Iterable[Orphan], drain: float, tell: Callable[..., None]) -> None:
    """End them, all at once."""
    gone = list(orphans)
    await asyncio.gather(*(each.end(drain) for each in gone))
    for each in gone:
        tell("gateway.orphan_ended", pid=each.pid, folder=str(each.home.folder))
